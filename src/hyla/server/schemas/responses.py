"""POST /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from hyla.server.schemas.chat import Effort
from hyla.server.schemas.fields import Body, Bookkeeping, Echoed, Items, ModelOnly, NoEffect, OnlyNeutral, TopLogprobs
from hyla.server.schemas.generation import StreamOptions
from hyla.server.schemas.tools import HOSTED, OWN, HostedTool, ToolName, told_by_type


class ResponseTool(Body):
    """A function."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: ModelOnly = None
    defer_loading: Annotated[Any, NoEffect("the model is shown every tool at once")] = None
    output_schema: Annotated[Any, NoEffect("what a tool gives is shown as it is")] = None


NAMESPACE = "namespace"


class ToolNamespace(Body):
    """Functions with a name before their own; an agent's MCP servers are such."""

    type: Literal["namespace"]
    name: ToolName
    description: str | None = None
    tools: Items[
        Annotated[Annotated[ResponseTool, Tag(OWN)] | Annotated[HostedTool, Tag(HOSTED)], told_by_type("function")]
    ]


AnyResponseTool = Annotated[
    Annotated[ResponseTool, Tag(OWN)] | Annotated[ToolNamespace, Tag(NAMESPACE)] | Annotated[HostedTool, Tag(HOSTED)],
    told_by_type("function", apart=(NAMESPACE,)),
]


class InputItem(BaseModel):
    """A message, a call, its output, or reasoning; fields that its type does not use are let through."""

    model_config = ConfigDict(extra="allow")

    type: str | None = None
    role: Annotated[str, Field(max_length=64)] | None = None
    content: str | Items[dict[str, Any]] | None = None


MORE_TOOLS = "additional_tools"


class AdditionalTools(BaseModel):
    """More tools, told by an item."""

    model_config = ConfigDict(extra="allow")

    type: Literal["additional_tools"]
    tools: Items[AnyResponseTool]


def _kind_of_item(item: Any) -> str:
    given = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return MORE_TOOLS if given == MORE_TOOLS else "item"


AnyItem = Annotated[
    Annotated[InputItem, Tag("item")] | Annotated[AdditionalTools, Tag(MORE_TOOLS)], Discriminator(_kind_of_item)
]


class NamedFunction(Body):
    type: Literal["function"]
    name: ToolName
    namespace: ToolName | None = None


class AllowedFunctions(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Items[dict[str, Any]]


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: Annotated[Any, NoEffect("no model here knows it")] = None


class ReasoningOptions(Body):
    effort: Effort | None = None
    context: Annotated[Any, NoEffect("the chat template decides which reasoning it shows again")] = None
    mode: Annotated[Any, OnlyNeutral(("standard",), "there is one mode; leave it out")] = None
    summary: Annotated[Any, NoEffect("reasoning is shown as it is")] = None
    generate_summary: Annotated[Any, NoEffect("reasoning is shown as it is")] = None


Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class InputTokensRequest(Body):
    """POST /v1/responses/input_tokens: what a conversation would have as its prompt."""

    model: str | None = None
    input: str | Items[AnyItem]
    instructions: str | None = None
    previous_response_id: str | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Items[AnyResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions | None = None
    parallel_tool_calls: bool | None = None
    truncation: Annotated[Any, OnlyNeutral(("disabled",), "conversations are never cut; shorten yours")] = None
    conversation: Annotated[Any, OnlyNeutral((), "use previous_response_id")] = None
    personality: Annotated[Any, NoEffect("no model here knows it")] = None

    # Extensions.
    chat_template_kwargs: dict[str, Any] | None = None


class ResponseRequest(InputTokensRequest):
    """POST /v1/responses."""

    store: bool | None = None
    """False: the answer cannot be named by `previous_response_id`. Answers are kept in memory, for a while."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: TopLogprobs | None = None
    include: Items[Includable] | None = None
    """"message.output_text.logprobs" is heard; the others ask for parts that no answer here has."""
    metadata: Annotated[dict[str, Any], Echoed()] | None = None
    background: Annotated[Any, OnlyNeutral((False,), "answers are made while the client waits")] = None
    prompt: Annotated[Any, OnlyNeutral((), "prompts are not kept here; send the messages")] = None
    moderation: Annotated[Any, OnlyNeutral((), "nothing is moderated here; leave it out")] = None
    context_management: Annotated[Any, OnlyNeutral((), "conversations are never cut; leave it out")] = None
    max_tool_calls: Annotated[Any, NoEffect("it bounds hosted tools, of which there are none")] = None
    prompt_cache_key: Annotated[Any, NoEffect("prefixes are found by their tokens")] = None
    prompt_cache_options: Annotated[Any, NoEffect("prefixes are found by their tokens")] = None
    prompt_cache_retention: Annotated[Any, NoEffect("prefixes stay while there is room")] = None
    safety_identifier: Bookkeeping = None
    client_metadata: Bookkeeping = None
    service_tier: Bookkeeping = None
    user: Annotated[Any, Echoed(), NoEffect("it is bookkeeping of a hosted service")] = None

    # Extensions.
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | Items[str] | None = None
    stop_in_thinking: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    thinking_budget: int | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    snapshot_at: Items[int] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
