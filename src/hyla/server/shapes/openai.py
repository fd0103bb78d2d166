"""OpenAI's answers of /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hyla.engine import ScoredToken, TokenEvent, TokenLogprob, Usage
from hyla.engine.text import REPLACEMENT, TextCodec
from hyla.server.parsers.protocol import Delta, ReasoningDelta, TextDelta
from hyla.server.reader import Choice, total_usage
from hyla.server.shapes.protocol import Shape, data_line

DONE = b"data: [DONE]\n\n"


def token_text(tokenizer: TextCodec | None, token_id: int) -> str:
    """A token alone as text; bytes that are no character show as U+FFFD."""
    if tokenizer is None:
        return f"token_id:{token_id}"
    return tokenizer.decode([token_id], skip_special_tokens=False)


def usage_body(choices: Sequence[Choice], choices_per_prompt: int) -> dict[str, Any]:
    total = total_usage(choices, choices_per_prompt)
    return {
        "prompt_tokens": total["prompt"],
        "completion_tokens": total["completion"],
        "total_tokens": total["prompt"] + total["completion"],
        "prompt_tokens_details": {"cached_tokens": total["cached"]},
        "completion_tokens_details": {"reasoning_tokens": total["reasoning"]},
    }


class OpenAIShape(Shape):
    """What both kinds of answer share."""

    kind: str
    chunk_kind: str

    def __init__(
        self,
        answer_id: str,
        model: str,
        tokenizer: TextCodec | None,
        choices: Sequence[Choice],
        choices_per_prompt: int,
        *,
        wants_logprobs: bool = False,
        wants_usage: bool = False,
        wants_ids: bool = False,
    ):
        super().__init__(choices, choices_per_prompt)
        self.head = {"id": answer_id, "created": int(time.time()), "model": model}
        self.tokenizer = tokenizer
        self.wants_logprobs, self.wants_usage, self.wants_ids = wants_logprobs, wants_usage, wants_ids
        self.prompt_fields: list[dict[str, Any]] = [{} for _ in range(len(choices) // choices_per_prompt)]
        """By prompt, what the request wants to know of it: `prompt_token_ids`, `prompt_logprobs`."""

    def answer(self):
        choices = [{**self._choice(index), **self._told(index)} for index in range(len(self.choices))]
        return {
            **self.head,
            "object": self.kind,
            "choices": choices,
            "usage": usage_body(self.choices, self.choices_per_prompt),
            **self._head_fields(),
        }

    def _told(self, index: int) -> dict[str, Any]:
        return {"token_ids": self.choices[index].token_ids} if self.wants_ids else {}

    def _head_fields(self) -> dict[str, Any]:
        return {}

    def closing(self):
        if self.wants_usage:
            yield self._chunk([], usage=usage_body(self.choices, self.choices_per_prompt))
        yield DONE

    def failed(self, failure):
        yield from super().failed(failure)
        yield DONE

    def _chunk(self, choices: list[dict], **more) -> bytes:
        blank = {"usage": None} if self.wants_usage else {}
        return data_line({**self.head, "object": self.chunk_kind, "choices": choices, **blank, **more})

    def _ids_of(self, event: TokenEvent) -> dict[str, Any]:
        return {"token_ids": list(event.token_ids)} if self.wants_ids else {}

    def _choice(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def token_text(self, token_id: int) -> str:
        return token_text(self.tokenizer, token_id)


class CompletionShape(OpenAIShape):
    """prefixes: by prompt, its text and log-probabilities where the request wants them echoed.

    num_kept: choices of each prompt that are told, the most likely ones per token (`best_of`); None: all.
    """

    kind = chunk_kind = "text_completion"

    def __init__(
        self,
        *args,
        prefixes: Mapping[int, tuple[str, Sequence[ScoredToken]]] | None = None,
        num_kept: int | None = None,
        **more,
    ):
        super().__init__(*args, **more)
        self._num_kept = self.choices_per_prompt if num_kept is None else num_kept
        self._prefixes = dict(prefixes or {})
        self._text_lengths = [0] * len(self.choices)
        """Characters of each choice's tokens so far, for `text_offset`."""

    def answer(self):
        whole = super().answer()
        if self._num_kept < self.choices_per_prompt:
            kept = [
                index for start in range(0, len(self.choices), self.choices_per_prompt) for index in self._best(start)
            ]
            whole["choices"] = [{**whole["choices"][index], "index": n} for n, index in enumerate(kept)]
        return whole

    def _best(self, start: int) -> list[int]:
        """The choices of one prompt with the highest log-probability per token, in their order."""

        def mean(index: int) -> float:
            own = [entry.logprob for entry in self.choices[index].logprobs]
            return sum(own) / max(len(own), 1)

        ranked = sorted(range(start, start + self.choices_per_prompt), key=lambda index: (-mean(index), index))
        return sorted(ranked[: self._num_kept])

    def without_answers(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The body when only the prompts are told (`max_tokens` = 0)."""
        for index, choice in enumerate(self.choices):
            choice.finish_reason = "length"
            choice.usage = Usage(len(prompts[index // self.choices_per_prompt]), 0)
        return self.answer()

    def _prefix(self, index: int) -> tuple[str, list[ScoredToken]]:
        text, logprobs = self._prefixes.get(index // self.choices_per_prompt, ("", ()))
        return text, list(logprobs)

    def _told(self, index):
        return {**super()._told(index), **self.prompt_fields[index // self.choices_per_prompt]}

    def _choice(self, index):
        choice = self.choices[index]
        text, logprobs = self._prefix(index)
        return {
            "index": index,
            "text": text + choice.text,
            "logprobs": self._logprobs(index, [*logprobs, *choice.logprobs]),
            "finish_reason": choice.finish_reason,
        }

    def opening(self):
        for index in range(len(self.choices)):
            text, logprobs = self._prefix(index)
            fields = self.prompt_fields[index // self.choices_per_prompt]
            if text or logprobs or fields:
                own = {"index": index, "text": text, "logprobs": self._logprobs(index, logprobs), "finish_reason": None}
                yield self._chunk([{**own, **fields}])

    def news(self, index, event):
        text = "".join(delta.text for delta in self.add(index, event))
        if not (text or event.logprobs or event.finish_reason or self.wants_ids):
            return
        logprobs = self._logprobs(index, event.logprobs) if event.logprobs else None
        body = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": event.finish_reason}
        yield self._chunk([{**body, **self._ids_of(event)}])

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob | ScoredToken]) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        body = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in logprobs:
            text = self.token_text(entry.token_id)
            offset = self._text_lengths[index]
            self._text_lengths[index] = offset + len(text)
            body["tokens"].append(text)
            body["token_logprobs"].append(entry.logprob)
            body["top_logprobs"].append(None if entry.logprob is None else self._top(entry))
            body["text_offset"].append(offset)
        return body

    def _top(self, entry: TokenLogprob | ScoredToken) -> dict[str, float]:
        # The token itself belongs to the list, as in OpenAI's; several broken characters would share one name.
        return {self._name(token): logprob for token, logprob in (*entry.top, (entry.token_id, entry.logprob))}

    def _name(self, token_id: int) -> str:
        text = self.token_text(token_id)
        return f"token_id:{token_id}" if REPLACEMENT in text else text


class ChatShape(OpenAIShape):
    """prefix: text that every answer starts with (an echoed message). shows_reasoning: False leaves it out."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, *args, prefix: str = "", shows_reasoning: bool = True, **more):
        super().__init__(*args, **more)
        self.prefix, self.shows_reasoning = prefix, shows_reasoning

    def _head_fields(self):
        return self.prompt_fields[0]

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
            yield self._chunk([self._delta(index, delta)], **(self.prompt_fields[0] if index == 0 else {}))

    def news(self, index, event):
        deltas = [self._delta_body(delta) for delta in self.add(index, event)]
        deltas = [delta for delta in deltas if delta]
        if not deltas and event.logprobs:
            deltas = [{"content": ""}]
        if not deltas and (event.finish_reason or self.wants_ids):
            deltas = [{}]
        for n, delta in enumerate(deltas):
            reason = self.choices[index].reason if event.finish_reason and n == len(deltas) - 1 else None
            logprobs = self._logprobs(event.logprobs) if event.logprobs else None
            first = {"logprobs": logprobs, **self._ids_of(event)} if n == 0 else {}
            yield self._chunk([self._delta(index, delta, reason) | first])

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
            {**self._entry(own.token_id, own.logprob), "top_logprobs": [self._entry(*other) for other in own.top]}
            for own in logprobs
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self.token_text(token_id)
        raw = None if REPLACEMENT in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": raw}
