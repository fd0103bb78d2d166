"""Schemas and grammars that should be refused, or answered, and never break the server."""

from __future__ import annotations

import random
from typing import Any

from random_schemas import PATTERNS, random_schema

PIECES = (
    '"a"', "/[a-z]+/", "/(a|b)*c{2,5}/", "a", "b", "start", "(", ")", "|", "*", "+", "?", "~", "{3}", "{1,1000}",
    "[", "]", "&", "<[1]>", "<x>", "::=", ":", '"', "\\", "/(?=a)/", "/[/", "é", "A", "%json {}",
    '%json {"type": "integer"}', "// no", "\n", "\x00", "%ignore /x/", "%regex {}", "[capture]", "B: /x/",
)  # fmt: skip
ATOMS = (
    "a", "[a-z]", "\\w", "\\d", ".", "(", ")", "|", "*", "+", "?", "{2,9}", "{1000}", "{9999999}", "{5,1}", "[", "]",
    "^", "$", "\\", "\\p{L}", "\\u12", "(?=a)", "(?i:", "(?P<n>", "\\1", "é", "[^", "{", "😀", "\x00", "(?s:.*)",
    "(a|b)*a.{9}",
)  # fmt: skip


def hostile_schema(draw: random.Random) -> Any:
    """One of several ways to ask too much, or a random schema."""
    return draw.choice((_random, _random, _random, _chain, _deep, _wide, _patterns, _conjunction, _counts, _loop))(draw)


def _random(draw):
    return random_schema(draw, 4, is_wild=True)


def _chain(draw):
    word, most = draw.choice(("anyOf", "oneOf", "allOf", "prefixItems", "items", "$ref")), draw.choice((5, 300, 1_200))
    last: Any = {"type": "null"}
    parts = {}
    for n in range(most):
        to = {"$ref": f"#/$defs/d{n + 1}"}
        parts[f"d{n}"] = to if word == "$ref" else {word: to if word == "items" else [to]}
    return {"$defs": {**parts, f"d{most}": last}, "$ref": "#/$defs/d0"}


def _deep(draw):
    schema: Any = {"type": "integer"}
    for _ in range(draw.choice((5, 30, 90))):
        name = draw.choice("ab")
        schema = {"type": "object", "properties": {name: schema}, "required": [name]}
    return schema


def _wide(draw):
    count = draw.choice((20, 300, 900))
    properties = {f"p{n}": draw.choice(({}, {"type": "integer"}, {"enum": [n]})) for n in range(count)}
    own = draw.choice(({"minProperties": 1}, {"maxProperties": 1}, {"required": list(properties)[::2]}, {}))
    return {"type": "object", "properties": properties, "additionalProperties": False, **own}


def _patterns(draw):
    count = draw.choice((2, 40, 200))
    patterns = {f"^[a-z]{{{n % 20 + 1},{n % 40 + 50}}}{n}$": {} for n in range(count)}
    return {"type": "object", "patternProperties": patterns, "properties": {"a": {"type": "null"}}}


def _conjunction(draw):
    many = [{"pattern": draw.choice((*PATTERNS, f"a.{{{n}}}b"))} for n in range(draw.randint(2, 24))]
    either = [{"anyOf": [{"properties": {f"p{n}{m}": {}}} for m in range(9)]} for n in range(draw.randint(1, 7))]
    return draw.choice(({"type": "string", "allOf": many}, {"type": "object", "allOf": either}))


def _counts(draw):
    huge = draw.choice((10_000, 10**6, 2**31, 2**63, 10**30, 1e308, -1, 0.5))
    return draw.choice(
        (
            {"type": "string", "minLength": huge},
            {"type": "string", "maxLength": huge, "pattern": draw.choice(PATTERNS)},
            {"type": "array", "minItems": huge, "items": {"type": "array", "maxItems": huge}},
            {"type": "object", "minProperties": huge},
            {"type": "number", "minimum": -huge, "maximum": huge, "multipleOf": draw.choice((7, 99_991, 1e-7, huge))},
        )
    )


def _loop(draw):
    word = draw.choice(("$ref", "anyOf", "allOf", "items", "properties"))
    to = {"$ref": "#"}
    inner = {"$ref": to["$ref"], "anyOf": [to], "allOf": [to, {}], "items": to, "properties": {"a": to}}[word]
    return {word: inner, **draw.choice(({}, {"required": ["a"], "type": "object"}, {"minItems": 1, "type": "array"}))}


def hostile_pattern(draw: random.Random) -> str:
    return "".join(draw.choice(ATOMS) for _ in range(draw.choice((1, 5, 20, 200))))


def hostile_lark(draw: random.Random) -> str:
    kind = draw.randrange(4)
    if kind == 0:
        return "start: " + " ".join(draw.choice(PIECES) for _ in range(draw.choice((3, 30, 300))))
    if kind == 1:
        count = draw.choice((10, 900, 2_700))
        return "start: r0\n" + "\n".join(f"r{n}: r{n + 1} | /x/" for n in range(count)) + f'\nr{count}: "a"'
    if kind == 2:
        both = " & ".join(f"{draw.choice(('', '~'))}/(?s:.*a.{{{n}}}b.*)/" for n in range(draw.randint(1, 24)))
        return f"start: A\nA: {both}"
    rules = [f"{name}: " + " ".join(draw.choice(PIECES[:12]) for _ in range(draw.randint(1, 6))) for name in "ab"]
    return "\n".join(["start: a b | a", *rules])


def hostile_body(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """(path, body)."""
    held = {"model": "tiny", "max_tokens": draw.choice((1, 4, 30)), "seed": 1, "temperature": draw.choice((0.0, 1.0))}
    chat = {**held, "messages": [{"role": "user", "content": "hi"}]}
    kind = draw.randrange(7)
    if kind == 0:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": hostile_schema(draw)}}
        return "/v1/chat/completions", {**chat, "response_format": form}
    if kind == 1:
        function = {"name": "f", "parameters": hostile_schema(draw)}
        tools = [{"type": "function", "function": function}, {"type": "function", "function": {"name": "g"}}]
        asked = draw.choice(("required", "auto", {"type": "function", "function": {"name": "f"}}))
        return "/v1/chat/completions", {**chat, "tools": tools, "tool_choice": asked}
    if kind == 2:
        return "/v1/completions", {**held, "prompt": "x", "guided_regex": hostile_pattern(draw)}
    if kind == 3:
        return "/v1/completions", {**held, "prompt": "x", "guided_grammar": hostile_lark(draw)}
    if kind == 4:
        own = {"json": hostile_schema(draw)} if draw.random() < 0.5 else {"regex": hostile_pattern(draw)}
        return "/v1/completions", {**held, "prompt": "x", "structured_outputs": own, "n": draw.choice((1, 1, 3))}
    if kind == 5:
        text = {"format": {"type": "json_schema", "name": "x", "schema": hostile_schema(draw)}}
        return "/v1/responses", {"model": "tiny", "input": "hi", "max_output_tokens": 4, "text": text}
    return "/v1/completions", {**held, "prompt": "x", "guided_json": hostile_schema(draw)}
