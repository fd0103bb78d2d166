"""Runs that Ray carries out: in processes on this machine, or on the machines of a cluster.

A run is one task. Only the driver writes results; a worker of another machine needs none of its disks.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hyla.errors import ConfigError
from hyla.study.execution.attempt import attempt, in_a_line
from hyla.study.execution.board import Board
from hyla.study.execution.progress import Step
from hyla.study.execution.protocol import Ending, OnStep, Try
from hyla.user_cache import cache_folder

WAIT_SECONDS = 0.5
PROBE_SECONDS = 5.0
STORE_BYTES = 100 << 20
"""Of Ray's shared memory: results are small."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""No usage reports; and Ray leaves variables of accelerators alone, as it will in later versions."""


@dataclass(frozen=True)
class Sent:
    """What a task is given. one: the pickled try. home: the driver's node, whose disk has its work folder."""

    execute: str
    one: bytes
    threads: int
    home: str


def carry_out(sent: Sent, board: Board) -> Ending:
    """The task. Its process may have had others before."""
    from hyla.engine.waiting_threads import load_torch

    os.environ["OMP_NUM_THREADS"] = str(sent.threads)
    load_torch()
    from hyla.engine.threads import use_threads
    from hyla.ops.host_memory import keep_freed_memory

    use_threads(sent.threads)
    keep_freed_memory()
    one: Try = pickle.loads(sent.one)  # not before PyTorch is loaded in this way
    is_at_home = _ray().get_runtime_context().get_node_id() == sent.home
    if not is_at_home:
        one = replace(one, work=cache_folder() / "study" / one.job.name)
    board.begin(one.job.name)
    try:
        ending = attempt(sent.execute, one, partial(board.look, one.job.name))
    except KeyboardInterrupt:  # Ray's way to cancel
        return Ending("stopped")
    if ending.kind == "finished" and not is_at_home:
        shutil.rmtree(one.work, ignore_errors=True)
    return ending


class RayPool:
    """A pool of `workers` tasks at once with `threads` processors each."""

    def __init__(self, execute: str, workers: int, threads: int, address: str | None):
        """address: of a cluster, "host:port"; None: this machine. Raises ConfigError where Ray is missing, where nobody
        answers at the address, and where no machine there has so many processors."""
        require_ray()
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        ray = _ray()
        self._ray, self._execute, self._workers, self._threads = ray, execute, workers, threads
        connect(workers * threads, address)
        self._is_cluster = address is not None
        self._running: dict[Any, Try] = {}
        self._seen: dict[str, Step | None] = {}
        self._board = Board(f"hyla/{uuid.uuid4().hex}")
        try:
            self._check_processors(address)
            self._home = ray.get_runtime_context().get_node_id()
            # Tries are counted by the driver: Ray itself repeats none.
            self._task = ray.remote(carry_out).options(num_cpus=threads, max_retries=0)
        except BaseException:
            self.close()
            raise

    def _check_processors(self, address: str | None) -> None:
        most = max(node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"])
        if most < self._threads:
            raise ConfigError(
                f"threads = {self._threads}, but no machine of the cluster at {address} has more than {most:.0f} "
                "processors for Ray; lower threads"
            )

    @property
    def num_free(self) -> int:
        return self._workers - len(self._running)

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def start(self, one: Try) -> None:
        self._board.forget(one.job.name)
        self._seen.pop(one.job.name, None)
        sent = Sent(self._execute, pickle.dumps(one), self._threads, self._home)
        self._running[self._task.remote(sent, self._board)] = one

    def wait(self, on_step: OnStep, is_stopped: Callable[[], bool]) -> list[tuple[str, Ending]]:
        """As `Pool.wait`, for half a second at most."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=WAIT_SECONDS)
        steps = {one.job.name: self._board.take(one.job.name) for one in self._running.values()}
        for name, step in steps.items():
            if step is not None and step != self._seen.get(name):
                on_step(name, step)
        self._seen = steps
        if is_stopped():
            self._stop()
        return [(self._running.pop(task).job.name, self._ending(task)) for task in ready]

    def _stop(self) -> None:
        """Ask all to stop. Those that wait for a processor would wait on: they are taken back."""
        self._board.stop()
        for task, one in self._running.items():
            if not self._board.has_begun(one.job.name):
                self._ray.cancel(task)

    def _ending(self, task: Any) -> Ending:
        exceptions = self._ray.exceptions
        deaths = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)
        try:
            ending: Ending = self._ray.get(task)
            # Another machine of a cluster may have what this one lacks: the text, for instance.
            return replace(ending, is_final=False) if self._is_cluster else ending
        except deaths as error:
            return Ending("failed", error=in_a_line(error), trace=str(error), died=True)
        except exceptions.TaskCancelledError:
            return Ending("stopped")
        except exceptions.RayError as error:
            return Ending("failed", error=in_a_line(error), trace=str(error))

    def close(self) -> None:
        """End what still runs; on this machine Ray's processes, too."""
        with suppress(self._ray.exceptions.RayError):  # of a cluster that is gone
            for task in self._running:
                self._ray.cancel(task, force=True)
            self._board.clear()
        self._ray.shutdown()


def _ray() -> Any:
    """The library; who does not need it does not load it."""
    return import_module("ray")


def require_ray() -> None:
    """Raise ConfigError where it is not installed."""
    if find_spec("ray") is None:
        raise ConfigError(
            "several workers, or a cluster, need Ray, which is not installed; run: pip install 'hyla[study]', or "
            "choose workers = 1 and no address"
        )


def connect(processors: int, address: str | None) -> None:
    """Start Ray here for this process alone, or join the cluster at an address. Raises ConfigError."""
    if address is not None:
        probe(address)
    asked: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": "error"}
    if address is None:
        asked |= {"num_cpus": processors, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        _ray().init(**asked)
    except (Exception, SystemExit) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise ConfigError(f"Ray cannot be used {where}: {in_a_line(error)}") from error


def probe(address: str) -> None:
    """Raise ConfigError where nobody listens: Ray itself asks for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(
            f"address = {address!r} is none; give host:port, as `ray start --head` prints it, on one of its machines"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nobody answers at address = {address!r} ({error}); start a cluster there with `ray start --head`, or "
            "leave the address out"
        ) from None
