"""OpenAI's answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyla.answers.protocol import Delta, ReasoningDelta, TextDelta
from hyla.engine import TokenLogprob
from hyla.engine.requests.text import REPLACEMENT
from hyla.server.shapes.openai import OpenAIShape, sampled_body


class ChatShape(OpenAIShape):
    """prefix: text that every answer starts with (an echoed message). shows_reasoning: False leaves it out."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, *args, prefix: str = "", shows_reasoning: bool = True, **more):
        super().__init__(*args, **more)
        self.prefix, self.shows_reasoning = prefix, shows_reasoning

    def _head_fields(self):
        return self.ids_of_prompt(0) | self.scores_of_prompt(0)

    def _choice(self, index):
        choice = self.choices[index]
        text = self.prefix + choice.text
        message = {"role": "assistant", "content": text if text or not choice.calls else None, "refusal": None}
        if choice.reasoning and self.shows_reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.calls:
            message["tool_calls"] = [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in choice.calls
            ]
        logprobs = self._logprobs(choice.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.reason}

    def opening(self):
        for index in range(len(self.choices)):
            delta = {"role": "assistant", "content": self.prefix}
            yield self._chunk([self._delta(index, delta)], **(self.ids_of_prompt(0) if index == 0 else {}))

    def updates(self, index, event):
        deltas = [self._delta_body(delta) for delta in self.add(index, event)]
        deltas = [delta for delta in deltas if delta]
        scores = self.scores_of_prompt(0) if event.prompt_logprobs is not None else {}
        if not deltas and event.logprobs:
            deltas = [{"content": ""}]
        if not deltas and (event.finish_reason or self.wants_ids or scores):
            deltas = [{}]
        for n, delta in enumerate(deltas):
            reason = self.choices[index].reason if event.finish_reason and n == len(deltas) - 1 else None
            logprobs = self._logprobs(event.logprobs) if event.logprobs else None
            first = {"logprobs": logprobs, **self._ids_of(event)} if n == 0 else {}
            yield self._chunk([self._delta(index, delta, reason) | first], **(scores if n == 0 else {}))

    @staticmethod
    def _delta(index: int, delta: dict, finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _delta_body(self, delta: Delta) -> dict[str, Any]:
        if isinstance(delta, TextDelta):
            return {"content": delta.text}
        if isinstance(delta, ReasoningDelta):
            return {"reasoning_content": delta.text} if self.shows_reasoning else {}
        function: dict[str, Any] = {"arguments": delta.arguments}
        if delta.name is None:
            return {"tool_calls": [{"index": delta.index, "function": function}]}
        call = {"index": delta.index, "id": delta.call_id, "type": "function"}
        return {"tool_calls": [{**call, "function": {"name": delta.name, **function}}]}

    def _logprobs(self, logprobs: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        content = [
            {
                **self._entry(entry.token_id, entry.logprob),
                "top_logprobs": [self._entry(*other) for other in entry.top],
                **sampled_body(entry),
            }
            for entry in logprobs
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self.token_text(token_id)
        raw = None if REPLACEMENT in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": raw}
