"""From a row of logits to a token: one row at a time, so that a token never depends on its neighbours.

Filters come in a fixed order: temperature, top-k, top-p among what top-k left, min-p; then Gumbel-max with keyed noise.
No step sorts a vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hyla.engine.requests.messages import TokenLogprob
from hyla.engine.requests.params import SamplingParams
from hyla.engine.sampling.noise import NoiseKey, first_words, gumbel, gumbel_of, words_of
from hyla.ops.exact.logprobs import log_sums, of_tokens

NUM_BINS = 4096
"""Top-p adds probabilities up by bins of log-probability and sorts only the bin in which it ends."""
DEEPEST = 64.0
"""Where the last bin begins: what is less likely than e^-64 relative to the best weighs nothing in float64."""
NARROWEST = 1e-290
"""Logits that differ by less count as equal: the width of a bin would be no number."""
NUM_LEADING = 256
"""How many tokens' noise is looked at first; the largest score among them rules nearly all others out."""
MARGIN = 1e-6
"""Scores nearer than this are compared by scalar functions."""


def greedy(logits_RV: torch.Tensor) -> list[int | None]:
    """The most likely id of each row, the lowest on a tie; None for a row with a NaN."""
    if logits_RV.device.type == "cpu":  # numpy's argmax reads a row once; it gives the first of several, or a NaN
        rows_RV = logits_RV.numpy()
        best_R = rows_RV.argmax(1)
        is_number_R = ~np.isnan(rows_RV[np.arange(len(best_R)), best_R])
        return [token if is_number else None for token, is_number in zip(best_R.tolist(), is_number_R.tolist())]
    vocab = logits_RV.shape[1]
    ids = torch.arange(vocab, device=logits_RV.device)
    best_R1 = logits_RV.amax(-1, keepdim=True)
    # A row with a NaN equals its maximum nowhere; argmax would return some id, and breaks ties as it likes.
    found = torch.where(logits_RV == best_R1, ids, vocab).amin(-1).tolist()
    return [token if token < vocab else None for token in found]


def draw(values: np.ndarray, ids: np.ndarray | None, params: SamplingParams, key: NoiseKey) -> int:
    """Choose a token of `ids` (ascending; None: all) with these float64 logits; the largest must be finite."""
    if params.temperature == 0.0:
        place = int(values.argmax())  # numpy returns the first of several
    else:
        return drawn(*filtered(values, ids, params), key)
    return place if ids is None else int(ids[place])


def drawn(scaled: np.ndarray, ids: np.ndarray | None, key: NoiseKey) -> int:
    """A token of `ids` (ascending; None: all) with these logits after temperature and filters."""
    place = gumbel_argmax(scaled, ids, key)
    return place if ids is None else int(ids[place])


