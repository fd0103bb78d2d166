"""Tasks: JSON lines with a prompt or a conversation, and whatever the reward needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyla.checkpoints import Tokenizer
from hyla.data.epochs import EpochSteps
from hyla.data.records import are_messages
from hyla.errors import ConfigError, HylaError

KEYS = ("prompt", "messages")


@dataclass(frozen=True)
class Task:
    """One line of a file of tasks."""

    number: int
    """Of the line among those that are not empty, from 0."""
    prompt_ids: tuple[int, ...]
    row: dict
    """The whole line, for the reward."""


ChatIds = Callable[[list[dict]], Sequence[int]]
"""The prompt of a conversation."""


def read_tasks(file: Path, tokenizer: Tokenizer, chat_ids: ChatIds | None = None) -> list[Task]:
    """chat_ids: where the model is told of tools, which a template alone can do: then every task has `messages`.

    Raises ConfigError that names the line for one that is no task.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"tasks: {file} cannot be read: {error}") from None
    tasks = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            tasks.append(_task(line, f"{file}, line {number}", len(tasks), tokenizer, chat_ids))
    if not tasks:
        raise ConfigError(f"tasks: {file} has no task; give a JSON object with prompt or messages a line")
    return tasks


def _task(line: str, place: str, number: int, tokenizer: Tokenizer, chat_ids: ChatIds | None) -> Task:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not JSON: {error}") from None
    if not isinstance(row, dict) or sum(key in row for key in KEYS) != 1:
        raise ConfigError(f"{place}: a task has either prompt, a text, or messages, a conversation")
    try:
        ids = _ids(row, place, tokenizer, chat_ids)
    except HylaError as error:
        raise ConfigError(f"{place}: {error}") from None
    if not ids:
        raise ConfigError(f"{place}: the prompt has no token")
    return Task(number, tuple(ids), row)


def _ids(row: dict, place: str, tokenizer: Tokenizer, chat_ids: ChatIds | None) -> Sequence[int]:
    if "prompt" in row:
        if chat_ids is not None:
            raise ConfigError(f"{place}: with rl.rollout.tools a task is a conversation: give messages, not prompt")
        if not isinstance(row["prompt"], str):
            raise ConfigError(f"{place}: prompt must be a text")
        return tokenizer.encode(row["prompt"])
    messages = row["messages"]
    if not (messages and are_messages(messages)):
        raise ConfigError(f"{place}: messages must be a list of messages, each with a role and content")
    return tokenizer.encode_chat(messages, add_generation_prompt=True) if chat_ids is None else chat_ids(messages)


def round_tasks(num_tasks: int, per_round: int, seed: int) -> EpochSteps:
    """Which tasks each round has. Raises ConfigError for fewer tasks than one round has."""
    if num_tasks < per_round:
        raise ConfigError(f"{num_tasks} tasks are fewer than rl.rollout.tasks_per_round = {per_round}; lower it")
    return EpochSteps(num_tasks, per_round, seed)
