"""What of a request no model here can be shown: hosted tools, and what they left in a conversation.

Agents send them with every request and cannot be told not to, so they are left out, and said: in the header `X-Skipped`
of the answer, and once for each kind in the log.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from hyla.errors import RequestError
from hyla.server.schemas.tools import HostedTool

logger = logging.getLogger(__name__)

HEADER = "X-Skipped"
MOST_TOLD = 16
"""Entries in the header."""
MOST_LOGGED = 256
"""Kinds that the log tells; clients choose their names."""

_logged: set[str] = set()


@dataclass
class Skipped:
    """What was left out of one request."""

    entries: list[str] = field(default_factory=list)
    """Each as "place (kind)"."""
    tool_names: dict[str, str] = field(default_factory=dict)
    """Kinds of the tools that were left out, by name and, where they have none, by kind."""

    def tool(self, tool: HostedTool, where: str) -> None:
        """A tool that cannot be offered."""
        self.tool_names.setdefault(tool.name if isinstance(tool.name, str) else tool.type, tool.type)
        self.tool_names.setdefault(tool.type, tool.type)
        self._tell(where, tool.type, "tools of this type are not run here, and no model here is told of them")

    def part(self, where: str, kind: str) -> None:
        """Something in the conversation."""
        self._tell(where, kind, "no model here can read it")

    def check_choice(self, *names: str) -> None:
        """Raises RequestError where tool_choice names a tool that was left out."""
        for name in names:
            if name in self.tool_names:
                message = f"tool_choice names {name!r:.80}, a tool of type {self.tool_names[name]!r}, which this server"
                raise RequestError(
                    f"{message} cannot offer; name a function that you run, or give 'auto'", "tool_choice"
                )

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head says; nothing where nothing was left out."""
        if not self.entries:
            return {}
        more = len(self.entries) - MOST_TOLD
        told = self.entries[:MOST_TOLD] + ([f"and {more} more"] if more > 0 else [])
        return {HEADER: ", ".join(told)}

    def _tell(self, where: str, kind: str, reason: str) -> None:
        plain = re.sub(r"[^A-Za-z0-9_.:/-]", "?", kind[:64])  # it goes into a header
        self.entries.append(f"{where} ({plain})")
        what = f"{re.sub('[0-9]+', '', where)} of type {plain}"
        if what not in _logged and len(_logged) < MOST_LOGGED:
            _logged.add(what)
            logger.warning("requests hold %s, which is left out: %s", what, reason)
