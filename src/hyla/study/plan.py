"""A study as a TOML file: what is asked, which arms, which budgets; and the runs that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyla.errors import ConfigError
from hyla.evals.synthetic import AnyTask
from hyla.evals.synthetic.plan import Plan
from hyla.models.config import Config, Count
from hyla.study.arms import Arm, ArmPlan, Grid, arms_of, check_names
from hyla.study.mixture import trained_like
from hyla.study.report.about import Published, check_published
from hyla.study.run_key import LanguageRun
from hyla.study.sizes import AnySize, Size
from hyla.study.statistics import NoiseOf
from hyla.train.config import Rate

Flops = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Point(Config):
    """A budget and the sizes that are trained with it. Of several sizes the best one counts, arm by arm."""

    budget: Flops
    """FLOPs of training, by the cost model: forward and backward, nothing computed twice."""
    sizes: Annotated[tuple[AnySize, ...], Field(min_length=1)]
    """Rows of the ladder ("w64"), or tables."""


class Tuning(Config):
    """Learning rates, chosen arm by arm on the validation text with a seed of their own. The test has no say."""

    budgets: Annotated[tuple[Flops, ...], Field(min_length=1)]
    """At which of the points' budgets. Other budgets take the nearest one's rate, scaled by `exponent`."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=3)]
    """Rates to try first, rising by one factor. While the best one is the lowest or highest, one more is tried."""
    most_rates: Count = 7
    """After so many the best one counts as it is, and the arm's rows are marked: its best rate may lie outside."""
    seed: Seed = 1000
    """None of the study's `seeds`."""
    exponent: float = -0.125
    """rate ~ budget^exponent (DeepSeek LLM, arXiv 2401.02954, section 3.1)."""

    @model_validator(mode="after")
    def _rates_rise(self):
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"rates must rise: {self.rates}")
        if len(set(self.budgets)) != len(self.budgets):
            raise ValueError(f"budgets have a number twice: {self.budgets}")
        return self


