"""What writes a conversation as a prompt: a checkpoint's own template, or a format that is known by its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class ChatFormat(Protocol):
    """From messages to the text of a prompt."""

    @property
    def source(self) -> str:
        """A text that shows how answers look: calls of tools, and reasoning."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """What is saved with the model, by name."""
        ...

    def start(self) -> None:
        """Be ready for the first conversation. Raises CheckpointError for what can never be used."""
        ...

    def knows_role(self, role: str) -> bool:
        """Whether messages of a role that is not every model's may be given."""
        ...

    def shows(self, roles: tuple[str, ...]) -> bool:
        """Whether each message of a conversation that begins with these roles is shown."""
        ...

    def render(self, messages: list[dict], /, **names: Any) -> str:
        """The prompt text of a conversation. Raises RequestError for messages that cannot be shown."""
        ...
