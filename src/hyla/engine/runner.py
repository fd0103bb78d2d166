"""One step: the packed batch through the model, logits of the rows that need them, one token for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.caches import Cache
from hyla.engine.choosing import NOT_NUMBERS
from hyla.engine.generation import Generation
from hyla.engine.messages import TokenLogprob
from hyla.engine.sampler import greedy, logprobs_of
from hyla.models.trunk import Model

SCORED_ROWS = 64
"""Prompt rows whose logits exist at once: 64 rows of a vocabulary of 150k are 39 MB."""


@dataclass(frozen=True)
class Sampled:
    generation: Generation
    token_id: int | None = None
    """None: there is none; `problem` says why, or the prompt was only to be scored."""
    logprob: TokenLogprob | None = None
    problem: str | None = None


class Runner:
    """Runs steps of one model over one cache pool."""

    def __init__(self, model: Model, cache: Cache):
        self.model, self.cache = model, cache

    @torch.inference_mode()
    def step(self, parts: list[tuple[Generation, int]]) -> list[Sampled]:
        """Compute (generation, number of its next tokens); a token is chosen where a generation's last row is."""
        batch = self.cache.batch([(generation.sequence, count) for generation, count in parts])
        tokens = []
        for (generation, count), start in zip(parts, batch.starts):
            tokens += generation.tokens[start : start + count]
        hidden_TD = self.model(batch.index(tokens), batch, self.cache.layers)
        ready, rows, results = [], [], []
        for (generation, count), offset in zip(parts, batch.offsets):
            is_scored = not generation.scores_prompt or self._score_prompt(
                generation, hidden_TD[offset : offset + count]
            )
            self.cache.commit(generation.sequence, count)
            if not is_scored:
                results.append(Sampled(generation, problem=NOT_NUMBERS))
            elif generation.num_pending == 0 and generation.params.max_tokens == 0:
                results.append(Sampled(generation))
            elif generation.num_pending == 0:
                ready.append(generation)
                rows.append(offset + count - 1)
        if ready:
            last_RD = hidden_TD if len(rows) == hidden_TD.shape[0] else hidden_TD[batch.index(rows)]
            results += self._choose(ready, self.model.head_logits(last_RD))
        return results

    def _score_prompt(self, generation: Generation, hidden_TD: torch.Tensor) -> bool:
        """Add the log-probabilities of the prompt tokens that follow a generation's new rows, a piece at a time.

        Those that are there already (it was preempted) are not computed again. False: the logits are not numbers.
        """
        first = generation.sequence.length
        entries, num_prompt = generation.prompt_logprobs, generation.num_prompt_tokens
        while len(entries) < min(first + hidden_TD.shape[0] + 1, num_prompt):
            begin = len(entries) - 1 - first
            end = min(begin + SCORED_ROWS, hidden_TD.shape[0], num_prompt - 1 - first)
            logits_RV = self.model.head_logits(hidden_TD[begin:end])
            if not bool(logits_RV.amax(-1).isfinite().all()):
                return False
            entries += logprobs_of(
                logits_RV, generation.tokens[first + begin + 1 : first + end + 1], generation.params.prompt_logprobs
            )
        return True

    def _choose(self, ready: list[Generation], logits_RV: torch.Tensor) -> list[Sampled]:
        plain = [n for n, generation in enumerate(ready) if generation.chooser.is_plain]
        best = {}
        if plain:
            picked = logits_RV if len(plain) == len(ready) else logits_RV[torch.tensor(plain, device=logits_RV.device)]
            best = dict(zip(plain, greedy(picked)))
        chosen = []
        for n, generation in enumerate(ready):
            chooser, logits_V = generation.chooser, logits_RV[n]
            token = best[n] if n in best else chooser.choose(logits_V, len(generation.tokens))
            if token is None:
                chosen.append(Sampled(generation, problem=NOT_NUMBERS if n in best else chooser.problem))
            else:
                chosen.append(Sampled(generation, token, chooser.logprob(logits_V, token)))
        return chosen
