"""One step: the packed batch through the model, logits of the rows that need them, one token for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.caches import Cache
from hyla.engine.generation import Generation
from hyla.engine.messages import TokenLogprob
from hyla.engine.sampler import greedy, logprob_of, sample
from hyla.models.trunk import Model


@dataclass(frozen=True)
class Sampled:
    generation: Generation
    token_id: int | None
    """None: the model's logits were not numbers."""
    logprob: TokenLogprob | None


class Runner:
    """Runs steps of one model over one cache pool."""

    def __init__(self, model: Model, cache: Cache):
        self.model, self.cache = model, cache

    @torch.inference_mode()
    def step(self, parts: list[tuple[Generation, int]]) -> list[Sampled]:
        """Compute (generation, number of its next tokens); a token is sampled where a generation's last row is."""
        batch = self.cache.batch([(generation.sequence, count) for generation, count in parts])
        tokens = []
        for (generation, count), start in zip(parts, batch.starts):
            tokens += generation.tokens[start : start + count]
        hidden_TD = self.model(batch.index(tokens), batch, self.cache.layers)
        ready, rows = [], []
        for (generation, count), offset in zip(parts, batch.offsets):
            self.cache.commit(generation.sequence, count)
            if generation.num_pending == 0:
                ready.append(generation)
                rows.append(offset + count - 1)
        if not ready:
            return []
        last_RD = hidden_TD if len(rows) == hidden_TD.shape[0] else hidden_TD[batch.index(rows)]
        return self._sample(ready, self.model.head_logits(last_RD))

    def _sample(self, ready: list[Generation], logits_RV: torch.Tensor) -> list[Sampled]:
        plain = [n for n, g in enumerate(ready) if g.params.temperature == 0.0 and not g.banned_ids]
        best = {}
        if plain:
            picked = logits_RV if len(plain) == len(ready) else logits_RV[torch.tensor(plain, device=logits_RV.device)]
            best = dict(zip(plain, greedy(picked)))
        sampled = []
        for n, generation in enumerate(ready):
            token = best[n] if n in best else self._sample_row(generation, logits_RV[n])
            num_top = generation.params.logprobs
            wanted = num_top is not None and token is not None
            logprob = logprob_of(logits_RV[n], token, num_top) if wanted else None
            sampled.append(Sampled(generation, token, logprob))
        return sampled

    @staticmethod
    def _sample_row(generation: Generation, logits_V: torch.Tensor) -> int | None:
        return sample(
            logits_V,
            generation.params,
            seed=generation.params.seed,
            choice=generation.choice,
            position=len(generation.tokens),
            banned=generation.banned_ids,
        )
