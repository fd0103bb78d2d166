"""The functions of a request to /v1/responses: some are told under a namespace's name, as an agent's MCP servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyla.answers.tools import ToolUse
from hyla.server.guard.limits import Limits
from hyla.server.reading.skipped import Skipped
from hyla.server.reading.tools import allowed, own_tools, tool_use
from hyla.server.schemas.responses import (
    AdditionalTools,
    AnyResponseTool,
    InputTokensRequest,
    NamedFunction,
    ResponseTool,
    ToolNamespace,
)
from hyla.server.schemas.tools import FunctionTool


def full_name(namespace: Any, name: str) -> str:
    """A function's name as the model is told it."""
    return f"{namespace}__{name}" if isinstance(namespace, str) and namespace else name


@dataclass(frozen=True)
class Function:
    """A function and the namespace that the client has it in."""

    namespace: str | None
    tool: ResponseTool

    @property
    def name(self) -> str:
        return full_name(self.namespace, self.tool.name)


def _lists(requested: InputTokensRequest) -> list[tuple[str, Sequence[AnyResponseTool]]]:
    """The lists of tools in a request, each with its place: the request's own, and those of items that add some."""
    items = requested.input if isinstance(requested.input, list) else []
    added = [(f"input[{n}].tools", item.tools) for n, item in enumerate(items) if isinstance(item, AdditionalTools)]
    return [("tools", requested.tools or []), *added]


def functions_of(requested: InputTokensRequest, limits: Limits, skipped: Skipped) -> list[Function]:
    """Every function that the client runs; the other tools are left out."""
    made: list[Function] = []
    for where, tools in _lists(requested):
        for n, tool in enumerate(own_tools(tools, limits, skipped, where)):
            if isinstance(tool, ToolNamespace):
                inner = own_tools(tool.tools, limits, skipped, f"{where}[{n}].tools")
                made += [Function(tool.name, own) for own in inner]
            else:
                made.append(Function(None, tool))
    return made


def response_tool_use(
    requested: InputTokensRequest, functions: Sequence[Function], limits: Limits, skipped: Skipped
) -> ToolUse:
    """The functions, and which of them must be called. Raises RequestError as `tool_use`."""
    tools = [
        # A namespace's name may make it longer than a client's own may be.
        FunctionTool.model_construct(
            name=function.name,
            description=function.tool.description,
            parameters=function.tool.parameters,
            strict=function.tool.strict,
        )
        for function in functions
    ]
    choice, parallel = requested.tool_choice, requested.parallel_tool_calls
    if isinstance(choice, NamedFunction):
        name = full_name(choice.namespace, choice.name)
        skipped.check_choice(*{name} - {tool.name for tool in tools})
        return tool_use(tools, "required", False, limits, skipped=skipped).narrowed([name], "required")
    if choice is None or isinstance(choice, str):
        return tool_use(tools, choice, parallel, limits, skipped=skipped)
    use = tool_use(tools, choice.mode, parallel, limits, skipped=skipped)
    names = [full_name(entry.get("namespace"), str(entry.get("name") or entry.get("type"))) for entry in choice.tools]
    return allowed(names, choice.mode, use, skipped)
