"""What stays the same while an engine lives, for whoever talks to it from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyla.errors import FieldError
from hyla.models.ids import check_ids

CONTEXT_EXCEEDED = "context_length_exceeded"
"""OpenAI's code: agents that see it shorten their conversation and ask again."""


@dataclass(frozen=True)
class EngineFacts:
    """Plain data about an engine and its model."""

    vocab_size: int
    hidden_dim: int
    context_len: int
    """Longest prompt and answer together, in tokens."""
    num_pages: int
    """KV pages of 64 tokens that the caches have, over all sequences."""
    max_num_sequences: int
    """Most sequences computed at once."""
    device: str
    """Where the model is, as PyTorch names devices."""
    arithmetic: str
    """Of most operators there: "native", "torch" or "portable" (docs/backends.md)."""
    native_build: str | None
    """Which build of the CPU's own kernels computes, as "avx2"; None where none does."""
    numerics: str
    """Whether rows may depend on their company: "exact" or "fast" (`EngineOptions.numerics`)."""
    threads: int
    """That compute on the CPU."""
    backends: Mapping[str, Mapping[str, Any]]
    """By operator: {"backend": what computes it, "not": {another backend: why that does not}}."""
    routers: tuple[int, int, int] | None = None
    """Of a model with experts: its mixtures, the experts that a token has in each, and how many there are."""
    notes: tuple[str, ...] = ()
    """What the engine lowered at its start, and why."""

    @property
    def cpu_backend(self) -> str:
        """ "native" where some operator is computed by the CPU's own kernels, else "torch"."""
        return "native" if any(found["backend"] == "native" for found in self.backends.values()) else "torch"

    def check_ids(self, ids: Sequence[int], name: str) -> None:
        """Raise RequestError unless ids are a non-empty list of token ids of this model."""
        check_ids(ids, self.vocab_size, name)

    def check_text(self, ids: Sequence[int]) -> None:
        """Raise RequestError unless ids are a text that the model can read at once."""
        self.check_ids(ids, "the text")
        if len(ids) > self.context_len:
            raise FieldError(
                "the text has {value} tokens and the context {limit}; shorten it",
                "input",
                CONTEXT_EXCEEDED,
                value=len(ids),
                limit=self.context_len,
            )
