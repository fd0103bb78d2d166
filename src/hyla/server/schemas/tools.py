"""Tools in a chat request, and which of them must be called."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hyla.server.schemas.fields import Body, Items

ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:/-]+$")]
"""Names stand in prompts, grammars and tags, so that they may not hold quotes, brackets or spaces."""


def own_tool(kind: str):
    """A check that lets through tools that the client runs, of type `kind` or without one. Others are refused before
    their fields are read."""

    def check(tool: Any) -> Any:
        given = tool.get("type") if isinstance(tool, dict) else None
        if given in (None, kind) or not isinstance(given, str):
            return tool
        if given == "custom":
            raise ValueError("is a free-form tool (type 'custom'), which is not supported; give a function instead")
        what = f"is a hosted tool (type {given!r:.60}) and this server runs no tools itself"
        raise ValueError(f"{what}; give tools of type {kind!r}, which you run")

    return BeforeValidator(check)


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


PlainTool = Annotated[Tool, own_tool("function")]

ToolChoiceField = Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice
