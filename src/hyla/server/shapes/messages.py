"""Anthropic's answers of /v1/messages: content blocks, and the events that build them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyla.answers.protocol import Delta, ReasoningDelta, TextDelta
from hyla.server.reading.conversation import INVALID, read_arguments
from hyla.server.reading.errors import HTTPFailure, anthropic_error_body
from hyla.server.shapes.choice import Choice
from hyla.server.shapes.protocol import Shape, data_line


class MessageShape(Shape):
    """shows_thinking: False leaves the reasoning out."""

    def __init__(
        self,
        answer_id: str,
        model: str,
        choice: Choice,
        *,
        num_prompt_tokens: int,
        shows_thinking: bool,
    ):
        super().__init__([choice], 1)
        self.choice = choice
        self.num_prompt_tokens, self.shows_thinking = num_prompt_tokens, shows_thinking
        self.head = {"id": answer_id, "type": "message", "role": "assistant", "model": model}
        self._open_kind: str | None = None
        self._num_blocks = 0

    def answer(self):
        return {**self.head, "content": self._blocks(), **self._ending(), "usage": self._usage()}

    def _blocks(self) -> list[dict[str, Any]]:
        choice = self.choice
        blocks: list[dict[str, Any]] = []
        if choice.reasoning and self.shows_thinking:
            blocks.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
        if choice.text or not choice.calls:
            blocks.append({"type": "text", "text": choice.text})
        for call in choice.calls:
            blocks.append({"type": "tool_use", "id": call.call_id, "name": call.name, "input": _input(call.arguments)})
        return blocks

    def _ending(self) -> dict[str, Any]:
        choice = self.choice
        if choice.finish_reason != "stop":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if choice.has_called:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        return {"stop_reason": "end_turn" if choice.stop is None else "stop_sequence", "stop_sequence": choice.stop}

    def _usage(self) -> dict[str, Any]:
        """The cached part of a prompt is counted apart, as Anthropic's clients expect."""
        usage = self.choice.usage
        cached = usage.cached_tokens if usage else 0
        prompt = usage.prompt_tokens if usage else self.num_prompt_tokens
        return {
            "input_tokens": prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage.completion_tokens if usage else 0,
            "output_tokens_details": {"thinking_tokens": self.choice.num_reasoning_tokens},
        }

    # Events

    def opening(self):
        ending = {"stop_reason": None, "stop_sequence": None}
        message = {**self.head, "content": [], **ending, "usage": self._usage()}
        yield data_line({"type": "message_start", "message": message}, "message_start")

    def updates(self, index, event):
        for delta in self.add(index, event):
            yield from self._told(delta)

    def _told(self, delta: Delta) -> Iterable[bytes]:
        if isinstance(delta, TextDelta):
            yield from self._open("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": delta.text})
        elif isinstance(delta, ReasoningDelta):
            if self.shows_thinking:
                yield from self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": delta.text})
        else:
            if delta.name is not None:
                block = {"type": "tool_use", "id": delta.call_id, "name": delta.name, "input": {}}
                yield from self._open(f"call {delta.index}", block)
            if delta.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": delta.arguments})

    def _open(self, kind: str, block: dict[str, Any]) -> Iterable[bytes]:
        """Go on with the open block of this kind, or end it and begin one."""
        if self._open_kind == kind:
            return
        yield from self._close()
        self._open_kind = kind
        body = {"type": "content_block_start", "index": self._num_blocks, "content_block": block}
        yield data_line(body, "content_block_start")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        body = {"type": "content_block_delta", "index": self._num_blocks, "delta": delta}
        return data_line(body, "content_block_delta")

    def _close(self) -> Iterable[bytes]:
        if self._open_kind is None:
            return
        if self._open_kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": ""})
        yield data_line({"type": "content_block_stop", "index": self._num_blocks}, "content_block_stop")
        self._open_kind = None
        self._num_blocks += 1

    def closing(self):
        if self._num_blocks == 0 and self._open_kind is None:
            yield from self._open("text", {"type": "text", "text": ""})
        yield from self._close()
        body = {"type": "message_delta", "delta": self._ending(), "usage": self._usage()}
        yield data_line(body, "message_delta")
        yield data_line({"type": "message_stop"}, "message_stop")

    def failed(self, failure: HTTPFailure):
        yield data_line(anthropic_error_body(failure.status, str(failure)), "error")


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object; what the model wrote wrongly is kept as text under one name."""
    value = read_arguments(arguments)
    return {INVALID: arguments} if value is None else value