class LanguageStudy(Config):
    """Arms learn text and tasks with equal budgets of FLOPs."""

    kind: Literal["language"] = "language"
    question: str
    """What is to be decided, in a sentence."""
    notes: str = ""
    """What a reader has to know of the setting: what was reduced, and why."""
    text: Path | None = None
    """A folder of text files, relative to the study; none: the source of Python's standard library."""
    grid: Grid | None = None
    """Arms by rule."""
    arms: dict[str, ArmPlan] = Field(default_factory=dict)
    """Arms of your own, by name."""
    reference: str
    """The arm that the others are compared with."""
    modules: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What differs from `sizes.mixers_of`, for all arms: by module, its fields; or modules of your own, with a kind."""
    points: Annotated[tuple[Point, ...], Field(min_length=1)]
    """Budgets and sizes."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Start values and order of the data; of equal seeds all arms read the same."""
    tuning: Tuning | None = None
    """None: all runs have `rate`."""
    rate: Rate = 3e-3
    """Without tuning."""
    tasks: dict[str, AnyTask] = Field(default_factory=dict)
    """Synthetic tasks that are learnt beside the text, and scored."""
    test_tasks: dict[str, AnyTask] = Field(default_factory=dict)
    """Scored, too, and not trained: tasks of the same kind and vocabularies that are longer or harder."""
    task_share: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of the training tokens that are tasks, the same for each task."""
    length: Annotated[int, Field(ge=64)] = 512
    """Bytes of text that are read as one."""
    batch_tokens: Count = 8192
    """Of a step."""
    optimizer: Literal["adamw", "muon"] = "muon"
    dtype: Literal["fp32", "bf16"] = "bf16"
    test_tokens: Count = 131_072
    """Bytes of validation and of test text that are scored."""
    test_examples: Count = 256
    """Examples of each task."""
    decode_contexts: tuple[Annotated[int, Field(ge=64, multiple_of=64)], ...] = ()
    """Contexts at which decoding is timed, with the largest size of each arm; none: it is not."""
    learnt_at: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of right answers from which on a task counts as learnt."""
    noise: NoiseOf = "pair"
    """What differences of bits are judged by: the scatter of the two arms alone, or of all arms at a budget. The latter
    finds more with few seeds; it takes noise to be about alike in all arms, so it is said before anything is run."""
    published: tuple[Published, ...] = ()
    """Beside ours."""

    @model_validator(mode="after")
    def _fits(self):
        names = [arm.name for arm in self.all_arms]
        if not names:
            raise ValueError("there are no arms; give a grid or arms")
        if self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is none of the arms: {', '.join(names)}")
        _check_published(self.published, names)
        if bool(self.tasks) != bool(self.task_share):
            raise ValueError("tasks and task_share go together")
        for task in self.test_tasks.values():
            trained_like(task, self.tasks)
        if set(self.tasks) & set(self.test_tasks):
            raise ValueError("tasks and test_tasks have a name twice")
        budgets = [point.budget for point in self.points]
        if len(set(budgets)) != len(budgets) or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("points have a budget twice, or seeds a number")
        if self.tuning is not None:
            wrong = [budget for budget in self.tuning.budgets if budget not in budgets]
            if wrong:
                raise ValueError(f"tuning.budgets has {wrong[0]:g}, which is no budget of points")
            if self.tuning.seed in self.seeds:
                raise ValueError(f"tuning.seed = {self.tuning.seed} is one of seeds: rates need a seed of their own")
        return self

    @property
    def is_ablation(self) -> bool:
        """Whether every arm is like the reference but for one field."""
        reference = next(arm for arm in self.all_arms if arm.name == self.reference)
        others = [arm for arm in self.all_arms if arm != reference]
        return all(
            (arm.group, arm.placement) == (reference.group, reference.placement)
            and sum(
                name not in reference.changes or value != reference.changes[name] for name, value in arm.changes.items()
            )
            == 1
            for arm in others
        )

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        return arms_of(self.grid, self.arms)

    def run(self, arm: Arm, size: Size, budget: float, rate: float, seed: int, data: str) -> LanguageRun:
        """One run. data: digest of the text. Raises ConfigError for an arm that cannot be matched."""
        return LanguageRun(
            arm=arm.name,
            layers=arm.layers(size),
            modules=self.modules,
            changes=arm.changes,
            size=size,
            budget=budget,
            rate=float(f"{rate:.4g}"),
            seed=seed,
            data=data,
            text=None if self.text is None else str(self.text),
            **{name: getattr(self, name) for name in SHARED},
        )

    def point(self, budget: float) -> Point:
        """Of a budget."""
        return next(point for point in self.points if point.budget == budget)


SHARED = (
    "tasks",
    "test_tasks",
    "task_share",
    "length",
    "batch_tokens",
    "optimizer",
    "dtype",
    "test_tokens",
    "test_examples",
)


class SyntheticStudy(Config):
    """Arms learn tasks from scratch, and nothing else (`hyla eval synthetic`'s plans)."""

    kind: Literal["synthetic"]
    question: str
    """What is to be decided, in a sentence."""
    notes: str = ""
    """What a reader has to know of the setting."""
    plan: Plan
    """Tasks, arms, rates, seeds, steps."""
    learnt_at: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of right answers from which on a task counts as learnt."""
    must_learn: str | None = None
    """An arm without which a task says nothing: where it does not reach `learnt_at`, rows say "not learnt"."""
    published: tuple[Published, ...] = ()
    """Beside ours."""

    @model_validator(mode="after")
    def _fits(self):
        check_names(self.plan.arms)
        if self.must_learn is not None and self.must_learn not in self.plan.arms:
            raise ValueError(f"must_learn = {self.must_learn!r} is none of the arms: {', '.join(self.plan.arms)}")
        _check_published(self.published, self.plan.arms)
        return self


def _check_published(published: Iterable[Published], arms: Iterable[str]) -> None:
    try:
        check_published(published, arms)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def study_of(tables: dict[str, Any], place: str, folder: Path) -> LanguageStudy | SyntheticStudy:
    """Validated. place: how errors call it; folder: what a relative `text` is meant from. Raises ConfigError."""
    try:
        kinds = {"language": LanguageStudy, "synthetic": SyntheticStudy}
        kind = tables.get("kind", "language")
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(f"kind = {kind!r} is none of {', '.join(kinds)}")
        found = kinds[kind](**tables)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    if isinstance(found, LanguageStudy) and found.text is not None:
        return found.model_copy(update={"text": (folder / found.text).resolve()})
    return found
