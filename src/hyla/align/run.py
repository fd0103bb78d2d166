"""A measurement: the exact path, ways out of it, and others' numbers, all by one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import torch

from hyla.align.config import AlignConfig
from hyla.align.figures import Bucket, Figures, by_position, figures, parting, same_bits
from hyla.align.sampling import READING, SERVING, Answers, Greedy, Happened, Sampling, greedy, scored
from hyla.align.scoring import trained_logprobs
from hyla.align.taps import FINAL_NORM, Comparison, EngineRows, Gap
from hyla.align.ways import EXACT, Way
from hyla.checkpoints import Tokenizer
from hyla.engine import Engine
from hyla.errors import ConfigError, HylaError
from hyla.models.trunk import Model
from hyla.rl.samples import Sample

FIRST_BUCKET, FIRST_TEXT_BUCKET = 64, 512
"""Tokens of the first bucket of positions, of answers and of a long text; every next one ends at twice the position."""
MOST_TAP_BYTES = 512 << 20


@dataclass(frozen=True)
class FirstDifference:
    """The first token whose log-probability has other bits: by prompt, turn and position."""

    prompt: int
    turn: int
    position: int
    """In the text, from 0, prompt included."""
    token_id: int
    token: str
    rollout: float
    new: float


@dataclass(frozen=True)
class GreedyParting:
    """Where greedy texts leave the exact engine's."""

    prompts: int
    parted: int
    median: float | None
    """Tokens before the first other one, of those that part."""
    least: int | None
    tokens_per_second: float
    exact_tokens_per_second: float


@dataclass(frozen=True)
class WayReport:
    """What one way costs; of the exact path, nothing."""

    name: str
    what: str
    is_timed: bool
    figures: Figures
    buckets: list[Bucket]
    first_difference: FirstDifference | None
    gaps: list[Gap]
    """Of the answers that were compared layer by layer; none: none were."""
    happened: Happened | None
    failed: list[str]
    greedy: GreedyParting | None = None

    @property
    def is_zero(self) -> bool:
        """Whether every number has the same bits on both sides."""
        return self.figures.is_exact and not self.failed and all(not gap.differing for gap in self.gaps)

    @property
    def born(self) -> Gap | None:
        """The first operator that makes other numbers of the same ones."""
        return next((gap for gap in self.gaps if gap.born), None)


@dataclass(frozen=True)
class Sampled:
    """Answers, and the rows of those that are looked at layer by layer."""

    answers: Answers
    rows: EngineRows


@dataclass
class _Watch:
    """A `StepObserver`: keeps rows, and lets a way change states."""

    way: Way
    model: Model
    rows: EngineRows

    def begin(self, parts, batch, tokens):
        return self.rows.begin(parts, batch, tokens)

    def end(self, parts, batch, caches, head_TD) -> None:
        self.rows.put(FINAL_NORM, head_TD)
        if self.way.changes_states:
            self.way.after_step(batch, self.model.cache_specs(), caches)


