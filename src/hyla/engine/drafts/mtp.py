"""Drafts by the model's own multi-token prediction module, called again for each further draft.

The module's caches are pages of the same pool, on the same grid: its row t is made of the trunk's hidden state t and
token t + 1. A prefix hit brings the module's rows with it; the last row of a shared prefix may have been made with
another next token, which can change a draft but no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyla.caches import Cache
from hyla.engine.drafts.protocol import Part
from hyla.engine.generation import Generation
from hyla.models.trunk import Model
from hyla.ops.batch import Batch


@dataclass
class _State:
    """After the newest committed row."""

    hidden_1D: torch.Tensor
    first_draft: int | None


class MTPDrafter:
    """A `Drafter` for models with `model.mtp`; of several modules the first one makes all drafts.

    caches: the module's layers of the engine's pool. max_drafts: the most; 1 where the module keeps recurrent states,
    since a speculative row would be folded into them.
    """

    def __init__(self, model: Model, cache: Cache, max_drafts: int):
        self.model, self.cache = model, cache
        self._num_trunk_layers = len(model.cache_specs())
        has_states = any(spec.slot_tensors for spec in model.mtp_cache_specs())
        self.max_drafts = 1 if has_states else max_drafts
        self._states: dict[Generation, _State] = {}

    @property
    def _layers(self):
        return self.cache.layers[self._num_trunk_layers :]

    def available(self, generation: Generation) -> int:
        state = self._states.get(generation)
        return self.max_drafts if state is not None and state.first_draft is not None else 0

    def propose(self, parts: list[Part]) -> None:
        going = []
        for part in parts:
            state = self._states.get(part.generation)
            if part.num_drafts and state is not None and state.first_draft is not None:
                part.drafts = [state.first_draft]
                going.append((part, state.hidden_1D))
        while going := [(part, hidden) for part, hidden in going if len(part.drafts) < part.num_drafts]:
            going = self._one_more(going)

    def _one_more(self, going: list[tuple[Part, torch.Tensor]]) -> list[tuple[Part, torch.Tensor]]:
        """A further draft for each part; those without one are done."""
        sequences = [part.generation.sequence for part, _ in going]
        starts = [seq.length + len(part.drafts) - 1 for seq, (part, _) in zip(sequences, going)]
        batch = self.cache.view(sequences, starts, [1] * len(going))
        tokens_T = batch.index([part.drafts[-1] for part, _ in going])
        hidden_TD = torch.cat([hidden for _, hidden in going])
        hidden_TD = self.model.predict_next(tokens_T, hidden_TD, batch, self._layers)
        logits_TV = self.model.head_logits(hidden_TD, module=0)
        left = []
        for n, (part, _) in enumerate(going):
            position = len(part.generation.tokens) + len(part.drafts)
            token = part.generation.chooser.guess(logits_TV[n], position)
            if token is not None:
                part.drafts.append(token)
                left.append((part, hidden_TD[n : n + 1]))
        return left

    def observe(self, parts: list[Part], batch: Batch, hidden_TD: torch.Tensor) -> None:
        new = []
        for part, start, offset in zip(parts, batch.starts, batch.offsets):
            sequence = part.generation.sequence
            count = sequence.length - start if sequence is not None else 0
            if count > 0 and len(part.generation.tokens) > sequence.length:
                new.append((part.generation, start, count, offset))
        if not new:
            return
        sequences = [generation.sequence for generation, *_ in new]
        own = self.cache.view(sequences, [start for _, start, _, _ in new], [count for _, _, count, _ in new])
        tokens = [t for g, start, count, _ in new for t in g.tokens[start + 1 : start + count + 1]]
        rows = [row for _, _, count, offset in new for row in range(offset, offset + count)]
        own_TD = self.model.predict_next(own.index(tokens), hidden_TD[own.index(rows)], own, self._layers)
        decoding = [n for n, (generation, *_) in enumerate(new) if generation.num_pending == 1]
        last_RD = own_TD[own.index([own.offsets[n] + own.lengths[n] - 1 for n in decoding])]
        logits_RV = self.model.head_logits(last_RD, module=0) if decoding else ()
        for row, n in enumerate(decoding):
            generation = new[n][0]
            guess = generation.chooser.guess(logits_RV[row], len(generation.tokens))
            self._states[generation] = _State(last_RD[row : row + 1], guess)

    def forget(self, generation: Generation) -> None:
        self._states.pop(generation, None)
