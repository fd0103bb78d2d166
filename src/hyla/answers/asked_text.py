"""What a schema asks of a string that stands as bare text: its lengths and patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyla.answers.call_shapes import count_of, refusal, short
from hyla.answers.patterns import Unsupported, whole
from hyla.answers.schemas import Branch
from hyla.answers.tools import FunctionTool

UNSAID = ("not", "if", "then", "else")
"""Keywords that the text of a string cannot be held to."""


@dataclass(frozen=True)
class AskedText:
    """What one alternative of a property asks of a string."""

    fewest: int
    most: int | None
    patterns: tuple[str, ...]

    def fits(self, value: str, tool: FunctionTool, name: str) -> bool:
        """Whether a listed value meets what stands beside the list. Raises RequestError where that cannot be told."""
        is_long = self.fewest <= len(value) and (self.most is None or len(value) <= self.most)
        try:
            return is_long and all(re.search(pattern, value) for pattern in self.patterns)
        except re.error as error:
            raise refusal(tool, f"a pattern beside values in the property {name!r} ({error})") from error

    def conditions(self, tool: FunctionTool, name: str) -> list[str]:
        """The same as regular expressions in Lark, all of which a text has to match. Raises RequestError for patterns
        that no grammar can follow."""
        try:
            expressions = [whole(pattern) for pattern in self.patterns]
        except Unsupported as error:
            raise refusal(tool, f"a pattern in the property {name!r} that no grammar can follow ({error})") from error
        made = [f"/{expression}/" for expression, _ in expressions]
        if not self.fewest and self.most is None:
            return made
        if not all(is_anchored for _, is_anchored in expressions):
            # The grammar's states would be one for each place of the pattern and each length.
            raise refusal(tool, f"a pattern without ^ and $ beside a length in the property {name!r}")
        return [*made, f"/(?s:.{{{self.fewest},{'' if self.most is None else self.most}}})/"]


def asked_of_text(tool: FunctionTool, name: str, branch: Branch) -> AskedText:
    """name: of the property. Raises RequestError for what a text cannot be held to."""
    word = next((word for part in branch for word in UNSAID if word in part), None)
    if word is not None:
        raise refusal(tool, f"{word!r} in the property {name!r}")
    fewest = [count for part in branch if (count := count_of(tool, part, "minLength")) is not None]
    most = [count for part in branch if (count := count_of(tool, part, "maxLength")) is not None]
    patterns = tuple(part["pattern"] for part in branch if "pattern" in part)
    wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
    if wrong:
        raise refusal(tool, f"a pattern that is none ({short(wrong[0])}) in the property {name!r}")
    return AskedText(max(fewest, default=0), min(most, default=None), patterns)
