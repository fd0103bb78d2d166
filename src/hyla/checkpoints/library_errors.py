"""Calls into the tokenizers library, which fails with bare exceptions, and with panics that are no `Exception`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hyla.errors import HylaError

PANIC = "PanicException"
"""pyo3 makes one class of this name in each library, derived from BaseException alone, and offers none to import."""
MOST_REASON_CHARS = 300


@contextmanager
def failures_as(error: Callable[[str], HylaError]) -> Iterator[None]:
    """What fails inside becomes an error of Hyla's. error: makes it of the reason, in few words.

    >>> from hyla.errors import RequestError
    >>> with failures_as(lambda reason: RequestError(f"no: {reason}")):
    ...     raise Exception("why")
    Traceback (most recent call last):
    hyla.errors.RequestError: no: why
    """
    try:
        yield
    except HylaError:
        raise
    except BaseException as failure:
        if not isinstance(failure, Exception) and type(failure).__name__ != PANIC:
            raise  # Ctrl-C and its like
        reason = str(failure) or type(failure).__name__
        raise error(reason if len(reason) <= MOST_REASON_CHARS else reason[:MOST_REASON_CHARS] + "...") from failure
