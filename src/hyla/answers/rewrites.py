"""Keywords of JSON schemas in other words, for `followable`: each function takes one schema and gives it, or another
of which each value is valid under it, too. What they cannot say otherwise they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from hyla.answers.schemas import value_in
from hyla.answers.words import words_of

Schema = dict[str, Any]

FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid"}
)
"""Values of `format` that an answer is held to; every other one is an annotation."""
EXACT = 1 << 53
"""The grammar's bounds are doubles: integers beyond are not told from their neighbours."""
SMALLEST = 1e-6
"""What stands for "more than 0" where the other bound is a fraction: the grammar would take 0 there."""
MOST_DEPENDENCIES = 4
"""Names in `dependentRequired`: each doubles the alternatives."""
MOST_WORDS = 64
"""Names that a pattern may fit to be looked at."""
MOST_UNIQUE = 6
"""Values of which lists without repetition are written out."""


def without(schema: Schema, *names: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in names}


def with_all_of(schema: Schema, more: Sequence[Any]) -> Schema:
    """The schema and others, all of which hold."""
    given = schema.get("allOf")
    return {**schema, "allOf": [*(given if isinstance(given, list) else []), *more]} if more else schema


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def formats(schema: Schema) -> Schema:
    """A format that is not known is an annotation, as the standard has it."""
    form = schema.get("format")
    return schema if isinstance(form, str) and form in FORMATS else without(schema, "format")


