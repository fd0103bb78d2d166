"""What a pool wants done to its tensors, as plain data: it plans, and whoever holds tensors carries it out.

Bookkeeping says who has which page, slot and snapshot; it touches no tensor. What the tensors need for it is written
down as commands and carried out together before they are read next (`caches.tensors`): by this process, or by each rank
of a model that is spread over several, which gets the same list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Verb = Literal["zero_pages", "zero_slots", "copy_pages", "copy_slots", "save", "load"]

Unit = tuple[str, int | None, int]
"""("page", window, number), ("slot", None, number) or ("snapshot", None, number)."""


@dataclass(frozen=True)
class Command:
    """One verb on some units. The items do not depend on each other.

    zero_pages (page,) · zero_slots (slot,) · copy_pages (source, target) · copy_slots (source, target)
    save (slot, snapshot): the slot's anchors and tails, as they are after the last multiple of 64 tokens
    load (snapshot, slot, length): into a zeroed slot, what it was after `length` tokens
    """

    verb: Verb
    items: tuple[tuple[int, ...], ...]
    window: int | None = None
    """The window of the layers whose pages are meant (None: those that see everything)."""

    @property
    def reads(self) -> frozenset[Unit]:
        """Units whose content it needs."""
        kind = {"copy_pages": "page", "copy_slots": "slot", "save": "slot", "load": "snapshot"}.get(self.verb)
        return frozenset() if kind is None else self._units(kind, 0)

    @property
    def writes(self) -> frozenset[Unit]:
        """Units whose content it changes."""
        if self.verb == "save":
            return self._units("snapshot", 1)
        kind = "page" if self.verb.endswith("pages") else "slot"
        return self._units(kind, 0 if self.verb.startswith("zero") else 1)

    def _units(self, kind: str, place: int) -> frozenset[Unit]:
        return frozenset((kind, self.window if kind == "page" else None, item[place]) for item in self.items)

    def single(self) -> list[Command]:
        """The same, one item each."""
        return [replace(self, items=(item,)) for item in self.items]


def batched(commands: Iterable[Command]) -> list[Command]:
    """The same work in as few commands as keep its order: one joins an earlier one of its kind unless something that
    it depends on, or that depends on what it replaces, stands between.

    >>> for command in batched([Command("zero_slots", ((1,),)), Command("load", ((5, 1, 64),)),
    ...                         Command("zero_slots", ((2,),)), Command("load", ((5, 2, 64),))]):
    ...     print(command.verb, command.items)
    zero_slots ((1,), (2,))
    load ((5, 1, 64), (5, 2, 64))
    """
    groups: list[Command] = []
    for command in commands:
        for place in range(len(groups) - 1, -1, -1):
            group = groups[place]
            if _depend(group, command):
                groups.append(command)
                break
            if (group.verb, group.window) == (command.verb, command.window):
                groups[place] = replace(group, items=group.items + command.items)
                break
        else:
            groups.append(command)
    return groups


def _depend(first: Command, second: Command) -> bool:
    """Whether changing places would change the result."""
    return bool(first.writes & (second.reads | second.writes) or first.reads & second.writes)
