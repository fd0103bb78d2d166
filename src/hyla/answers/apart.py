"""Whether the alternatives of a oneOf can be told from each other, so that it is the same as anyOf."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

from hyla.answers.schemas import (
    Branch,
    TooComplex,
    Unfolding,
    Wanted,
    branch_properties,
    kind_of,
    target_of,
    value_in,
    wanted_by,
)

MOST_OPTIONS = 4096
MOST_FOLLOWED = 64
"""References from one to the next."""


def are_apart(options: Sequence[Any], work: Unfolding) -> bool:
    """Whether no value fits two of some schemas: they have other kinds, other listed values, or other values in a
    property that both require. work: of their root; where its steps are used up, they count as overlapping."""
    if len(options) < 2:
        return True
    if len(options) > MOST_OPTIONS:
        return False
    try:
        branches = [work.branches(option) for option in options]
        if _are_listed_once([wanted_by(own) for own in branches]) or _have_tags(branches, work):
            return True
        pairs = (pair for mine, theirs in combinations(branches, 2) for pair in product(mine, theirs))
        return all(_overlap_is_empty(one, other, work) for one, other in pairs)
    except TooComplex:
        return False


def _have_tags(options: list[list[Branch]], work: Unfolding) -> bool:
    """Whether all are objects with other constants in a property that all require, which is seen without pairs."""
    flat = [branch for branches in options for branch in branches]
    if not flat or not all(_is_object(branch) for branch in flat):
        return False
    for name in branch_properties(flat[0]):
        if all(_requires(branch, name) and name in branch_properties(branch) for branch in flat):
            found = [
                [part for own in branches for part in work.branches(branch_properties(own)[name])]
                for branches in options
            ]
            if _are_listed_once([wanted_by(parts) for parts in found]):
                return True
    return False


def _are_listed_once(wanted: Sequence[Wanted]) -> bool:
    """Whether each asks for single values, none of which another one lists."""
    values = [value for own in wanted for value in own.values]
    if any(own.kinds for own in wanted) or any(isinstance(value, list | dict) for value in values):
        return False
    return len(values) == len({(kind_of(value), value) for value in values})


def _overlap_is_empty(one: Branch, other: Branch, work: Unfolding) -> bool:
    work.branches(True)  # a pair is a step, too
    if _have_nothing_in_common(wanted_by([one]), wanted_by([other])):
        return True
    if not (_is_object(one) and _is_object(other)):
        return False
    mine, theirs = branch_properties(one), branch_properties(other)
    shared = [name for name in mine if name in theirs and _requires(one, name) and _requires(other, name)]
    wanted = ((wanted_by(work.branches(mine[name])), wanted_by(work.branches(theirs[name]))) for name in shared)
    return any(_have_nothing_in_common(*pair) for pair in wanted)


def _is_object(branch: Branch) -> bool:
    """Whether nothing but an object fits."""
    wanted = wanted_by([branch])
    return wanted.kinds == {"object"} and not wanted.values


def _requires(branch: Branch, name: str) -> bool:
    return any(name in part["required"] for part in branch if isinstance(part.get("required"), list))


def _have_nothing_in_common(one, other) -> bool:
    values = [(value, other) for value in one.values] + [(value, one) for value in other.values]
    return not one.kinds & other.kinds and not any(
        value_in(value, theirs.values) or kind_of(value) in theirs.kinds for value, theirs in values
    )


def with_required_tags(schema: Any) -> Any:
    """The schema, in which the property that a `discriminator` names is required wherever it tells alternatives apart:
    what has a default is not by itself, and then an object without it would fit several."""
    if not any(True for _ in _told_apart(schema)):
        return schema
    made = copy.deepcopy(schema)
    for name, options in _told_apart(made):
        for option in options:
            target = _followed(option, made)
            properties = target.get("properties") if isinstance(target, dict) else None
            if isinstance(properties, dict) and name in properties:
                required = target.get("required")
                others = [own for own in required if own != name] if isinstance(required, list) else []
                target["required"] = [*others, name]
    return made


def _told_apart(schema: Any) -> Iterator[tuple[str, list[Any]]]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            told = part.get("discriminator")
            name = told.get("propertyName") if isinstance(told, dict) else None
            if isinstance(name, str) and isinstance(part.get("oneOf"), list):
                yield name, part["oneOf"]
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _followed(option: Any, root: Any) -> Any:
    for _ in range(MOST_FOLLOWED):
        reference = option.get("$ref") if isinstance(option, dict) else None
        if not isinstance(reference, str):
            break
        try:
            option = target_of(reference, root)
        except TooComplex:
            return None
    return option
