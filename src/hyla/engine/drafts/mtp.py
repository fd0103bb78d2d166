"""Drafts by the model's own multi-token prediction modules.

Every trained step has caches of its own: pages of the engine's pool, on the trunk's grid. Step k's row i is made of the
token t_{i+1+k}, so after a step of the engine the last k rows hold guesses; they are computed again in the next one
(`models.mtp.earlier`). A model with one trained step makes further drafts by calling it again at the next position, on
its own guess, as the other engines do.

A prefix hit brings the modules' rows with it; the last ones of a shared prefix may have been made with another
continuation, which can change a draft but, where drafts are accepted exactly, no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hyla.caches import Cache
from hyla.engine.drafts.protocol import Part
from hyla.engine.generation import Generation
from hyla.engine.requests.options import Acceptance
from hyla.engine.sampling.acceptance import Draft
from hyla.layers.protocol import LayerCache
from hyla.models.trunk import Model
from hyla.ops.batch import Batch


@dataclass
class _State:
    """After the newest committed row."""

    length: int
    read_RD: torch.Tensor
    """What the modules read of the trunk's last rows, as many as are computed again; of this length at most."""
    drafts: list[Draft] = field(default_factory=list)
    next_1D: torch.Tensor | None = None
    """What the step's module left for the newest row, for a further call of a single trained step."""


class MTPDrafter:
    """A `Drafter` for models with `num_mtp_steps` > 0, whose modules' layers follow the trunk's in the pool.

    max_drafts: the most; no more than the trained steps where there are several, or where a module keeps recurrent
    states, into which a guessed row would be folded.
    """

    def __init__(self, model: Model, cache: Cache, max_drafts: int, *, acceptance: Acceptance = "exact"):
        self.model, self.cache = model, cache
        self.acceptance: Acceptance = acceptance
        self.num_steps = model.num_mtp_steps
        specs = [model.mtp_cache_specs(step) for step in range(self.num_steps)]
        has_states = any(spec.slot_tensors for step_specs in specs for spec in step_specs)
        self._sizes = [len(model.cache_specs()), *(len(step_specs) for step_specs in specs)]
        self._may_chain = self.num_steps == 1 and not has_states
        self.max_drafts = max_drafts if self._may_chain else min(max_drafts, self.num_steps)
        self._states: dict[Generation, _State] = {}

    def _layers(self, step: int) -> tuple[LayerCache, ...]:
        first = sum(self._sizes[: step + 1])
        return self.cache.layers[first : first + self._sizes[step + 1]]

    def available(self, generation: Generation) -> int:
        state = self._states.get(generation)
        if state is None or not state.drafts:
            return 0
        return self.max_drafts if self._may_chain else min(len(state.drafts), self.max_drafts)

    def propose(self, parts: list[Part]) -> None:
        going = []
        for part in parts:
            state = self._states.get(part.generation)
            if part.num_drafts and state is not None and state.drafts:
                part.drafts = state.drafts[: part.num_drafts]
                going.append((part, state.next_1D))
        while self._may_chain and (going := [(p, n) for p, n in going if len(p.drafts) < p.num_drafts]):
            going = self._one_more(going)

    def _one_more(self, going: list[tuple[Part, torch.Tensor]]) -> list[tuple[Part, torch.Tensor]]:
        """A further draft for each part by the single step at the next position; those without one are done."""
        sequences = [part.generation.place for part, _ in going]
        starts = [sequence.length + len(part.drafts) - 1 for sequence, (part, _) in zip(sequences, going)]
        batch = self.cache.view(sequences, starts, [1] * len(going))
        tokens_T = batch.index([part.drafts[-1].token for part, _ in going])
        next_TD = torch.cat([next_1D for _, next_1D in going])
        hidden = self.model.predict_next(tokens_T, next_TD, batch, self._layers(0), step=0)
        logits_TV = self.model.head_logits(hidden.head_TD, step=0)
        left = []
        for n, (part, _) in enumerate(going):
            draft = part.generation.guess(logits_TV[n], part.drafts, self.acceptance)
            if draft is not None:
                part.drafts.append(draft)
                left.append((part, hidden.next_TD[n : n + 1]))
        return left

    def observe(self, parts: list[Part], batch: Batch, next_TD: torch.Tensor) -> None:
        new: list[tuple[Generation, int, torch.Tensor]] = []
        for part, start, offset in zip(parts, batch.starts, batch.offsets):
            generation = part.generation
            length = generation.place.length
            count = length - start
            state = self._states.get(generation)
            if state is not None and count <= 0:
                # The verification was withdrawn: these drafts have decided about tokens, and follow older ones.
                state.drafts.clear()
            if count <= 0 or len(generation.tokens) <= length:
                continue
            read_RD = next_TD[offset : offset + count]
            if state is not None and state.length == start and self.num_steps > 1:
                read_RD = torch.cat([state.read_RD, read_RD])
            new.append((generation, start + count - read_RD.shape[0], read_RD))
        if new:
            self._run_steps(new)

    def _run_steps(self, new: list[tuple[Generation, int, torch.Tensor]]) -> None:
        """Run all trained steps. new: (generation, first row, what the modules read of the trunk's rows)."""
        lengths = [read_RD.shape[0] for _, _, read_RD in new]
        batch = self.cache.view([g.place for g, _, _ in new], [start for _, start, _ in new], lengths)
        next_TD = torch.cat([read_RD for _, _, read_RD in new])
        states = []
        for generation, _, read_RD in new:
            kept = read_RD[max(read_RD.shape[0] - self.num_steps + 1, 0) :] if self.num_steps > 1 else read_RD[:0]
            states.append(_State(generation.place.length, kept.clone()))
        decoding = [n for n, (generation, _, _) in enumerate(new) if generation.num_pending == 1]
        last_R = batch.last_rows_N[decoding]
        for step in range(self.num_steps):
            tokens = []
            for (generation, start, _), length, state in zip(new, lengths, states):
                first = start + 1 + step
                # After a draft that could not be made, any token does: nothing is drafted any more.
                guessed = [draft.token for draft in state.drafts]
                known = [*generation.tokens[first : first + length], *guessed, *[0] * length]
                tokens += known[:length]
            hidden = self.model.predict_next(batch.index(tokens), next_TD, batch, self._layers(step), step=step)
            next_TD = hidden.next_TD
            if decoding:
                self._guess(step, [(new[n][0], states[n]) for n in decoding], hidden.head_TD[last_R])
        for row, n in enumerate(decoding):
            states[n].next_1D = next_TD[last_R[row : row + 1]]
        for (generation, _, _), state in zip(new, states):
            self._states[generation] = state

    def _guess(self, step: int, decoding: list[tuple[Generation, _State]], head_RD: torch.Tensor) -> None:
        """Add a step's draft to each state that has all those before it."""
        logits_RV = self.model.head_logits(head_RD, step=step)
        for (generation, state), logits_V in zip(decoding, logits_RV):
            if len(state.drafts) == step:
                draft = generation.guess(logits_V, state.drafts, self.acceptance)
                state.drafts += [draft] if draft is not None else []

    def forget(self, generation: Generation) -> None:
        self._states.pop(generation, None)
