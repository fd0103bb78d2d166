"""Drafts by a small model of the same vocabulary, with a cache pool of its own."""

from __future__ import annotations

import torch

from hyla.caches import Cache, Sequence
from hyla.engine.drafts.protocol import Part
from hyla.engine.generation import Generation
from hyla.engine.requests.options import Acceptance
from hyla.errors import ConfigError
from hyla.grid import num_pages_for
from hyla.models.recording import StepForward
from hyla.models.trunk import Model
from hyla.ops.batch import Batch


class ModelDrafter:
    """A `Drafter` that decodes a draft model: it reads what was committed, and guesses on a fork of its sequence.

    cache: the draft model's, with two slots per sequence. Where it is full a generation gets no drafts.
    Raises ConfigError when the vocabularies differ in size.
    """

    def __init__(
        self,
        model: Model,
        cache: Cache,
        max_drafts: int,
        *,
        vocab_size: int,
        acceptance: Acceptance = "exact",
        record_steps: bool = True,
    ):
        if model.config.vocab_size != vocab_size:
            raise ConfigError(
                f"the draft model's vocabulary has {model.config.vocab_size} tokens and the model's {vocab_size}; "
                f"choose a draft model that was trained with the same tokenizer"
            )
        self.model, self.cache, self.max_drafts = model, cache, max_drafts
        self.forward = StepForward(model, is_on=record_steps)
        self.acceptance: Acceptance = acceptance
        self._sequences: dict[Generation, Sequence] = {}

    def available(self, generation: Generation) -> int:
        return self.max_drafts

    def propose(self, parts: list[Part]) -> None:
        going = self._with_room(parts)
        if not going:
            return
        sequences = [self._sequences[part.generation] for part in going]
        counts = [len(part.generation.tokens) - seq.length for part, seq in zip(going, sequences)]
        tokens = [part.generation.tokens[seq.length :] for part, seq in zip(going, sequences)]
        self._extend(going, sequences, tokens)
        for sequence, count in zip(sequences, counts):
            self.cache.commit(sequence, count)
        forks: dict[Part, Sequence] = {}
        try:
            for part, sequence in zip(going, sequences):
                if part.num_drafts > 1:
                    forks[part] = self.cache.fork(sequence)
            self._go_on(forks)
        finally:
            for fork in forks.values():
                self.cache.close(fork)

    def _go_on(self, forks: dict[Part, Sequence]) -> None:
        """Guess further tokens on the forks, for all parts at once."""
        while more := [part for part in forks if part.drafts and len(part.drafts) < part.num_drafts]:
            sequences = [forks[part] for part in more]
            known = [len(part.drafts) for part in more]
            self._extend(more, sequences, [[part.drafts[-1].token] for part in more])
            for sequence in sequences:
                self.cache.commit(sequence, 1)
            if known == [len(part.drafts) for part in more]:
                break

    def _with_room(self, parts: list[Part]) -> list[Part]:
        """The parts whose generations have a sequence, beside pages and a slot for a fork of each."""
        ledger, chosen, slots, pages = self.cache.ledger, [], 0, 0
        for part in parts:
            generation = part.generation
            if generation not in self._sequences:
                if ledger.slots.free <= slots + 1:
                    continue
                self._sequences[generation] = self.cache.open()
            slots += 1
            pages += num_pages_for(len(generation.tokens) + part.num_drafts) + 2
            if ledger.slots.free < slots or any(u.free < pages for u in (ledger.pages, *ledger.windows.values())):
                break
            chosen.append(part)
        return chosen

    def _extend(self, parts: list[Part], sequences: list[Sequence], tokens: list[list[int]]) -> None:
        """Compute tokens and append a guess to each part's drafts."""
        batch = self.cache.batch([(sequence, len(ids)) for sequence, ids in zip(sequences, tokens)])
        flat = [token for ids in tokens for token in ids]
        hidden_TD = self.forward(batch.index(flat), batch, self.cache.layers).head_TD
        logits_NV = self.model.head_logits(hidden_TD[batch.last_rows_N])
        for n, part in enumerate(parts):
            draft = part.generation.guess(logits_NV[n], part.drafts, self.acceptance)
            if draft is not None:
                part.drafts.append(draft)

    def observe(self, parts: list[Part], batch: Batch, next_TD: torch.Tensor) -> None:
        """The draft model reads tokens when it proposes."""

    def forget(self, generation: Generation) -> None:
        sequence = self._sequences.pop(generation, None)
        if sequence is not None:
            self.cache.close(sequence)
