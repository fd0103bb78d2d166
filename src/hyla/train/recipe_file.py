"""A recipe: the TOML file that says what a run trains, on what, and how.

    [model]     one of hybrid, stack, family, start_from     (train.model_source)
    [data]      texts or stores                              (train.run_data)
    [dpo]       pairs of answers, in the place of data       (train.preferences)
    [lora]      an adapter beside a trained model            (adapters.config)
    [rl]        tasks and rewards, in the place of data      (rl.config, read by `hyla rl`)
    [train]     steps, rates, precision, memory, ...         (train.config)

Relative paths are meant from the recipe's own folder, those of `--set` from where the command is given.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hyla.errors import ConfigError
from hyla.models.config import Config
from hyla.toml_files import read_tables
from hyla.train.run import RunRequest

Request = TypeVar("Request", bound=Config)


def read_recipe(path: Path, settings: Sequence[str] = (), kind: type[Request] = RunRequest) -> Request:
    """The request of a recipe. settings: "train.steps=100" and the like, which win over the file. kind: of request.

    Raises ConfigError that names the file, the key and what is wrong with it.
    """
    tables = read_tables(path)
    _absolute_paths(tables, path.absolute().parent)
    return request_of(with_settings(tables, settings, _absolute_paths), str(path), kind)


def with_settings(
    tables: dict, settings: Sequence[str], made_absolute: Callable[[dict, Path], None] = lambda tables, folder: None
) -> dict:
    """Tables of a file, and settings over them. made_absolute: of paths in settings, which are meant from here."""
    given: dict[str, Any] = {}
    for setting in settings:
        _set(given, setting)
    made_absolute(given, Path.cwd())
    return _merged(tables, given)


def request_of(tables: dict, place: str, kind: type[Request] = RunRequest) -> Request:
    """Validated. place: how errors call it."""
    if "rl" in tables and "rl" not in kind.model_fields:
        raise ConfigError(
            f"{place} has the table rl, which `hyla rl` reads: give it to that verb, or take the table out"
        )
    try:
        return kind(**tables)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _set(tables: dict, setting: str) -> None:
    """Put "a.b=value" into nested tables; the value is TOML, or else a text."""
    key, equals, text = setting.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {setting!r} is not of the form table.key=value, e.g. train.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for name in names[:-1]:
        tables = tables.setdefault(name, {})
        if not isinstance(tables, dict):
            raise ConfigError(f"--set {setting!r}: {name} has a value already")
    tables[names[-1]] = value


def _merged(below: Any, above: Any) -> Any:
    """Tables of both, key by key; what is no table is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: _merged(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}


def _absolute_paths(tables: dict, folder: Path) -> None:
    """Make the paths of a recipe absolute, in place. A start_from that is no path there is a name."""
    data, model, dpo = tables.get("data"), tables.get("model"), tables.get("dpo")
    if isinstance(dpo, dict) and isinstance(dpo.get("pairs"), str):
        dpo["pairs"] = str(folder / dpo["pairs"])
    _absolute_rl_paths(tables.get("rl"), folder)
    if isinstance(data, dict):
        if isinstance(data.get("texts"), str):
            data["texts"] = str(folder / data["texts"])
        stores = data.get("stores")
        for store in stores if isinstance(stores, list) else ():
            if isinstance(store, dict) and isinstance(store.get("folder"), str):
                store["folder"] = str(folder / store["folder"])
    if isinstance(model, dict) and isinstance(model.get("start_from"), str):
        place = folder / model["start_from"]
        if place.exists():
            model["start_from"] = str(place)


def _absolute_rl_paths(rl: Any, folder: Path) -> None:
    """The same for tasks, reward functions and tools."""
    if not isinstance(rl, dict):
        return
    rollout = rl.get("rollout")
    tools = rollout.get("tools") if isinstance(rollout, dict) else None
    for table, key in (
        (rl, "tasks"),
        (rl.get("heldout"), "tasks"),
        (rl.get("reward"), "function"),
        (tools, "file"),
    ):
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(folder / table[key])
