"""Held-out text along the way: what the model knows of it, and how it would go on.

Nothing here changes a bit of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hyla.data.packing import TokenStore
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.config import HeldoutConfig
from hyla.train.evaluation import nats_per_token
from hyla.train.metrics import HeldoutMetrics, Sample

Decode = Callable[[list[int]], str]


def numbers(ids: list[int]) -> str:
    """Token ids as they are, for a run without a tokenizer."""
    return " ".join(map(str, ids))


def score_heldout(
    model: Model, store: TokenStore, config: HeldoutConfig, *, step: int, window: int, decode: Decode
) -> HeldoutMetrics:
    """The model as it is, after `step` steps. window: most rows that are read as one sequence."""
    loss, tokens = nats_per_token(model, store, window=window, most_tokens=config.tokens)
    return HeldoutMetrics(step, loss, tokens, samples_of(model, store, config, decode))


def samples_of(model: Model, store: TokenStore, config: HeldoutConfig, decode: Decode) -> tuple[Sample, ...]:
    """The first held-out documents that are long enough, cut after `prompt_tokens`, and their likeliest continuations.

    A conversation is cut before the first token that the model has to write, if that comes later.
    """
    prompts = beginnings(store, config.samples, config.prompt_tokens)
    if not prompts:
        return ()
    written = continuations(model, prompts, config.sample_tokens)
    return tuple(Sample(decode(prompt), decode(ids)) for prompt, ids in zip(prompts, written))


def beginnings(store: TokenStore, count: int, length: int) -> list[list[int]]:
    """Beginnings of the first `count` documents that are longer than that; fewer where there are not so many."""
    found, start = [], 0
    for end in store.ends.tolist():
        if len(found) == count:
            break
        cut = start + length
        if store.learnt is not None:
            learnt = store.learnt[start:end].nonzero()
            cut = max(cut, start + int(learnt[0])) if len(learnt) else end
        if cut < end - 1:  # the last token is the end of the text
            found.append(store.tokens[start:cut].tolist())
        start = end
    return found


@torch.no_grad()
def continuations(model: Model, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """At most `count` tokens after each prompt, each the one with the largest logit, without the end-of-text token.

    Whole sequences are computed again for every token, in the arithmetic of training and serving: slow, and nothing of
    the model (packed weights, caches) has to be prepared or put back.
    """
    ids, ends = [list(prompt) for prompt in prompts], set(model.config.eos_token_ids)
    open_rows = list(range(len(ids)))
    for _ in range(count):
        if not open_rows:
            break
        batch = Batch.packed([len(ids[n]) for n in open_rows], device=model.device)
        tokens_T = torch.tensor([token for n in open_rows for token in ids[n]], device=model.device)
        hidden_ND = model(tokens_T, batch)[batch.last_rows_N]
        for n, token in zip(list(open_rows), model.head_logits(hidden_ND).argmax(-1).tolist()):
            if token in ends:
                open_rows.remove(n)
            else:
                ids[n].append(token)
    return [row[len(prompt) :] for row, prompt in zip(ids, prompts)]
