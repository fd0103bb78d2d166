"""The tools of a run: what models are told of them, and their calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hyla.answers.tools import ToolUse
from hyla.rl.rewards.judgement import failed
from hyla.rl.tools.config import ToolsConfig
from hyla.rl.user_process import ProcessPool, UserProcess, file_job

WORKER = "hyla.rl.tools.worker"
ERROR = "error: "
"""What the model reads before the reason why a call failed."""


@dataclass
class Tool:
    """A function that a model may call."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
        """As OpenAI's API has it."""
        fields = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {name: value for name, value in fields.items() if value is not None or not exclude_none}


class Result(NamedTuple):
    """What a call gave."""

    text: str
    """For the model; of a call that failed, the reason behind `ERROR`."""
    is_error: bool


class Tools:
    """Makes calls in processes of their own; nothing that a tool does ends or blocks this one. A context manager:
    leaving it ends them. The file is read once.

    Raises ConfigError for a file that cannot be read or run, or has a function that cannot be a tool.
    """

    def __init__(self, config: ToolsConfig):
        self.config = config
        file = Path(config.file).absolute()
        called = f"tools {file}"
        job = file_job(file, called, config.memory_gib)
        self._pool = ProcessPool(lambda: UserProcess(WORKER, called, job, config.timeout_seconds), config.processes)
        told = self._pool.all[0].start()["tools"]
        self.use = ToolUse(tuple(Tool(**one) for one in told), "auto")

    def call(self, name: str, arguments: str) -> Result:
        """A call as the model wrote it; arguments: JSON text. Waits for an idle process; any thread may ask."""
        if name not in self.use.names:
            return _failed(f"there is no tool {name!r}; the tools are {', '.join(self.use.names)}")
        given = _object(arguments)
        if given is None:
            return _failed(f"the arguments of {name} are no JSON object: {arguments}")
        job = {"name": name, "arguments": given, "most_chars": self.config.result_chars}
        with self._pool.one() as process:
            reply = process.reply(job)
        if "problem" in reply:
            return _failed(reply["problem"])
        # Half a surrogate pair is no text that a tokenizer takes.
        text = reply["text"].encode("utf-8", "replace").decode()
        if reply["num_chars"] > len(text):
            text += f"\n[cut off: {reply['num_chars']} characters]"
        return Result(text, False)

    def close(self) -> None:
        """End what was started; using it again starts it again."""
        self._pool.close()

    def __enter__(self) -> Tools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _failed(problem: str) -> Result:
    return Result(f"{ERROR}{failed(problem).problem}", True)


def _object(text: str) -> dict[str, Any] | None:
    """The object that a call's arguments are; None for anything else. Nothing is an empty one."""
    try:
        value = json.loads(text) if text.strip() else None
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return {} if value is None else value if isinstance(value, dict) else None
