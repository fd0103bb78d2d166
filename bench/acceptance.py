"""How many drafts are accepted: exact matching with the target's noise against classical rejection sampling.

    hyla quickstart --no-serve --out runs/quickstart
    hyla train DATA --out runs/draft --config draft.toml
    python -m bench acceptance runs/quickstart runs/draft

Both are runs on the same texts with the same size of vocabulary, so that their tokenizers are the same (DATA: the
folder that the first line of `hyla quickstart` names). For each way of sampling:

- expected: the chance that a first draft is accepted, averaged over positions of held-out text, from both models'
  probabilities p and q. independent: sum p q, were the draft's noise its own. exact: the sum over i of
  1 / sum_j max(p_j / p_i, q_j / q_i), with shared Gumbel noise (arXiv 2408.07978). rejection: sum min(p, q).
- exact, rejection: what the engine accepts of four drafts a step, and the tokens it gets from a step.

At the end what one token costs, in milliseconds at a vocabulary of 151,936, where a draft is rejected.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import hyla
from bench.outcome import Outcome
from bench.timing import medians, timed
from hyla.engine import Engine, SamplingParams
from hyla.engine.sampling.acceptance import Distribution
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.sampler import filtered
from hyla.train.run import read_run

WAYS = {
    "temperature 1": {},
    "temperature 1, top-p 0.95": {"top_p": 0.95},
    "temperature 0.7, top-p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature 0.6, top-k 20": {"temperature": 0.6, "top_k": 20},
}
NUM_TEXTS, TEXT_LEN, PROMPT_LEN, ANSWER_LEN, NUM_DRAFTS = 24, 192, 48, 128, 4


def probs_of(logits_V: torch.Tensor, params: SamplingParams) -> np.ndarray:
    """float64 [V] after temperature and filters."""
    own = Distribution.of(*filtered(logits_V.double().numpy(), None, params))
    probs = np.zeros(len(logits_V))
    probs[own.support] = own.probs
    return probs


def chances(p: np.ndarray, q: np.ndarray) -> dict[str, float]:
    """That a draft is accepted, by rule."""
    both = np.flatnonzero((p > 0) & (q > 0))
    mine, theirs = p[both], q[both]
    # sum_j max(p_j / p_i, q_j / q_i): p_j / p_i is the larger one where p_j / q_j > p_i / q_i. Sorted, it is two sums.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(q > 0, p / q, np.inf)
    order = np.argsort(ratio)
    above = np.append(p[order][::-1].cumsum()[::-1], 0.0)
    below = np.append(0.0, q[order].cumsum())
    place = np.searchsorted(ratio[order], mine / theirs, side="right")
    shared = 1.0 / (above[place] / mine + below[place] / theirs)
    return {
        "independent": float((p * q).sum()),
        "exact": float(shared.sum()),
        "rejection": float(np.minimum(p, q).sum()),
    }


def expected(model, draft_model, texts: list[list[int]], params: SamplingParams) -> dict[str, float]:
    with torch.inference_mode():
        rows, own = torch.cat(model.logits(texts)), torch.cat(draft_model.logits(texts))
    found = [chances(probs_of(p, params), probs_of(q, params)) for p, q in zip(rows[::3], own[::3])]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def measured(model, draft_model, texts: list[list[int]], params: SamplingParams, acceptance: str) -> dict[str, float]:
    engine = Engine(
        model,
        draft_model=draft_model,
        memory=256 << 20,
        prefix_cache=False,
        speculation="draft",
        acceptance=acceptance,
        fixed_drafts=True,
        max_draft_tokens=NUM_DRAFTS,
        pack=False,
    )
    usages = [one.usage for one in engine.generate([text[:PROMPT_LEN] for text in texts], params)]
    drafted, accepted = sum(u.drafted_tokens for u in usages), sum(u.accepted_tokens for u in usages)
    # Each step adds one token of its own.
    steps = sum(u.completion_tokens - u.accepted_tokens for u in usages)
    return {"accepted_share": accepted / drafted, "tokens_per_step": sum(u.completion_tokens for u in usages) / steps}


def milliseconds(fields: dict, vocab: int = 151_936, repeats: int = 15) -> dict[str, float]:
    """Processor time of choosing and drafting one token from random logits, medians."""
    chooser = Chooser(SamplingParams(seed=1, **fields), (1,), choice=0)
    found: dict[str, list[float]] = {}

    def take(name: str, function, *args):
        seconds, result = timed(lambda: function(*args), time.thread_time)
        found.setdefault(name, []).append(seconds)
        return result

    for n in range(repeats):
        p, q = 3.0 * torch.randn(2, vocab, generator=torch.Generator().manual_seed(n))
        take("choose exactly", chooser.choose, p, 1)
        take("draft exactly", chooser.guess, q, ())
        draft = take("draft a sample", chooser.guess, q, (), "rejection")
        take("accept or replace", chooser.choose, p, 1, draft)
    return medians(found, 1e3, 2)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path)
    parser.add_argument("draft", type=Path)


def run(options: argparse.Namespace) -> Outcome:
    target, draft = read_run(options.run), read_run(options.draft)
    assert target.tokenizer.backend.to_str() == draft.tokenizer.backend.to_str(), "the tokenizers differ"
    model, draft_model = (hyla.load(one.model_folder).eval() for one in (target, draft))
    encoded = (target.tokenizer.encode(document.text) for document in target.heldout)
    texts = [ids[:TEXT_LEN] for ids in encoded if len(ids) >= TEXT_LEN][:NUM_TEXTS]
    results = {}
    for name, fields in WAYS.items():
        params = SamplingParams(max_tokens=ANSWER_LEN, seed=1, ignore_eos=True, **fields)
        results[name] = {"expected": expected(model, draft_model, texts, params)}
        for acceptance in ("exact", "rejection"):
            results[name][acceptance] = measured(model, draft_model, texts, params, acceptance)
        print(name, json.dumps(results[name]), flush=True)
    costs = {name: milliseconds(fields) for name, fields in WAYS.items()}
    return Outcome({"acceptance": results, "milliseconds": costs})
