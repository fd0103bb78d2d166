"""Drafts, and the classical rule by which one that was sampled is accepted.

Rejection sampling (Leviathan et al., arXiv 2211.17192, algorithm 1; Chen et al., arXiv 2302.01318, algorithm 2): a
draft x, sampled from q, is accepted with probability min(1, p(x) / q(x)); in place of a rejected one comes a sample of
max(p - q, 0), normalised. The token is then distributed as p, and the draft is accepted with probability
sum min(p, q), which no rule can exceed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hyla.engine.sampling.noise import ACCEPTING, REPLACING, NoiseKey, first_words, uniform
from hyla.engine.sampling.sampler import gumbel_argmax


@dataclass(frozen=True, eq=False)
class Distribution:
    """Probabilities of the tokens that the filters left."""

    probs: np.ndarray
    """float64, positive or 0, their sum 1."""
    ids: np.ndarray | None
    """Ascending, of `probs`; None: all ids."""

    @classmethod
    def of(cls, scaled: np.ndarray, ids: np.ndarray | None) -> Distribution:
        """The distribution of logits after temperature and filters, the largest of them 0."""
        weights = np.exp(scaled)
        return cls(weights / weights.sum(), ids)

    @property
    def support(self) -> np.ndarray:
        """Ids, ascending, of `probs`."""
        return np.arange(len(self.probs)) if self.ids is None else self.ids

    def at(self, ids: np.ndarray) -> np.ndarray:
        """Probabilities of these ids; 0 for those that the filters have left out."""
        if self.ids is None:
            return self.probs[ids]
        places = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where(self.ids[places] == ids, self.probs[places], 0.0)


class Draft(NamedTuple):
    """A guessed token."""

    token: int
    source: Distribution | None = None
    """What it was sampled from, with noise of its own. None: it is a function of the text, or of the noise with which
    the target is sampled; it is accepted when it equals the target's sample."""


def settle(target: Distribution, draft: Draft, key: NoiseKey) -> int:
    """The draft's token, or the one that comes in its place. The draft has a source. key: of the token's position."""
    source = draft.source
    if source is None:
        raise ValueError("a draft that was not sampled is settled by comparing tokens")
    drafted = np.array([draft.token])
    chance = uniform(first_words(key._replace(purpose=ACCEPTING), 1))
    if chance * source.at(drafted) < target.at(drafted):
        return draft.token
    ids = target.support
    rest = np.maximum(target.probs - source.at(ids), 0.0)
    places = np.flatnonzero(rest)
    if len(places) == 0:  # the two are the same but for their last bits
        rest, places = target.probs, np.flatnonzero(target.probs)
    place = gumbel_argmax(np.log(rest[places]), ids[places], key._replace(purpose=REPLACING))
    return int(ids[places[place]])
