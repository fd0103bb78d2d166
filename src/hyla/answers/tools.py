"""The tools that a model may or must call, as parsers, grammars and chat templates see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from hyla.errors import RequestError


class FunctionTool(Protocol):
    """A function that the client runs."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    """JSON schema of its arguments; None: any."""

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]: ...


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
    untold: frozenset[str] = frozenset()
    """Names of tools that the conversation itself tells of, so that the template need not."""

    @property
    def is_held(self) -> bool:
        """Whether a grammar of calls holds their arguments to the tools' schemas; else they are any."""
        return self.mode == "required"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool.name for tool in self.tools)

    def for_template(self) -> list[dict] | None:
        """The tools in the form that chat templates read; None when the model should not know of any."""
        return [described(tool) for tool in self.tools if tool.name not in self.untold] or None

    def parameters_of(self, name: str) -> dict[str, Any]:
        """The JSON schema of a tool's arguments; an empty one for an unknown tool."""
        return next((tool.parameters or {} for tool in self.tools if tool.name == name), {})

    def narrowed(self, names: Sequence[str], mode: Mode, param: str = "tool_choice") -> ToolUse:
        """Only these tools. Raises RequestError for one that is not there."""
        missing = next((name for name in names if name not in self.names), None)
        if missing is not None or not names:
            raise RequestError(f"{param} names {missing!r}, which is not among tools; add it there", param)
        return replace(
            self, tools=tuple(tool for tool in self.tools if tool.name in names), mode=mode, untold=frozenset()
        )


def described(tool: FunctionTool) -> dict:
    """A tool in the form that chat templates read."""
    function = tool.model_dump(exclude_none=True)
    function.setdefault("parameters", {"type": "object", "properties": {}})
    return {"type": "function", "function": function}
