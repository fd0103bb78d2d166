"""The tools of a request and which of them it may or must call, worked out from every API's own fields."""

from __future__ import annotations

from collections.abc import Sequence

from hyla.answers.tools import Mode, ToolUse
from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import say_once
from hyla.server.reading.constraints import check_schema
from hyla.server.schemas.tools import AllowedToolsChoice, FunctionTool, NamedTool


def tool_use(tools: Sequence[FunctionTool], mode: Mode | None, parallel: bool | None, limits: Limits) -> ToolUse:
    """Checked tools. Raises RequestError for too many, two of one name, a schema too large, or a choice without any."""
    if len(tools) > limits.max_tools:
        raise RequestError(f"tools holds {len(tools)} of them; at most {limits.max_tools} go at once", "tools")
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"tools defines {twice!r} twice; give each its own name", "tools")
    for tool in tools:
        check_schema(tool.parameters or {}, f"tools: {tool.name!r}", limits, param="tools", is_held=False)
    if mode == "required" and not tools:
        raise RequestError("tool_choice asks for a call and there are no tools; add some", "tool_choice")
    if mode == "none":
        return ToolUse()
    if mode != "required" and any(tool.strict for tool in tools):
        say_once("tools.strict", "arguments are held to their schema only where tool_choice asks for a call")
    return ToolUse(tuple(tools), (mode or "auto") if tools else "none", parallel is not False)


def openai_tool_use(requested, limits: Limits) -> ToolUse:
    """The tools of a chat request, and which of them must be called."""
    tools = [tool.function for tool in requested.tools or ()]
    choice = requested.tool_choice
    if isinstance(choice, NamedTool):
        use = tool_use(tools, "required", False, limits)
        return use.narrowed([choice.function.name], "required")
    if isinstance(choice, AllowedToolsChoice):
        allowed = [_allowed_name(entry) for entry in choice.allowed_tools.tools]
        mode = choice.allowed_tools.mode
        return tool_use(tools, mode, requested.parallel_tool_calls, limits).narrowed(allowed, mode)
    return tool_use(tools, choice, requested.parallel_tool_calls, limits)


def _allowed_name(entry: dict) -> str:
    function = entry.get("function")
    name = function.get("name") if isinstance(function, dict) else entry.get("name")
    if not isinstance(name, str):
        raise RequestError("tool_choice.allowed_tools.tools: each entry needs its function's name", "tool_choice")
    return name
