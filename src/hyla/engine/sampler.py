"""From a row of logits to a token: one row at a time, so that a token never depends on its neighbours.

The order is fixed: bans, temperature, top-k, top-p among what top-k left, min-p; then Gumbel-max with keyed noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyla.engine.messages import TokenLogprob
from hyla.engine.noise import gumbel_noise
from hyla.engine.params import SamplingParams
from hyla.ops.primitives import log_softmax_last

FIRST_CANDIDATES = 1024
"""Top-p sorts this many candidates first, and the whole vocabulary only when they are not enough."""


def greedy(logits_RV: torch.Tensor) -> list[int | None]:
    """The most likely id of each row, the lowest on a tie; None for a row with a NaN."""
    vocab = logits_RV.shape[1]
    ids = torch.arange(vocab, device=logits_RV.device)
    best_R1 = logits_RV.amax(-1, keepdim=True)
    # A row with a NaN equals its maximum nowhere; argmax would return some id, and breaks ties as it likes.
    found = torch.where(logits_RV == best_R1, ids, vocab).amin(-1).tolist()
    return [token if token < vocab else None for token in found]


def _descending(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and their places, largest first, lower places first among equals."""
    return values.sort(descending=True, stable=True)


def _most_likely(logits_V: torch.Tensor, count: int) -> torch.Tensor:
    """Ids of the `count` largest logits, largest first, lower ids first among equals."""
    if count >= logits_V.shape[0]:
        return _descending(logits_V)[1]
    # topk breaks ties as it likes, so it only finds the smallest value that can be among them.
    smallest = logits_V.topk(count).values.amin()
    candidates = (logits_V >= smallest).nonzero().squeeze(1)
    return candidates[_descending(logits_V[candidates])[1][:count]]


def kept_tokens(scaled_V: torch.Tensor, params: SamplingParams) -> torch.Tensor | None:
    """Ids that the filters leave, given float64 logits after temperature; None: all of them."""
    vocab = scaled_V.shape[0]
    top_k = params.top_k if 0 < params.top_k < vocab else vocab
    kept = None
    if params.top_p < 1.0:
        kept = _top_p(scaled_V, top_k, params.top_p)
    elif top_k < vocab:
        kept = _most_likely(scaled_V, top_k)
    if params.min_p > 0.0:
        floor = scaled_V.amax() + torch.tensor(params.min_p, dtype=torch.float64).log()
        if kept is None:
            return (scaled_V >= floor).nonzero().squeeze(1)
        kept = kept[scaled_V[kept] >= floor]
    return kept


def _top_p(scaled_V: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """The smallest set of most likely ids, among the top_k, whose share of the top_k's probability reaches top_p."""
    vocab = scaled_V.shape[0]
    best = scaled_V.amax()
    whole = torch.exp(scaled_V - best).sum() if top_k == vocab else None
    for count in sorted({min(top_k, FIRST_CANDIDATES), top_k}):
        kept = _most_likely(scaled_V, count)
        mass = torch.exp(scaled_V[kept] - best).cumsum(0)
        wanted = top_p * (whole if whole is not None else mass[-1])
        reached = int((mass < wanted).sum()) + 1
        if reached <= count and (count == top_k or whole is not None):
            break
    return kept[:reached]


def sample(
    logits_V: torch.Tensor, params: SamplingParams, *, seed: int, choice: int, position: int, banned: Sequence[int] = ()
) -> int | None:
    """One token id for fp32 logits [V]; None when the logits are not numbers."""
    if banned:
        logits_V = logits_V.index_fill(0, torch.tensor(list(banned), device=logits_V.device), float("-inf"))
    if params.temperature == 0.0:
        return greedy(logits_V[None])[0]
    # The difference to the best logit cannot overflow, whatever the temperature.
    scaled_V = logits_V.double()
    scaled_V = (scaled_V - scaled_V.amax()) / params.temperature
    if scaled_V.isnan().any():
        return None
    kept = kept_tokens(scaled_V, params)
    noise_V = gumbel_noise(seed, choice, position, scaled_V.shape[0]).to(scaled_V.device)
    if kept is None:
        return greedy((scaled_V + noise_V)[None])[0]
    best = greedy((scaled_V[kept] + noise_V[kept])[None])[0]
    return int(kept[best])


def logprob_of(logits_V: torch.Tensor, token_id: int, num_top: int) -> TokenLogprob:
    """The token's natural log-probability, and the most likely ids' with theirs."""
    logprobs_V = log_softmax_last(logits_V[None])[0]
    top = _most_likely(logits_V, num_top) if num_top else []
    pairs = tuple((int(token), float(logprobs_V[token])) for token in top)
    return TokenLogprob(token_id, float(logprobs_V[token_id]), pairs)
