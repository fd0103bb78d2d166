"""What must make the check of `make rl-exact` fail: each is planted, and seen by the very same check."""

from collections.abc import Callable

import pytest
import torch
from tiny_rl import RECURRENT, lines_of, request_of, write_start
from witness import assert_on_policy, witnessed

from hyla.caches import Cache
from hyla.engine.runner import Runner
from hyla.models.trunk import Model
from hyla.ops import backends, native
from hyla.rl.policy import PolicyTrainer


def anchors(layers, specs):
    """(layer's tensors, name) of every kept state."""
    for layer, spec in zip(layers, specs):
        for tensor in spec.slot_tensors:
            if tensor.role == "anchor":
                yield layer, tensor.name


def after_each_step(monkeypatch, plant: Callable[[Cache], None]) -> None:
    step = Runner.step

    def planted(self, parts):
        found = step(self, parts)
        with torch.inference_mode():
            plant(self.cache)
        return found

    monkeypatch.setattr(Runner, "step", planted)


def bf16_state(monkeypatch) -> None:
    """The engine's states are rounded to bf16 after each step."""

    def rounded(cache):
        for layer, name in anchors(cache.layers, cache.specs):
            layer[name].copy_(layer[name].bfloat16())

    after_each_step(monkeypatch, rounded)


def bf16_head(monkeypatch) -> None:
    """The engine's logits are bf16, as where a head is computed in it."""
    true = Model.head_logits
    monkeypatch.setattr(Model, "head_logits", lambda self, *args: true(self, *args).bfloat16().float())


def stale_prefix(monkeypatch) -> None:
    """What was cached with the weights before an update stays."""
    monkeypatch.setattr("hyla.engine.Engine.forget_cached", lambda engine: None)


def other_backend(monkeypatch) -> None:
    """Sampled with our kernels, scored with PyTorch's operators."""
    if native.why_missing() is not None:
        pytest.skip(f"there is one backend only: {native.why_missing()}")
    true = PolicyTrainer._losses

    def scored(self, *args):
        backends.use("torch")
        try:
            return true(self, *args)
        finally:
            backends.use("auto")

    monkeypatch.setattr(PolicyTrainer, "_losses", scored)


def one_ulp(monkeypatch) -> None:
    """One layer's first kept prefix is one ulp too large, once."""
    done = []

    def nudged(cache):
        layer, name = next(anchors(cache.snapshots.layers, cache.specs))
        kept = layer[name]["values"]
        if not done and bool(kept.any()):
            kept.copy_(torch.nextafter(kept, torch.full((), float("inf"))))
            done.append(True)

    after_each_step(monkeypatch, nudged)


FROM_THE_SECOND_ROUND = (stale_prefix,)
PLANTS = (bf16_state, bf16_head, stale_prefix, other_backend, one_ulp)


def small_run(folder, mixer):
    request = request_of(write_start(folder, mixer), steps=2, learning_rate=2e-2)
    return witnessed(folder / "run", request), request


@pytest.mark.parametrize("mixer", RECURRENT)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_is_planted_is_seen(plant, mixer, tmp_path, monkeypatch):
    plant(monkeypatch)
    seen, request = small_run(tmp_path, mixer)
    first, second = (line["exact_ratios"] for line in lines_of(seen.folder, "updates"))
    steps = [step for step, _ in seen.different]
    if plant in FROM_THE_SECOND_ROUND:
        assert second < 1.0 == first and steps == [2]
    else:
        assert first < 1.0 and steps[0] == 1
    with pytest.raises(AssertionError, match="different"):
        assert_on_policy(seen, request)


@pytest.mark.parametrize("mixer", RECURRENT)
def test_where_nothing_is_planted_nothing_is_seen(mixer, tmp_path):
    assert_on_policy(*small_run(tmp_path, mixer))
