"""The words that a pattern matches, where they are few."""

from __future__ import annotations

import re
from itertools import product

from hyla.answers.patterns import Unsupported, tokens_of

PLAIN_ESCAPE = re.compile(r"\\[^\w\s]")
CODES = {"\\x": 2, "\\u": 4}
"""Escapes by how many digits follow."""
MOST_CHARS = 200
"""Of a pattern that is looked at."""
COUNT = re.compile(r"\{(\d{1,2})(?:,(\d{1,2}))?\}")


def words_of(pattern: str, most: int) -> set[str] | None:
    """Every string that a pattern of JSON schema matches; None for more than `most`, or where that is hard to see.

    >>> sorted(words_of("^(a|b)c?$", 4)), words_of("^a", 4)
    (['a', 'ac', 'b', 'bc'], None)
    """
    if len(pattern) > MOST_CHARS:
        return None
    try:
        tokens = tokens_of(pattern)
        if tokens[:1] != ["^"] or tokens[-1:] != ["$"]:
            return None
        work = _Words(tokens[1:-1], most)
        found = work.alternatives()
        has_bars = any(token == "|" for token, depth in work.seen if not depth)
        return found if work.place == len(work.tokens) and not has_bars else None
    except (Unsupported, _Many):
        return None


class _Many(Exception):
    """More words than are asked for, or no list of them."""


class _Words:
    def __init__(self, tokens: list[str], most: int):
        self.tokens, self.most, self.place, self.depth = tokens, most, 0, 0
        self.seen: list[tuple[str, int]] = []

    def alternatives(self) -> set[str]:
        found = self._sequence()
        while self._next() == "|":
            self.seen.append(("|", self.depth))
            self.place += 1
            found |= self._sequence()
        return self._few(found)

    def _next(self) -> str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def _few(self, words: set[str]) -> set[str]:
        if len(words) > self.most:
            raise _Many
        return words

    def _sequence(self) -> set[str]:
        found = {""}
        while self._next() not in (None, "|", ")"):
            found = self._few({one + other for one, other in product(found, self._repeated(self._one()))})
        return found

    def _one(self) -> set[str]:
        token = self.tokens[self.place]
        self.place += 1
        if token == "(":
            if self.tokens[self.place : self.place + 2] == ["?", ":"]:
                self.place += 2
            self.depth += 1
            found = self.alternatives()
            self.depth -= 1
            if self._next() != ")":
                raise _Many
            self.place += 1
            return found
        if token.startswith("["):
            return self._few(self._class(token))
        if PLAIN_ESCAPE.fullmatch(token):
            return {token[1]}
        if token in CODES:
            return {self._coded(CODES[token])}
        if len(token) > 1 or token in ".^$*+?{}":
            raise _Many
        return {token}

    def _coded(self, size: int) -> str:
        """The character of a number in hexadecimal."""
        digits = "".join(self.tokens[self.place : self.place + size])
        if len(digits) < size or set(digits) - set("0123456789abcdefABCDEF"):
            raise _Many
        self.place += size
        return chr(int(digits, 16))

    def _class(self, token: str) -> set[str]:
        chars = re.findall(r"\\.|.", token[1:-1], re.S)
        if chars[:1] == ["^"] or any(len(char) > 1 and not PLAIN_ESCAPE.fullmatch(char) for char in chars):
            raise _Many
        found, chars = set(), [char[-1] if len(char) > 1 else char for char in chars]
        if "-" in chars[1:-1]:
            if len(chars) != 3 or ord(chars[2]) - ord(chars[0]) not in range(self.most):
                raise _Many
            return {chr(code) for code in range(ord(chars[0]), ord(chars[2]) + 1)}
        return found | set(chars)

    def _repeated(self, words: set[str]) -> set[str]:
        token = self._next()
        if token in ("*", "+"):
            raise _Many
        if token == "?":
            self.place += 1
            return words | {""}
        if token != "{":
            return words
        end = self.tokens.index("}", self.place) if "}" in self.tokens[self.place :] else len(self.tokens)
        count = COUNT.fullmatch("".join(self.tokens[self.place : end + 1]))
        if count is None:
            raise _Many
        self.place = end + 1
        found: set[str] = set()
        for times in range(int(count[1]), int(count[2] or count[1]) + 1):
            made = {""}
            for _ in range(times):
                made = self._few({one + other for one, other in product(made, words)})
            found |= made
        return self._few(found)
