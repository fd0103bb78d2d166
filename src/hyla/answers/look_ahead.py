"""Patterns with look-ahead at their start, as several patterns without: a string has to match all of them.

Validators of e-mail addresses, decimals and passwords are written so.
"""

from __future__ import annotations

import re

from hyla.answers.patterns import Unsupported, group_length, tokens_of

DECIMAL_DIGITS = re.compile(
    r"\^\(\?!\^\[-\+\.\]\*\$\)\[\+-\]\?0\*\(\?:\\d\{0,(\d+)\}\|\(\?=\[\\d\.\]\{1,(\d+)\}0\*\$\)\\d(\*|\{0,\d+\})\\\.\\d(\*|\{0,\d+\})0\*\$\)"
)
"""What pydantic writes for a Decimal of so many digits."""
MOST_DIGITS = 100
CLASS = re.compile(r"\^?(\[(?:[^\]\\]|\\.)+\])\*\$?")
CHAR = r"(?:\\[^\w\s]|[^\\^$.|?*+()\[\]{}])"


def without_look_ahead(pattern: str) -> list[str]:
    """The patterns that a string matches where it matches the given one. Raises Unsupported.

    >>> without_look_ahead("^(?!a)b+$")
    ['^b+$', '^(?:[^a]|$)']
    """
    digits = DECIMAL_DIGITS.match(pattern)
    if digits and digits.end() == len(pattern.removesuffix("$")):
        if int(digits[2]) > MOST_DIGITS:
            raise Unsupported(f"it has more than {MOST_DIGITS} digits")
        return [_decimal(int(digits[1]), int(digits[2]) - 1, digits[3], digits[4]), "[^-+.]"]
    tokens = tokens_of(pattern)
    if tokens[:1] != ["^"]:
        return [pattern]
    place, more = 1, []
    while tokens[place : place + 2] == ["(", "?"] and tokens[place + 2 : place + 3] in (["="], ["!"]):
        size = group_length(tokens, place)
        inside = "".join(tokens[place + 3 : place + size - 1])
        more.append(_asked(inside) if tokens[place + 2] == "=" else _refused(inside))
        place += size
    rest = "^" + "".join(tokens[place:])
    if more and "|" in _outer(tokens[place:]):
        raise Unsupported("it has look-ahead before alternatives")
    return [rest, *more] if more else [pattern]


def _outer(tokens: list[str]) -> list[str]:
    """The tokens outside of all groups."""
    found, depth = [], 0
    for token in tokens:
        depth -= token == ")"
        found += [token] if depth == 0 else []
        depth += token == "("
    return found


def _asked(inside: str) -> str:
    """A pattern that a string matches where it begins with what the inside matches."""
    return f"^(?:{inside.removeprefix('^')})"


def _refused(inside: str) -> str:
    """A pattern that a string matches where it does not begin with what the inside matches."""
    whole_class = CLASS.fullmatch(inside)
    if whole_class and inside.endswith("$"):
        return _other(whole_class[1])
    if re.fullmatch(rf"\^?(?:{CHAR}|\[(?:[^\]\\]|\\.)+\])", inside):
        inside = inside.removeprefix("^")
        return f"^(?:{_other(inside if inside.startswith('[') else f'[{inside}]')}|$)"
    held = re.fullmatch(rf"\^?\.\*({CHAR}{{1,2}})", inside)
    if held:
        first, *second = re.findall(CHAR, held[1])
        if not second:
            return f"^[^{first}]*$"
        if second[0] == first:
            return f"^(?:{first}?[^{first}])*{first}?$"
    raise Unsupported("it has a look-ahead that is not known here")


def _other(token: str) -> str:
    """A class of all other characters."""
    return "[" + token[2:] if token.startswith("[^") else "[^" + token[1:]


def _decimal(whole: int, digits: int, before: str, after: str) -> str:
    """A number of at most so many digits, zeros around them apart."""
    if before != "*":
        return rf"^[+-]?0*(?:\d{{0,{whole}}}|\d{before}\.\d{after}0*)$"
    parts = "|".join(rf"\d{{0,{n}}}\.\d{{0,{digits - n}}}0*" for n in range(digits + 1))
    return rf"^[+-]?0*(?:\d{{0,{whole}}}|{parts})$"
