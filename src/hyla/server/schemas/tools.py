"""Tools in a chat request, and which of them must be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from hyla.server.schemas.fields import Body, Items

ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:/-]+$")]
"""Names stand in prompts, grammars and tags, so that they may not hold quotes, brackets or spaces."""


class HostedTool(BaseModel):
    """A tool that no model here can be offered: the API's own host runs it, or calls to it have a form of their own."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(min_length=1, max_length=64)]
    name: Any = None


OWN, HOSTED = "own tool", "hosted tool"


def told_by_type(*own: str, apart: Sequence[str] = ()) -> Discriminator:
    """Tells tools that the client runs, of these types or without one, from all others; types in `apart` are
    alternatives of their own."""

    def kind(tool: Any) -> str:
        given = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
        if not isinstance(given, str) or given in own:
            return OWN
        return given if given in apart else HOSTED

    return Discriminator(kind)


class FunctionTool(Body):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: FunctionTool


class FunctionName(Body):
    name: ToolName


class NamedTool(Body):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Items[dict[str, Any]]


class AllowedToolsChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


PlainTool = Annotated[Annotated[Tool, Tag(OWN)] | Annotated[HostedTool, Tag(HOSTED)], told_by_type("function")]

ToolChoiceField = Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice
