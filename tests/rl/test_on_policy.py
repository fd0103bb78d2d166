"""Every ratio of a first update is exactly 1, with all on that makes rollouts fast; and the negative controls."""

import pytest
import torch
from tiny_rl import RECURRENT, finished, hybrid, lines_of, request_of, write_start

from hyla.engine import Engine, SamplingParams
from hyla.engine.runner import Runner
from hyla.rl.handover import HandOver
from hyla.rl.samples import RoundFile


def assert_exact(out, steps):
    updates = lines_of(out, "updates")
    assert len(updates) == steps
    for line in updates:
        assert line["tokens"] > 50
        assert (line["ratio_min"], line["ratio_max"], line["exact_ratios"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("dtype", ("fp32", "bf16"))
@pytest.mark.parametrize("mixer", RECURRENT)
def test_rollouts_have_the_trainers_log_probabilities(mixer, dtype, tmp_path, monkeypatch):
    widths, step = set(), Runner.step
    monkeypatch.setattr(Runner, "step", lambda self, parts: widths.add(len(parts)) or step(self, parts))
    folder = write_start(tmp_path, mixer)
    run = finished(tmp_path / "run", request_of(folder, dtype=dtype, steps=4))
    assert_exact(run.folder, 4)
    rounds = lines_of(run.folder, "rounds")
    assert all(line["cached_tokens"] > 0 for line in rounds)
    assert sum(line["drafted_tokens"] for line in rounds) > sum(line["accepted_tokens"] for line in rounds) > 0
    # The weights moved, so that no round can have been sampled with another one's.
    files = sorted((run.folder / "rollouts").iterdir())
    found = [tuple(sample.logprobs for sample in RoundFile(file).read().values()) for file in files]
    assert len(set(found)) == 4
    assert len(widths) > 2, "batches of several sizes"


@pytest.mark.parametrize("lora", ({"rank": 4}, {"rank": 4, "use_dora": True}), ids=("LoRA", "DoRA"))
def test_an_adapters_terms_are_shared(lora, tmp_path):
    run = finished(tmp_path / "run", request_of(write_start(tmp_path), lora=lora, dtype="bf16", learning_rate=2e-2))
    assert_exact(run.folder, 3)
    assert len({line["loss"] for line in lines_of(run.folder, "updates")}) == 3
    assert (run.folder / "adapter" / "adapter_config.json").exists()


def test_later_updates_of_a_round_are_off_policy_and_say_so(tmp_path):
    policy = {"updates_per_round": 2, "clip_low": 1e-4, "clip_high": 1e-4}
    run = finished(tmp_path / "run", request_of(write_start(tmp_path), policy=policy, steps=4, learning_rate=2e-2))
    first, second, third, fourth = lines_of(run.folder, "updates")
    assert first["ratio_min"] == first["ratio_max"] == third["ratio_max"] == 1.0
    assert second["ratio_min"] < 1.0 < second["ratio_max"] and fourth["ratio_min"] < 1.0
    assert second["clipped"] > 0.0 == first["clipped"]
    assert [line["round"] for line in lines_of(run.folder, "rounds")] == [0, 1]


def spoilt(tmp_path, monkeypatch, name, replacement):
    """The ratios of a run with something broken."""
    monkeypatch.setattr(name, replacement)
    run = finished(tmp_path / "run", request_of(write_start(tmp_path), learning_rate=2e-2))
    return [line["exact_ratios"] for line in lines_of(run.folder, "updates")]


def test_weights_that_were_not_handed_over_are_noticed(tmp_path, monkeypatch):
    found = spoilt(tmp_path, monkeypatch, "hyla.rl.handover.HandOver.__call__", lambda self: None)
    assert found[0] == 1.0 and max(found[1:]) < 1.0


def test_another_temperature_is_noticed(tmp_path, monkeypatch):
    import hyla.rl.policy

    true = hyla.rl.policy.token_logprobs_and_entropy
    found = spoilt(
        tmp_path,
        monkeypatch,
        "hyla.rl.policy.token_logprobs_and_entropy",
        lambda *args, temperature, **named: true(*args, temperature=temperature + 1e-6, **named),
    )
    assert max(found) < 1.0


def test_kl_is_nothing_at_first_and_grows(tmp_path):
    request = request_of(write_start(tmp_path), policy={"kl_weight": 0.1}, learning_rate=2e-2)
    kl = [line["kl"] for line in lines_of(finished(tmp_path / "run", request).folder, "updates")]
    assert kl[0] == 0.0 and kl[1] > 1e-6


@pytest.mark.parametrize("tied", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_after_a_hand_over_the_engine_has_the_trainers_weights(dtype, tied):
    from hyla.models.initialize import initialize
    from hyla.models.state import cast
    from hyla.models.trunk import Model

    def made(seed):
        config = hybrid("mamba2", 61).config.model_copy(update={"tie_embeddings": tied})
        return cast(initialize(Model(config), seed, std=0.3), dtype)

    source, prompts = made(1), [list(range(40)), [5, 6, 7]]
    params = SamplingParams(max_tokens=9, temperature=0.9, seed=1, logprobs=0)

    def told(engine):
        return [(one.token_ids, one.logprobs) for one in engine.generate(prompts, params)]

    engine = Engine(made(2), memory=8 << 20)
    before = told(engine)
    names = [name for name, _ in source.named_parameters()]
    HandOver(source, engine, names)()
    kept = {name: parameter.detach().clone() for name, parameter in source.named_parameters()}
    expected = told(Engine(made(1), memory=8 << 20))
    assert told(engine) == expected != before
    with torch.no_grad():  # nothing of the engine is the trainer's own memory
        for parameter in source.parameters():
            parameter.zero_()
    engine.forget_cached()
    assert told(engine) == expected and len(kept) > 10
