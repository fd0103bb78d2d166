"""What OpenAI's answers of /v1/completions and /v1/chat/completions share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hyla.engine import TokenEvent, TokenLogprob
from hyla.engine.requests.text import TextCodec
from hyla.server.shapes.choice import Choice, total_usage
from hyla.server.shapes.protocol import Shape, data_line

DONE = b"data: [DONE]\n\n"


def token_text(tokenizer: TextCodec | None, token_id: int) -> str:
    """A token alone as text; bytes that are no character show as U+FFFD."""
    if tokenizer is None:
        return f"token_id:{token_id}"
    return tokenizer.decode([token_id], skip_special_tokens=False)


def scored_body(tokenizer: TextCodec | None, scored: TokenLogprob | None) -> dict[str, Any] | None:
    """A prompt's token by id, as other engines write it; None for a text's first token."""
    if scored is None:
        return None
    own = {scored.token_id: (scored.logprob, scored.rank)}
    ranked = {token: (logprob, rank) for rank, (token, logprob) in enumerate(scored.top, start=1)}
    body = {
        str(token): {"logprob": logprob, "rank": rank, "decoded_token": token_text(tokenizer, token)}
        for token, (logprob, rank) in (own | ranked).items()
    }
    body[str(scored.token_id)] |= sampled_body(scored)
    return body


def sampled_body(entry: TokenLogprob) -> dict[str, float]:
    """ln p of a token under what it was drawn from, where the request asks for it."""
    return {} if entry.sampled is None else {"sampled_logprob": entry.sampled}


def usage_body(choices: Sequence[Choice], choices_per_prompt: int) -> dict[str, Any]:
    total = total_usage(choices, choices_per_prompt)
    return {
        "prompt_tokens": total["prompt"],
        "completion_tokens": total["completion"],
        "total_tokens": total["prompt"] + total["completion"],
        "prompt_tokens_details": {"cached_tokens": total["cached"]},
        "completion_tokens_details": {
            "reasoning_tokens": total["reasoning"],
            "accepted_prediction_tokens": total["accepted"],
            "rejected_prediction_tokens": total["rejected"],
        },
    }


class OpenAIShape(Shape):
    """The fields and chunks that /v1/completions and /v1/chat/completions share."""

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
        num_prompt_top: int | None = None,
    ):
        """num_prompt_top: how many of the most likely ids each token of a prompt is told with; None: not even its own
        log-probability."""
        super().__init__(choices, choices_per_prompt)
        self.head = {"id": answer_id, "created": int(time.time()), "model": model}
        self.tokenizer = tokenizer
        self.wants_logprobs, self.wants_usage, self.wants_ids = wants_logprobs, wants_usage, wants_ids
        self.num_prompt_top = num_prompt_top
        num_prompts = len(self.choices) // choices_per_prompt
        self.prompt_ids: list[tuple[int, ...]] = [()] * num_prompts
        self.scored_prompts: list[Sequence[TokenLogprob | None] | None] = [None] * num_prompts
        """Log-probabilities of each prompt, from the first event of its first choice; None until then, and where that
        was cut off."""

    def add(self, index, event):
        self.keep_scores(index, event)
        return super().add(index, event)

    def keep_scores(self, index: int, event: TokenEvent) -> None:
        if event.prompt_logprobs is not None:
            self.scored_prompts[index // self.choices_per_prompt] = event.prompt_logprobs

    def ids_of_prompt(self, prompt: int) -> dict[str, Any]:
        return {"prompt_token_ids": list(self.prompt_ids[prompt])} if self.wants_ids else {}

    def scores_of_prompt(self, prompt: int) -> dict[str, Any]:
        if self.num_prompt_top is None:
            return {}
        scored = self.scored_prompts[prompt]
        told = scored and [
            scored_body(self.tokenizer, entry and replace(entry, top=entry.top[: self.num_prompt_top]))
            for entry in scored
        ]
        return {"prompt_logprobs": told}

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