def filtered(
    values: np.ndarray, ids: np.ndarray | None, params: SamplingParams
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits after temperature, the best of them 0, and ids (ascending; None: all) of what the filters leave."""
    # The difference to the best logit cannot become +inf, whatever the temperature.
    with np.errstate(over="ignore"):
        scaled = values - values.max()
        scaled /= params.temperature
    kept = kept_places(scaled, params)
    if kept is None:
        return scaled, ids
    return scaled[kept], kept if ids is None else ids[kept]


def kept_places(scaled: np.ndarray, params: SamplingParams) -> np.ndarray | None:
    """Places (ascending) that the filters leave, given logits after temperature, the best of them 0; None: all."""
    kept = _top_k(scaled, params.top_k) if 0 < params.top_k < len(scaled) else None
    if params.top_p < 1.0:
        kept = _top_p(scaled, params.top_p) if kept is None else kept[_top_p(scaled[kept], params.top_p)]
    if params.min_p > 0.0:
        floor = math.log(params.min_p)
        kept = np.flatnonzero(scaled >= floor) if kept is None else kept[scaled[kept] >= floor]
    return kept


def _top_k(values: np.ndarray, top_k: int) -> np.ndarray:
    """Places of the k largest, lower places first among equals."""
    smallest = np.partition(values, len(values) - top_k)[len(values) - top_k]
    is_kept = values > smallest
    is_kept[np.flatnonzero(values == smallest)[: top_k - np.count_nonzero(is_kept)]] = True
    return np.flatnonzero(is_kept)


def _top_p(scaled: np.ndarray, top_p: float) -> np.ndarray:
    """Places of the smallest set of most likely ones that has this share of the probability."""
    weights = np.exp(scaled)
    wanted = top_p * weights.sum()
    span = min(-float(scaled.min()), DEEPEST)
    scale = (NUM_BINS - 1) / span if span > NARROWEST else 0.0
    bins = np.minimum(scaled * -scale, NUM_BINS - 1).astype(np.intp)
    mass = np.bincount(bins, weights=weights, minlength=NUM_BINS).cumsum()
    last = int(np.searchsorted(mass, wanted))
    if last >= NUM_BINS:  # the sums differ in their last bits
        return np.arange(len(scaled))
    inside = np.flatnonzero(bins == last)
    inside = inside[np.argsort(-scaled[inside], kind="stable")]
    before = mass[last - 1] if last else 0.0
    reached = int((before + weights[inside].cumsum() < wanted).sum()) + 1
    is_kept = bins < last
    is_kept[inside[:reached]] = True
    return np.flatnonzero(is_kept)


def gumbel_argmax(scaled: np.ndarray, ids: np.ndarray | None, key: NoiseKey) -> int:
    """Place of the largest sum of logit and Gumbel noise, the lowest on a tie. ids: None when they are the places."""
    words = first_words(key, len(scaled)) if ids is None else words_of(key, ids)
    places = _possible(scaled, words)
    scores = scaled[places] + gumbel(words[places])
    near = places[scores >= scores.max() - MARGIN].tolist()
    return max(near, key=lambda n: (float(scaled[n]) + gumbel_of(int(words[n])), -n))


def _possible(scaled: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Places that can have the largest score, found without most logarithms."""
    count = len(scaled)
    if count <= 2 * NUM_LEADING:
        return np.arange(count)
    limit = round((1 - NUM_LEADING / count) * 2.0**64)
    is_possible = words >= np.uint64(limit)
    leading = np.append(np.flatnonzero(is_possible), scaled.argmax())
    sure = (scaled[leading] + gumbel(words[leading])).max()
    # Every other token's noise is below that of the limit.
    is_possible |= scaled >= sure - gumbel_of(limit) - MARGIN
    return np.flatnonzero(is_possible)


def most_likely(logits_V: torch.Tensor, count: int) -> torch.Tensor:
    """Ids of the `count` largest logits, largest first, lower ids first among equals."""
    if count < logits_V.shape[0]:
        # topk breaks ties as it likes, so it only finds the smallest value that can be among them.
        smallest = logits_V.topk(count).values.amin()
        candidates = (logits_V >= smallest).nonzero().squeeze(1)
        return candidates[logits_V[candidates].sort(descending=True, stable=True)[1][:count]]
    return logits_V.sort(descending=True, stable=True)[1]


def logprobs_of(
    logits_RV: torch.Tensor, tokens: Sequence[int], num_top: int, temperature: float | None = None
) -> list[TokenLogprob]:
    """The natural log-probability and the rank of each row's token, and the most likely ids with theirs: the numbers of
    `ops.exact.logprobs`. temperature: also `sampled`, of the logits divided by it; None: without."""
    tokens_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    sums = log_sums(logits_RV)
    of_token = of_tokens(logits_RV, tokens_R1[:, 0], sums=sums).tolist()
    sampled = [None] * len(tokens) if temperature is None else sampled_logprobs(logits_RV, tokens, temperature)
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if num_top and tokens:
        top_RK = torch.stack([most_likely(row_V, num_top) for row_V in logits_RV])
        of_top = of_tokens(logits_RV, top_RK, sums=sums).tolist()
        tops = [tuple(zip(ids, values)) for ids, values in zip(top_RK.tolist(), of_top)]
    return list(map(TokenLogprob, tokens, of_token, tops, _ranks(logits_RV, tokens_R1), sampled))


def sampled_logprobs(logits_RV: torch.Tensor, tokens: Sequence[int], temperature: float) -> list[float]:
    """ln p of each row's token after a temperature; logits of what cannot be drawn are -inf."""
    return of_tokens(logits_RV, torch.tensor(tokens, device=logits_RV.device), temperature).tolist()


def row_of_kept(values: np.ndarray, ids: np.ndarray | None, kept: np.ndarray | None, vocab: int) -> torch.Tensor:
    """fp32 logits [1, V] of what a token is drawn from, before temperature; -inf for every other id.

    values: float64, of `ids` (ascending; None: all). kept: those of them that the filters left (None: all).
    """
    row_V = np.full(vocab, -np.inf, dtype=np.float32)
    row_V[slice(None) if ids is None else ids] = values
    if kept is not None and kept is not ids:
        whole_V, row_V = row_V, np.full_like(row_V, -np.inf)
        row_V[kept] = whole_V[kept]
    return torch.from_numpy(row_V)[None]


def _ranks(logits_RV: torch.Tensor, tokens_R1: torch.Tensor) -> list[int]:
    """The rank of each row's token among all ids, by logits, since two of them can round to one log-probability."""
    own_R1 = logits_RV.gather(1, tokens_R1)
    is_lower_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device) < tokens_R1
    is_better_RV = (logits_RV > own_R1) | ((logits_RV == own_R1) & is_lower_RV)
    return (is_better_RV.sum(1) + 1).tolist()
