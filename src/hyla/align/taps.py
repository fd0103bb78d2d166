"""Where a gap is born: what each sublayer gave in the engine, row by row, beside what it gave in the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from hyla.align.figures import same_bits
from hyla.align.sampling import name_of
from hyla.engine.drafts.protocol import Part
from hyla.models.stack import Observer, Tap
from hyla.ops.batch import Batch
from hyla.rl.samples import Sample

Place = tuple[int, str]
"""A sublayer's number and "norm", "module" or "join"; or one of the places that are no sublayer's."""
EMBEDDING, FINAL_NORM, HEAD = (-1, "embedding"), (1 << 30, "final norm"), ((1 << 30) + 1, "head")


@dataclass
class _Rows:
    """Of one request: all that was computed of each position, the last time that it was."""

    tokens_T: torch.Tensor
    """int64, what each row read; -1: it came from the cache."""
    values: dict[Place, torch.Tensor] = field(default_factory=dict)

    def put(self, place: Place, start: int, rows_RD: torch.Tensor) -> None:
        if place not in self.values:
            self.values[place] = rows_RD.new_empty(len(self.tokens_T), rows_RD.shape[1])
        self.values[place][start : start + len(rows_RD)] = rows_RD


class EngineRows:
    """Keeps the rows of some requests while an engine computes them, in whatever batches. `names`: of the requests.

    Rows of drafts that were rejected are computed again; the later ones are kept.
    """

    def __init__(self, names: Sequence[str]):
        self._names = frozenset(names)
        self._rows: dict[str, _Rows] = {}
        self._spans: list[tuple[_Rows, int, slice]] = []

    def begin(self, parts: Sequence[Part], batch: Batch, tokens: Sequence[int]) -> Observer | None:
        """As `engine.observing.StepObserver`."""
        self._spans = []
        for part, start, offset, length in zip(parts, batch.starts, batch.offsets, batch.lengths):
            name, here = part.generation.request.request_id, slice(offset, offset + length)
            if name not in self._names:
                continue
            if name not in self._rows:
                self._rows[name] = _Rows(torch.full((part.generation.most_tokens,), -1))
            rows = self._rows[name]
            rows.tokens_T[start : start + length] = torch.tensor(tokens[here])
            self._spans.append((rows, start, here))
        return self._tap if self._spans else None

    def _tap(self, tap: Tap) -> None:
        if tap.index == 0:
            self.put(EMBEDDING, tap.stream_TD)
        self.put((tap.index, "norm"), tap.normed_TD)
        self.put((tap.index, "module"), tap.output_TD)
        self.put((tap.index, "join"), tap.result_TD)

    def put(self, place: Place, rows_TD: torch.Tensor) -> None:
        for rows, start, here in self._spans:
            rows.put(place, start, rows_TD[here].cpu())

    def of(self, sample: Sample) -> _Rows | None:
        return self._rows.get(name_of(sample))


@dataclass
class Gap:
    """One operator's rows on both sides."""

    operator: str
    rows: int = 0
    differing: int = 0
    """Rows whose bits differ."""
    born: int = 0
    """Those of them that were computed from equal bits: of a mixer, of all rows of the text up to this one."""
    largest: float = 0.0
    """The largest difference."""
    magnitude: float = 0.0
    """The trainer's largest number."""

    @property
    def relative(self) -> float:
        return self.largest / self.magnitude if self.magnitude else 0.0


