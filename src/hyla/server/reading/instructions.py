"""Messages of the system and of the developer, in the form that a model's chat template takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hyla.checkpoints.chat_template import ChatTemplate

ROLES = ("system", "developer")
MOST_ROLES = 4
"""Messages to try a template with; what is true of so many is taken to be true of more."""
BILLING = re.compile(r"x-anthropic-billing-header:[^\n]*\n*")
"""Claude Code's first line: for its makers' bills, and other in every session and version, so that no two prompts would
begin alike. Models are not shown it."""


def arranged(messages: Sequence[Mapping[str, Any]], template: ChatTemplate) -> list[dict[str, Any]]:
    """The messages with `developer` kept where the template knows it, and `system` in its place where not; those at the
    beginning are one where the template would refuse or leave out some of them, and later ones are the user's where it
    would refuse or leave out one after a user's."""
    knows = template.knows_role("developer")
    made = [{**one, "role": "system"} if one.get("role") == "developer" and not knows else {**one} for one in messages]
    size = next((n for n, one in enumerate(made) if one.get("role") not in ROLES), len(made))
    later = {role: role if template.shows(("user", role)) else "user" for role in ROLES}
    rest = [{**one, "role": later.get(str(one.get("role")), one.get("role"))} for one in made[size:]]
    return _leading(_without_bill(made[:size]), template) + rest


def _leading(made: list[dict[str, Any]], template: ChatTemplate) -> list[dict[str, Any]]:
    """The messages at the beginning, as the template takes them."""
    roles = tuple(str(one["role"]) for one in made)
    if len(made) < 2 or template.shows(roles[:MOST_ROLES]):
        return made
    first = next((role for role in (roles[0], "system") if template.shows((role,))), None)
    if first is None:  # the template refuses one, too, and says why
        return made
    texts = [one["content"] for one in made if one.get("content")]
    return [{**made[0], "role": first, "content": "\n\n".join(texts)}]


def _without_bill(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without a billing line at their beginning."""
    content = made[0].get("content") if made else None
    if not isinstance(content, str) or not BILLING.match(content):
        return made
    left = BILLING.sub("", content, count=1)
    return [{**made[0], "content": left}, *made[1:]] if left else made[1:]
