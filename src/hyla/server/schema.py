"""The fields of the completions and chat requests. Names that are not here (or in `body`) are refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hyla.engine import SamplingParams
from hyla.errors import RequestError

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of /v1/completions."""

MAX_PROMPTS = 128
"""Prompts of one request."""

MAX_TOP_LOGPROBS = 20
"""OpenAI's limit for chat."""

RESERVED_TEMPLATE_NAMES = frozenset({"messages", "tools", "documents"})


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Common(BaseModel):
    """What completions and chat share. None means the default."""

    model_config = ConfigDict(extra="forbid")

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    # Extensions that other engines have under these names.
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, **more) -> SamplingParams:
        """Raises RequestError for values that cannot be."""
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only for stream = true; leave it out", "stream_options")
        fields = {
            name: getattr(self, name)
            for name in ("temperature", "top_p", "n", "stop", "max_tokens", "min_p", "min_tokens", "ignore_eos")
        }
        fields |= {"stop_token_ids": self.stop_token_ids, "top_k": self.top_k, "seed": self.seed, **more}
        if self.seed is not None:
            fields["seed"] = self.seed % (1 << 64)  # OpenAI's seeds may be negative
        if self.top_k == -1:
            fields["top_k"] = 0  # other engines write "all" so
        return SamplingParams(**{name: value for name, value in fields.items() if value is not None})


class CompletionRequest(Common):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def prompts(self) -> list[str | tuple[int, ...]]:
        """One entry per prompt. Raises RequestError for none or too many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [tuple(self.prompt)]
        if not self.prompt:
            raise RequestError("prompt is an empty list; give a text or token ids", "prompt")
        if len(self.prompt) > MAX_PROMPTS:
            raise RequestError(f"prompt holds {len(self.prompt)} prompts; at most {MAX_PROMPTS} go at once", "prompt")
        return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in self.prompt]

    def params(self) -> SamplingParams:
        most = self.max_tokens if self.max_tokens is not None else DEFAULT_COMPLETION_TOKENS
        return self.sampling(max_tokens=most, logprobs=self.logprobs)


class Message(BaseModel):
    """One message; fields beyond these reach the chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1)]
    content: str | list[dict[str, Any]] | None = None

    def for_template(self) -> dict:
        """Content parts are joined to one text. Raises RequestError for parts that are not text."""
        if not isinstance(self.content, list):
            return self.model_dump(exclude_unset=True)
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type")
                raise RequestError(f"a content part of type {kind!r} is not supported; send text parts", "messages")
        return {**self.model_dump(exclude_unset=True), "content": "\n".join(part["text"] for part in self.content)}


class ChatRequest(Common):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def template_names(self) -> dict[str, Any]:
        """Names for the chat template. Raises RequestError for those that are the request's own."""
        names = self.chat_template_kwargs or {}
        taken = RESERVED_TEMPLATE_NAMES & set(names)
        if taken:
            name = min(taken)
            raise RequestError(
                f"chat_template_kwargs may not set {name}; it comes from the request", "chat_template_kwargs"
            )
        return names

    def params(self) -> SamplingParams:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs = true", "top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise RequestError("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(max_tokens=most, logprobs=logprobs)
