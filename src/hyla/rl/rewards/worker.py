"""The process that runs a reward function: takes the file's text once, then one sample after another. No PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from hyla.limited_process.user_file import loaded, serve, shown

CONVERSATION = "messages"
"""Name of a third parameter, of a function that wants the whole conversation."""


def main() -> None:
    """Take messages on standard input and answer on standard output, until the input ends."""
    found: list[Callable] = []
    serve(partial(_load, found), lambda job: _call(found[0], job))


def _load(found: list[Callable], start: dict) -> dict:
    name = start["name"]
    module = loaded(start["file"], start["source"])
    if isinstance(module, str):
        return {"problem": module}
    function = module.__dict__.get(name)
    if function is None:
        others = ", ".join(key for key, value in module.__dict__.items() if inspect.isfunction(value)) or "none"
        return {"problem": f"the file has no {name}; its functions: {others}"}
    if problem := _misfit(function):
        return {"problem": f"{problem}; write it as def {name}(answer, row), returning a number"}
    found.append(function)
    return {}


def _wants_messages(function: Any) -> bool:
    try:
        return CONVERSATION in inspect.signature(function).parameters
    except ValueError:  # some callables cannot tell
        return False


def _misfit(function: Any) -> str | None:
    if not callable(function):
        return f"it is {shown(function)}, no function"
    if inspect.iscoroutinefunction(function):
        return "it is asynchronous"
    more = {CONVERSATION: []} if _wants_messages(function) else {}
    try:
        inspect.signature(function).bind("", {}, **more)
    except TypeError as error:
        return f"it cannot be called with an answer and a row ({error})"
    except ValueError:
        return None
    return None


def _call(function: Callable, job: dict) -> dict:
    more = {CONVERSATION: job[CONVERSATION]} if _wants_messages(function) else {}
    value = function(job["answer"], job["row"], **more)
    if not hasattr(type(value), "__float__") and not hasattr(type(value), "__index__"):
        return {"problem": f"returned {shown(value)}, not a number"}
    try:
        return {"reward": float(value)}
    except OverflowError:
        return {"problem": "returned a number beyond what a float holds"}
    except (TypeError, ValueError):
        return {"problem": f"returned {shown(value)}, not a number"}
