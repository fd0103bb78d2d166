"""One registration a kind: what it says is what the modules, the caches and the tables of cost are."""

import pytest
import torch

import hyla.layers
from hyla.cost.call import ARITHMETICS, Setting, decode, prefill
from hyla.cost.device import EFFICIENCIES
from hyla.cost.memory import mixer_memory
from hyla.cost.operator_work import operator_work
from hyla.cost.training import PASSES
from hyla.models.config import MIXER_KINDS, SparseMLAConfig, SublayerConfig
from hyla.models.config.model import CHANNEL_MIXERS, MIXERS
from hyla.models.kinds import KINDS, kind_of
from hyla.models.parameters import sublayer_parameters
from hyla.models.stack import Sublayer
from hyla.models.summary import footprint

HIDDEN = 36
SPARSE = SparseMLAConfig(
    num_heads=3, q_lora_dim=10, kv_lora_dim=12, nope_dim=6, rope_dim=4, value_dim=5, num_index_heads=3, index_dim=8,
    num_selected=70,
)  # fmt: skip
SMALL = {name: kind.calibration.sizes[0] if kind.calibration else SPARSE for name, kind in KINDS.items()}


def test_every_config_class_is_registered_once_and_nothing_else_is():
    registered = [kind.config for kind in KINDS.values()]
    assert sorted(map(str, registered)) == sorted(map(str, (*MIXERS, *CHANNEL_MIXERS)))
    assert {name for name, kind in KINDS.items() if kind.is_mixer} == MIXER_KINDS
    assert all(kind_of(config).name == name == config.kind for name, config in SMALL.items())


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_builds_the_parameters_of_its_table_and_keeps_the_bytes_of_its_memory(name):
    sublayer = SublayerConfig(module=SMALL[name])
    with torch.device("meta"):
        module = Sublayer(sublayer, HIDDEN)
    shapes = {row.name: row.shape for row in sublayer_parameters(sublayer, HIDDEN)}
    assert shapes == {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    memory, kept = mixer_memory(sublayer, 4), footprint(module)
    assert memory.kv_bytes_per_token == kept.kv_bytes_per_token
    assert memory.state_bytes == kept.published_state_bytes
    assert memory.slot_bytes == kept.resident_state_bytes


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", sorted(MIXER_KINDS))
def test_the_operators_of_a_mixer_cost_something_at_a_known_rate(name, arithmetic):
    kind, config = KINDS[name], SMALL[name]
    for step in (prefill(100), decode(100)):
        works = list(operator_work(config, Setting(step, "bf16", arithmetic)))
        assert works and all(work.flops > 0 and work.cache_bytes > 0 and work.kind == name for work in works)
        assert all(work.operator in EFFICIENCIES and work.operator in PASSES for work in works)
        assert kind.operator in {work.operator for work in works}


@pytest.mark.parametrize("name", sorted(MIXER_KINDS))
def test_every_mixer_is_a_layer_of_one_s_own_model(name):
    alone = {getattr(hyla.layers, each) for each in hyla.layers.__all__} - {
        hyla.layers.StandaloneMixer, hyla.layers.MixerCache
    }  # fmt: skip
    assert KINDS[name].layer_class in {each.mixer_type for each in alone}
