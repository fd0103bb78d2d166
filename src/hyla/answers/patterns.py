"""JSON schema's patterns, which match anywhere in a string, as regular expressions for all of it, without anchors."""

from __future__ import annotations

import re

ANY = "(?s:.*)"
UNKNOWN = (
    (re.compile(r"\(\?<?[=!]"), "look-around"),
    (re.compile(r"(?<!\\)(?:\\\\)*\\[bB]"), "word boundaries"),
    (re.compile(r"(?<!\\)(?:\\\\)*\\(?:[1-9]|k<)"), "references back"),
)
"""What no grammar can follow, and its name."""


class Unsupported(ValueError):
    """A pattern that no grammar can follow; the text says why."""


def whole(pattern: str) -> tuple[str, bool]:
    r"""The expression for a whole string, and whether the pattern is anchored at both of its ends.

    Raises Unsupported.

    >>> whole("^[0-9]+$"), whole("a|^b")
    (('(?:[0-9]+)', True), ('(?:(?s:.*)a(?s:.*))|(?:b(?s:.*))', False))
    """
    for form, name in UNKNOWN:
        if form.search(pattern):
            raise Unsupported(f"it has {name}")
    made, is_anchored = [], True
    for tokens in _alternatives(_tokens(pattern)):
        starts, ends = tokens[:1] == ["^"], tokens[-1:] == ["$"] and len(tokens) > 0
        inner = tokens[int(starts) : len(tokens) - int(ends)]
        if "^" in inner or "$" in inner:
            raise Unsupported("it has an anchor inside")
        is_anchored = is_anchored and starts and ends
        made.append(f"(?:{'' if starts else ANY}{''.join(inner)}{'' if ends else ANY})")
    return "|".join(made), is_anchored


def _tokens(pattern: str) -> list[str]:
    """Single characters, escapes and classes, in the spelling of Rust's regular expressions."""
    return [_class(token) if token.startswith("[") else _plain(token) for token in tokens_of(pattern)]


def tokens_of(pattern: str) -> list[str]:
    """Single characters, escapes and classes, as they stand. Raises Unsupported.

    >>> tokens_of("a[b-d]\\\\.")
    ['a', '[b-d]', '\\\\.']
    """
    found, place = [], 0
    while place < len(pattern):
        size = 1
        if pattern[place] == "\\":
            size = 2
        elif pattern[place] == "[":
            size = _class_length(pattern, place)
        found.append(pattern[place : place + size])
        place += size
    return found


def group_length(tokens: list[str], start: int) -> int:
    """How many tokens a group has, its brackets included. Raises Unsupported where it has no end."""
    depth = 0
    for place in range(start, len(tokens)):
        depth += (tokens[place] == "(") - (tokens[place] == ")")
        if depth == 0:
            return place + 1 - start
    raise Unsupported("it has a group without its end")


def _class_length(pattern: str, start: int) -> int:
    place = start + 1 + (pattern[start + 1 : start + 2] == "^")
    while place < len(pattern) and pattern[place] != "]":
        place += 2 if pattern[place] == "\\" else 1
    if place >= len(pattern):
        raise Unsupported("it has a class without its end")
    return place + 1 - start


def _class(token: str) -> str:
    """What is plain in a class elsewhere may be an operator in Rust's."""
    start = 2 if token.startswith("[^") else 1
    inner = re.sub(
        r"\\.|[\[&~/]", lambda own: own[0] if len(own[0]) > 1 else "\\" + own[0], token[start:-1], flags=re.S
    )
    return token[:start] + inner + "]"


def _plain(token: str) -> str:
    return {"/": r"\/", "\n": r"\n", "\r": r"\r"}.get(token, token)


def _alternatives(tokens: list[str]) -> list[list[str]]:
    """The tokens between the bars outside of all groups."""
    made: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if token == "|" and depth == 0:
            made.append([])
        else:
            made[-1].append(token)
    return made


def slashed(pattern: str) -> str:
    """A pattern of Rust's as it stands between two slashes.

    >>> slashed("a/b")
    'a\\\\/b'
    """
    return re.sub(r"\\.|[/\n\r]", lambda own: _plain(own[0]), pattern, flags=re.S)


def escaped(text: str) -> str:
    """A text as an expression for itself."""
    return re.escape(text).replace("\\\n", r"\n").replace("/", r"\/")
