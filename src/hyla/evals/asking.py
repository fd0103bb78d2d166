"""Requests through the engine, made as it has room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from hyla.engine import Engine
from hyla.engine.requests.messages import Completion, Request
from hyla.engine.requests.resolving import Resolved
from hyla.errors import RequestError
from hyla.evals.costs import Stopwatch

Job = TypeVar("Job")


def completed(
    engine: Engine, following: Callable[[], tuple[Job, Request] | None], on_step: Callable[[], None] = lambda: None
) -> Iterator[tuple[list[tuple[Job, Completion]], float]]:
    """Jobs with their completions (one choice each) as they come, and the seconds of computing that each of them took:
    those since the ones before, shared among those that ended together.

    following: the next job and its request, None where there is none; asked again after every answer. A long prompt is
    megabytes of ids, so no more are made than the engine computes at once. on_step: called before each of its steps.
    Raises RequestError for a request that ends in an error, and what `Engine.resolve` raises.
    """
    asked: dict[str, Job] = {}
    watch = Stopwatch(engine.clock)

    def more(is_idle: bool) -> list[Resolved]:
        on_step()
        new = []
        with watch.stopped():
            while len(asked) < engine.scheduler.max_num_sequences and (found := following()) is not None:
                job, request = found
                asked[request.request_id] = job
                new.append(engine.resolve(request))
        return new

    for done in engine.finished((), more):
        failed = next((one for one in done if one.error is not None), None)
        if failed is not None:
            raise RequestError(f"{failed.request_id} ended in an error: {failed.error}")
        yield [(asked.pop(one.request_id), one) for one in done], watch.lap() / len(done)
