"""Answers to prompts with the log-probabilities that they were drawn with: by Hyla's engine, and by transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hyla.checkpoints import save_model
from hyla.engine import Engine, Request, SamplingParams
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import of_tokens
from hyla.rl.places import seed_of


class Answer(NamedTuple):
    """What was drawn after one prompt, and ln p of each token under what it was drawn from."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Draws(NamedTuple):
    """How answers are drawn."""

    max_tokens: int
    temperature: float = 1.0
    seed: int = 0
    eos_ids: tuple[int, ...] = ()
    """What ends an answer, and is its last token then; empty: nothing does."""


class TransformersAnswers:
    """transformers' `generate`: rows padded on the left, its own cache, its scores of the drawn tokens.

    dtype: of its weights. rows: that it is given at once; more of them are slower here (docs/log.md).
    """

    def __init__(self, model: Model, dtype: torch.dtype = torch.float32, rows: int = 64):
        self.dtype, self.rows = dtype, rows
        self.renew(model)

    def renew(self, model: Model) -> None:
        """Take over the weights of a model, packed or not, by way of its published folder."""
        from transformers import AutoModelForCausalLM

        with tempfile.TemporaryDirectory() as folder:
            save_model(model, Path(folder) / "model")
            self.model: Any = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=self.dtype).eval()
        # What a folder advises (top_k = 50, where it is silent) would leave tokens out.
        self.model.generation_config.update(top_k=0, top_p=1.0)

    @torch.no_grad()
    def of(self, prompts: Sequence[Sequence[int]], draws: Draws) -> list[Answer]:
        """One answer to each prompt. All noise is of one generator, so other rows change what is drawn."""
        with torch.random.fork_rng():
            torch.manual_seed(draws.seed)
            pieces = [prompts[first : first + self.rows] for first in range(0, len(prompts), self.rows)]
            return [answer for piece in pieces for answer in self._generated(piece, draws)]

    def _generated(self, prompts: Sequence[Sequence[int]], draws: Draws) -> list[Answer]:
        longest = max(map(len, prompts))
        pad = draws.eos_ids[0] if draws.eos_ids else 0
        tokens_RT = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask_RT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        found = self.model.generate(
            tokens_RT,
            attention_mask=mask_RT,
            do_sample=True,
            temperature=draws.temperature,
            max_new_tokens=draws.max_tokens,
            eos_token_id=list(draws.eos_ids) or -1,
            pad_token_id=pad,
            use_cache=True,
            return_dict_in_generate=True,
            output_scores=True,
        )
        drawn_RT = found.sequences[:, longest:]
        columns = [torch.log_softmax(scores_RV, -1) for scores_RV in found.scores]
        logprobs_RT = torch.stack([one.gather(1, drawn_RT[:, n, None])[:, 0] for n, one in enumerate(columns)], 1)
        ends = frozenset(draws.eos_ids)
        return [_answer(ids, values, ends) for ids, values in zip(drawn_RT.tolist(), logprobs_RT.tolist())]


def _answer(ids: list[int], logprobs: list[float], ends: frozenset[int]) -> Answer:
    """Up to its end; what follows is padding."""
    length = next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))
    return Answer(tuple(ids[:length]), tuple(logprobs[:length]))


class HylaAnswers:
    """Hyla's engine, asked as `hyla rl` asks it (src/hyla/rl/rollouts.py)."""

    def __init__(self, model: Model, **options):
        self.engine = Engine(model, **options)
        self._names = count()

    def of(self, prompts: Sequence[Sequence[int]], draws: Draws) -> list[Answer]:
        """One answer to each prompt."""
        requests = [
            Request(f"answer-{next(self._names)}", tuple(prompt), self._params(draws, place))
            for place, prompt in enumerate(prompts)
        ]
        resolved = [self.engine.resolve(request) for request in requests]
        done = {one.request_id: one for part in self.engine.finished(resolved) for one in part}
        return [_completed(done[request.request_id]) for request in requests]

    def forget(self) -> None:
        """What new weights do to a cache."""
        self.engine.forget_cached()

    @staticmethod
    def _params(draws: Draws, place: int) -> SamplingParams:
        return SamplingParams(
            max_tokens=draws.max_tokens,
            temperature=draws.temperature,
            seed=seed_of(draws.seed, place),
            logprobs=0,
            sampled_logprobs=True,
            ignore_eos=True,
            stop_token_ids=draws.eos_ids,
        )


def _completed(done) -> Answer:
    return Answer(done.token_ids, tuple(one.sampled for one in done.logprobs))


@torch.inference_mode()
def scored(
    model: Model, prompts: Iterable[Sequence[int]], answers: Iterable[Answer], temperature: float
) -> list[float]:
    """ln p of all drawn tokens by the trainer's arithmetic, in order."""
    found: list[float] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        (logits_TV,) = model.logits([[*prompt, *answer.token_ids[:-1]]])
        drawn_R = torch.tensor(answer.token_ids)
        found += of_tokens(logits_TV[len(prompt) - 1 :], drawn_R, temperature).tolist()
    return found
