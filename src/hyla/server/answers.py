"""OpenAI's answers: whole ones and chunks of a stream, for completions and chat."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hyla.engine import Completion, TokenEvent, TokenLogprob, Usage
from hyla.engine.text import REPLACEMENT, TextCodec


def usage_body(usages: Sequence[Usage], choices_per_prompt: int) -> dict[str, Any]:
    """usages: of every choice, prompt-major; a prompt counts once."""
    prompts = usages[::choices_per_prompt]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
    }


class Shape:
    """What both kinds of answer have in common. One object per request."""

    kind: str
    chunk_kind: str

    def __init__(self, answer_id: str, model: str, tokenizer: TextCodec | None):
        self.head = {"id": answer_id, "created": int(time.time()), "model": model}
        self._tokenizer = tokenizer

    def answer(self, completions: Sequence[Completion], choices_per_prompt: int) -> dict[str, Any]:
        """The whole body; completions in the order of their index."""
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        usage = usage_body([completion.usage for completion in completions], choices_per_prompt)
        return {**self.head, "object": self.kind, "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict], **more) -> dict[str, Any]:
        return {**self.head, "object": self.chunk_kind, "choices": choices, **more}

    def first_chunks(self, num_choices: int) -> list[dict[str, Any]]:
        """Chunks before any text."""
        return []

    def event_chunk(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """The chunk that tells an event; None when it has nothing to tell."""
        raise NotImplementedError

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        raise NotImplementedError

    def token_text(self, token_id: int) -> str:
        """A token alone as text; bytes that are no character show as U+FFFD."""
        if self._tokenizer is None:
            return f"token_id:{token_id}"
        return self._tokenizer.decode([token_id], skip_special_tokens=False)


class CompletionShape(Shape):
    kind = chunk_kind = "text_completion"

    def __init__(self, *args):
        super().__init__(*args)
        self._text_lengths: dict[int, int] = {}
        """Characters of each choice's tokens so far, for `text_offset`."""

    def _choice(self, index, completion):
        return {
            "index": index,
            "text": completion.text or "",
            "logprobs": self._logprobs(index, completion.logprobs),
            "finish_reason": completion.finish_reason,
        }

    def event_chunk(self, index, event):
        if not (event.text or event.logprobs or event.finish_reason):
            return None
        choice = {
            "index": index,
            "text": event.text or "",
            "logprobs": self._logprobs(index, event.logprobs or None),
            "finish_reason": event.finish_reason,
        }
        return self.chunk([choice])

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        body = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in logprobs:
            text = self.token_text(entry.token_id)
            offset = self._text_lengths.get(index, 0)
            self._text_lengths[index] = offset + len(text)
            body["tokens"].append(text)
            body["token_logprobs"].append(entry.logprob)
            # The token itself belongs to the list, as in OpenAI's; several broken characters would share one name.
            top = {self._name(token): logprob for token, logprob in (*entry.top, (entry.token_id, entry.logprob))}
            body["top_logprobs"].append(top)
            body["text_offset"].append(offset)
        return body

    def _name(self, token_id: int) -> str:
        text = self.token_text(token_id)
        return f"token_id:{token_id}" if REPLACEMENT in text else text


class ChatShape(Shape):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def _choice(self, index, completion):
        return {
            "index": index,
            "message": {"role": "assistant", "content": completion.text or "", "refusal": None},
            "logprobs": self._logprobs(completion.logprobs),
            "finish_reason": completion.finish_reason,
        }

    def first_chunks(self, num_choices):
        return [self.chunk([self._delta(index, {"role": "assistant", "content": ""})]) for index in range(num_choices)]

    @staticmethod
    def _delta(index: int, delta: dict, finish_reason=None, logprobs=None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def event_chunk(self, index, event):
        if not (event.text or event.logprobs or event.finish_reason):
            return None
        delta = {"content": event.text or ""} if event.text or event.logprobs else {}
        return self.chunk([self._delta(index, delta, event.finish_reason, self._logprobs(event.logprobs or None))])

    def _logprobs(self, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        content = [
            {
                **self._entry(entry.token_id, entry.logprob),
                "top_logprobs": [self._entry(token, logprob) for token, logprob in entry.top],
            }
            for entry in logprobs
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self.token_text(token_id)
        raw = None if REPLACEMENT in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": raw}
