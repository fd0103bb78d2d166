"""How deep a grammar's parts lead from one to the next: its compiler follows them on the machine's stack, which ends.

Measured on stacks of 8 MiB: it overflows at 2,000 to 4,000 nested parts of a JSON schema, references followed, and at
2,650 rules of a Lark grammar in a row. Nothing here recurses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

MOST_PARTS = 1000
"""Of a schema: lists and objects inside each other, references followed."""
MOST_RULES = 1000
"""Of a grammar: rules that lead to each other."""

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
DEFINITIONS = ("$defs", "definitions")
LARK_RULE = re.compile(r"^[ \t]*+[?!]*+([A-Za-z_]\w*+)[^:\n]*+:(?!=)", re.MULTILINE)
EBNF_RULE = re.compile(r"^[ \t]*+([A-Za-z_][\w-]*+)[ \t]*+::=", re.MULTILINE)
NAME = re.compile(r"[A-Za-z_][\w-]*")


def longest_chain(links: Mapping[str, Collection[str]], weights: Mapping[str, int]) -> int:
    """The most that the weights of a path can sum to, each part once. Parts in a circle count together: a path may go
    through all of them.

    >>> longest_chain({"a": "b", "b": "c", "c": ""}, {"a": 1, "b": 1, "c": 5})
    7
    >>> longest_chain({"a": "bc", "b": "a", "c": ""}, {"a": 1, "b": 2, "c": 5})
    8
    """
    longest: dict[str, int] = {}
    for circle in circles(links):
        below = (longest[other] for part in circle for other in links[part] if other in longest)
        own = max(below, default=0) + sum(weights[part] for part in circle)
        longest |= dict.fromkeys(circle, own)
    return max(longest.values(), default=0)


def circles(links: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The strongly connected parts, each after those that it leads to (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_parts: dict[str, None] = {}  # in the order of their numbers
    found: list[list[str]] = []
    for first in links:
        path = [] if first in number else [(first, iter(links[first]))]
        while path:
            part, others = path[-1]
            if part not in number:
                number[part] = lowest[part] = len(number)
                open_parts[part] = None
            following = next((other for other in others if other in links and other not in number), None)
            if following is not None:
                path.append((following, iter(links[following])))
                continue
            path.pop()
            lowest[part] = min([lowest[part], *(lowest[other] for other in links[part] if other in open_parts)])
            if lowest[part] == number[part]:
                found.append([])
                while part in open_parts:
                    found[-1].append(open_parts.popitem()[0])
    return found


def schema_parts(schema: Any) -> int:
    """The most lists and objects inside each other that a JSON schema leads to, references followed.

    >>> schema_parts({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"type": "null"}}, "$ref": "#/$defs/a"})
    4
    """
    named = _named(schema)
    links, weights, new = {}, {}, {"#": schema}
    while new:
        pointer, part = new.popitem()
        references, weights[pointer] = _own(part)
        links[pointer] = references
        for reference in references:
            target = _resolved(schema, reference, named)
            if reference not in links and target is not None:
                new[reference] = target
    return longest_chain(links, weights)


def _own(part: Any) -> tuple[set[str], int]:
    """The references inside a part, and its depth; what it only defines is reached by references."""
    references: set[str] = set()
    depth, level = 0, [part]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        below = []
        for one in level:
            if isinstance(one, dict):
                references |= {one[key] for key in REFERENCES if isinstance(one.get(key), str)}
                below += [value for key, value in one.items() if key not in DEFINITIONS]
            else:
                below += one
        level = below
    return references, depth


def _named(schema: Any) -> dict[str, Any]:
    """Parts by the names that they give themselves."""
    found, level = {}, [schema]
    while level := [one for one in level if isinstance(one, dict | list)]:
        for one in level:
            if isinstance(one, dict):
                names = [one.get(key) for key in ("$id", "id", "$anchor", "$dynamicAnchor")]
                found |= {name: one for name in names if isinstance(name, str)}
        level = [below for one in level for below in (one.values() if isinstance(one, dict) else one)]
    return found


def _resolved(schema: Any, reference: str, named: Mapping[str, Any]) -> Any:
    """What a reference means; None for what is not in the schema."""
    start, _, pointer = reference.partition("#")
    part = schema if not start else named.get(start)
    if pointer and not pointer.startswith("/"):
        return named.get(pointer)
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        else:
            part = part.get(key) if isinstance(part, dict) else None
    return part


def rule_chain(text: str, rule: re.Pattern) -> int:
    """The most rules of a grammar's text that lead to each other. rule: LARK_RULE or EBNF_RULE.

    >>> rule_chain("start: a b\\na: b | /x/\\nb: \\"c\\" a?", LARK_RULE)
    3
    """
    begins = [*rule.finditer(text)]
    ends = [match.start() for match in begins[1:]] + [len(text)] * bool(begins)
    links: dict[str, set[str]] = {}
    for match, end in zip(begins, ends, strict=True):
        links.setdefault(match[1], set()).update(NAME.findall(text, match.end(), end))
    return longest_chain(links, dict.fromkeys(links, 1))
