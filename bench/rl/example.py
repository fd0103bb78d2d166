"""examples/grpo.py as the benchmarks use it: its model, its warm start, its run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from examples import grpo
from hyla.models.config import ModelConfig
from hyla.rl.config import RLRequest
from hyla.train.recipe import HybridRecipe
from hyla.train.recipe_file import read_recipe


def model_config() -> ModelConfig:
    """Of the model that the warm-up trains: `kimi_linear`, which transformers reads."""
    tables = tomllib.loads((grpo.RECIPES / "warm-up.toml").read_text(encoding="utf-8"))
    recipe = HybridRecipe(**tables["model"]["hybrid"])
    return recipe.model_config_of(recipe.vocab_size, recipe.vocab_size - 1)


def warm_start(folder: Path, seed: int, settings: Sequence[str] = ()) -> Path:
    """The model that a seed's runs begin with, trained where it is not there yet, with its data beside it."""
    grpo.write_data(folder)
    place = folder / f"warm-up-{seed}"
    if not (place / "model" / "config.json").exists():
        grpo.hyla("train", "warm-up.toml", place, [f"train.seed={seed}", f"data.texts={folder / 'shown'}", *settings])
    return place / "model"


def request(folder: Path, seed: int, settings: Sequence[str] = ()) -> RLRequest:
    """What the example asks `hyla rl` for. settings: that come after its own."""
    places = [f"model.start_from={folder / f'warm-up-{seed}' / 'model'}", f"rl.tasks={folder / 'tasks.jsonl'}"]
    heldout = [f"rl.heldout.tasks={folder / 'heldout.jsonl'}", "rl.heldout.every=20"]
    return read_recipe(grpo.RECIPES / "rl.toml", [f"train.seed={seed}", *places, *heldout, *settings], RLRequest)
