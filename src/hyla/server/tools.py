"""The tools of a request and which of them it may or must call, worked out from every API's own fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hyla.errors import RequestError
from hyla.server.body import say_once
from hyla.server.constraints import check_schema
from hyla.server.limits import Limits
from hyla.server.schemas.tools import AllowedToolsChoice, FunctionTool, NamedTool

Mode = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class ToolUse:
    """What a request says about tools."""

    tools: tuple[FunctionTool, ...] = ()
    """Those that the model is told of."""
    mode: Mode = "none"
    """"required": the answer is a call of one of `tools`."""
    is_parallel: bool = True
    """Whether an answer may call more than one."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool.name for tool in self.tools)

    def for_template(self) -> list[dict] | None:
        """As chat templates read them; None when the model should not know of any."""
        return [_described(tool) for tool in self.tools] or None

    def parameters_of(self, name: str) -> dict[str, Any]:
        """The JSON schema of a tool's arguments; an empty one for an unknown tool."""
        return next((tool.parameters or {} for tool in self.tools if tool.name == name), {})

    def narrowed(self, names: Sequence[str], mode: Mode, param: str = "tool_choice") -> ToolUse:
        """Only these tools. Raises RequestError for one that is not there."""
        missing = next((name for name in names if name not in self.names), None)
        if missing is not None or not names:
            raise RequestError(f"{param} names {missing!r}, which is not among tools; add it there", param)
        return replace(self, tools=tuple(tool for tool in self.tools if tool.name in names), mode=mode)


def _described(tool: FunctionTool) -> dict:
    function = tool.model_dump(exclude_none=True)
    function.setdefault("parameters", {"type": "object", "properties": {}})
    return {"type": "function", "function": function}


def tool_use(tools: Sequence[FunctionTool], mode: Mode | None, parallel: bool | None, limits: Limits) -> ToolUse:
    """Checked tools. Raises RequestError for too many, two of one name, a schema too large, or a choice without any."""
    if len(tools) > limits.max_tools:
        raise RequestError(f"tools holds {len(tools)} of them; at most {limits.max_tools} go at once", "tools")
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"tools defines {twice!r} twice; give each its own name", "tools")
    for tool in tools:
        check_schema(tool.parameters or {}, "tools", limits)
    if mode == "required" and not tools:
        raise RequestError("tool_choice asks for a call and there are no tools; add some", "tool_choice")
    if mode == "none":
        return ToolUse()
    if mode != "required" and any(tool.strict for tool in tools):
        say_once("tools.strict", "arguments are held to their schema only where tool_choice asks for a call")
    return ToolUse(tuple(tools), (mode or "auto") if tools else "none", parallel is not False)


def openai_tool_use(asked, limits: Limits) -> ToolUse:
    """Of a chat request."""
    tools = [tool.function for tool in asked.tools or ()]
    choice = asked.tool_choice
    if isinstance(choice, NamedTool):
        use = tool_use(tools, "required", False, limits)
        return use.narrowed([choice.function.name], "required")
    if isinstance(choice, AllowedToolsChoice):
        allowed = [_allowed_name(entry) for entry in choice.allowed_tools.tools]
        mode = choice.allowed_tools.mode
        return tool_use(tools, mode, asked.parallel_tool_calls, limits).narrowed(allowed, mode)
    return tool_use(tools, choice, asked.parallel_tool_calls, limits)


def _allowed_name(entry: dict) -> str:
    function = entry.get("function")
    name = function.get("name") if isinstance(function, dict) else entry.get("name")
    if not isinstance(name, str):
        raise RequestError("tool_choice.allowed_tools.tools: each entry needs its function's name", "tool_choice")
    return name