@dataclass
class Alignment:
    """Prompts that are answered, or one text that is read, by engines of one model.

    load: makes the model anew each time; engines pack and change theirs.
    """

    load: Callable[[], Model]
    tokenizer: Tokenizer | None
    config: AlignConfig
    prompts: Sequence[tuple[int, ...]] = ()
    text: Sequence[int] | None = None
    say: Callable[[str], None] = lambda line: None
    _exact: Sampled | None = field(default=None, init=False)
    _greedy: Greedy | None = field(default=None, init=False)
    _trained: list[torch.Tensor] | None = field(default=None, init=False)

    def __post_init__(self):
        self.trainer = self.load().train()
        longest = max(map(len, self.prompts), default=0) + self.config.max_tokens
        wanted = longest if self.text is None else len(self.text)
        if wanted > self.trainer.config.max_len:
            what = "a prompt with its answer" if self.text is None else "the text"
            raise ConfigError(
                f"{what} has {wanted} tokens; the model's context is {self.trainer.config.max_len}: lower --max-tokens "
                "or --length, or shorten the prompts"
            )
        later = (self.config.turns - 1) * self.config.max_tokens if self.text is None else 1
        self._context_len = min(wanted + later, self.trainer.config.max_len)

    # Both sides

    def priced(self, way: Way, other: Callable[[], Model] | None = None) -> WayReport:
        """The report of a way. other: another model, that scores (and writes the greedy texts) instead of ours."""
        self.say(f"{way.name}: {way.what}")
        sampled = self.sampled(way)
        trainer = self.trainer if other is None else other().train()
        is_compared = bool(self._tapped()) and _alike(trainer, self.trainer)
        comparison = Comparison(sampled.rows) if is_compared else None
        report = self._scored(way, sampled.answers, trainer, comparison)
        if self.text is not None or way is EXACT or not self.config.greedy:
            return report
        return replace(report, greedy=self._parting(way, other))

    def scored(self, way: Way, answers: Answers) -> WayReport:
        """The report of answers that came from elsewhere."""
        return self._scored(way, answers, self.trainer, None)

    def _scored(self, way: Way, answers: Answers, trainer: Model, comparison: Comparison | None) -> WayReport:
        if not answers.samples:
            raise HylaError(f"{way.name}: the engine gave no answer: {'; '.join(answers.failed[:3]) or 'no prompts'}")
        new = self._new(way, answers, trainer, comparison)
        rollout_R = torch.tensor([value for sample in answers.samples for value in sample.logprobs])
        positions = [torch.arange(len(sample.token_ids)) + len(sample.prompt_ids) for sample in answers.samples]
        first = FIRST_BUCKET if self.text is None else FIRST_TEXT_BUCKET
        return WayReport(
            name=way.name,
            what=way.what,
            is_timed=way.is_timed,
            figures=figures(rollout_R, torch.cat(new)),
            buckets=by_position(torch.cat(positions), rollout_R, torch.cat(new), first),
            first_difference=self._first_difference(answers.samples, new),
            gaps=[] if comparison is None else comparison.found(),
            happened=answers.happened,
            failed=answers.failed,
        )

    def _new(self, way: Way, answers: Answers, trainer: Model, comparison: Comparison | None) -> list[torch.Tensor]:
        """What the trainer gives each answer's tokens. A text's are computed once for ways that change the engine."""
        may_keep = self.text is not None and way.changes_engine and trainer is self.trainer and comparison is None
        if may_keep and self._trained is not None:
            return self._trained
        with way.scoring(), torch.set_grad_enabled(self.text is None):
            new = trained_logprobs(trainer, answers.samples, self.config.temperature, comparison)
        self._trained = new if may_keep else self._trained
        return new

    def _first_difference(self, samples: Sequence[Sample], new: Sequence[torch.Tensor]) -> FirstDifference | None:
        for sample, new_R in zip(samples, new):
            rollout_R = torch.tensor(sample.logprobs, dtype=torch.float32)
            places = (~same_bits(rollout_R, new_R)).nonzero()[:, 0].tolist()
            if places:
                token = sample.token_ids[places[0]]
                text = "" if self.tokenizer is None else self.tokenizer.decode([token], skip_special_tokens=False)
                position = len(sample.prompt_ids) + places[0]
                values = float(rollout_R[places[0]]), float(new_R[places[0]])
                return FirstDifference(sample.group, sample.member, position, token, text, *values)
        return None

    # The engine

    def sampled(self, way: Way) -> Sampled:
        """What the engine of a way said; the exact one's is kept for all that only score it."""
        if way is not EXACT and way.changes_engine:
            return self._sampled_by(way)
        if self._exact is None:
            self._exact = self._sampled_by(EXACT)
        return self._exact

    def _sampled_by(self, way: Way) -> Sampled:
        engine, rows = self._engine(way), EngineRows(self._tapped())
        engine.observe(_Watch(way, engine.model, rows))
        if self.text is None:
            return Sampled(Sampling(engine, self.prompts, self.config).answers(), rows)
        return Sampled(scored(engine, self.text, self.config.temperature), rows)

    def _engine(self, way: Way, load: Callable[[], Model] | None = None) -> Engine:
        model = (load or self.load)()
        way.change(model)
        options = (SERVING if self.text is None else READING) | way.options() | {"context_len": self._context_len}
        return Engine(model.requires_grad_(False), tokenizer=self.tokenizer, **options)

    def _tapped(self) -> list[str]:
        """Names of the requests that are looked at layer by layer: of the first prompts, as many as memory holds."""
        config = self.trainer.config
        row_bytes = (3 * len(config.sublayers) + 2) * config.hidden_dim * self.trainer.dtype.itemsize
        lengths = [len(self.text)] if self.text is not None else [len(ids) for ids in self.prompts]
        turns, names, left = 1 if self.text is not None else self.config.turns, [], MOST_TAP_BYTES
        for number, length in enumerate(lengths[: self.config.tapped]):
            rows = sum(length + (turn + 1) * self.config.max_tokens for turn in range(turns))
            left -= rows * row_bytes
            if left >= 0:
                names += [f"{number}-{turn}" for turn in range(turns)]
        return names

    # Greedy texts

    def _parting(self, way: Way, other: Callable[[], Model] | None) -> GreedyParting:
        if self._greedy is None:
            self._greedy = greedy(self._engine(EXACT), self.prompts, self.config.max_tokens)
        with way.scoring():
            engine = self._engine(way, other)
            if way.changes_states:
                engine.observe(_Watch(way, engine.model, EngineRows(())))
            found = greedy(engine, self.prompts, self.config.max_tokens)
        places = [place for place in parting(self._greedy.texts, found.texts) if place is not None]
        return GreedyParting(
            prompts=len(self.prompts),
            parted=len(places),
            median=median(places) if places else None,
            least=min(places, default=None),
            tokens_per_second=found.tokens_per_second,
            exact_tokens_per_second=self._greedy.tokens_per_second,
        )


def _alike(a: Model, b: Model) -> bool:
    """Whether their sublayers can be put beside one another."""
    kinds = [[sub.module.kind for sub in model.config.sublayers] for model in (a, b)]
    return kinds[0] == kinds[1] and (a.config.hidden_dim, a.dtype) == (b.config.hidden_dim, b.dtype)


@dataclass(frozen=True)
class Alignments:
    """All of one measurement."""

    exact: WayReport | None
    """None: the numbers came from a file, and no engine of ours ran."""
    ways: list[WayReport]
    skipped: dict[str, str]
    """Ways that could not be measured, and why."""
    against: WayReport | None = None

    @property
    def is_zero(self) -> bool:
        return self.exact is None or self.exact.is_zero

    @property
    def reports(self) -> list[WayReport]:
        """All of them, the exact one first."""
        return [one for one in (self.exact, *self.ways, self.against) if one is not None]


def aligned(alignment: Alignment, ways: Sequence[Way]) -> Alignments:
    """The exact path, and what each way costs beside it."""
    exact = alignment.priced(EXACT)
    found, skipped = [], {}
    for way in ways:
        reason = way.unavailable(alignment.trainer)
        if reason is not None:
            skipped[way.name] = reason
            continue
        try:
            found.append(alignment.priced(way))
        except HylaError as error:  # states that overflow, for example: the other ways have a price all the same
            skipped[way.name] = f"it failed: {error}"
    return Alignments(exact, found, skipped)
