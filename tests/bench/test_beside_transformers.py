"""`python -m bench rollouts` and `python -m bench rl`: transformers' answers, and a run that learns from them."""

import argparse
import json
from pathlib import Path

import pytest

from bench import handover
from bench.rl import command as rl
from bench.rl import example
from bench.rollouts import command as rollouts
from bench.rollouts.answers import Draws, HylaAnswers, TransformersAnswers, scored
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

PROMPTS = [[5, 6], [5, 6, 7, 8, 9], [11], [5, 6]]


@pytest.fixture(scope="module")
def model():
    return initialize(Model(example.model_config()), 3, std=0.2)


def test_both_sides_draw_from_the_same_model_and_only_ours_is_the_trainer_s_bits(model):
    """Padding on the left changes nothing but last bits; an answer ends with its end of text."""
    draws = Draws(6, temperature=0.7, seed=3, eos_ids=(40, 41))
    theirs = TransformersAnswers(model)
    again = [theirs.of(PROMPTS * 8, draws) for _ in range(2)]
    assert again[0] == again[1]
    ours = HylaAnswers(initialize(Model(model.config), 3, std=0.2), memory=8 << 20)
    for answers in (again[0], ours.of(PROMPTS * 8, draws)):
        lengths = {len(answer.token_ids) for answer in answers}
        ended = [answer for answer in answers if len(answer.token_ids) < 6]
        assert max(lengths) == 6 and all(answer.token_ids[-1] in (40, 41) for answer in ended)
        assert not any(token in (40, 41) for answer in answers for token in answer.token_ids[:-1])
        own = [value for answer in answers for value in answer.logprobs]
        found = rollouts.gap(own, scored(model, PROMPTS * 8, answers, 0.7))
        assert found["largest"] < 1e-4
    assert found == {"exact": 1.0, "largest": 0.0, "ratio_min": 1.0, "ratio_max": 1.0, "kl": 0.0}


def test_new_weights_reach_transformers(model):
    theirs, draws = TransformersAnswers(model), Draws(5, seed=1)
    other = initialize(Model(model.config), 4, std=0.2)
    theirs.renew(other)
    answers = theirs.of(PROMPTS, draws)
    own = [value for answer in answers for value in answer.logprobs]
    assert rollouts.gap(own, scored(other, PROMPTS, answers, 1.0))["largest"] < 1e-4
    assert rollouts.gap(own, scored(model, PROMPTS, answers, 1.0))["largest"] > 0.1


def test_a_gap_is_told_by_its_ratios():
    found = rollouts.gap([-1.0, -2.0], [-1.0, -1.5])
    assert (found["exact"], found["largest"], found["ratio_min"]) == (0.5, 0.5, 1.0)
    assert found["ratio_max"] == pytest.approx(1.6487, abs=1e-4) and found["kl"] == pytest.approx(0.1487 / 2, abs=1e-4)


def test_a_round_is_checked_and_timed(tmp_path, monkeypatch, capsys):
    shape = rollouts.Shape("example", 2, 3, 4, (3, 5))
    monkeypatch.setattr(rollouts, "SHAPES", {"few": shape})
    options = argparse.Namespace(shapes=["few"], dtype="fp32", rounds=2, folder=tmp_path, cpu_time=False)
    outcome = rollouts.run(options)
    row = dict(outcome.results)["few"]
    assert row["tokens"] == 24 and row["same_model"] and row["hyla_gap"]["exact"] == 1.0
    assert {len(found) for found in outcome.seconds.values()} == {2} and "few" in capsys.readouterr().out


def test_a_hand_over_is_measured_beside_an_update(tmp_path):
    options = argparse.Namespace(models=["kda-5m"], lora=[0, 4], dtype="bf16", answers=2, rounds=1, folder=tmp_path)
    rows = dict(handover.run(options).results)
    assert list(rows) == ["kda-5m, whole", "kda-5m, LoRA of rank 4"]
    for row in rows.values():
        assert row["share"] == pytest.approx((row["handover"] + row["fingerprint"]) / row["update"])
    assert {path.name for path in tmp_path.iterdir()} == {"kda-5m"}


def test_a_run_learns_from_the_answers_of_transformers(tmp_path, monkeypatch):
    """Two updates by the example itself: the first round has our tasks and weights, and other answers."""
    monkeypatch.setattr(example.grpo, "NUM_HELDOUT", 20)
    settings = ["rl.rollout.tasks_per_round=3", "rl.rollout.group_size=4", "rl.policy.drop_equal_groups=false"]
    options = argparse.Namespace(seeds=[0], steps=2, sides=list(rl.SIDES), folder=tmp_path, settings=settings)
    outcome = rl.run(options)
    ours, theirs = map(dict(outcome.results).get, ("hyla 0", "transformers 0"))
    assert ours is not None and theirs is not None
    assert outcome.passed and ours["ratios"]["exact"] == 1.0 and ours["ratios"]["kl"] == 0.0
    assert theirs["ratios"]["exact"] < 1.0 and 0.0 < theirs["ratios"]["kl"] < 1e-9
    assert abs(theirs["ratios"]["least"] - 1.0) < 1e-3 and abs(theirs["ratios"]["largest"] - 1.0) < 1e-3
    assert ours["heldout"][0] == theirs["heldout"][0] and list(theirs["heldout"]) == [0, 2]
    names = ("rl-0", "transformers-0")
    first = [lines(tmp_path / name / "rollouts" / "round-000000.jsonl") for name in names]
    tasks = [[line["task"] for line in sorted(found, key=place)] for found in first]
    assert tasks[0] == tasks[1] and len(tasks[0]) == 12
    assert rl.run(options).results == outcome.results  # finished runs are only read


def place(line: dict) -> tuple[int, int]:
    return line["group"], line["member"]


def lines(file: Path) -> list[dict]:
    return [line for line in map(json.loads, file.read_text().splitlines()) if "token_ids" in line]
