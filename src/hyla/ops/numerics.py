"""How exact the products of a computation are: what an engine was asked for, while it computes. Without PyTorch.

"exact": a row's bits depend on its own sequence alone. "fast" gives that up where it costs time: where the library
computes products it gets the rows as they come, and MLA writes out keys and values for each head of a long stretch of
a prompt (`ops.latent.expanded`). Results are as close to the truth; they depend on how rows were cut and batched.

The choice holds within a `with` and in its thread only (a context variable): a trainer, or another engine, in the same
process computes exactly whatever an engine beside it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Numerics = Literal["exact", "fast"]

_chosen: ContextVar[Numerics] = ContextVar("numerics", default="exact")


def chosen() -> Numerics:
    """What holds here and now."""
    return _chosen.get()


def is_fast() -> bool:
    """Whether rows may depend on their company. A look at a variable: asked at every product of a library."""
    return _chosen.get() == "fast"


@contextmanager
def use(name: Numerics) -> Iterator[None]:
    """Compute so until the end of the `with`, in this thread."""
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
