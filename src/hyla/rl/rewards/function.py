"""A reward function of the user's, called in processes that may hang, crash and be started again."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from hyla.errors import ConfigError
from hyla.limited_process.outside import KEPT_VARIABLES, Ended, LimitedProcess, TooLong, kept_variables
from hyla.rl.rewards.judgement import Judgement, failed, judged
from hyla.whole_files import read_whole

WORKER = "hyla.rl.rewards.worker"
START_SECONDS = 120.0
"""How long its process, with all that its file imports, may take to be there."""
MOST_SOURCE_BYTES = 16 << 20
MOST_REPLY_BYTES = 1 << 20
SEEN_VARIABLES = (*KEPT_VARIABLES, "HOME", "LANG", "LC_ALL", "TMPDIR")
"""The environment that it gets: no keys, no tokens."""


class FunctionRewards:
    """function: FILE.py:NAME; the file is read once. timeout_seconds: of one sample. processes: how many call it at
    once. memory_gib: address space of each.

    Raises ConfigError for a file that cannot be read or run, and a name that is no such function.
    """

    def __init__(self, function: str, *, timeout_seconds: float = 10.0, processes: int = 1, memory_gib: float = 8.0):
        file, _, name = function.rpartition(":")
        place = Path(file).absolute()
        job = {"file": str(place), "name": name, "source": _read(place, name), "memory_bytes": int(memory_gib * 2**30)}
        self._callers = [Caller(job, timeout_seconds) for _ in range(processes)]
        self._callers[0].start()

    def of(self, items: Sequence[tuple[str, dict]]) -> list[Judgement]:
        """See `Rewards.of`."""
        if len(self._callers) == 1:
            return [self._callers[0].call(answer, row) for answer, row in items]
        idle: SimpleQueue[Caller] = SimpleQueue()
        for caller in self._callers:
            idle.put(caller)

        def judge(item: tuple[str, dict]) -> Judgement:
            caller = idle.get()
            try:
                return caller.call(*item)
            finally:
                idle.put(caller)

        with ThreadPoolExecutor(len(self._callers)) as pool:
            return list(pool.map(judge, items))

    def close(self) -> None:
        for caller in self._callers:
            caller.close()


class Caller:
    """Calls the function, one sample at a time. job: what the worker is told first."""

    def __init__(self, job: dict, seconds: float):
        self._job, self._seconds = job, seconds
        self._lives: list[LimitedProcess] = []
        """None or one."""
        weakref.finalize(self, _end_all, self._lives)

    def call(self, answer: str, row: dict) -> Judgement:
        try:
            self.start()
        except ConfigError as error:  # it could be started before
            return failed(str(error))
        try:
            reply = self._asked({"answer": answer, "row": row}, self._seconds)
        except TooLong:
            return failed(f"took longer than {self._seconds:g} s")
        except Ended as error:
            return failed(f"its process ended with {error.code}")
        return judged(reply["reward"]) if "reward" in reply else failed(reply["problem"])

    def start(self) -> None:
        """Have the function wait to be called. Raises ConfigError."""
        if self._lives and self._lives[0].is_usable:
            return
        self.close()
        # Without chance in it, a set has the same order in every process.
        variables = {**kept_variables(SEEN_VARIABLES), "PYTHONHASHSEED": "0"}
        try:
            self._lives.append(LimitedProcess(WORKER, variables=variables))
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

    def close(self) -> None:
        _end_all(self._lives)

    def _asked(self, job: dict, seconds: float) -> dict:
        try:
            return self._lives[0].ask({**job, "seconds": seconds}, seconds=seconds, most_bytes=MOST_REPLY_BYTES)
        except BaseException:  # even of Ctrl-C: an answer that comes later is nobody's
            self.close()
            raise

    def _wrong(self, what: str) -> ConfigError:
        return _wrong(self._job["file"], self._job["name"], what)


def _read(file: Path, name: str) -> str:
    try:
        return read_whole(file, MOST_SOURCE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise _wrong(file, name, f"the file cannot be read: {error.strerror}; correct its path") from error
    except UnicodeDecodeError as error:
        raise _wrong(file, name, f"the file is not UTF-8 ({error}); save it as that") from error


def _wrong(file: Path | str, name: str, what: str) -> ConfigError:
    return ConfigError(f"reward function {file}:{name}: {failed(what).problem}")


def _end_all(lives: list[LimitedProcess]) -> None:
    while lives:
        lives.pop().end()