def bounds(schema: Schema) -> Schema:
    """Bounds that doubles hold: for those of int64 and beyond, 53 bits. Draft 4's exclusive ones become numbers."""
    made = dict(schema)
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and bound in made:
            made[exclusive] = made.pop(bound)
    for name, sign in (("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1), ("exclusiveMaximum", 1)):
        if is_number(made.get(name)) and made[name] * sign > EXACT:
            made[name] = EXACT * sign
    return _apart_from_zero(made)


def _apart_from_zero(schema: Schema) -> Schema:
    made = dict(schema)
    for low, closed, ends, sign in (
        ("exclusiveMinimum", "minimum", ("maximum", "exclusiveMaximum"), 1),
        ("exclusiveMaximum", "maximum", ("minimum", "exclusiveMinimum"), -1),
    ):
        is_fraction = any(is_number(made.get(end)) and 0 < made[end] * sign < 1 for end in ends)
        if is_number(made.get(low)) and made[low] == 0 and is_fraction:
            del made[low]
            made[closed] = SMALLEST * sign
    return made


def names(schema: Schema) -> Schema:
    """`propertyNames` as the properties that there may be."""
    asked = schema.get("propertyNames")
    if asked is True:
        return without(schema, "propertyNames")
    if not isinstance(asked, dict) or asked.get("type", "string") != "string":
        return schema
    asked = without(asked, "type", "title", "description", "format")
    made, others = without(schema, "propertyNames"), schema.get("additionalProperties", True)
    if not asked:
        return made
    if made.get("properties") or made.get("patternProperties"):
        return schema
    if asked.keys() in ({"enum"}, {"const"}) and isinstance(asked.get("enum", []), list):
        listed = [name for name in asked.get("enum", [asked.get("const")]) if isinstance(name, str)]
        return {**made, "properties": dict.fromkeys(listed, others), "additionalProperties": False}
    if asked.keys() == {"pattern"}:
        return {**made, "patternProperties": {asked["pattern"]: others}, "additionalProperties": False}
    if asked.keys() <= {"minLength", "maxLength"}:
        length = f"^[^]{{{asked.get('minLength', 0)},{asked.get('maxLength', '')}}}$".replace("[^]", r"[\s\S]")
        return {**made, "patternProperties": {length: others}, "additionalProperties": False}
    return schema


def patterned_names(schema: Schema) -> Schema:
    """A pattern that fits names of `properties` only is asked of those: nothing is left that it could fit besides, so
    that a grammar would have a dead end there."""
    patterns, properties = schema.get("patternProperties"), schema.get("properties")
    if not isinstance(patterns, dict) or not isinstance(properties, dict) or not properties:
        return schema
    made, kept = dict(properties), dict(patterns)
    for pattern, asked in patterns.items():
        words = words_of(pattern, min(len(properties), MOST_WORDS))
        if words is not None and words <= properties.keys():
            del kept[pattern]
            made |= {name: {"allOf": [made[name], asked]} for name in made if name in words}
    rest = {"patternProperties": kept} if kept else {}
    return {**without(schema, "patternProperties"), "properties": made, **rest}


def dependencies(schema: Schema) -> Schema:
    """`dependentRequired` (`dependencies` in draft 7) as alternatives: the one is absent, or the others are there."""
    both = [schema[word] for word in ("dependentRequired", "dependencies") if word in schema]
    if not all(isinstance(given, dict) and all(isinstance(own, list) for own in given.values()) for given in both):
        return schema
    asked = [(name, required) for given in both for name, required in given.items() if required]
    if len(asked) > MOST_DEPENDENCIES:
        return schema
    either = [{"anyOf": [{"properties": {name: False}}, {"required": required}]} for name, required in asked]
    return with_all_of(without(schema, "dependentRequired", "dependencies"), either)


def closed(schema: Schema) -> Schema:
    """`unevaluatedProperties` and `unevaluatedItems` where nothing else brings any in."""
    made = dict(schema)
    brings = made.keys() & {"$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas", "contains"}
    for word, other in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if made.get(word) is True or (word in made and other in made):
            del made[word]  # what it asks is asked of nothing
        elif word in made and not brings:
            made[other] = made.pop(word)
    return made


def idle(schema: Schema) -> Schema:
    """Without what asks for nothing; draft 7's list of `items` by its new name, and so without the draft's."""
    made = without(schema, "$schema")
    if isinstance(made.get("items"), list):
        first = made.pop("items")
        made = {**made, **({"prefixItems": first} if first else {}), "items": made.get("additionalItems", True)}
    made.pop("additionalItems", None)
    if made.get("minContains") == 0 and "maxContains" not in made:
        made.pop("contains", None)
    made = made if "contains" in made else without(made, "minContains", "maxContains")
    return made if "if" in made else without(made, "then", "else")


def unique(schema: Schema) -> Schema:
    """`uniqueItems` where a list has one item at most, or its items are a few listed values, in that order then."""
    if "uniqueItems" not in schema:
        return schema
    most, fewest = schema.get("maxItems", MOST_UNIQUE), schema.get("minItems", 0)
    if not is_number(most) or not is_number(fewest):
        return schema
    if schema["uniqueItems"] is not True or most <= 1:
        return without(schema, "uniqueItems")
    values = _listed(schema.get("items"))
    if values is None or schema.get("type") != "array" or "prefixItems" in schema:
        return schema
    chosen = ([value for n, value in enumerate(values) if bits >> n & 1] for bits in range(1 << len(values)))
    lists = [_exactly(own) for own in chosen if fewest <= len(own) <= most]
    made = without(schema, "uniqueItems", "items", "minItems", "maxItems", "type")
    return with_all_of(made, [{"anyOf": lists}]) if lists else schema


def _listed(items: Any) -> list[Any] | None:
    """The different values of a plain list of a few."""
    if not isinstance(items, dict) or not items.keys() <= {"enum", "const", "type", "title", "description"}:
        return None
    values = items.get("enum", [items["const"]] if "const" in items else None)
    if not isinstance(values, list) or len(values) > MOST_UNIQUE:
        return None
    return [value for n, value in enumerate(values) if not value_in(value, values[:n])]


def _exactly(values: list[Any]) -> Schema:
    fixed = {"type": "array", "minItems": len(values), "maxItems": len(values), "items": False}
    return {**fixed, "prefixItems": [{"const": value} for value in values]} if values else fixed


REWRITES: tuple[Callable[[Schema], Schema], ...] = (
    formats,
    bounds,
    names,
    patterned_names,
    dependencies,
    closed,
    idle,
    unique,
)
