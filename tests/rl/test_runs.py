"""What a run does with rewards that fail, groups without a signal, and recipes that cannot work."""

import json

import pytest
from tiny_rl import finished, lines_of, request_of, write_start

from hyla.cli.app import app
from hyla.errors import ConfigError
from hyla.rl.run import open_rl_run
from hyla.rl.samples import RoundFile

BAD = """
import time
def bad(answer, row):
    if row["wanted"] == 1:
        raise ValueError("no digits")
    if row["wanted"] == 2:
        return float("nan")
    if row["wanted"] == 3:
        time.sleep(60)
    return float(len(answer) % 3)
"""


def test_a_reward_that_fails_is_named_and_left_out(tmp_path):
    folder = write_start(tmp_path)
    (folder / "reward.py").write_text(BAD)
    reward = {"function": f"{folder / 'reward.py'}:bad", "timeout_seconds": 5.0, "processes": 3}
    run = finished(tmp_path / "run", request_of(folder, reward=reward))
    rounds = lines_of(run.folder, "rounds")
    assert sum(line["left_out"] for line in rounds) >= 9
    samples = [one for file in (run.folder / "rollouts").iterdir() for one in RoundFile(file).read().values()]
    problems = {sample.problem for sample in samples if sample.problem}
    # Three rounds ask each of the twelve tasks once, and half of them are the function's own traps.
    assert sum(line["left_out"] for line in rounds) == sum(one.reward is None for one in samples) == 18
    assert {one.task % 7 for one in samples if one.problem} == {1, 2, 3}
    judged = sum(len(one.token_ids) for one in samples if one.reward is not None)
    assert sum(line["tokens"] for line in lines_of(run.folder, "updates")) == judged
    assert any("ValueError: no digits" in problem for problem in problems)
    assert any("nan" in problem for problem in problems) and any("longer than 5 s" in problem for problem in problems)
    assert all(line["tokens"] > 0 for line in lines_of(run.folder, "updates"))


def test_without_a_signal_no_weight_changes(tmp_path):
    folder = write_start(tmp_path)
    (folder / "reward.py").write_text("def one(answer, row):\n    return 1.0\n")
    reward = {"function": f"{folder / 'reward.py'}:one"}
    request = request_of(folder, reward=reward, policy={"drop_equal_groups": True}, weight_decay=0.0)
    run = finished(tmp_path / "run", request)
    assert [line["equal_groups"] for line in lines_of(run.folder, "rounds")] == [4, 4, 4]
    assert [line["tokens"] for line in lines_of(run.folder, "updates")] == [0, 0, 0]
    assert all(line["grad_norm"] == 0.0 for line in lines_of(run.folder, "metrics"))


@pytest.mark.parametrize("name, value", [("top_p", 0.9), ("top_k", 5), ("min_p", 0.1)])
def test_filters_are_refused_by_name(name, value, tmp_path):
    with pytest.raises(ConfigError, match=f"{name} = {value} leaves tokens out"):
        request_of(tmp_path, rollout={name: value})


@pytest.mark.parametrize(
    "engine, said",
    [
        ({"snapshot_dtype": "bfloat16"}, "snapshot_dtype"),
        ({"acceptance": "rejection"}, "acceptance"),
        ({"numerics": "fast"}, "numerics = 'fast': a round needs 'exact'"),
    ],
)
def test_an_inexact_engine_is_refused(engine, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        request_of(tmp_path, rollout={"engine": engine})


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 13 is not JSON"),
        ('{"text": "x"}', "line 13: a task has either prompt"),
        ('{"prompt": 3}', "line 13: prompt must be a text"),
        ('{"messages": []}', "line 13: messages must be a list"),
        (json.dumps({"prompt": "x" * 600}), "model's context of 512"),
    ],
)
def test_what_is_no_task_is_named_before_anything_is_sampled(line, said, tmp_path):
    folder = write_start(tmp_path)
    with (folder / "tasks.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=said):
        open_rl_run(tmp_path / "run", request_of(folder))
    assert not (tmp_path / "run").exists()


def test_more_tasks_in_a_round_than_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"12 tasks are fewer than rl\.rollout\.tasks_per_round = 13"):
        open_rl_run(tmp_path / "run", request_of(write_start(tmp_path), rollout={"tasks_per_round": 13}))


def test_from_a_recipe_by_the_command_line(tmp_path):
    from typer.testing import CliRunner

    folder = write_start(tmp_path)
    (folder / "rl.toml").write_text(
        '[model]\nstart_from = "start"\n[rl]\ntasks = "tasks.jsonl"\nreward = { function = "reward.py:count" }\n'
        "[rl.rollout]\ntasks_per_round = 2\ngroup_size = 2\nmax_tokens = 5\n"
        "[train]\nsteps = 2\noptimizer = 'adamw'\n"
    )
    command = ["rl", str(folder / "rl.toml"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "step 2 of 2: reward" in done.output and "ratio 1" in done.output and "hand-over" in done.output
    assert (tmp_path / "run" / "model" / "config.json").exists()
    wrong = CliRunner().invoke(app, ["train", *command[1:]])
    assert isinstance(wrong.exception, ConfigError) and "`hyla rl` reads" in str(wrong.exception)
    dry = CliRunner().invoke(app, [*command[:2], "--dry-run"])
    assert json.loads(dry.output)["rl"]["rollout"]["group_size"] == 2
