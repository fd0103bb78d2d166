"""Random start values of a whole model."""

import pytest
import torch

from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

FAMILIES = ("llama", "qwen3", "qwen3_5", "qwen3_next", "kimi_linear", "deepseek_v3", "deepseek_v32")


def blank(family):
    """A model whose memory is poisoned, so that a weight that is left out shows."""
    model = Model(family.tiny)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    return model


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_weight_is_drawn_and_the_seed_decides_it(model_type):
    family = family_of(model_type)
    first, again, other = (initialize(blank(family), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.isfinite(tensor).all() for tensor in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_norms_start_at_scale_one():
    plain, centred = (initialize(blank(family_of(name)), 0) for name in ("qwen3", "qwen3_next"))
    assert torch.equal(plain.norm.weight, torch.ones(48))
    assert torch.equal(centred.norm.weight, torch.zeros(44))
    assert torch.equal(centred.sublayers[0].module.norm.weight, torch.ones(12))


def test_std_follows_the_config_or_the_argument():
    family = family_of("qwen3")
    assert initialize(blank(family), 0).embed.weight.std().item() == pytest.approx(family.tiny.init_std, rel=0.1)
    assert initialize(blank(family), 0, std=0.5).embed.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_a_tied_head_stays_tied():
    model = initialize(blank(family_of("qwen3_5")), 0)
    assert model.head.weight is model.embed.weight
