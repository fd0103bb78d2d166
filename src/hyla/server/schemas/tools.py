"""Tools in a chat request, and which of them must be called."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hyla.server.schemas.fields import Body

ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:/-]+$")]
"""Names stand in prompts, grammars and tags, so that they may not hold quotes, brackets or spaces."""


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
    tools: list[dict[str, Any]]


class AllowedToolsChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceField = Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice
