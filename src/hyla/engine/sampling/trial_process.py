"""A process in which grammars are tried before the engine compiles them: whatever a grammar does to the compiler, it
does it here. Each trial is a fork of this process, with a limit on its time and memory. It imports little.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from hyla.limited_process.inside import reader, send
from hyla.limited_process.line import pack, receive

MEMORY = 1 << 30
"""Bytes that a trial may take more than this process has."""
STACK = 4 << 20
"""Bytes of stack, half of what a thread of the engine has: what nests too deep for those ends here."""
MOST_TEXT = 4_000
"""Characters of a compiler's message that are kept."""


def verdict(vocabulary, source: str, limits: dict[str, Any]) -> str:
    """What keeps a grammar from being used, in the compiler's words; "" when nothing does."""
    import llguidance

    bounds = llguidance.LLParserLimits(**limits, verbose_errors=False)
    matcher = llguidance.LLMatcher(vocabulary, source, log_level=0, limits=bounds)
    if not matcher.is_error():
        # The first step finds what is too much work.
        matcher.compute_bitmask()
    return matcher.get_error()


def tried(vocabulary, asked: dict[str, Any]) -> dict[str, Any]:
    """One trial, in a fork: {"said": the compiler's words, "seconds": of work, "signal": what ended it, if one did}."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(here)
            _limit(asked["seconds"])
            said = verdict(vocabulary, asked["source"], asked["limits"])
            with os.fdopen(there, "wb") as stream:
                stream.write(pack(said[:MOST_TEXT]))
        finally:
            os._exit(0)  # whatever happened, this is not the process to go on
    os.close(there)
    with os.fdopen(here, "rb") as stream:
        said = receive(stream.read)
    _, status, usage = os.wait4(child, 0)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0 if said is not None else signal.SIGABRT
    return {"said": said or "", "seconds": usage.ru_utime + usage.ru_stime, "signal": int(number)}


def _limit(seconds: float) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # the compiler's last words are of no use
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as numbers:
            held = int(numbers.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    # The time of this process, not of the clock: what a neighbour does refuses nothing.
    signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    import llguidance

    read = reader()
    made = receive(read)
    if made is None:
        return
    vocabulary = llguidance.LLTokenizer(made["tokenizer"], eos_token=made["end"])
    is_heard = send("ready")
    while is_heard and (asked := receive(read)) is not None:
        is_heard = send(tried(vocabulary, asked))
