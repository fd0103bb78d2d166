"""What the arguments of a tool may look like, for formats that write each argument by itself: which there are, in which
order, and what each of them has to be. What cannot be said so is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from hyla.answers.schemas import Branch, TooComplex, branch_kinds, unfold, value_in, wanted_of
from hyla.answers.tools import FunctionTool
from hyla.errors import RequestError

UNSAID = (
    "const", "dependencies", "dependentRequired", "dependentSchemas", "else", "enum", "if", "not", "propertyNames",
    "then",
)  # fmt: skip
"""Keywords of an object that arguments one after the other cannot be held to."""


@dataclass(frozen=True)
class Argument:
    """One argument of a call."""

    name: str
    schema: Any
    is_required: bool


def refusal(tool: FunctionTool, what: str) -> RequestError:
    """The error for a tool whose schema a required call cannot be held to."""
    return RequestError(
        f"tools: the parameters of {tool.name!r} have {what}; this model's format cannot hold a required call to that, "
        "so change it, or set tool_choice to auto",
        "tools",
    )


def shapes_of(tool: FunctionTool) -> list[list[Argument]]:
    """The alternatives of a tool's arguments, each in the order of its schema. Raises RequestError for what no call can
    be held to."""
    root = tool.parameters or {}
    try:
        unfolded = unfold(root, root)
    except TooComplex as error:
        raise refusal(tool, f"a root that cannot be followed ({error})") from error
    shapes = [_shape(tool, branch) for branch in unfolded.branches if "object" in branch_kinds(branch)]
    made = [shape for shape in shapes if shape is not None]
    if not made:
        raise refusal(tool, "a root that no object fits")
    if unfolded.has_one_of and not all(_are_apart(one, other, root) for one, other in combinations(made, 2)):
        raise refusal(tool, "a oneOf at the root whose alternatives overlap")
    return [shape for n, shape in enumerate(made) if shape not in made[:n]]


def _shape(tool: FunctionTool, branch: Branch) -> list[Argument] | None:
    """The arguments of one alternative; None where nothing fits it."""
    word = next((word for part in branch for word in UNSAID if word in part), None)
    if word is not None:
        raise refusal(tool, f"{word!r} at the root")
    required = {name for part in branch for name in _names(part.get("required"))}
    made = []
    for name in _all_names(branch, required):
        schemas = [schema for part in branch for schema in _schemas_for(tool, part, name)]
        if not any(schema is False for schema in schemas):
            schema = schemas[0] if len(schemas) == 1 else {"allOf": schemas}
            made.append(Argument(name, schema, name in required))
        elif name in required:
            return None
    _check_numbers(tool, branch, len(required), len(made))
    return made


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _all_names(branch: Branch, required: set[str]) -> list[str]:
    """The names of the properties in their order, then those that are required without a schema."""
    names = [name for part in branch for name in _mapping(part, "properties")]
    return list(dict.fromkeys([*names, *sorted(required)]))


def _mapping(part: dict[str, Any], keyword: str) -> dict[str, Any]:
    value = part.get(keyword)
    return value if isinstance(value, dict) else {}


def _schemas_for(tool: FunctionTool, part: dict[str, Any], name: str) -> list[Any]:
    """What one schema of an object says of a property."""
    own = [_mapping(part, "properties")[name]] if name in _mapping(part, "properties") else []
    for pattern, schema in _mapping(part, "patternProperties").items():
        try:
            own += [schema] if re.search(pattern, name) else []
        except re.error as error:
            raise refusal(tool, f"the pattern {pattern!r:.80} in patternProperties ({error})") from error
    return own or [part.get("additionalProperties", True)]


def _check_numbers(tool: FunctionTool, branch: Branch, fewest: int, most: int) -> None:
    wanted = [count for part in branch if (count := count_of(tool, part, "minProperties")) is not None]
    if max(wanted, default=0) > fewest:
        raise refusal(tool, f"minProperties {max(wanted)} and {fewest} required ones")
    allowed = [count for part in branch if (count := count_of(tool, part, "maxProperties")) is not None]
    if min(allowed, default=most) < most:
        raise refusal(tool, f"maxProperties {min(allowed)} and {most} of them")


def count_of(tool: FunctionTool, part: dict[str, Any], keyword: str) -> int | None:
    """The number that a keyword has, None without it. Raises RequestError for what is no count."""
    count = part.get(keyword, 0)
    if isinstance(count, bool) or not isinstance(count, int | float) or count < 0 or count != count // 1:
        raise refusal(tool, f"a {keyword} that is no count ({short(count)})")
    return int(count) if keyword in part else None


def short(value: Any) -> str:
    """A value as JSON, cut to a few words."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _are_apart(one: list[Argument], other: list[Argument], root: Any) -> bool:
    """Whether no call fits both: an argument that both require has other values in each."""
    theirs = {argument.name: argument for argument in other if argument.is_required}
    for mine in one:
        if mine.is_required and mine.name in theirs:
            wanted, others = wanted_of(mine.schema, root), wanted_of(theirs[mine.name].schema, root)
            if not (wanted.kinds or others.kinds or any(value_in(value, others.values) for value in wanted.values)):
                return True
    return False
