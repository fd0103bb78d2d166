"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hyla.server.schemas.fields import Bookkeeping, Items, NoEffect, OnlyNeutral, TopLogprobs
from hyla.server.schemas.generation import GenerationFields, ResponseFormat
from hyla.server.schemas.tools import PlainTool, ToolChoiceField

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Message(BaseModel):
    """One message; fields beyond these reach the chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Items[dict[str, Any]] | None = None
    tool_calls: Items[dict[str, Any]] | None = None


class ChatRequest(GenerationFields):
    messages: Annotated[Items[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None
    tools: Items[PlainTool] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None

    # Extensions.
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    """With continue_final_message: the answer starts with the continued text."""
    include_reasoning: bool | None = None
    """False: reasoning is parsed and left out of the answer."""
    documents: Items[dict[str, Any]] | None = None

    # OpenAI's fields without a meaning here.
    metadata: Bookkeeping = None
    store: Bookkeeping = None
    service_tier: Bookkeeping = None
    safety_identifier: Bookkeeping = None
    moderation: Annotated[Any, OnlyNeutral((), "nothing is moderated here; leave it out")] = None
    prompt_cache_key: Annotated[Any, NoEffect("prefixes are found by their tokens")] = None
    prompt_cache_retention: Annotated[Any, NoEffect("prefixes stay while there is room")] = None
    prompt_cache_options: Annotated[Any, NoEffect("prefixes are found by their tokens")] = None
    prediction: Annotated[Any, NoEffect("it is a hint for speed")] = None
    verbosity: Annotated[Any, NoEffect("no model here knows it")] = None
    modalities: Annotated[Any, OnlyNeutral((["text"],), "this model answers with text")] = None
    audio: Annotated[Any, OnlyNeutral((), "this model answers with text")] = None
    web_search_options: Annotated[Any, OnlyNeutral((), "this server has no web search")] = None
    functions: Annotated[Any, OnlyNeutral(([],), "give them as tools")] = None
    function_call: Annotated[
        Any,
        OnlyNeutral(
            (
                "none",
                "auto",
            ),
            "give it as tool_choice",
        ),
    ] = None
