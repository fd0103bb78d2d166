"""The fields that /v1/completions and /v1/chat/completions share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hyla.server.schemas.fields import Body, Bookkeeping, Items, NoEffect, TopLogprobs


class StreamOptions(Body):
    include_usage: bool | None = None
    """A last chunk without choices tells the tokens of the whole request."""
    include_obfuscation: Annotated[Any, NoEffect("chunks carry no padding")] = None
    continuous_usage_stats: Annotated[Any, NoEffect("usage comes with the last chunk")] = None


class StructuredOutputs(Body):
    """Other engines' way to constrain an answer; exactly one of them."""

    json_schema: Annotated[dict | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Items[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GenerationFields(Body):
    """Fields of a request to generate text; None means the default."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | Items[str] | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: Bookkeeping = None

    # Extensions that other engines have under these names.
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Items[int] | None = None
    repetition_penalty: float | None = None
    allowed_token_ids: Items[int] | None = None
    bad_words: Items[str] | None = None
    thinking_budget: int | None = None
    include_stop_str_in_output: bool | None = None
    stop_in_thinking: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: Annotated[Any, NoEffect("special tokens are written as they are")] = None
    sampled_logprobs: bool | None = None
    prompt_logprobs: TopLogprobs | None = None
    return_token_ids: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict | str | None = None
    guided_regex: str | None = None
    guided_choice: Items[str] | None = None
    guided_grammar: str | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    snapshot_at: Items[int] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class JsonSchemaFormat(Body):
    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
