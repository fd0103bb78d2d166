"""Anthropic's POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from hyla.server.schemas.fields import Body, Bookkeeping, Items, ModelOnly, NoEffect, OnlyNeutral
from hyla.server.schemas.tools import HOSTED, OWN, HostedTool, ToolName, told_by_type


class Block(BaseModel):
    """A content block; fields that its type does not use are let through (cache_control, citations)."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(max_length=64)]


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: str | Items[Block]


class MessageTool(BaseModel):
    """A tool of the client's own."""

    model_config = ConfigDict(extra="allow")

    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None
    allowed_callers: ModelOnly = None
    cache_control: Annotated[Any, NoEffect("prefixes are found by their tokens")] = None
    defer_loading: bool | None = None
    """True: the model is told of it where a result of the conversation refers to it, unless the search for it is a
    hosted tool."""
    eager_input_streaming: Annotated[Any, NoEffect("arguments are always streamed as they are written")] = None
    input_examples: Annotated[Any, NoEffect("chat templates do not show them")] = None


AnyMessageTool = Annotated[
    Annotated[MessageTool, Tag(OWN)] | Annotated[HostedTool, Tag(HOSTED)], told_by_type("custom", "function")
]


class MessageToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None
    """"omitted": thinking is left out of the answer; otherwise it is shown as it is."""
    block_binding: Annotated[Any, NoEffect("thinking blocks are taken as they come")] = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    task_budget: Annotated[Any, NoEffect("max_tokens bounds the answer")] = None


KEEPS_ALL = ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]})
"""Values of context_management that cut nothing; coding agents send them."""


class CountTokensRequest(Body):
    model: str | None = None
    messages: Annotated[Items[Turn], Field(min_length=1)]
    system: str | Items[Block] | None = None
    tools: Items[AnyMessageTool] | None = None
    tool_choice: MessageToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Annotated[Any, NoEffect("prefixes are found by their tokens")] = None
    context_management: Annotated[Any, OnlyNeutral(KEEPS_ALL, "conversations are never cut; leave it out")] = None
    compaction: Annotated[Any, OnlyNeutral((), "conversations are not summarised here; leave it out")] = None
    billing_policy: Bookkeeping = None
    mcp_servers: Annotated[Any, OnlyNeutral(([],), "this server calls no tools itself; leave it out")] = None
    speed: Annotated[Any, OnlyNeutral(("standard",), "there is one speed; leave it out")] = None
    user_profile_id: Bookkeeping = None
    workspace_id: Bookkeeping = None

    # Extensions.
    chat_template_kwargs: dict[str, Any] | None = None


class MessageRequest(CountTokensRequest):
    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    stop_sequences: Items[str] | None = None
    metadata: Bookkeeping = None
    service_tier: Bookkeeping = None
    fallbacks: Annotated[
        Any,
        OnlyNeutral(
            (
                [],
                "default",
            ),
            "one model answers a request; leave it out",
        ),
    ] = None
    fallback_credit_token: Bookkeeping = None
    thread: Annotated[Any, OnlyNeutral((), "conversations are not kept here; send the messages")] = None
    container: Annotated[Any, OnlyNeutral((), "this server runs no code; leave it out")] = None
    diagnostics: Bookkeeping = None
    inference_geo: Bookkeeping = None

    # Extensions, and fields of the API's first years.
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_in_thinking: bool | None = None
    seed: int | None = None
    min_p: float | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    snapshot_at: Items[int] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
