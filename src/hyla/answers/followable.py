"""JSON schemas in the words that a grammar can follow: what means the same in other words is put in those, what asks
for nothing is left out, and what no grammar can hold an answer to is refused with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hyla.answers.apart import are_apart, with_required_tags
from hyla.answers.finite import with_finite_values
from hyla.answers.lifting import NAMED, ONE, SEVERAL, Definitions
from hyla.answers.look_ahead import without_look_ahead
from hyla.answers.patterns import Unsupported
from hyla.answers.rewrites import REWRITES, is_number, with_all_of, without
from hyla.answers.schemas import Unfolding
from hyla.errors import RequestError

REFUSED = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "contains", "dependencies", "dependentRequired", "dependentSchemas", "if",
        "not", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip
"""Keywords that no grammar can follow, where `rewrites` has no other words for them."""
WHOLE = frozenset({"contains", "else", "if", "not", "propertyNames", "then"})
"""Keywords with a schema in them that is looked at with the one around it."""


LASTING = re.compile(r"#|#/(\$defs|definitions)/[^/]*")
"""References to what stays where it is."""


MOST_PATTERNS = 64
"""Patterns of names in one object: each is compared with each other one, which takes up to 0.2 ms."""
MOST_COUNTED = 64
"""Properties in an object that says how many there may be: its grammar grows as their square."""
MOST_STEPS = 20_000
"""To find out which alternatives of a whole schema are apart."""


class Unfollowable(ValueError):
    """A schema that no grammar can hold an answer to; the text says where and why."""


def followable(schema: Any) -> Any:
    """The schema for a grammar: what is valid under it is valid under the given one. Raises Unfollowable.

    >>> followable({"type": "string", "format": "password", "title": "Secret"})
    {'type': 'string', 'title': 'Secret'}
    """
    tagged = with_required_tags(_with_lasting_references(schema))
    return with_finite_values(_Rewriting(tagged).part(tagged, ()))


def _with_lasting_references(schema: Any) -> Any:
    """The schema with references to definitions only: what others point to may get another place."""
    if not isinstance(schema, dict) or all(LASTING.fullmatch(reference) for reference in _references(schema)):
        return schema
    definitions = Definitions()
    try:
        moved = definitions.lift(schema, schema, "the schema")
    except RequestError:
        return schema  # a reference to nothing, which is found again when the grammar is made
    return definitions.with_root(moved) if isinstance(moved, dict) else moved


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and isinstance(part.get("$ref"), str):
            yield part["$ref"]
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


class _Rewriting:
    def __init__(self, root: Any):
        self._work = Unfolding(root, MOST_STEPS)
        self._num_pairs = 0
        """Of patterns of names, which the compiler compares with each other."""

    def part(self, schema: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(schema, dict):
            return schema
        if schema.get("not") == {} or schema.get("not") is True:
            return False  # as zod writes "never"
        made = schema
        for rewrite in REWRITES:
            made = rewrite(made)
        word = next((word for word in made if word in REFUSED), None)
        if word is not None:
            raise Unfollowable(f"{_place(path)} has {word!r}, which no grammar can follow; leave it out")
        self._check_names(made, path)
        self._check_work(made, path)
        made = self._told_apart(self._patterns(made, path), path)
        return {name: self._below(name, value, (*path, name)) for name, value in made.items()}

    def _below(self, name: str, value: Any, path: tuple[str, ...]) -> Any:
        if (name in NAMED or name in ("$defs", "definitions")) and isinstance(value, dict):
            return {own: self.part(schema, (*path, own)) for own, schema in value.items()}
        if name in SEVERAL and isinstance(value, list):
            return [self.part(schema, (*path, str(n))) for n, schema in enumerate(value)]
        return self.part(value, path) if name in ONE - WHOLE else value

    @staticmethod
    def _check_names(schema: dict[str, Any], path: tuple[str, ...]) -> None:
        """A grammar does not know which free names a text has had, so that it cannot count different ones."""
        fewest, required = schema.get("minProperties"), schema.get("required")
        certain = len(set(map(str, required))) if isinstance(required, list) else 0
        if is_number(fewest) and fewest > certain + 1:
            raise Unfollowable(
                f"{_place(path)} has minProperties {fewest} and {certain} required names, which no grammar can follow: "
                "one free name may come twice; name those that must be there in required"
            )

    def _check_work(self, schema: dict[str, Any], path: tuple[str, ...]) -> None:
        """What grows as the square of something is bounded before it is compiled."""
        patterns, properties = schema.get("patternProperties"), schema.get("properties")
        num = len(patterns) if isinstance(patterns, dict) else 0
        self._num_pairs += num * (num - 1) // 2
        if self._num_pairs > MOST_PATTERNS * (MOST_PATTERNS - 1) // 2:
            raise Unfollowable(
                f"{_place(path)} has {num} patternProperties; at most {MOST_PATTERNS} of an object are compared with "
                "each other, and in all objects as many pairs as they have"
            )
        required = schema.get("required")
        certain = set(map(str, required)) if isinstance(required, list) else set()
        num = len(properties.keys() - certain) if isinstance(properties, dict) else 0
        if num > MOST_COUNTED and schema.keys() & {"minProperties", "maxProperties"}:
            raise Unfollowable(
                f"{_place(path)} has minProperties or maxProperties beside {num} properties that are not required, of "
                f"which a grammar counts at most {MOST_COUNTED}"
            )

    @staticmethod
    def _patterns(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        """`pattern` without look-ahead."""
        pattern = schema.get("pattern")
        if not isinstance(pattern, str):
            return schema
        try:
            first, *more = without_look_ahead(pattern)
        except Unsupported as error:
            raise Unfollowable(
                f"{_place(path)} has the pattern {pattern!r:.100}, which no grammar can follow: {error}; write it "
                "otherwise"
            ) from error
        return with_all_of({**schema, "pattern": first}, [{"pattern": one} for one in more])

    def _told_apart(self, schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        """A oneOf of alternatives that exclude each other, as anyOf."""
        options = schema.get("oneOf")
        if not isinstance(options, list) or not options:
            return schema
        if not are_apart(options, self._work):
            raise Unfollowable(
                f"{_place(path)} has a oneOf whose alternatives may overlap, which no grammar can follow; use anyOf, "
                "or give them a required property with another constant in each"
            )
        made = without(schema, "oneOf")
        return with_all_of(made, [{"anyOf": options}]) if "anyOf" in made else {**made, "anyOf": options}


def _place(path: tuple[str, ...]) -> str:
    return "/" + "/".join(path) if path else "the root"
