"""recipes/rl.toml, small: it trains, its model loads, and its reward is what it says."""

import importlib.util
import json
from pathlib import Path

import pytest
from test_recipes import trained_folder
from tiny_rl import finished, lines_of

from hyla.checkpoints import load_model
from hyla.rl.config import RLRequest
from hyla.train.recipe_file import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = ("train.steps=2", "rl.rollout.tasks_per_round=2", "rl.rollout.group_size=3", "rl.rollout.max_tokens=5")


@pytest.fixture
def tasks(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}], "solution": str(n)} for n in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "tasks.jsonl"


def test_the_shipped_recipe_trains_and_its_model_loads(tasks, tmp_path):
    folder = trained_folder("kimi_linear", tmp_path / "trained")
    request = read_recipe(
        RECIPES / "rl.toml", [*SHORT, f"model.start_from={folder}", f"rl.tasks={tasks}"], kind=RLRequest
    )
    run = finished(tmp_path / "run", request)
    assert [line["ratio_max"] for line in lines_of(run.folder, "updates")] == [1.0, 1.0]
    assert sum(parameter.numel() for parameter in load_model(run.model_folder).parameters()) > 1000


@pytest.mark.parametrize("answer, reward", [("7", 1.0), (" 7\n", 1.0), ("It is 7", 0.0), ("", 0.0)])
def test_its_reward_is_one_for_the_solution_and_nothing_else(answer, reward):
    spec = importlib.util.spec_from_file_location("rewards", RECIPES / "rewards.py")
    rewards = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rewards)
    assert rewards.exact(answer, {"solution": "7"}) == reward
