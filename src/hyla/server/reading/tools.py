"""The tools of a request and which of them it may or must call, worked out from every API's own fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from hyla.answers.tools import Mode, ToolUse
from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.reading.body import say_once
from hyla.server.reading.constraints import check_schema
from hyla.server.reading.skipped import Skipped
from hyla.server.schemas.tools import AllowedToolsChoice, FunctionTool, HostedTool, NamedTool


def tool_use(
    tools: Sequence[FunctionTool],
    mode: Mode | None,
    parallel: bool | None,
    limits: Limits,
    *,
    skipped: Skipped | None = None,
    untold: Iterable[str] = (),
) -> ToolUse:
    """Checked tools. skipped: what was left out of them; untold: names that the template is not told.

    Raises RequestError for too many, two of one name, a schema too large, or a choice without any.
    """
    check_number(tools, limits)
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"tools defines {twice!r} twice; give each its own name", "tools")
    for tool in tools:
        check_schema(tool.parameters or {}, f"tools: {tool.name!r}", limits, param="tools", is_held=False)
    if mode == "required" and not tools:
        what = "none of the tools can be offered here" if skipped and skipped.tool_names else "there are no tools"
        raise RequestError(f"tool_choice asks for a call and {what}; add some functions", "tool_choice")
    if mode == "none":
        return ToolUse()
    if mode != "required" and any(tool.strict for tool in tools):
        say_once("tools.strict", "arguments are held to their schema only where tool_choice asks for a call")
    return ToolUse(tuple(tools), (mode or "auto") if tools else "none", parallel is not False, frozenset(untold))


def check_number(tools: Sequence, limits: Limits) -> None:
    """Raises RequestError for more than a request may define."""
    if len(tools) > limits.max_tools:
        raise RequestError(f"tools holds {len(tools)} of them; at most {limits.max_tools} go at once", "tools")


Own = TypeVar("Own")


def own_tools(tools: Sequence[Own | HostedTool], limits: Limits, skipped: Skipped, where: str = "tools") -> list[Own]:
    """The tools that the client runs; the others are left out."""
    check_number(tools, limits)
    made: list[Own] = []
    for n, tool in enumerate(tools):
        if isinstance(tool, HostedTool):
            skipped.tool(tool, f"{where}[{n}]")
        else:
            made.append(tool)
    return made


def allowed(names: Sequence[str], mode: Mode, use: ToolUse, skipped: Skipped) -> ToolUse:
    """Only these tools, of those that can be offered. Raises RequestError where one must be called and none can be."""
    able = [name for name in names if name not in skipped.tool_names or name in use.names]
    if mode == "auto" and names and not able:
        return ToolUse()
    if not able:
        skipped.check_choice(*names)
    return use.narrowed(able, mode)


def openai_tool_use(requested, limits: Limits, skipped: Skipped) -> ToolUse:
    """The tools of a chat request, and which of them must be called."""
    tools = [tool.function for tool in own_tools(requested.tools or (), limits, skipped)]
    choice = requested.tool_choice
    if isinstance(choice, NamedTool):
        use = tool_use(tools, "required", False, limits, skipped=skipped)
        return use.narrowed([choice.function.name], "required")
    if isinstance(choice, AllowedToolsChoice):
        names = [_allowed_name(entry) for entry in choice.allowed_tools.tools]
        mode = choice.allowed_tools.mode
        use = tool_use(tools, mode, requested.parallel_tool_calls, limits, skipped=skipped)
        return allowed(names, mode, use, skipped)
    return tool_use(tools, choice, requested.parallel_tool_calls, limits, skipped=skipped)


def _allowed_name(entry: dict) -> str:
    function = entry.get("function")
    name = function.get("name") if isinstance(function, dict) else entry.get("name") or entry.get("type")
    if not isinstance(name, str):
        raise RequestError("tool_choice.allowed_tools.tools: each entry needs its function's name", "tool_choice")
    return name