class Comparison:
    """Takes the trainer's forwards and compares those rows that the engine computed."""

    def __init__(self, engine: EngineRows):
        self._engine = engine
        self.gaps: dict[Place, Gap] = {}

    def begin(self, samples: Sequence[Sample]) -> Observer | None:
        """A forward of these texts, packed, comes next; None: it has no row to compare."""
        self._found: list[_Rows] = []
        self._counts: list[int] = []
        self._at: list[torch.Tensor] = []
        rows, first = [], 0
        self._samples: list[tuple[int, Sample, torch.Tensor]] = []
        for place, sample in enumerate(samples):
            ids = torch.tensor([*sample.prompt_ids, *sample.token_ids][:-1])
            of = self._engine.of(sample)
            if of is not None:
                at_R = (of.tokens_T[: len(ids)] == ids).nonzero()[:, 0]
                self._found.append(of)
                self._at.append(at_R)
                self._counts.append(len(at_R))
                rows.append(at_R + first)
                self._samples.append((place, sample, at_R))
            first += len(ids)
        if not sum(self._counts):
            self._found = []
            return None
        self._rows_R = torch.cat(rows)
        return self._tap

    def _tap(self, tap: Tap) -> None:
        index, kind = tap.index, tap.sublayer.config.module.kind
        if index == 0:
            everything = torch.ones(len(self._rows_R), dtype=torch.bool)
            self._stream = self._compare(EMBEDDING, "embedding", tap.stream_TD, everything)
        normed = self._compare((index, "norm"), f"{index} norm of {kind}", tap.normed_TD, self._stream)
        inputs = self._all_before(normed) if tap.sublayer.is_mixer else normed
        output = self._compare((index, "module"), f"{index} {kind}", tap.output_TD, inputs)
        joined = self._stream & normed & output
        self._stream = self._compare((index, "join"), f"{index} join of {kind}", tap.result_TD, joined)

    def end(self, hidden_TD: torch.Tensor, logprobs: Sequence[torch.Tensor]) -> None:
        """What the head read, [T, D], and the log-probabilities of each text's answer."""
        if not self._found:
            return
        equal = self._compare(FINAL_NORM, "final norm", hidden_TD, self._stream)
        gap = self.gaps.setdefault(HEAD, Gap("head"))
        for (place, sample, at_R), equal_R in zip(self._samples, equal.split(self._counts)):
            rollout_R = torch.tensor(sample.logprobs, dtype=torch.float32)
            tokens_R = at_R - (len(sample.prompt_ids) - 1)
            is_drawn = tokens_R >= 0
            picked = tokens_R[is_drawn]
            self._add(gap, logprobs[place][picked, None], rollout_R[picked, None], equal_R[is_drawn])

    def _compare(self, place: Place, name: str, ours_TD: torch.Tensor, inputs_R: torch.Tensor) -> torch.Tensor:
        """Adds rows to a place's gap; which of them have the same bits. inputs: whether what they come from has."""
        ours_RD = ours_TD.detach()[self._rows_R.to(ours_TD.device)].cpu()
        engine_RD = torch.cat([rows.values[place][at_R] for rows, at_R in zip(self._found, self._at)])
        return self._add(self.gaps.setdefault(place, Gap(name)), ours_RD, engine_RD, inputs_R)

    @staticmethod
    def _add(gap: Gap, ours_RD: torch.Tensor, engine_RD: torch.Tensor, inputs_R: torch.Tensor) -> torch.Tensor:
        equal_R = same_bits(ours_RD, engine_RD.to(ours_RD.dtype)).all(-1)
        gap.rows += len(equal_R)
        gap.differing += int((~equal_R).sum())
        gap.born += int((inputs_R & ~equal_R).sum())
        if len(equal_R):
            gap.largest = max(gap.largest, float((ours_RD.double() - engine_RD.double()).abs().max()))
            gap.magnitude = max(gap.magnitude, float(ours_RD.double().abs().max()))
        return equal_R

    def _all_before(self, equal_R: torch.Tensor) -> torch.Tensor:
        """Whether each row and those before it in its text are equal; rows from the cache are taken to be."""
        return torch.cat([own.to(torch.uint8).cumprod(0).bool() for own in equal_R.split(self._counts)])

    def found(self) -> list[Gap]:
        """By place, from the embedding to the head."""
        order = {"norm": 0, "module": 1, "join": 2}
        return [self.gaps[place] for place in sorted(self.gaps, key=lambda at: (at[0], order.get(at[1], 0)))]
