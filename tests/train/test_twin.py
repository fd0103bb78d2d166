"""The hybrid beside its twin: measured in turns, so that a neighbour's burst falls on all."""

import pytest
import torch
from tiny_run import RECIPE

from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.recipe import full_attention_twin
from hyla.train.twin import TIMED_TOKENS, WARMUP_TOKENS, Decoder, decode_curves, measure_in_turns

SECONDS = {"hybrid at 1k": 0.003, "twin at 1k": 0.004, "hybrid at 4k": 0.005, "twin at 4k": 0.007}


class Machine:
    """A clock that calls move on; `burst` says how much slower everything is at a moment."""

    def __init__(self, burst):
        self.now, self.burst, self.order = 0.0, burst, []

    def call(self, name):
        self.order.append(name)
        self.now += SECONDS[name] * self.burst(self.now)

    def measure(self, **options):
        calls = {name: lambda name=name: self.call(name) for name in SECONDS}
        return measure_in_turns(calls, clock=lambda: self.now, **options)


def test_models_and_contexts_take_turns():
    machine = Machine(lambda now: 1.0)
    machine.measure(rounds=3)
    turn = [name for name in SECONDS for _ in range(WARMUP_TOKENS + TIMED_TOKENS)]
    assert machine.order == turn * 3


def test_a_quiet_machine_is_measured_exactly_and_warming_up_is_not_counted():
    assert Machine(lambda now: 1.0).measure() == pytest.approx(SECONDS)
    slow_first = Machine(lambda now: 1.0)
    seen = set()

    def call(name):
        slow_first.call(name)
        if name not in seen:
            slow_first.now += 100.0
        seen.add(name)

    calls = {name: lambda name=name: call(name) for name in SECONDS}
    assert measure_in_turns(calls, clock=lambda: slow_first.now) == pytest.approx(SECONDS)


@pytest.mark.parametrize("start", [0.0, 0.05, 0.2, 0.3])
def test_a_burst_that_is_shorter_than_half_the_time_changes_no_median(start):
    burst = Machine(lambda now: 20.0 if start <= now < start + 0.5 else 1.0)
    assert burst.measure() == pytest.approx(SECONDS)


def test_tokens_that_are_interrupted_one_by_one_change_nothing():
    class Interrupted(Machine):
        def call(self, name):
            super().call(name)
            self.now += 0.01 if len(self.order) % 3 else 0.0

    assert Interrupted(lambda now: 1.0).measure() == pytest.approx(SECONDS)


def test_a_neighbour_that_stays_slows_all_alike_and_the_order_holds():
    found = Machine(lambda now: 3.0 if now > 0.1 else 1.0).measure()
    assert list(found) == sorted(found, key=found.get)
    assert found == pytest.approx({name: 3.0 * seconds for name, seconds in SECONDS.items()})


def test_the_curves_are_of_both_models_at_every_context_and_leave_them_unpacked():
    models = {
        name: initialize(Model(recipe.model_config_of(300, 0)), 0)
        for name, recipe in (("hybrid", RECIPE), ("full attention", full_attention_twin(RECIPE)))
    }
    before = {name: model(torch.tensor([1]), _batch()) for name, model in models.items()}
    curves = decode_curves(models, (64, 256), rounds=2)
    assert {name: [point.context for point in points] for name, points in curves.items()} == {
        "hybrid": [64, 256],
        "full attention": [64, 256],
    }
    grown = {name: points[1].cache_bytes - points[0].cache_bytes for name, points in curves.items()}
    assert grown["full attention"] == 2 * grown["hybrid"] > 0, "one of the hybrid's two layers grows"
    assert all(point.ms_per_token > 0 for points in curves.values() for point in points)
    for name, model in models.items():
        assert torch.equal(model(torch.tensor([1]), _batch()), before[name])


def test_a_window_keeps_no_more_than_it_reads():
    spec = CacheSpec((TensorSpec("k", (64, 2, 8), torch.float32, "kv"),), window=32)
    assert [spec.bytes_at(context) for context in (64, 96, 65536)] == [64 * 64, 96 * 64, 96 * 64]
    assert CacheSpec(spec.page_tensors).bytes_at(65536) == 65536 * 64


def test_each_call_decodes_one_token_after_the_context():
    decoder = Decoder(initialize(Model(RECIPE.model_config_of(300, 0)), 0), 64, num_tokens=2)
    assert decoder.sequence.length == 64
    decoder()
    decoder()
    assert decoder.sequence.length == 66


def _batch():
    from hyla.ops.batch import Batch

    return Batch.packed((1,))
