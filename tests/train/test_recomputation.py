"""Recomputation of every mixer: no bit of any gradient depends on it."""

import pytest
import torch
from matrix.mixers import config_of

from hyla.models.config import ModelConfig
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.kinds import KINDS
from hyla.models.objective import Targets
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.config import RecomputeConfig
from hyla.train.precision import Masters
from hyla.train.recomputation import recompute

LENGTHS = (70, 1, 131, 29)
NAMES = sorted(family.name for family in families())
OTHERS = ("gla",)
"""Mixers of no published family."""


def model_config(name: str) -> ModelConfig:
    return config_of(name) if name in OTHERS else family_of(name).tiny


def gradients(name: str, dtype: str, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Of one pass over packed documents, multi-token prediction included."""
    model = initialize(Model(model_config(name)), 1)
    recompute(model, RecomputeConfig(kinds=kinds))
    masters = Masters(model, dtype)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, model.config.vocab_size, (2, sum(LENGTHS)), generator=generator)
    targets = Targets(tokens[1], 100, mtp_weight=0.3 if model.num_mtp_steps else 0.0)
    model(tokens[0], Batch.packed(LENGTHS), targets=targets).total.backward()
    masters.collect()
    return {name: weight.grad for name, weight in masters.weights.items() if weight.grad is not None}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_recomputing_everything_changes_no_bit_of_any_family(name, dtype):
    plain, again = gradients(name, dtype, ()), gradients(name, dtype, ("all",))
    assert plain.keys() == again.keys() != set()
    for parameter, gradient in plain.items():
        assert torch.equal(gradient, again[parameter]), parameter
    assert sum(gradient.count_nonzero() for gradient in plain.values()) > 0


def test_every_kind_of_sublayer_is_among_them():
    configs = [model_config(name) for name in (*NAMES, *OTHERS)]
    found = {sublayer.module.kind for config in configs for sublayer in config.sublayers}
    assert found == KINDS.keys()
