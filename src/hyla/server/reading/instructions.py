"""Messages of the system and of the developer, in the form that a model's chat template takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyla.checkpoints.chat_template import ChatTemplate

ROLES = ("system", "developer")
MOST_ROLES = 4
"""Messages to try a template with; what is true of so many is taken to be true of more."""


def arranged(messages: Sequence[Mapping[str, Any]], template: ChatTemplate) -> list[dict[str, Any]]:
    """The messages with `developer` kept where the template knows it, and `system` in its place where not; those at the
    beginning are one where the template would refuse or leave out some of them."""
    knows = template.knows_role("developer")
    made = [{**one, "role": "system"} if one.get("role") == "developer" and not knows else {**one} for one in messages]
    size = next((n for n, one in enumerate(made) if one.get("role") not in ROLES), len(made))
    roles = tuple(str(one["role"]) for one in made[:size])
    if size < 2 or template.shows(roles[:MOST_ROLES]):
        return made
    first = next((role for role in (roles[0], "system") if template.shows((role,))), None)
    if first is None:  # the template refuses one, too, and says why
        return made
    texts = [one["content"] for one in made[:size] if one.get("content")]
    return [{**made[0], "role": first, "content": "\n\n".join(texts)}, *made[size:]]
