"""Text of models, files and clients on its way to a terminal or a log, where characters can command. No PyTorch.

A name that holds an escape sequence could move the cursor, write to the clipboard or hide a line; an override of the
writing direction shows one text and means another.
"""

from __future__ import annotations

import re

COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters (C0, C1), separators that end lines, and overrides of the writing direction."""
MOST_CHARACTERS = 4000
"""Of an error: what a file says in it may be megabytes."""


def printable(text: str) -> str:
    """The text without characters that command; line ends and tabs stay. For what a model writes.

    >>> printable("a\\x1b[2Jb\\n")
    'a[2Jb\\n'
    """
    return COMMANDS.sub(lambda found: found[0] if found[0] in "\n\t" else "", text)


def escaped(text: str, keep: str = "\n\t") -> str:
    """The text with characters that command written out, all but those in `keep`. For names, values and messages.

    >>> escaped("a\\x1b[2J\\u202eb\\n"), escaped("a\\nb", keep="")
    ('a\\\\x1b[2J\\\\u202eb\\n', 'a\\\\nb')
    """
    return COMMANDS.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text, or its beginning and end with how much is between them.

    >>> shortened("a" * 50, most=20)
    'aaaaaaaaaa ... 30 characters ... aaaaaaaaaa'
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {len(text) - most // 2 * 2} characters ... {text[-(most // 2) :]}"
