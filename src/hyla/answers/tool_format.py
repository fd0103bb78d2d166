"""What a format of tool calls declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyla.answers.early_calls import Section
from hyla.answers.grammar import Marker
from hyla.answers.protocol import Parser
from hyla.answers.tools import ToolUse


@dataclass(frozen=True)
class ToolFormat:
    """One format: how to know it, read it and require it."""

    name: str
    families: tuple[str, ...]
    """Values of config.json's model_type whose models use it."""
    signs: tuple[str, ...]
    """A chat template with all of these texts asks for it, ..."""
    make: Callable[[ToolUse], Parser]
    """A parser for one answer."""
    grammar: Callable[[ToolUse, Marker], str]
    """Lark text of an answer that is one call or several; its first rule is `start`."""
    markers: tuple[str, ...]
    """What the parser needs to see, also where it is a special token."""
    unlike: tuple[str, ...] = ()
    """... unless it has one of these."""
    sections: tuple[Section, ...] = ()
    """What stands around calls, for those that come before the reasoning is closed."""

    def is_in(self, template: str) -> bool:
        return all(sign in template for sign in self.signs) and not any(sign in template for sign in self.unlike)
