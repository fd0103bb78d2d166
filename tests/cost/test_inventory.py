"""Parameters and weight bytes by arithmetic against the modules themselves, on the meta device."""

import pytest
import torch

from hyla.cost.inventory import inventory
from hyla.cost.parameters import count_parameters, distinct, weight_bytes
from hyla.models.formats.presets import find_preset, presets
from hyla.models.formats.registry import families
from hyla.models.state import cast
from hyla.models.summary import count_parameters as counted
from hyla.models.summary import footprint
from hyla.models.trunk import Model


def check(config):
    different = tuple(distinct(config.sublayers))
    with torch.device("meta"):
        model = cast(Model(config.model_copy(update={"sublayers": different, "mtp": ()})), torch.bfloat16)
    for sublayer, module in zip(different, model.sublayers, strict=True):
        found, kept = inventory(sublayer, config.hidden_dim), footprint(module)
        assert (found.parameters, found.active) == (kept.parameters, kept.active), sublayer
        assert found.nbytes("bf16") == sum(weight.nbytes for weight in module.parameters()), sublayer
        assert found.nbytes("fp32") == 4 * found.parameters


@pytest.mark.parametrize("name", presets())
def test_every_published_size_counts_as_its_modules_do(name):
    check(find_preset(name)[1].preset(name))


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_tiny_model_counts_as_its_module_does(family):
    config = family.tiny
    check(config)
    with torch.device("meta"):
        model = cast(Model(config), torch.bfloat16)
    found = count_parameters(config)
    mtp = sum(counted(module) for module in model.mtp)
    assert (found.total, found.mtp) == (counted(model) - mtp, mtp)
    outside_mtp = [weight for name, weight in model.named_parameters() if not name.startswith("mtp.")]
    assert weight_bytes(config, "bf16") == sum(weight.nbytes for weight in outside_mtp)
    assert found.without_embeddings == found.total - sum(
        weight.numel() for weight in {model.embed.weight, model.head.weight}
    )


def test_smaller_weights_are_smaller_but_not_by_their_bits_alone():
    config = find_preset("Qwen3-Next-80B-A3B")[1].preset("Qwen3-Next-80B-A3B")
    sizes = [weight_bytes(config, dtype) for dtype in ("fp32", "bf16", "fp8", "int4")]
    assert sizes == sorted(sizes, reverse=True)
    # Scales, embedding, head and what is kept in fp32 stay.
    assert 1.0 < 2 * sizes[2] / sizes[1] < 1.05 and 1.1 < 4 * sizes[3] / sizes[1] < 1.25
