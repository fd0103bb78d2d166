"""The key of a run of language: all that its result is a function of, and what follows from that beforehand."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hyla.cost.parameters import count_parameters
from hyla.cost.training import train_flops_per_token
from hyla.errors import ConfigError
from hyla.evals.synthetic import AnyTask
from hyla.evals.synthetic.plan import HIGHEST_MATRIX_RATE, MATRIX_RATE
from hyla.models.config import Count, DerivingConfig, ModelConfig
from hyla.study.arms import arm_config, file_name
from hyla.study.mixture import num_ids, text_lengths
from hyla.study.sizes import Size
from hyla.study.text import Text, read_text
from hyla.train.config import Rate, TrainConfig

VERSION = 1
FLOPS_TOLERANCE = 0.01
"""Largest difference between what a run was to cost and what it costs, as a share."""
MOST_COUNTED_STEPS = 1024
"""Whose pieces are looked at, to know what a step costs in the mean."""
MAX_LEN = 1 << 20


@lru_cache(maxsize=256)
def flops_by_length(config: ModelConfig, longest: int) -> tuple[float, ...]:
    """FLOPs of training on a document of 0, 1, ... `longest` rows."""
    return 0.0, *(length * train_flops_per_token(config, length) for length in range(1, longest + 1))


class LanguageRun(DerivingConfig):
    """The key of a run: on one machine, its result is a function of these fields. `arm` is a label, not part of it."""

    kind: Literal["language"] = "language"
    version: Literal[1] = VERSION
    arm: str
    layers: tuple[str, ...]
    modules: dict[str, dict[str, Any]]
    """The study's own, over those of the size."""
    changes: dict[str, Any]
    size: Size
    budget: Annotated[float, Field(gt=0)]
    """FLOPs of training, forward and backward."""
    rate: Rate
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    data: str
    """Digest of the text."""
    text: str | None
    """Folder of the text; None: Python's standard library. Not part of the key: `data` is."""
    tasks: dict[str, AnyTask]
    test_tasks: dict[str, AnyTask] = Field(default_factory=dict)
    """Scored and not trained: longer or harder forms of `tasks`, with the same ids."""
    task_share: Annotated[float, Field(ge=0, lt=1)]
    length: Count
    batch_tokens: Count
    optimizer: Literal["adamw", "muon"]
    dtype: Literal["fp32", "bf16"]
    test_tokens: Count
    test_examples: Count

    @cached_property
    def digest(self) -> str:
        """Of all that the result is a function of, the model's defaults included."""
        whole = f"{self.key} {self.model_config_made.model_dump_json()}"
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    @property
    def key(self) -> dict[str, Any]:
        """As a result file has it, without what is no part of it."""
        return self.model_dump(mode="json", exclude={"arm", "text"})

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{file_name(self.arm)}-{self.budget:.3g}-{self.seed}-{self.rate:g}-{self.digest}".replace("+", "")

    @property
    def told(self) -> str:
        """In one line."""
        return f"{self.arm}, {self.size.hidden_dim} wide, {self.budget:.3g} FLOPs, rate {self.rate:g}, seed {self.seed}"

    @property
    def vocab_size(self) -> int:
        return num_ids(self.tasks)

    @cached_property
    def model_config_made(self) -> ModelConfig:
        """The model. Raises ConfigError, which names the arm, for fields that do not fit together."""
        try:
            return arm_config(self.size, self.layers, self.modules, self.changes, self.vocab_size, MAX_LEN)
        except ConfigError as error:
            raise ConfigError(f"arm {self.arm!r}: {error}") from None

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max([self.length, *(task.length for task in self.tasks.values())])

    @property
    def num_parameters(self) -> int:
        """Of the model."""
        return count_parameters(self.model_config_made).total

    @property
    def task_examples(self) -> dict[str, int]:
        """Examples of a step: each task has an equal part of the tasks' rows."""
        each = self.batch_tokens * self.task_share / max(1, len(self.tasks))
        return {name: max(1, round(each / task.length)) for name, task in self.tasks.items()}

    @cached_property
    def flops_per_step(self) -> float:
        """Of text as it is read (a step ends inside a piece, and few are whole), and of each task at its length."""
        config, total, text = self.model_config_made, 0.0, self.batch_tokens
        for name, task in self.tasks.items():
            rows = self.task_examples[name] * task.length
            total += rows * train_flops_per_token(config, task.length)
            text -= rows
        if text < self.length:
            raise ConfigError(
                f"a step of {self.batch_tokens} tokens has {text} left for text, less than one piece of "
                f"length = {self.length}; make batch_tokens larger or task_share smaller"
            )
        whole = text * train_flops_per_token(config, self.length)
        steps = min(MOST_COUNTED_STEPS, max(1, round(self.budget / (total + whole))))
        pieces = text_lengths(text_of(self).train, text, self.length, self.seed, steps)
        model: Any = config  # frozen, and so hashable, which pyright does not see
        by_length = flops_by_length(model, self.length)
        return total + sum(count * by_length[rows] for rows, count in pieces) / steps

    @property
    def steps(self) -> int:
        """Optimizer steps. Raises ConfigError where no number of steps costs the budget within 1%."""
        steps = max(1, round(self.budget / self.flops_per_step))
        if abs(steps * self.flops_per_step / self.budget - 1) > FLOPS_TOLERANCE:
            raise ConfigError(
                f"arm {self.arm!r} cannot be matched: a step costs {self.flops_per_step:.3g} FLOPs, and no number of "
                f"them is within {FLOPS_TOLERANCE:.0%} of {self.budget:.3g}; make the budget larger or batch_tokens "
                "smaller"
            )
        return steps

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return self.steps * self.flops_per_step

    @property
    def tokens(self) -> int:
        """Of the whole training."""
        return self.steps * self.batch_tokens

    def train_config(self, steps: int) -> TrainConfig:
        """Warm-up, constant, a linear decay, as `hyla train` has them."""
        return TrainConfig(
            steps=steps,
            seed=self.seed,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            max_document_tokens=self.length,
            optimizer=self.optimizer,
            learning_rate=self.rate,
            matrix_learning_rate=min(self.rate * MATRIX_RATE, HIGHEST_MATRIX_RATE),
            loss_rows=4096,
            checkpoint_every=max(50, steps // 4),
            checkpoints_kept=1,
        )


def text_of(run: LanguageRun) -> Text:
    """What it reads."""
    return read_text(None if run.text is None else Path(run.text))
