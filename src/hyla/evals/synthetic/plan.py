"""What is learnt from scratch, by which mixers, at which rates: one run for each. No PyTorch."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyla.cost.parameters import count_parameters
from hyla.cost.training import train_flops_per_token
from hyla.errors import ConfigError
from hyla.evals.synthetic import AnyTask
from hyla.models.config import Config, Count, DerivingConfig, ModelConfig
from hyla.train.config import Rate, TrainConfig

VERSION = 1
"""Part of every run's key: results of another version are no results of this plan."""
MATRIX_RATE = 20 / 3
"""Muon's rate in rates of AdamW."""
HIGHEST_MATRIX_RATE = 0.99

MixerName = Literal["kda", "gated_delta", "mamba2", "lightning", "linear", "gla", "softmax"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(gt=0, le=1)]


class Sizes(Config):
    """Of every arm's layers. The defaults: 2 heads of 128, Kimi Linear, section 5.1."""

    hidden_dim: Count = 256
    """Width of the residual stream."""
    num_heads: Count = 2
    """Heads of every mixer."""
    head_dim: Count = 128
    """Key and value size of a head. Mamba-2: state and head size."""
    mlp_dim: Count = 512
    """Width of the SwiGLU after each mixer."""

    def mixer(self, name: MixerName) -> dict[str, Any]:
        """A mixer's config of these sizes. Softmax attention has no positions, as in Kimi Linear: other layers know the
        order, and alone it does not."""
        heads, dim = self.num_heads, self.head_dim
        keys_and_values = {"num_heads": heads, "key_dim": dim, "value_dim": dim}
        return {
            "kda": keys_and_values,
            "gated_delta": {"num_key_heads": heads, "num_value_heads": heads, "key_dim": dim, "value_dim": dim},
            "mamba2": {"num_heads": heads, "head_dim": dim, "num_groups": heads, "state_dim": dim},
            "lightning": {"num_heads": heads, "head_dim": dim, "slopes": "bailing"},
            "linear": keys_and_values,
            "gla": keys_and_values,
            "softmax": {"num_heads": heads, "num_kv_heads": heads, "head_dim": dim},
        }[name] | {"kind": name}


class Search(Config):
    """Learning rates are chosen, for every arm on every task, with a seed of its own: by the training loss of runs that
    do not end early, so that their losses are of equally many steps and the test has no say."""

    seed: Seed = 1000
    """None of the plan's `seeds`."""
    most_rates: Count = 7
    """`rates` are tried first; while the best one is the lowest or highest, one more is, up to so many."""


