"""What an answer says of a number that was asked for."""

from __future__ import annotations

import re
from typing import Literal

from hyla.evals.multi_turn.script import Question

Said = Literal["right", "outdated", "other", "several", "none"]
"""The number; one that was right before; one of somebody else; more than one of the conversation's; none of them."""
OUTCOMES: tuple[Said, ...] = ("right", "outdated", "other", "several", "none")

NUMBER = re.compile(r"\d+(?:,\d{3})*")


def said(answer: str, question: Question) -> Said:
    """Right: of all numbers that were said in the conversation so far, the wanted one alone stands in the answer, with
    or without a comma for thousands. Numbers that nobody has said do not count."""
    found = {text.replace(",", "") for text in NUMBER.findall(answer)} & {*question.numbers}
    if len(found) != 1:
        return "several" if found else "none"
    (number,) = found
    if number == question.wanted:
        return "right"
    return "outdated" if number in question.outdated else "other"
