"""Events of a request, gathered into whole answers."""

from __future__ import annotations

from hyla.engine.requests.messages import Completion, Request, TokenEvent, TokenLogprob, Usage


class Collector:
    """Gathers the events of one resolved request."""

    def __init__(self, request: Request):
        self.request = request
        self._events: list[list[TokenEvent]] = [[] for _ in range(request.params.n)]
        self._num_finished = 0
        self._prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def is_finished(self) -> bool:
        return self._num_finished == self.request.params.n

    def add(self, event: TokenEvent) -> None:
        self._events[event.choice].append(event)
        self._num_finished += event.finish_reason is not None
        if event.prompt_logprobs is not None:
            self._prompt_logprobs = event.prompt_logprobs

    def completions(self) -> list[Completion]:
        """The completion of each choice; every choice must have finished."""
        return [self._completion(events) for events in self._events]

    def _completion(self, events: list[TokenEvent]) -> Completion:
        last = events[-1]
        if last.finish_reason is None:
            raise ValueError(f"choice {last.choice} of request {last.request_id!r} has not finished")
        token_ids = tuple(token for event in events for token in event.token_ids)
        texts = [event.text for event in events if event.text is not None]
        logprobs = tuple(logprob for event in events for logprob in event.logprobs)
        return Completion(
            request_id=last.request_id,
            choice=last.choice,
            token_ids=token_ids,
            text="".join(texts) if texts else None,
            logprobs=logprobs if self.request.params.logprobs is not None else None,
            prompt_logprobs=self._prompt_logprobs,
            finish_reason=last.finish_reason,
            usage=last.usage or Usage(len(self.request.prompt_ids), len(token_ids)),
            seed=self.request.params.chosen_seed,
            error=last.error,
            weights_version=last.weights_version,
            router_choices=last.router_choices,
        )
