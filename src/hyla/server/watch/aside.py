"""Threads of the control routes, which answer while everything else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TypeVar

Result = TypeVar("Result")

NUM_THREADS = 8


async def aside(function: Callable[..., Result], *arguments, **named) -> Result:
    """Call a function that may wait for an engine, on a thread that no request to a model uses."""
    work = partial(function, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_threads(), work)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, "hyla-control")
