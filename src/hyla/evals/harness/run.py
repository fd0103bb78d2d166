"""The harness's tasks in a folder of results: each request is kept as it is answered, and none is computed twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hyla.checkpoints import Tokenizer
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.harness.answers import Answer, Answers, Watcher
from hyla.evals.results import begin, model_record
from hyla.models.config import Config, Count
from hyla.train.files import append_lines, replace_json

FORMAT = 1
RESULTS_FILE = "results.json"
EXTRA = "lm-evaluation-harness is not installed; pip install 'hyla[evals]'"


class HarnessRequest(Config):
    """What is asked."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names, groups and tags of the harness, or of `include_path`."""
    include_path: str | None = None
    """Folder with tasks of one's own, as the harness reads them. They may name Python functions, which are run."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples before each question; None: as a task has it."""
    limit: Count | None = None
    """Questions of each task; None: all. For a quick look: a score of a few says little."""
    apply_chat_template: bool = False
    """Put questions into the model's chat template."""
    truncates: bool = False
    """Cut contexts that are too long off at their beginning, as the harness's other models do; else refuse them."""


@dataclass(frozen=True)
class Scored:
    """A metric of a task. values: of its questions, as far as they have one; spent: what all its questions took."""

    task: str
    metric: str
    value: float
    values: list[float]
    spent: list[Answer]


def plugin():
    """`hyla.evals.harness.plugin`. Raises ConfigError where the harness is not installed."""
    try:
        from hyla.evals.harness import plugin
    except ModuleNotFoundError as error:
        raise ConfigError(f"{EXTRA} ({error})") from error
    return plugin


def check_tasks(manager, tasks: Sequence[str]) -> None:
    """Raise ConfigError, with the closest names, for one that the harness does not have."""
    for name in tasks:
        if not manager.match_tasks([name]) and not Path(name).is_file():
            close = get_close_matches(name, manager.all_tasks, n=3, cutoff=0.5)
            advice = f"did you mean {', '.join(close)}?" if close else "`lm-eval ls tasks` lists them"
            raise ConfigError(f"there is no task {name!r}; {advice}")


def run(
    folder: Path, request: HarnessRequest, engine: Engine, tokenizer: Tokenizer, name: str, watcher: Watcher
) -> tuple[list[Scored], int]:
    """Ask and score; write answers.jsonl, samples_TASK.jsonl and results.json.

    Returns the scores, and how many contexts were cut off. Raises ConfigError for a misspelt task and for a folder with
    results of another request or model, RequestError for a context that is too long.
    """
    from importlib.metadata import version

    its = plugin()
    place = request.include_path
    manager = its.task_manager(None if place is None else Path(place), request.tasks)
    check_tasks(manager, request.tasks)
    record = {"format": FORMAT, "request": request.model_dump(mode="json"), "lm_eval": version("lm_eval")}
    begin(folder, record | model_record(engine.model))
    answers = Answers(engine, tokenizer, truncates=request.truncates, folder=folder, watcher=watcher)
    model = its.HylaLM(answers, name)
    found = its.evaluate(
        model,
        manager,
        manager.match_tasks([task for task in request.tasks if not Path(task).is_file()])
        + [task for task in request.tasks if Path(task).is_file()],
        num_fewshot=request.num_fewshot,
        limit=request.limit,
        apply_chat_template=request.apply_chat_template,
    )
    _write(folder, found)
    return scores(found, model.spent), answers.num_truncated


def _write(folder: Path, found: dict[str, Any]) -> None:
    samples = found.pop("samples")
    for task, own in samples.items():
        file = folder / f"samples_{task.replace('/', '__')}.jsonl"
        file.unlink(missing_ok=True)
        append_lines(file, (json.loads(json.dumps(sample, default=str)) for sample in own))
    replace_json(folder / RESULTS_FILE, json.loads(json.dumps(found, default=str)))
    found["samples"] = samples


def scores(found: dict[str, Any], spent: dict[str, list[Answer]]) -> list[Scored]:
    """A row for each task (groups too) and metric, in the harness's order."""
    rows = []
    for task, metrics in found["results"].items():
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            own = [line for line in found["samples"].get(task, ()) if line["filter"] == chosen]
            values = [float(line[metric]) for line in own if isinstance(line.get(metric), int | float)]
            label = metric if chosen == "none" else f"{metric} ({chosen})"
            rows.append(Scored(task, label, float(value), values, spent.get(task, [])))
    return rows
