"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.schemas.fields import Items, OnlyNeutral, TopLogprobs
from hyla.server.schemas.generation import GenerationFields, ResponseFormat

DEFAULT_TOKENS = 16
"""OpenAI's default of max_tokens."""


class CompletionRequest(GenerationFields):
    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    logprobs: TopLogprobs | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: Annotated[Any, OnlyNeutral(("",), "this model continues texts and does not fill gaps; leave it out")] = None
    add_special_tokens: bool | None = None
    """False: text prompts are encoded without the tokenizer's first token."""
    response_format: ResponseFormat | None = None

    def prompts(self, limits: Limits) -> list[str | tuple[int, ...]]:
        """The prompts, each a text or token ids. Raises RequestError for none or too many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [tuple(cast(Sequence[int], self.prompt))]
        if not self.prompt:
            raise RequestError("prompt is an empty list; give a text or token ids", "prompt")
        if len(self.prompt) > limits.max_prompts:
            raise RequestError(
                f"prompt holds {len(self.prompt)} prompts; at most {limits.max_prompts} go at once", "prompt"
            )
        texts_or_ids = (prompt for prompt in self.prompt if not isinstance(prompt, int))
        return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in texts_or_ids]
