"""A file of the user's in a process that may hang, crash and be started again: rewards and tools."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from hyla.errors import ConfigError
from hyla.limited_process.outside import KEPT_VARIABLES, Ended, LimitedProcess, TooLong, kept_variables
from hyla.rl.rewards.judgement import failed
from hyla.whole_files import read_whole

START_SECONDS = 120.0
"""How long its process, with all that its file imports, may take to be there."""
MOST_SOURCE_BYTES = 16 << 20
MOST_REPLY_BYTES = 1 << 20
SEEN_VARIABLES = (*KEPT_VARIABLES, "HOME", "LANG", "LC_ALL", "TMPDIR")
"""The environment that it gets: no keys, no tokens."""


class UserProcess:
    """Has a worker do jobs with a file, one at a time.

    worker: a module whose `main` is a `limited_process.user_file.serve`. called: the file's name in errors. job: what
    the worker is told first: `file`, `source`, `memory_bytes` and what is its own. seconds: of one job.
    """

    def __init__(self, worker: str, called: str, job: dict, seconds: float):
        self._worker, self._called, self._job, self._seconds = worker, called, job, seconds
        self._lives: list[LimitedProcess] = []
        """None or one."""
        weakref.finalize(self, _end_all, self._lives)

    def reply(self, job: dict) -> dict:
        """The worker's answer; with `problem` where it failed, did not come in time, or its process ended."""
        try:
            self.start()
        except ConfigError as error:  # it could be started before
            return {"problem": str(error)}
        try:
            return self._asked(job, self._seconds)
        except TooLong:
            return {"problem": f"took longer than {self._seconds:g} s"}
        except Ended as error:
            return {"problem": f"its process ended with {error.code}"}

    def start(self) -> dict:
        """Have the file wait for jobs; what the worker says of it, nothing where it waits already. Raises
        ConfigError."""
        if self._lives and self._lives[0].is_usable:
            return {}
        self.close()
        # Without chance in it, a set has the same order in every process.
        variables = {**kept_variables(SEEN_VARIABLES), "PYTHONHASHSEED": "0"}
        try:
            self._lives.append(LimitedProcess(self._worker, variables=variables))
            reply = self._asked(self._job, START_SECONDS)
        except OSError as error:
            raise self._wrong(f"its process cannot be started ({error}); free some memory or processes") from error
        except TooLong as error:
            raise self._wrong(f"the file runs longer than {START_SECONDS:g} s; move the work into functions") from error
        except Ended as error:
            raise self._wrong(f"the file ends its process with {error.code}; let it do less at import") from error
        if "problem" in reply:
            self.close()
            raise self._wrong(reply["problem"])
        return reply

    def close(self) -> None:
        _end_all(self._lives)

    def _asked(self, job: dict, seconds: float) -> dict:
        try:
            return self._lives[0].ask({**job, "seconds": seconds}, seconds=seconds, most_bytes=MOST_REPLY_BYTES)
        except BaseException:  # even of Ctrl-C: an answer that comes later is nobody's
            self.close()
            raise

    def _wrong(self, what: str) -> ConfigError:
        return wrong_file(self._called, what)


Process = TypeVar("Process", bound=UserProcess)


class ProcessPool(Generic[Process]):
    """Several of a kind; any thread may borrow one."""

    def __init__(self, make: Callable[[], Process], count: int):
        self.all = [make() for _ in range(count)]
        self._idle: SimpleQueue[Process] = SimpleQueue()
        for one in self.all:
            self._idle.put(one)

    @contextmanager
    def one(self) -> Iterator[Process]:
        """One that nobody else has meanwhile; waits until there is one."""
        process = self._idle.get()
        try:
            yield process
        finally:
            self._idle.put(process)

    def close(self) -> None:
        for one in self.all:
            one.close()


def file_job(file: Path, called: str, memory_gib: float) -> dict[str, Any]:
    """What every worker is told of a file, which is read here. Raises ConfigError where it cannot be."""
    try:
        source = read_whole(file, MOST_SOURCE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise wrong_file(called, f"the file cannot be read: {error.strerror}; correct its path") from error
    except UnicodeDecodeError as error:
        raise wrong_file(called, f"the file is not UTF-8 ({error}); save it as that") from error
    return {"file": str(file), "source": source, "memory_bytes": int(memory_gib * 2**30)}


def wrong_file(called: str, what: str) -> ConfigError:
    return ConfigError(f"{called}: {failed(what).problem}")


def _end_all(lives: list[LimitedProcess]) -> None:
    while lives:
        lives.pop().end()
