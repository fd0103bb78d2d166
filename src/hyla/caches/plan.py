"""Commands between being planned and being carried out, and what could not be."""

from __future__ import annotations

from collections import deque

from hyla.caches.commands import Command, Unit, batched
from hyla.caches.sequence import Sequence
from hyla.caches.tensors import PoolTensors


class Plan:
    """Commands for some tensors, in order.

    None is lost and none done twice with another result: one that is interrupted stays and is repeated whole. One that
    fails is tried again item by item; what fails then is remembered for the units that it was for, and concerns nobody
    else.
    """

    def __init__(self, tensors: PoolTensors):
        self.tensors = tensors
        self._commands: deque[Command] = deque()
        self._broken: dict[Unit, Exception] = {}
        """Units whose content is not what was planned, and why, until another content was planned and is there."""

    def add(self, command: Command) -> None:
        self._commands.append(command)

    def clear(self) -> None:
        """Forget everything: nobody has a unit any more."""
        self._commands.clear()
        self._broken.clear()

    def carry_out(self) -> None:
        """Do what was planned, in as few calls as keep its order."""
        if len(self._commands) > 1:
            self._commands = deque(batched(self._commands))
        while self._commands:
            self._do(self._commands[0])
            self._commands.popleft()

    def _do(self, command: Command) -> None:
        error = self._try(command)
        if error is None:
            return
        if len(command.items) > 1:
            for single in command.single():
                self._do(single)
        else:
            self._broken |= dict.fromkeys(command.writes, error)

    def _try(self, command: Command) -> Exception | None:
        """Why it cannot be done; None when it is."""
        # A load fills only a part of its slot; the rest must be zero.
        needed = command.reads | command.writes if command.verb == "load" else command.reads
        if broken := needed & self._broken.keys():
            return self._broken[min(broken, key=str)]
        try:
            self.tensors.apply(command)
        except Exception as error:
            return error
        for unit in command.writes & self._broken.keys():
            del self._broken[unit]
        return None

    def failure_of(self, sequence: Sequence) -> Exception | None:
        """Why what a sequence has in the tensors is not what it should be."""
        if not self._broken:
            return None
        slots = [sequence.slot] + ([sequence.backup.slot] if sequence.backup is not None else [])
        units: list[Unit] = [("slot", None, slot) for slot in slots]
        units += [("page", window, page) for window, table in sequence.tables.items() for page in table]
        return next((self._broken[unit] for unit in units if unit in self._broken), None)

    def failure_of_snapshot(self, unit: int) -> Exception | None:
        """Why a snapshot is not what it should be."""
        return self._broken.get(("snapshot", None, unit))
