"""The process that makes calls: takes the file's text once, then one call after another. No PyTorch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial

from hyla.limited_process.user_file import loaded, serve, shown
from hyla.rl.tools.schemas import Unfit, described, tools_of


def main() -> None:
    """Take messages on standard input and answer on standard output, until the input ends."""
    functions: dict[str, Callable] = {}
    serve(partial(_load, functions), partial(_call, functions))


def _load(functions: dict[str, Callable], start: dict) -> dict:
    module = loaded(start["file"], start["source"])
    if isinstance(module, str):
        return {"problem": module}
    functions.update(tools_of(module))
    if not functions:
        return {"problem": "the file has no function; write some whose names do not begin with _"}
    try:
        return {"tools": [described(name, function) for name, function in functions.items()]}
    except Unfit as error:
        return {"problem": str(error)}


def _call(functions: dict[str, Callable], job: dict) -> dict:
    function = functions[job["name"]]
    try:
        bound = inspect.signature(function).bind(**job["arguments"])
    except TypeError as error:
        return {"problem": f"it cannot be called so: {error}"}
    value = function(*bound.args, **bound.kwargs)
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return {"problem": f"returned {shown(value)}, which is no text and no JSON"}
    return {"text": text[: job["most_chars"]], "num_chars": len(text)}
