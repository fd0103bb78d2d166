"""Speculation of one engine: which drafter it has, and how many drafts each generation gets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from hyla.caches import Cache
from hyla.engine.drafts import Drafter, DraftLength, LookupDrafter, ModelDrafter, MTPDrafter, Part
from hyla.engine.generation import Generation
from hyla.engine.requests.options import EngineOptions
from hyla.errors import ConfigError
from hyla.layers.protocol import CacheSpec
from hyla.models.trunk import Model

Kind = Literal["off", "lookup", "mtp", "draft"]


class Speculation:
    """The drafter with its draft lengths; `drafter` is None when speculation is off."""

    def __init__(
        self, options: EngineOptions, kind: Kind, model: Model, cache: Cache, draft_model: Model | None = None
    ):
        self.kind_used, self._is_fixed = kind, options.fixed_drafts
        self.drafter: Drafter | None = None
        if kind == "lookup":
            self.drafter = LookupDrafter(options.max_draft_tokens)
        elif kind == "mtp":
            self.drafter = MTPDrafter(model, cache, options.max_draft_tokens, acceptance=options.acceptance)
        elif kind == "draft":
            self.drafter = _model_drafter(options, model, cache, draft_model)
        self.lengths = DraftLength(options.max_draft_tokens)

    @staticmethod
    def kind(options: EngineOptions, model: Model) -> Kind:
        """The kind that the options request, or "off" where the model has no module for it."""
        return "off" if options.speculation == "mtp" and not model.mtp else options.speculation

    @staticmethod
    def specs(kind: Kind, model: Model) -> tuple[CacheSpec, ...]:
        """What the pool holds: the trunk's mixers, and those of the steps that draft."""
        steps = range(model.num_mtp_steps if kind == "mtp" else 0)
        return (*model.cache_specs(), *(spec for step in steps for spec in model.mtp_cache_specs(step)))

    @staticmethod
    def notes(options: EngineOptions, kind: Kind) -> list[str]:
        """What was requested and is not done."""
        if kind == options.speculation:
            return []
        return ["speculation lowered from mtp to off: the model has no multi-token prediction module"]

    def num_drafts(self, generation: Generation, num_decoding: int) -> int:
        """Drafts to plan for a generation in a step with `num_decoding` like it."""
        available = self.drafter.available(generation) if self.drafter is not None else 0
        if self._is_fixed or not available:
            return available
        return self.lengths.best(generation, available, num_decoding)

    @contextmanager
    def timing(self, parts: list[Part]) -> Iterator[None]:
        """Learn from a step what rows cost, and from its parts what drafts are worth."""
        if self.drafter is None:
            yield
            return
        accepted = {part.generation: part.generation.num_accepted for part in parts}
        is_decode = all(part.num_known == 1 for part in parts)
        start = time.perf_counter()
        yield
        if is_decode:
            self.lengths.record_step(sum(1 + len(part.drafts) for part in parts), time.perf_counter() - start)
        for part in parts:
            if part.drafts:
                generation = part.generation
                self.lengths.record(generation, len(part.drafts), generation.num_accepted - accepted[generation])
                if generation.sequence is None:
                    self.lengths.forget(generation)

    def forget(self, generation: Generation) -> None:
        """The generation ended or lost its place."""
        if self.drafter is not None:
            self.drafter.forget(generation)
            self.lengths.forget(generation)

    def status(self) -> dict:
        """Numbers as plain data."""
        lengths = self.lengths
        return {
            "kind": self.kind_used,
            "drafted": lengths.num_drafted,
            "accepted": lengths.num_accepted,
            "accepted_lengths": list(lengths.accepted_lengths),
        }


def _model_drafter(options: EngineOptions, model: Model, cache: Cache, draft_model: Model | None) -> ModelDrafter:
    """The draft model with a pool for as many sequences and pages as the engine's."""
    if draft_model is None:
        if options.draft_model is None:
            raise ConfigError('speculation="draft" needs a draft model; name its folder with draft_model=')
        from hyla.checkpoints import load_model, resolve

        dtype = getattr(torch, options.dtype) if options.dtype else None
        found = resolve(options.draft_model, None)
        loaded: Model = load_model(found, dtype=dtype, device=model.device, pack=options.pack)
        draft_model = loaded
    draft_model.eval()
    if options.pack:
        draft_model.pack()
    slots = 2 * options.max_num_sequences
    pool = Cache(
        draft_model.cache_specs(),
        num_pages=cache.ledger.pages.total + slots,
        num_slots=slots,
        device=model.device,
        numerics=options.numerics,
    )
    return ModelDrafter(
        draft_model,
        pool,
        options.max_draft_tokens,
        vocab_size=model.config.vocab_size,
        acceptance=options.acceptance,
        record_steps=options.record_steps,
    )
