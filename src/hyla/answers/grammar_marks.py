"""Comments in the grammars that are made here, which say whose a rule is: an error in it can then name that."""

from __future__ import annotations

import json

MARK = "// of "


def owner_line(name: str) -> str:
    """The comment before a rule."""
    return MARK + json.dumps(name)


def owner_at(text: str, line: int) -> str | None:
    """Whose the rule in a line (from 1) is; None where nothing says so.

    >>> owner_at('start: a\\n// of "paint"\\na: /x/', 3)
    'paint'
    """
    before = text.splitlines()[line - 2 : line - 1] if line > 1 else []
    try:
        return json.loads(before[0].removeprefix(MARK)) if before and before[0].startswith(MARK) else None
    except ValueError:
        return None
