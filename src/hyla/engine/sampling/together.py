"""Many rows of logits to tokens at once, where nothing but a temperature shapes them: the tokens and log-probabilities
that the rows give one by one (`Chooser.choose`, `Chooser.logprob`), bit for bit, at a fraction of the calls.

A draw is the largest sum of logit and noise. Which sums come near the largest is found on whole arrays; those are
compared by scalar functions (`sampler.MARGIN`), so where a number stands in an array decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hyla.engine.requests.messages import TokenLogprob
from hyla.engine.sampling.noise import NoiseKey, gumbel, gumbel_of, words_of_keys
from hyla.engine.sampling.sampler import MARGIN, NUM_LEADING, greedy, logprobs_of

BLOCK = 1 << 16
"""Numbers of the rows that are looked at together: their arrays stay in the processor's caches."""


class Row(NamedTuple):
    """One row of a step's logits and what is asked of it."""

    temperature: float
    """0: the most likely token."""
    key: NoiseKey
    num_top: int | None
    """How many of the most likely ids come with the token's log-probability; None: no log-probability."""
    is_sampled: bool
    """Whether ln p of the token after the temperature is asked for."""


class Found(NamedTuple):
    """What a row gives."""

    token: int | None
    """None: the row's logits are not numbers."""
    logprob: TokenLogprob | None


def tokens_of_rows(logits_RV: torch.Tensor, rows: Sequence[Row | None]) -> list[Found | None]:
    """The token of each row of fp32 logits [R, V] that asks for one, and its log-probabilities; None for the others."""
    tokens: list[int | None] = [None] * len(rows)
    greedy_ones = [place for place, row in enumerate(rows) if row is not None and row.temperature == 0.0]
    if greedy_ones:
        best = greedy(_picked(logits_RV, greedy_ones))
        for place, token in zip(greedy_ones, best):
            tokens[place] = token
    drawn = [(place, row) for place, row in enumerate(rows) if row is not None and row.temperature > 0.0]
    if drawn:
        values_RV = _picked(logits_RV, [place for place, _ in drawn]).cpu().numpy()
        found = drawn_rows(values_RV, np.array([row.temperature for _, row in drawn]), [row.key for _, row in drawn])
        for (place, _), token in zip(drawn, found):
            tokens[place] = token
    entries = _logprobs(logits_RV, rows, tokens)
    return [None if row is None else Found(tokens[place], entries.get(place)) for place, row in enumerate(rows)]


def _picked(logits_RV: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    return logits_RV if len(places) == logits_RV.shape[0] else logits_RV[list(places)]


def _logprobs(
    logits_RV: torch.Tensor, rows: Sequence[Row | None], tokens: Sequence[int | None]
) -> dict[int, TokenLogprob]:
    """By row, for those that ask: rows that ask alike in one call."""
    alike = defaultdict(list)
    for place, row in enumerate(rows):
        if row is not None and row.num_top is not None and tokens[place] is not None:
            alike[row.num_top, row.temperature if row.is_sampled else None].append(place)
    found: dict[int, TokenLogprob] = {}
    for (num_top, temperature), places in alike.items():
        chosen = [token for place in places if (token := tokens[place]) is not None]
        found |= zip(places, logprobs_of(_picked(logits_RV, places), chosen, num_top, temperature))
    return found


def drawn_rows(logits_RV: np.ndarray, temperatures_R: np.ndarray, keys: Sequence[NoiseKey]) -> list[int | None]:
    """The token that each key's noise draws from each row of fp32 logits after its temperature; None for a row whose
    largest logit is not finite."""
    step = max(1, BLOCK // logits_RV.shape[1])
    found: list[int | None] = []
    for first in range(0, len(keys), step):
        rows = slice(first, first + step)
        found += _drawn_block(logits_RV[rows].astype(np.float64), temperatures_R[rows], keys[rows])
    return found


def _drawn_block(values_RV: np.ndarray, temperatures_R: np.ndarray, keys: Sequence[NoiseKey]) -> list[int | None]:
    best_R = values_RV.argmax(1)  # the first NaN, if there is one
    most_R = values_RV[np.arange(len(keys)), best_R]
    is_finite_R = np.isfinite(most_R)
    if not is_finite_R.all():
        kept = np.flatnonzero(is_finite_R).tolist()
        drawn = _drawn_block(values_RV[kept], temperatures_R[kept], [keys[n] for n in kept]) if kept else []
        given = iter(drawn)
        return [next(given) if is_finite else None for is_finite in is_finite_R.tolist()]
    with np.errstate(over="ignore"):
        scaled_RV = values_RV
        scaled_RV -= most_R[:, None]
        scaled_RV /= temperatures_R[:, None]
    words_RV = words_of_keys(keys, scaled_RV.shape[1])
    return list(_largest_sums(scaled_RV, words_RV, best_R))


def _largest_sums(scaled_RV: np.ndarray, words_RV: np.ndarray, best_R: np.ndarray) -> Iterator[int]:
    """Place of the largest sum of logit and Gumbel noise in each row, the lowest on a tie. The largest logit is 0."""
    rows, places = np.nonzero(_possible(scaled_RV, words_RV, best_R))
    scores = scaled_RV[rows, places] + gumbel(words_RV[rows, places])
    firsts = np.searchsorted(rows, np.arange(len(best_R)))
    near = np.flatnonzero(scores >= np.maximum.reduceat(scores, firsts)[rows] - MARGIN)
    near_rows, near_places = rows[near].tolist(), places[near].tolist()
    candidates: list[list[int]] = [[] for _ in best_R]
    for row, place in zip(near_rows, near_places):
        candidates[row].append(place)
    for row, found in enumerate(candidates):
        if len(found) == 1:
            yield found[0]
        else:
            scaled_V, words_V = scaled_RV[row], words_RV[row]
            yield max(found, key=lambda n: (float(scaled_V[n]) + gumbel_of(int(words_V[n])), -n))


def _possible(scaled_RV: np.ndarray, words_RV: np.ndarray, best_R: np.ndarray) -> np.ndarray:
    """Where the largest score of a row can be, found without most logarithms (as `sampler` does for one row)."""
    count = scaled_RV.shape[1]
    if count <= 2 * NUM_LEADING:
        return np.ones(scaled_RV.shape, dtype=bool)
    limit = round((1 - NUM_LEADING / count) * 2.0**64)
    is_possible_RV = words_RV >= np.uint64(limit)
    rows, places = np.nonzero(is_possible_RV)
    sure_R = gumbel(words_RV[np.arange(len(best_R)), best_R])  # of the largest logit, which is 0
    np.maximum.at(sure_R, rows, scaled_RV[rows, places] + gumbel(words_RV[rows, places]))
    # Every other token's noise is below that of the limit.
    is_possible_RV |= scaled_RV >= (sure_R - gumbel_of(limit) - MARGIN)[:, None]
    return is_possible_RV
