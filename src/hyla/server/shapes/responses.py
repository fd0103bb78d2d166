"""OpenAI's answers of /v1/responses: items, and the events that build them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hyla.answers.protocol import Delta, ReasoningDelta, TextDelta
from hyla.engine import TokenEvent, TokenLogprob
from hyla.engine.requests.text import REPLACEMENT, TextCodec
from hyla.server.reading.errors import HTTPFailure
from hyla.server.reading.functions import Function
from hyla.server.reading.items import sealed
from hyla.server.shapes.choice import Choice, total_usage
from hyla.server.shapes.openai import token_text
from hyla.server.shapes.protocol import Shape, data_line

KINDS = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
"""Kinds of items, with the start of their ids."""


class ResponseShape(Shape):
    """echo: fields of the request that the answer repeats. on_done: gets the body and the answer as a chat message.
    functions: by the name that the model knows. seals_reasoning: the client keeps reasoning in its sealed form."""

    def __init__(
        self,
        answer_id: str,
        model: str,
        tokenizer: TextCodec | None,
        choice: Choice,
        *,
        echo: dict[str, Any],
        wants_logprobs: bool,
        on_done: Callable[[dict, dict], None],
        functions: Mapping[str, Function],
        seals_reasoning: bool,
    ):
        super().__init__([choice], 1)
        self.choice, self.tokenizer = choice, tokenizer
        self.wants_logprobs, self.on_done = wants_logprobs, on_done
        self.functions, self.seals_reasoning = functions, seals_reasoning
        self.head = {"id": answer_id, "object": "response", "created_at": int(time.time()), "model": model, **echo}
        self.items: list[dict[str, Any]] = []
        self._logprobs: list[dict] = []
        """Log-probabilities of the tokens of the open message's text."""
        self._untold: list[dict] = []
        """Those of tokens whose text is still to come: a character's first bytes, or what may be a marker."""
        self._number = 0
        self._events: list[bytes] = []

    # The answer as it stands

    def _body(self, status: str, error: dict | None = None) -> dict[str, Any]:
        is_cut = status == "incomplete"
        done = {"completed_at": int(time.time())} if status == "completed" else {}
        usage = self._usage() if self.choice.usage is not None else None
        return {
            **self.head,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self.items,
            "usage": usage,
            **done,
        }

    def _usage(self) -> dict[str, Any]:
        total = total_usage(self.choices, 1)
        return {
            "input_tokens": total["prompt"],
            "input_tokens_details": {"cached_tokens": total["cached"], "cache_write_tokens": 0},
            "output_tokens": total["completion"],
            "output_tokens_details": {"reasoning_tokens": total["reasoning"]},
            "total_tokens": total["prompt"] + total["completion"],
        }

    def answer(self):
        list(self._finish_item())
        return self._done()

    def _done(self) -> dict[str, Any]:
        body = self._body("completed" if self.choice.finish_reason == "stop" else "incomplete")
        self.on_done(body, self._message())
        return body

    def _message(self) -> dict[str, Any]:
        choice = self.choice
        calls = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
        message = {"role": "assistant", "content": choice.text}
        message |= {"reasoning_content": choice.reasoning} if choice.reasoning else {}
        return message | ({"tool_calls": calls} if calls else {})

    # Events

    def add(self, index, event):
        deltas = super().add(index, event)
        self._events = list(self._build(deltas, event))
        return deltas

    def opening(self):
        yield self._event("response.created", response=self._body("in_progress"))
        yield self._event("response.in_progress", response=self._body("in_progress"))

    def updates(self, index, event):
        self.add(index, event)
        yield from self._events

    def closing(self):
        yield from self._finish_item()
        body = self._done()
        yield self._event(f"response.{body['status']}", response=body)

    def failed(self, failure: HTTPFailure):
        error = {"code": "server_error", "message": str(failure)}
        yield self._event("response.failed", response=self._body("failed", error))

    def _event(self, kind: str, **fields) -> bytes:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return data_line(body, kind)

    def _build(self, deltas: list[Delta], event: TokenEvent) -> Iterable[bytes]:
        """Extend the items by the deltas; the events that tell it."""
        if self.wants_logprobs:
            self._untold += [self._logprob(entry) for entry in event.logprobs]
        for delta in deltas:
            logprobs, self._untold = self._untold, []
            if isinstance(delta, TextDelta):
                yield from self._open("message")
                self._item["content"][0]["text"] += delta.text
                self._logprobs += logprobs
                where = {**self._place(), "content_index": 0}
                yield self._event("response.output_text.delta", **where, delta=delta.text, logprobs=logprobs)
            elif isinstance(delta, ReasoningDelta):
                yield from self._open("reasoning")
                self._item["content"][0]["text"] += delta.text
                yield self._event("response.reasoning_text.delta", **self._place(), content_index=0, delta=delta.text)
            else:
                if delta.name is not None:
                    yield from self._open("function_call", call_id=delta.call_id, **self._named(delta.name))
                self._item["arguments"] += delta.arguments
                if delta.arguments:
                    yield self._event("response.function_call_arguments.delta", **self._place(), delta=delta.arguments)

    def _named(self, name: str) -> dict[str, str]:
        """A called function as the client calls it."""
        function = self.functions.get(name)
        if function is None or function.namespace is None:
            return {"name": name}
        return {"name": function.tool.name, "namespace": function.namespace}

    @property
    def _item(self) -> dict[str, Any]:
        return self.items[-1]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": len(self.items) - 1}

    @property
    def _is_open(self) -> bool:
        return bool(self.items) and self._item["status"] == "in_progress"

    def _open(self, kind: str, **fields) -> Iterable[bytes]:
        """Go on with the open item of this kind, or end it and begin one."""
        if self._is_open and self._item["type"] == kind and kind != "function_call":
            return
        yield from self._finish_item()
        item = {"id": f"{KINDS[kind]}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress"}
        if kind == "function_call":
            self.items.append({**item, **fields, "arguments": ""})
            yield self._event("response.output_item.added", output_index=len(self.items) - 1, item=self._item)
            return
        item |= {"role": "assistant"} if kind == "message" else {"summary": []}
        self.items.append({**item, "content": []})
        yield self._event("response.output_item.added", output_index=len(self.items) - 1, item=self._item)
        self._item["content"].append(self._part(kind))
        yield self._event(
            "response.content_part.added", **self._place(), content_index=0, part=self._item["content"][0]
        )

    @staticmethod
    def _part(kind: str) -> dict[str, Any]:
        if kind == "reasoning":
            return {"type": "reasoning_text", "text": ""}
        return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}

    def _finish_item(self) -> Iterable[bytes]:
        if not self._is_open:
            return
        item = self._item
        is_cut = self.choice.finish_reason not in (None, "stop")
        if item["type"] == "function_call" and self.choice.finish_reason is not None:
            is_cut = is_cut or not self.choice.calls[-1].is_whole
        item["status"] = "incomplete" if is_cut else "completed"
        if item["type"] == "function_call":
            yield self._event(
                "response.function_call_arguments.done",
                **self._place(),
                name=item["name"],
                arguments=item["arguments"],
            )
        else:
            part = item["content"][0]
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            more = {}
            if item["type"] == "message":
                part["logprobs"], self._logprobs = self._logprobs, []
                more = {"logprobs": part["logprobs"]}
            if item["type"] == "reasoning" and self.seals_reasoning:
                item["encrypted_content"] = sealed(part["text"])
            place = {**self._place(), "content_index": 0}
            yield self._event(f"response.{kind}.done", **place, text=part["text"], **more)
            yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=len(self.items) - 1, item=item)

    def _logprob(self, entry: TokenLogprob) -> dict[str, Any]:
        top = [self._one(token, logprob) for token, logprob in entry.top]
        return {**self._one(entry.token_id, entry.logprob), "top_logprobs": top}

    def _one(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = token_text(self.tokenizer, token_id)
        return {"token": text, "logprob": logprob, "bytes": [] if REPLACEMENT in text else list(text.encode())}