class Plan(Config):
    """Every task is learnt by every arm, with every rate and seed. Nothing of a result depends on the other runs."""

    tasks: Annotated[tuple[AnyTask, ...], Field(min_length=1)]
    """Tables with a `kind` (mqar, recall, overwrite, copy, palindrome, stack, variables, needle, turns), a length, and
    more."""
    arms: Annotated[dict[str, Annotated[tuple[MixerName, ...], Field(min_length=1)]], Field(min_length=1)]
    """By a name of yours, the mixer of each layer."""
    sizes: Sizes = Sizes()
    """Of every layer."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (5e-5, 1e-4, 5e-4, 1e-3)
    """Learning rates of AdamW (Kimi's grid); the best one counts."""
    search: Search | None = None
    """None: all seeds learn with all rates. Else with the one that a search finds, which begins at `rates`."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Start values and training examples."""
    steps: Count = 20_000
    """Most optimizer steps of a run."""
    examples_per_step: Count = 64
    """Training examples of a step. None is read twice."""
    step_tokens: Count | None = None
    """In its place, tokens of a step: shorter tasks get more examples of it, and all tasks equally many tokens."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon": the layers' matrices by orthogonalised momentum at `matrix_rate`, all else by AdamW."""
    matrix_rate: Rate | None = None
    """Of Muon; None: 20/3 of the rate, 0.02 beside 3e-3."""
    score_every: Count = 200
    """Steps between two scores."""
    test_examples: Count = 256
    """Examples of the test split that are scored each time."""
    stop_at: Share | None = 0.999
    """A run ends with the first score that is at least this share of right answers; None: with its last step. Without a
    search, a rate that ends a run so is better than one that does not."""
    test_lengths: tuple[Count, ...] = ()
    """Other lengths, longer ones for instance, that the last model of a run is scored at as well."""

    @model_validator(mode="after")
    def _differ(self):
        for name in ("rates", "seeds", "test_lengths"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} has a number twice")
        for number, task in enumerate(self.tasks):
            if task in self.tasks[:number]:
                raise ValueError(f"tasks has one twice: {task.kind} of {task.length} tokens")
        if self.search is not None:
            if self.search.seed in self.seeds:
                raise ValueError(f"search.seed = {self.search.seed} is one of seeds: rates need a seed of their own")
            if len(self.rates) < 3 or list(self.rates) != sorted(self.rates):
                raise ValueError(f"a search begins at three rates or more that rise, not at {self.rates}")
        by_layers: dict[tuple[str, ...], str] = {}
        for arm, layers in self.arms.items():
            other = by_layers.setdefault(layers, arm)
            if other != arm:  # their runs would be the same ones, and count as more seeds than there are
                raise ValueError(f"arms {other!r} and {arm!r} have the same layers; take one of them out")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self):
        for task in self.tasks:
            for length in self.test_lengths:
                at_length(task, length)
        return self

    def run(self, task: AnyTask, layers: tuple[MixerName, ...], rate: float, seed: int) -> Run:
        """One of them; of a search, where the seed is the search's."""
        shared = {name: getattr(self, name) for name in SHARED}
        if self.search is not None and seed == self.search.seed:
            shared["stop_at"] = None
        return Run(
            task=task,
            layers=layers,
            sizes=self.sizes,
            rate=rate,
            seed=seed,
            examples_per_step=self.examples_of(task),
            matrix_rate=self.matrix_rate or min(float(f"{MATRIX_RATE * rate:.4g}"), HIGHEST_MATRIX_RATE),
            **shared,
        )

    def examples_of(self, task: AnyTask) -> int:
        """Of a step."""
        return self.examples_per_step if self.step_tokens is None else max(1, self.step_tokens // task.length)


SHARED = ("steps", "optimizer", "score_every", "test_examples", "stop_at", "test_lengths")


class Run(DerivingConfig):
    """One run: its result is a function of these fields (on one machine), and its file is named by them."""

    version: Literal[1] = VERSION
    task: AnyTask
    layers: tuple[MixerName, ...]
    sizes: Sizes
    rate: Rate
    seed: Seed
    steps: Count
    examples_per_step: Count
    optimizer: Literal["adamw", "muon"]
    matrix_rate: Rate
    score_every: Count
    test_examples: Count
    stop_at: Share | None
    test_lengths: tuple[Count, ...]

    @property
    def name(self) -> str:
        """Of its file: what tells it from its neighbours, and a digest of all."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
        layers = "-".join(self.layers)
        return f"{self.task.kind}-{self.task.length}-{layers}-{self.rate:g}-{self.seed}-{digest}"

    @property
    def tokens(self) -> int:
        """Of all its steps."""
        return self.steps * self.examples_per_step * self.task.length

    @property
    def flops(self) -> float:
        """Of all its steps, by the cost model."""
        return self.tokens * train_flops_per_token(self.model_config_made, self.task.length)

    @property
    def longest(self) -> int:
        """Tokens of an example."""
        return self.task.length

    @property
    def num_parameters(self) -> int:
        """Of the model."""
        return count_parameters(self.model_config_made).total

    @property
    def told(self) -> str:
        """In a line."""
        task, layers = self.task, " ".join(self.layers)
        return f"{task.kind} of {task.length} tokens, {layers}, rate {self.rate:g}, seed {self.seed}"

    @cached_property
    def model_config_made(self) -> ModelConfig:
        """The model: in each layer a mixer and an MLP."""
        from hyla.models.formats.registry import family_of
        from hyla.train.model_source import StackRecipe  # loads PyTorch, which a report has no need of

        modules = {name: self.sizes.mixer(name) for name in self.layers}
        modules["mlp"] = {"kind": "mlp", "intermediate_dim": self.sizes.mlp_dim}
        stack = StackRecipe(
            hidden_dim=self.sizes.hidden_dim, modules=modules, layers=tuple(f"{name} mlp" for name in self.layers)
        )
        return family_of("hyla").config_from_hf({**stack.keys(), "vocab_size": self.task.vocab_size})

    def train_config(self) -> TrainConfig:
        """Constant rate after a short warm-up, so that a curve does not depend on when it was to end."""
        return TrainConfig(
            steps=self.steps,
            seed=self.seed,
            batch_tokens=self.examples_per_step * self.task.length,
            max_document_tokens=self.task.length,
            optimizer=self.optimizer,
            learning_rate=self.rate,
            matrix_learning_rate=self.matrix_rate,
            warmup_fraction=min(100 / self.steps, 0.1),
            decay_fraction=0.0,
            weight_decay=0.1,
            checkpoint_every=self.score_every,
            checkpoints_kept=1,
            loss_rows=4096,
        )


def at_length(task: AnyTask, length: int) -> AnyTask:
    """The same task with examples of another length. Raises ConfigError where there are none."""
    try:
        return type(task)(**{**task.model_dump(), "length": length})
    except ConfigError as error:
        raise ConfigError(f"{task.kind} has no examples of length {length}: {error}") from None
