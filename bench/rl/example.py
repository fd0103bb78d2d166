"""examples/grpo.py as the benchmarks use it: its model, its warm start, its recipe."""

from __future__ import annotations

from pathlib import Path

from hyla.models.config import ModelConfig


def recipes() -> Path:
    from examples import grpo

    return grpo.RECIPES


def model_config() -> ModelConfig:
    """Of the model that the warm-up trains."""
    import tomllib

    from hyla.train.recipe import HybridRecipe

    tables = tomllib.loads((recipes() / "warm-up.toml").read_text(encoding="utf-8"))
    recipe = HybridRecipe(**tables["model"]["hybrid"])
    return recipe.model_config_of(recipe.vocab_size, recipe.vocab_size - 1)
