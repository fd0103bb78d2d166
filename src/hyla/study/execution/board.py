"""What a driver and its workers say to each other on a Ray cluster: a few keys of the store that every cluster has.

Not an actor: that would be one process more, and the first to die where memory is short.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from hyla.study.execution.progress import Step


@dataclass(frozen=True)
class Board:
    """Sent to workers with their runs. prefix: of its keys, of this driver alone."""

    prefix: str

    def begin(self, name: str) -> None:
        """From a worker: it has a run now."""
        self._put(f"begun/{name}", "1")

    def look(self, name: str, step: Step | None) -> bool:
        """From a worker: where its run is (None: as before). Returns whether it should stop."""
        if step is not None:
            self._put(f"step/{name}", json.dumps(asdict(step)))
        return self._get("stop") is not None

    def take(self, name: str) -> Step | None:
        """To the driver: where a run was last; None: it has told nothing."""
        found = self._get(f"step/{name}")
        return None if found is None else Step(**json.loads(found))

    def has_begun(self, name: str) -> bool:
        """To the driver: whether a worker has a run."""
        return self._get(f"begun/{name}") is not None

    def stop(self) -> None:
        """All runs should stop."""
        self._put("stop", "1")

    def forget(self, name: str) -> None:
        """What a try of a run told, before the next one."""
        for kind in ("begun", "step"):
            self._delete(f"{kind}/{name}")

    def clear(self) -> None:
        """Take all of it away."""
        self._delete("", is_prefix=True)

    def _put(self, key: str, value: str) -> None:
        _store()._internal_kv_put(f"{self.prefix}/{key}", value, overwrite=True)

    def _get(self, key: str) -> bytes | None:
        return _store()._internal_kv_get(f"{self.prefix}/{key}")

    def _delete(self, key: str, is_prefix: bool = False) -> None:
        _store()._internal_kv_del(f"{self.prefix}/{key}", del_by_prefix=is_prefix)


def _store() -> Any:
    """The module of the cluster's store. It has no public name (Ray 2.60)."""
    return import_module("ray.experimental.internal_kv")
