"""The options of an engine: what `Engine(...)`, `[models.engine]` and the flags of `hyla serve` set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from hyla.models.config import Config, Count
from hyla.ops.numerics import Numerics

Acceptance = Literal["exact", "rejection"]
"""How a draft of a sampled answer is settled: `EngineOptions.acceptance`."""


class EngineOptions(Config):
    """Frozen; unknown names and wrong values are `ConfigError`s. The flags of `hyla serve` are made from it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the weights of a folder that is loaded; None: as stored."""
    revision: str | None = None
    """Branch, tag or commit of a model that is given by its name on the hub."""
    adapter: str | None = None
    """Folder of a LoRA or DoRA adapter in PEFT's format (docs/adapters.md). It is merged into the weights as they are
    loaded, so a token costs what it costs without; its tokenizer, if it has one, is used."""
    device: str = "cpu"
    """Device that a folder is loaded to, as PyTorch names it: cpu, cuda, cuda:1 (docs/devices.md)."""
    numerics: Numerics = "exact"
    """exact: a token's result never depends on batch, prompt pieces, cache or drafts. fast gives that up where it costs
    time, and only there (docs/serving.md, Fast numerics): answers are as good, and may differ from run to run of other
    batches."""
    memory: Annotated[int, Field(ge=1)] | None = None
    """Bytes for caches. None: on the CPU a quarter of what is free, at most 4 GiB; on a device of its own nine tenths
    of what weights and a step's temporaries leave free; never more than `max_num_sequences` whole contexts need."""
    threads: Count | None = None
    """Threads that compute on the CPU, of the whole process; no more than it may use. None: in a process of its own
    (`hyla serve`) what OMP_NUM_THREADS says, or the cores that it may use; else as many as PyTorch has."""
    max_num_sequences: Count = 32
    """Most sequences computed at once; others wait. More raises throughput and the time per token."""
    prefill_chunk: Count = 512
    """Most prompt tokens of one sequence in one step. Smaller: running answers stall less while a prompt is read."""
    max_batch_tokens: Count = 1024
    """Most tokens of one step, over all sequences."""
    max_queued_requests: Count | None = None
    """Most requests that wait for a slot; more are refused with `Overloaded`. None: no limit."""
    max_queued_tokens: Count | None = None
    """Most tokens of the requests that wait for a slot; an empty queue takes one of any length. None: no limit."""
    context_len: Count | None = None
    """Longest prompt and answer together, in tokens. None: what the model is declared for."""
    prefix_cache: bool = True
    """Keep pages and states of finished and running requests, so that prompts with the same beginning start later."""
    snapshot_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the states that the prefix cache keeps. float32 is exact; the others keep two and four times as many states
    and change what follows a hit."""
    snapshot_every: Count = 2048
    """Beside the ends of prompts and answers and where prompts part, a state is kept after so many prompt tokens."""
    spill_folder: str | None = None
    """Where long prefixes go that the prefix cache evicts, or has at the end, so that they survive a restart. Only an
    engine with the same weights, machine and settings takes them up. None: they are forgotten."""
    spill_bytes: Annotated[int, Field(ge=1)] = 16 << 30
    """Most bytes of all files in the spill folder; the least recently used go first."""
    spill_min_tokens: Count = 512
    """Fewest tokens that a spilled prefix must save, when it is written and when it is read. Smaller: more and smaller
    files, that save less than their reading costs below a few hundred tokens."""
    speculation: Literal["off", "lookup", "mtp", "draft"] = "off"
    """Where drafts come from: earlier text (every model), the model's own multi-token prediction module, or a small
    model (`draft_model`). Never changes an answer (but see `acceptance`); each generation's draft length adapts, down
    to none."""
    acceptance: Acceptance = "exact"
    """When a draft of a sampled answer is accepted. exact: when it equals the target's own sample, so the answer has
    the same bits as without drafts. rejection: classical rejection sampling, which accepts more drafts of "mtp" and of
    "draft"; answers are still drawn from the model's distribution, but which one comes out also depends on the drafts
    and on how many there were. Greedy answers, and all with "lookup", are the same under both."""
    draft_model: str | None = None
    """Folder or hub name of the small model, with speculation="draft"."""
    max_draft_tokens: Annotated[int, Field(ge=1, le=32)] = 8
    """Most drafts that one step verifies for a generation."""
    fixed_drafts: bool = False
    """Always draft as many as there are, whether it pays or not (for measurements and tests)."""
    pack: bool = True
    """Put the weights into the CPU library's layout. A model object given to the engine is changed in place (its plain
    weights are gone until `model.unpack()`); False leaves it as it is, and is slower."""
    record_steps: bool = True
    """On the CPU, write down the kernel calls of a decode step and make them again in the next one, without Python
    between them. The same bits either way; False is slower and shows what that brings."""

    profile: str | None = None
    """A file for a Chrome trace of the first `profile_steps` steps: which part of a step takes how long, for
    chrome://tracing or ui.perfetto.dev. Recording makes steps slower. None: nothing is recorded."""
    profile_steps: Count = 64
    """Steps to record. A trace has about a megabyte for ten steps of a model of a hundred layers."""

    @model_validator(mode="after")
    def _spill(self):
        if self.spill_folder is not None and not self.prefix_cache:
            raise ValueError("spill_folder needs prefix_cache=True: there is nothing to spill without it")
        return self

    @field_validator("adapter", "spill_folder", "profile", mode="before")
    @classmethod
    def _folder(cls, folder):
        return str(folder) if isinstance(folder, Path) else folder

    @field_validator("dtype", mode="before")
    @classmethod
    def _name(cls, dtype):
        """A `torch.dtype` as well, told by its type's name: this module must not load PyTorch."""
        return str(dtype).removeprefix("torch.") if type(dtype).__name__ == "dtype" else dtype
