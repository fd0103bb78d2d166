"""An engine used by one caller that waits: lists of prompts in, completions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from hyla.engine.requests.collect import Collector
from hyla.engine.requests.messages import Completion, Request, TokenEvent
from hyla.engine.requests.overload import Overloaded
from hyla.engine.requests.params import SamplingParams
from hyla.engine.requests.resolving import Prompt, Resolved
from hyla.errors import RequestError


class BlockingUse:
    """`generate` and `stream` for a class with `resolve`, `add`, `cancel` and `step`, and events left in `_events`."""

    _events: list[TokenEvent]

    def __init__(self):
        self._names = count()

    def resolve(self, request: Request) -> Resolved:
        raise NotImplementedError

    def add(self, request: Request | Resolved) -> Request:
        raise NotImplementedError

    def cancel(self, request_id: str) -> bool:
        raise NotImplementedError

    def step(self) -> list[TokenEvent]:
        raise NotImplementedError

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Continue prompts (texts or token-id lists); returns n completions for each, in order.

        params: for all prompts, or one for each. All prompts are checked before any is computed.
        Raises RequestError and CapacityError.
        """
        listed = _listed(prompts)
        if params is None or isinstance(params, SamplingParams):
            each = [params or SamplingParams()] * len(listed)
        else:
            each = list(params)
        if len(each) != len(listed):
            raise RequestError(f"{len(listed)} prompts and {len(each)} sampling parameters; give as many", "params")
        requests = [self.resolve(self._request(prompt, one)) for prompt, one in zip(listed, each)]
        found = {(one.request_id, one.choice): one for part in self.finished(requests) for one in part}
        return [found[one.request.request_id, choice] for one in requests for choice in range(one.request.params.n)]

    def finished(
        self, requests: Sequence[Resolved], more: Callable[[bool], Sequence[Resolved]] = lambda is_idle: ()
    ) -> Iterator[list[Completion]]:
        """Compute requests, and give all completions of those that have finished after each step in which some have.

        more: asked before each step for requests that have come up meanwhile, and told whether nothing is left to
        compute: then it may wait for some, and it is over when there are none.
        Requests go in as the queue's limits permit. Whoever stops reading cancels the rest.
        """
        collectors = {one.request.request_id: Collector(one.request) for one in requests}
        left, queue = dict(collectors), deque(requests)
        try:
            while True:
                new = more(not left)
                made = {one.request.request_id: Collector(one.request) for one in new}
                queue += new
                collectors |= made
                left |= made
                if not left:
                    break
                self._add_fitting(queue)
                ended = {event.request_id for event in self._route(left) if left[event.request_id].is_finished}
                done = [collector for name, collector in left.items() if name in ended]
                left = {name: collector for name, collector in left.items() if name not in ended}
                if done:
                    yield [completion for collector in done for completion in collector.completions()]
        finally:
            self._abandon(collectors)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[TokenEvent]:
        """Events of one prompt as they come. Closing the iterator cancels the request."""
        request = self.add(self._request(prompt, params or SamplingParams()))
        collector = Collector(request)
        mine = {request.request_id: collector}
        try:
            while not collector.is_finished:
                yield from self._route(mine)
        finally:
            self._abandon(mine)

    def _add_fitting(self, requests: deque[Resolved]) -> None:
        """Add requests, first to last, up to the queue's limits; what is added is taken out."""
        while requests:
            try:
                self.add(requests[0])
            except Overloaded:
                return
            requests.popleft()

    def _request(self, prompt: Prompt, params: SamplingParams) -> Request:
        ids = prompt if isinstance(prompt, str) else tuple(prompt)
        return Request(f"local-{next(self._names)}", ids, params)

    def _route(self, mine: dict[str, Collector]) -> list[TokenEvent]:
        """Take one step; events of other requests stay for whoever steps next."""
        events = self.step()
        own = [event for event in events if event.request_id in mine]
        self._events += [event for event in events if event.request_id not in mine]
        for event in own:
            mine[event.request_id].add(event)
        return own

    def _abandon(self, mine: dict[str, Collector]) -> None:
        for name in mine:
            self.cancel(name)
        self._events = [event for event in self._events if event.request_id not in mine]


def _listed(prompts) -> list[Prompt]:
    """One prompt as a list of it."""
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return [prompts] if is_one else list(prompts)
