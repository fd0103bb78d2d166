"""The parts of an engine, from its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from hyla.caches import Cache
from hyla.caches.prefix import PrefixCache
from hyla.caches.spill import Spill
from hyla.caches.spill_store import SpillStore
from hyla.engine.fingerprint import fingerprint
from hyla.engine.memory import Demand, MemoryPlan, available_bytes, default_budget
from hyla.engine.requests.options import EngineOptions
from hyla.engine.requests.text import TextCodec
from hyla.engine.runner import SCORED_ROWS
from hyla.layers.protocol import CacheSpec
from hyla.models.trunk import Model
from hyla.ops.devices import free_bytes


def load(
    folder: str | Path,
    tokenizer: TextCodec | None,
    options: EngineOptions,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Model, TextCodec | None]:
    """The model of a folder or GGUF file, and its tokenizer if it has one and none is given; with the adapter's, if the
    options name one."""
    from hyla.adapters import load_adapted, tokenizer_beside
    from hyla.checkpoints import load_model, open_checkpoint, resolve

    found = resolve(folder, options.revision)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    how = {"dtype": dtype, "device": options.device, "pack": options.pack, "progress": progress}
    if options.adapter is None:
        model = load_model(found, **how)
    else:
        model = load_adapted(found, options.adapter, **how)
    if tokenizer is None:
        tokenizer = tokenizer_beside(open_checkpoint(found), options.adapter)
    return model, tokenizer


def demand_of(options: EngineOptions, context_len: int, *, speculates: bool) -> Demand:
    """What the options would like to have room for."""
    return Demand(
        max_num_sequences=options.max_num_sequences,
        context_len=context_len,
        prefill_chunk=min(options.prefill_chunk, options.max_batch_tokens),
        keeps_prefixes=options.prefix_cache,
        snapshot_dtype=options.snapshot_dtype,
        num_spare_slots=1 + options.max_num_sequences // 4 if speculates else 0,
    )


def cache_budget(options: EngineOptions, model: Model, context_len: int, speculation: str) -> int:
    """Bytes for caches: as given, or what the model's device can spare."""
    if options.memory is not None:
        return options.memory
    step_bytes = None
    if free_bytes(model.device) is not None:
        from hyla.engine.activations import LargestStep, activation_bytes  # with it comes all of `cost`

        drafts = options.max_draft_tokens if speculation != "off" else 0
        step = LargestStep(
            num_rows=options.max_batch_tokens,
            num_sequences=options.max_num_sequences,
            num_logit_rows=max(SCORED_ROWS, options.max_num_sequences * (1 + drafts)),
            context_len=context_len,
        )
        step_bytes = activation_bytes(model.config, step)
    return default_budget(available_bytes(model.device), step_bytes, has_draft_model=speculation == "draft")


def make_cache(specs: Sequence[CacheSpec], memory: MemoryPlan, options: EngineOptions, device: torch.device) -> Cache:
    """The pool that a budget buys."""
    return Cache(
        specs,
        num_pages=memory.num_pages,
        num_slots=memory.num_slots,
        num_snapshots=memory.num_snapshots,
        num_window_pages=memory.num_window_pages,
        snapshot_dtype=options.snapshot_dtype,
        device=device,
        numerics=options.numerics,
    )


def open_spill(prefix: PrefixCache, options: EngineOptions, model: Model) -> Spill | None:
    """What moves prefixes to a folder and back, if there is one."""
    if options.spill_folder is None:
        return None
    store = SpillStore(options.spill_folder, options.spill_bytes, has_inner=not prefix.needs_checkpoint)
    identity = partial(fingerprint, model, prefix.cache)
    spill = Spill(prefix, store, identity, min_tokens=options.spill_min_tokens)
    spill.open()
    prefix.spill = spill
    return spill


def context_notes(options: EngineOptions, context_len: int) -> list[str]:
    """What of the wanted context cannot be had."""
    wanted = options.context_len or 0
    if wanted <= context_len:
        return []
    return [f"context_len lowered from {wanted} to {context_len}: the model is declared for no more"]
