"""How many drafts are worth their rows: from what was accepted and from what steps cost, both measured as they go.

With d drafts of which each is accepted with probability p after those before it, a step gives
(1 - p^(d+1)) / (1 - p) tokens (arXiv 2211.17192, equation 1). It costs what a step of that many rows has cost lately.
The best ratio wins, and 0 drafts is one of the candidates: speculation is off where it loses.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyla.engine.generation import Generation

PRIOR = 0.7
"""Acceptance assumed of a generation that has shown nothing yet."""
LEARNING = 0.15
"""Weight of the newest outcome."""
RECOVERY = 0.01
"""A generation without drafts drifts back to the prior by this share a step, so that it is tried again."""
ROW_SHARE = 0.03
"""Cost of a further row relative to a step of one, until steps of that size were measured."""


@dataclass
class _Record:
    acceptance: float = PRIOR


class DraftLength:
    """Chooses numbers of drafts. max_drafts: the most."""

    def __init__(self, max_drafts: int):
        self.max_drafts = max_drafts
        self._records: dict[Generation, _Record] = {}
        self._seconds: dict[int, float] = {}
        """What decoding steps cost lately, by bucket of row counts."""
        self.num_drafted = self.num_accepted = 0
        self.accepted_lengths = [0] * (max_drafts + 1)
        """Verifications by how many of their drafts were right."""

    def best(self, generation: Generation, available: int, num_decoding: int) -> int:
        """Drafts for a generation that could have `available`, in a step with `num_decoding` like it."""
        record = self._records.setdefault(generation, _Record())
        candidates = [d for d in (0, 1, 2, 3, 4, 6, 8, 12, 16) if d < min(available, self.max_drafts)]
        candidates.append(min(available, self.max_drafts))
        best = max(candidates, key=lambda d: (self._value(record.acceptance, d, num_decoding), -d))
        if best == 0 < available:
            record.acceptance += (PRIOR - record.acceptance) * RECOVERY
        return best

    def _value(self, p: float, drafts: int, num_decoding: int) -> float:
        tokens = (1 - p ** (drafts + 1)) / (1 - p)
        return tokens / self._cost(num_decoding * (1 + drafts))

    def _cost(self, rows: int) -> float:
        """Seconds of a step, up to a constant while nothing was measured."""
        if not self._seconds:
            return 1 + ROW_SHARE * rows
        bucket = _bucket(rows)
        if bucket in self._seconds:
            return self._seconds[bucket]
        nearest = min(self._seconds, key=lambda known: abs(known - bucket))
        return self._seconds[nearest] * (1 + ROW_SHARE * rows) / (1 + ROW_SHARE * _rows_of(nearest))

    def record(self, generation: Generation, drafted: int, accepted: int) -> None:
        """What became of a generation's drafts."""
        self.num_drafted += drafted
        self.num_accepted += accepted
        self.accepted_lengths[accepted] += 1
        record = self._records.setdefault(generation, _Record())
        for outcome in [1.0] * accepted + [0.0] * (accepted < drafted):
            record.acceptance += (outcome - record.acceptance) * LEARNING
        record.acceptance = min(record.acceptance, 0.98)

    def record_step(self, rows: int, seconds: float) -> None:
        """What a step without prompts cost, drafting included."""
        bucket = _bucket(rows)
        before = self._seconds.get(bucket, seconds)
        self._seconds[bucket] = before + (min(seconds, 3 * before) - before) * LEARNING

    def forget(self, generation: Generation) -> None:
        self._records.pop(generation, None)


def _bucket(rows: int) -> int:
    """Row counts up to 16 on their own, then by steps of a quarter of a power of two."""
    if rows <= 16:
        return rows
    shift = rows.bit_length() - 3
    return 16 + 4 * (shift - 2) + (rows >> shift) - 4


def _rows_of(bucket: int) -> int:
    if bucket <= 16:
        return bucket
    shift, quarter = divmod(bucket - 16, 4)
    return (4 + quarter) << (shift + 2)
