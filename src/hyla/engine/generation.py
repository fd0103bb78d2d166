"""One choice of one request while it is computed."""

from __future__ import annotations

from collections.abc import Iterable

from hyla.caches import Sequence
from hyla.engine.messages import FinishReason, Request, TokenEvent, TokenLogprob, Usage
from hyla.engine.text import Detokenizer, StopStrings, TextCodec


class Generation:
    """Tokens, cache place and text of one choice.

    request: resolved: the prompt is token ids, `params.seed` and `params.max_tokens` are set.
    arrival: order among all generations; a lower one is older and, at the same priority, is never preempted for a
    younger one. arrived: when, on the engine's clock; its deadline counts from there.
    """

    def __init__(
        self,
        request: Request,
        choice: int,
        *,
        arrival: int,
        eos_ids: Iterable[int],
        tokenizer: TextCodec | None,
        arrived: float = 0.0,
    ):
        self.request, self.choice, self.arrival = request, choice, arrival
        self.priority, self.key = request.priority, request.key
        self.deadline = None if request.deadline_seconds is None else arrived + request.deadline_seconds
        """Time on the engine's clock from which it is too late."""
        self.num_charged = 0
        """One past the last position that its key has paid for."""
        self.num_displaced = 0
        """How often it gave way to a higher priority."""
        self.params = request.params
        self.tokens = list(request.prompt)
        self.num_prompt_tokens = len(self.tokens)
        self.most_tokens = self.num_prompt_tokens + self.params.max_tokens
        self.stop_ids = frozenset(self.params.stop_token_ids) | (set() if self.params.ignore_eos else set(eos_ids))
        self.sequence: Sequence | None = None
        """Its place in the cache while it runs; None while it waits."""
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._stops = StopStrings(self.params.stop)

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Tokens whose rows are not computed yet; 1 is a decode."""
        return len(self.tokens) - (self.sequence.length if self.sequence else 0)

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Ids that may not be sampled now."""
        return tuple(sorted(self.stop_ids)) if self.num_output_tokens < self.params.min_tokens else ()

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.num_prompt_tokens, completion_tokens=self.num_output_tokens)

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> TokenEvent:
        """Append a sampled token; the event says whether it was the last."""
        self.tokens.append(token_id)
        text, reason = self._read(token_id)
        if reason is None and len(self.tokens) >= self.most_tokens:
            rest, reason = self._finish_text(), "length"
            text = text + rest if text is not None else None
        return self._event(
            token_ids=(token_id,),
            text=text,
            logprobs=(logprob,) if logprob is not None else (),
            finish_reason=reason,
        )

    def end(self, reason: FinishReason, error: str | None = None) -> TokenEvent:
        """Finish without another token: cancelled or failed."""
        text = self._finish_text() if self._detokenizer is not None else None
        return self._event(text=text, finish_reason=reason, error=error)

    def _event(self, *, finish_reason: FinishReason | None, **fields) -> TokenEvent:
        return TokenEvent(
            request_id=self.request.request_id,
            choice=self.choice,
            finish_reason=finish_reason,
            usage=self.usage if finish_reason else None,
            **fields,
        )

    def _read(self, token_id: int) -> tuple[str | None, FinishReason | None]:
        """The text that became certain, and "stop" when a stop id or a stop string was reached."""
        may_stop = self.num_output_tokens > self.params.min_tokens
        is_stop = may_stop and token_id in self.stop_ids
        if self._detokenizer is None:
            return None, "stop" if is_stop else None
        if is_stop:
            return self._finish_text(), "stop"
        text = self._detokenizer.push(token_id)
        if not may_stop:
            return self._stops.flush() + text, None
        shown, found = self._stops.push(text)
        return shown, "stop" if found else None

    def _finish_text(self) -> str:
        """The rest of the text: bytes without an end, and what was held back for a stop string."""
        if self._detokenizer is None:
            return ""
        shown, found = self._stops.push(self._detokenizer.flush())
        return shown if found else shown + self._stops.flush()
