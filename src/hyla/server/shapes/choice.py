"""Choices while they grow: their text with its meaning, their token ids and log-probabilities."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from hyla.answers.protocol import Delta, Parser, PlainParser, ReasoningDelta, TextDelta, ToolDelta
from hyla.engine import TokenEvent, TokenLogprob, Usage
from hyla.engine.requests.messages import FinishReason


@dataclass
class ToolCall:
    """A call as the model wrote it."""

    call_id: str
    name: str
    arguments: str = ""
    """JSON text, unless the model failed to write that."""

    @property
    def is_whole(self) -> bool:
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True


@dataclass
class Choice:
    """One choice of an answer. It is read the same way whether the answer is streamed or not."""

    parser: Parser = field(default_factory=PlainParser)
    most_calls: int | None = None
    """Calls beyond these are dropped."""
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    num_reasoning_tokens: int = 0
    finish_reason: str | None = None
    stop: str | None = None
    """The stop string that ended it."""
    usage: Usage | None = None

    def add(self, event: TokenEvent) -> list[Delta]:
        """Take an event in; returns the pieces of text, reasoning and calls that became certain by it."""
        deltas = list(self.parser.push(event.text or ""))
        if event.finish_reason is not None:
            deltas += self.parser.finish()
            self.finish_reason, self.stop, self.usage = told_reason(event.finish_reason), event.stop, event.usage
        deltas = [delta for delta in (self._named(delta) for delta in deltas) if delta is not None]
        for delta in deltas:
            self._append(delta)
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs
        if self.reasoning and not self.text and not self.calls:
            self.num_reasoning_tokens = len(self.token_ids)
        return deltas

    @property
    def counts(self) -> Usage:
        """Tokens of a finished choice; those that came, where an engine ended without counting."""
        return self.usage or Usage(0, len(self.token_ids))

    @property
    def reason(self) -> str | None:
        """finish_reason as OpenAI's clients read it."""
        return "tool_calls" if self.has_called else self.finish_reason

    @property
    def has_called(self) -> bool:
        """Whether the answer ends with a call that can be made; a stop string may have cut it off."""
        return self.finish_reason == "stop" and bool(self.calls) and self.calls[-1].is_whole

    def _named(self, delta: Delta) -> Delta | None:
        """A call that starts has an id; a call too many is nothing."""
        if not isinstance(delta, ToolDelta):
            return delta
        if self.most_calls is not None and delta.index >= self.most_calls:
            return None
        if delta.name is None or delta.call_id is not None:
            return delta
        return ToolDelta(delta.index, delta.name, delta.arguments, _new_call_id())

    def _append(self, delta: Delta) -> None:
        if isinstance(delta, TextDelta):
            self.text += delta.text
        elif isinstance(delta, ReasoningDelta):
            self.reasoning += delta.text
        elif delta.name is not None:
            self.calls.append(ToolCall(delta.call_id or _new_call_id(), delta.name, delta.arguments))
        else:
            self.calls[delta.index].arguments += delta.arguments


def told_reason(reason: FinishReason) -> str:
    """How an answer ended, as clients know it: one that the request's own rules left without a next token is cut off,
    as by its length."""
    return "length" if reason == "dead_end" else reason


def _new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def total_usage(choices: Sequence[Choice], choices_per_prompt: int) -> dict[str, int]:
    """Tokens of a whole request; choices prompt-major, and a prompt counts once."""
    prompts = [choice.counts for choice in choices[::choices_per_prompt]]
    return {
        "prompt": sum(usage.prompt_tokens for usage in prompts),
        "cached": sum(usage.cached_tokens for usage in prompts),
        "completion": sum(choice.counts.completion_tokens for choice in choices),
        "reasoning": sum(choice.num_reasoning_tokens for choice in choices),
        "accepted": sum(choice.counts.accepted_tokens for choice in choices),
        "rejected": sum(choice.counts.drafted_tokens - choice.counts.accepted_tokens for choice in choices),
    }
