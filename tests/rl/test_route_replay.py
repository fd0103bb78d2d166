"""Replayed experts: no bit where the numerics are the same, and the engine's choices where they are not."""

import pytest
import torch
from test_killed_rounds import Killed, killed_at, outcome, places
from tiny_rl import finished, lines_of, request_of, write_start, writing_two_letters

from hyla.engine import RouterChoices
from hyla.engine.routes import RouteWatch, mixtures
from hyla.errors import ConfigError
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.rl.handover import HandOver
from hyla.rl.policy import PolicyTrainer
from hyla.rl.routes import KnownRoutes, Replay
from hyla.rl.samples import RoundFile, Sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A start model with a mixture of experts, and another one with a bias."""
    from matrix.mixers import MIXERS, SOFTMAX

    from hyla.checkpoints import load_tokenizer, save_model
    from hyla.models.config import MLPConfig, ModelConfig, MoEConfig, RouterConfig, SublayerConfig

    folder = write_start(tmp_path_factory.mktemp("replay"))
    tokenizer = load_tokenizer(folder / "start")
    sizes = {"num_experts": 6, "num_experts_per_token": 2, "expert_dim": 12}
    plain = MoEConfig(**sizes)
    biased = MoEConfig(**sizes, shared_dim=8, router=RouterConfig(score="sigmoid", has_bias=True))
    modules = (MIXERS["kda"], plain, SOFTMAX, biased, MIXERS["kda"], MLPConfig(intermediate_dim=20))
    layers = tuple(SublayerConfig(module=module) for module in modules)
    config = ModelConfig(family="hyla", vocab_size=tokenizer.vocab_size, hidden_dim=24, sublayers=layers, max_len=512)
    model = initialize(Model(config), 5, std=0.3)
    with torch.no_grad():
        model.head.weight *= 0.05
        save_model(writing_two_letters(model, 160.0), folder / "start", tokenizer=tokenizer)
    return folder


def request(folder, replays, **more):
    return request_of(folder, policy={"replay_routes": replays}, rollout={"max_tokens": 16}, **more)


MORE = {
    "bf16": {"dtype": "bf16", "router": {"bias_rate": 0.05}},
    "biases alone move a router": {"trainable": ["head.weight"], "router": {"bias_rate": 0.05}},
    "LoRA": {"lora": {"rank": 2}, "recompute": {"kinds": ["moe"]}},
}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_the_same_numerics_choose_the_same_experts_and_replay_changes_no_bit(folder, more, tmp_path):
    with_it = finished(tmp_path / "with", request(folder, True, **more)).folder
    without = finished(tmp_path / "without", request(folder, False, **more)).folder
    updates = lines_of(with_it, "updates")
    assert [(line["routes_known"], line["routes_replaced"]) for line in updates] == [(1.0, 0.0)] * 3
    assert all(line["exact_ratios"] == 1.0 for line in updates)
    assert all(line["cached_tokens"] > 0 for line in lines_of(with_it, "rounds")), "some rows were told by others"
    for line in lines_of(without, "updates"):
        assert line["routes_known"] is line["routes_replaced"] is None
    assert weights_of(with_it) == weights_of(without)
    assert '"routes"' not in (without / "rollouts" / "round-000000.jsonl").read_text()


def test_choices_are_kept_with_the_answers_of_a_killed_process(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        killed_at(patched, places()["in the middle of a line of answers"][0], 3)
        with pytest.raises(Killed):
            finished(tmp_path / "run", request(folder, True, steps=1))
    run = finished(tmp_path / "run", request(folder, True, steps=1)).folder
    (line,) = lines_of(run, "updates")
    assert (line["routes_known"], line["routes_replaced"], line["exact_ratios"]) == (1.0, 0.0, 1.0)
    assert weights_of(run) == weights_of(finished(tmp_path / "whole", request(folder, True, steps=1)).folder)


@pytest.mark.slow  # make rl-drills
def test_choices_come_from_another_process(folder, tmp_path):
    elsewhere = {"max_tokens": 16, "own_process": True}
    there = finished(tmp_path / "there", request_of(folder, policy={"replay_routes": True}, rollout=elsewhere)).folder
    assert [line["routes_known"] for line in lines_of(there, "updates")] == [1.0] * 3
    assert weights_of(there) == weights_of(finished(tmp_path / "here", request(folder, True)).folder)


def weights_of(out):
    (out / "heldout-rewards.jsonl").touch()
    return outcome(out)[2]


def chosen_and_told(folder, out, monkeypatch, replays):
    """Of a run whose engine has other routers than the trainer: [T, L, k] of the first update's forward call, those
    that the engine told, and the lines of the updates."""
    true, seen = HandOver.__call__, []

    def perturbed(self):
        true(self)
        for module in mixtures(self.engine.model):
            plain = module.router_projection.plain_weights()[0]
            noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
            module.router_projection.renew([plain + 0.05 * noise])

    def losses(self, rows, denominator, true=PolicyTrainer._losses):
        if self.finished_steps == 0:
            with RouteWatch(mixtures(self.model)) as watch:
                found = true(self, rows, denominator)
            seen.append(torch.stack(watch.ids, dim=1))
            return found
        return true(self, rows, denominator)

    with monkeypatch.context() as patched:
        patched.setattr(HandOver, "__call__", perturbed)
        patched.setattr(PolicyTrainer, "_losses", losses)
        run = finished(out, request(folder, replays, steps=1))
    found = RoundFile(run.folder / "rollouts" / "round-000000.jsonl").read()
    samples = [found[key] for key in sorted(found)]  # those are the rows
    return torch.cat(seen), samples, lines_of(run.folder, "updates")


def test_routers_that_differ_choose_otherwise_and_with_replay_none_does(folder, tmp_path, monkeypatch):
    replayed_TLk, samples, (line,) = chosen_and_told(folder, tmp_path / "with", monkeypatch, True)
    told_TLk = KnownRoutes(samples).of(samples, (2, 2))
    assert torch.equal(replayed_TLk, told_TLk) and bool((told_TLk >= 0).all())
    assert line["routes_known"] == 1.0 and 0.0 < line["routes_replaced"] < 0.5
    assert line["exact_ratios"] < 1.0, "the weights of the experts are the trainer's own"
    own_TLk, own_samples, (own_line,) = chosen_and_told(folder, tmp_path / "without", monkeypatch, False)
    assert [one.token_ids for one in own_samples] == [one.token_ids for one in samples]
    share = float((own_TLk != told_TLk).any(-1).double().mean())
    assert share == pytest.approx(line["routes_replaced"], abs=0.2) and share > 0.0
    assert own_line["routes_replaced"] is None


def sample(prompt, answer, choices=None):
    return Sample(0, 0, 0, tuple(prompt), tuple(answer), (0.0,) * len(answer), "", "length", routes=choices)


def choices_of(first, *rows):
    data = bytes(value for row in rows for value in row)
    return RouterChoices(first, len(rows), 1, 2, 1, data).text


def test_rows_that_were_cached_are_told_by_another_answer_to_the_same_text():
    whole = sample((1, 2, 3), (4, 5), choices_of(0, (0, 1), (1, 2), (2, 3), (3, 0)))
    cached = sample((1, 2, 3), (6, 7), choices_of(2, (2, 3), (1, 0)))
    unknown = sample((1, 9, 3), (4,), choices_of(2, (0, 3)))
    gap = sample((1, 2, 3), (4, 8, 9), choices_of(0, (0, 1), (255, 255), (2, 3), (255, 255), (0, 2)))
    nothing = sample((1, 2), (5,))
    found = KnownRoutes([nothing, gap, unknown, cached, whole]).of([cached, unknown, gap, nothing], (1, 2))
    assert found[:, 0].tolist() == [
        *([0, 1], [1, 2], [2, 3], [1, 0]),
        *([0, 1], [-1, -1], [0, 3]),
        *([0, 1], [1, 2], [2, 3], [3, 0], [0, 2]),
        *([0, 1], [1, 2]),
    ]


def test_rows_that_nobody_told_are_the_routers():
    from tiny_model import tiny_model

    from hyla.ops.batch import Batch

    model, tokens = tiny_model(), torch.arange(20)
    with torch.no_grad():
        expected = model(tokens, Batch.packed([20]))
        replay = Replay(model)
        with replay.update():
            with replay.forward(torch.full((20, *replay.shape), -1)):
                assert torch.equal(model(tokens, Batch.packed([20])), expected)
            assert replay.shares == {"routes_known": 0.0, "routes_replaced": 0.0}
            told_TLk = torch.arange(replay.shape[1]).expand(20, *replay.shape)
            with replay.forward(told_TLk):
                assert not torch.equal(model(tokens, Batch.packed([20])), expected)
        assert replay.shares["routes_replaced"] > 0.0 and replay.shares["routes_known"] == 0.5
        assert torch.equal(model(tokens, Batch.packed([20])), expected)


def test_a_model_without_experts_has_nothing_to_replay(tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.replay_routes needs a model with experts"):
        finished(tmp_path / "run", request(write_start(tmp_path), True))
    assert not (tmp_path / "run").exists()
