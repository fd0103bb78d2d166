"""What OpenAI's answers of /v1/completions and /v1/chat/completions share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hyla.engine import TokenEvent
from hyla.engine.text import TextCodec
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
