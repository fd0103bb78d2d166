"""A model's JSON, as JSON: what models get wrong in it is mended while it streams."""

from __future__ import annotations

WORDS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "NaN": '"NaN"',
    "Infinity": '"Infinity"',
    "-Infinity": '"-Infinity"',
}
"""Words outside of strings that are no JSON, and what they become: Python's spelling, and numbers that JSON lacks."""
EMPTY = "{}"
NOTHING = ("", "null")
"""Arguments without anything in them."""
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


class JsonText:
    """Mends raw control characters in strings, commas before a closing bracket, and WORDS. Valid JSON stays."""

    def __init__(self):
        self._in_string, self._is_escaped = False, False
        self._comma = ""
        """A comma whose next value is still to come, with the space behind it."""
        self._word = ""

    def push(self, text: str) -> str:
        """The mended text as far as it is certain."""
        return "".join(map(self._take, text))

    def finish(self) -> str:
        """What was held back, when the text ends."""
        held, self._comma = self._comma + self._word_done(), ""
        return held

    def _take(self, char: str) -> str:
        if self._in_string:
            return self._in_quotes(char)
        if char.isalnum() or char in "+-._":
            held, self._comma = self._comma, ""
            self._word += char
            return held
        before = self._word_done()
        if char == ",":
            held, self._comma = self._comma, char
            return before + held
        if self._comma and char.isspace():
            self._comma += char
            return before
        held, self._comma = self._comma, ""
        if char in "}]":
            held = held[1:]
        self._in_string = char == '"'
        return before + held + char

    def _in_quotes(self, char: str) -> str:
        was_escaped, self._is_escaped = self._is_escaped, char == "\\" and not self._is_escaped
        if char < " ":
            # Behind a backslash the rest of the escape is enough.
            return ESCAPES.get(char, f"\\u{ord(char):04x}")[int(was_escaped) :]
        self._in_string = was_escaped or char != '"'
        return char

    def _word_done(self) -> str:
        word, self._word = self._word, ""
        return WORDS.get(word, word)


def mended(text: str) -> str:
    """A whole text of JSON; nothing and null are an empty object, since arguments are one.

    >>> mended('{"a": [1, None,],}'), mended("null")
    ('{"a": [1, null]}', '{}')
    """
    work = JsonText()
    made = work.push(text) + work.finish()
    return EMPTY if made.strip() in NOTHING else made
