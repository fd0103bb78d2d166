"""How fast the arms of a study decode: measured in turns, when nothing else of the study runs."""

from __future__ import annotations

import time

from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.study.arms import Arm, model_config_of, modules_of
from hyla.study.language import MAX_LEN
from hyla.study.ledger import Ledger
from hyla.study.machine import machine
from hyla.study.plan import LanguageStudy
from hyla.study.results import DecodeFigures, DecodeResult, read_result
from hyla.study.sizes import Size
from hyla.study.text import TEXT_IDS
from hyla.train.files import replace_json
from hyla.train.twin import decode_curves

VERSION = 1
ROUNDS = 9


def key(study: LanguageStudy, arm: Arm) -> dict:
    """Of an arm's measurement: it is made with the largest size of the largest budget."""
    size = _size(study)
    return {
        "kind": "decode",
        "version": VERSION,
        "arm": arm.name,
        "layers": list(arm.layers(size)),
        "changes": arm.changes,
        "size": size.model_dump(),
        "contexts": list(study.decode_contexts),
    }


def missing_arms(study: LanguageStudy, ledger: Ledger) -> list[str]:
    """Arms without a measurement of what the study says now."""
    found = {}
    for file in ledger.folder.glob("decode-*.json"):
        result = read_result(file)
        if isinstance(result, DecodeResult):
            found[result.run.arm] = result.run.model_dump(mode="json")
    return [arm.name for arm in study.all_arms if found.get(arm.name) != key(study, arm)]


def measure(study: LanguageStudy, ledger: Ledger) -> None:
    """Time a decoded token of every arm at every context, in turns, and write a file for each arm."""
    started, size = time.perf_counter(), _size(study)
    models: dict[str, Model] = {}
    for arm in study.all_arms:
        modules = modules_of(size, study.modules, arm.changes)
        config = model_config_of(size, arm.layers(size), modules, TEXT_IDS, MAX_LEN)
        models[arm.name] = initialize(Model(config), 0).eval()
    curves = decode_curves(models, study.decode_contexts, rounds=ROUNDS)
    seconds = (time.perf_counter() - started) / len(models)
    ledger.folder.mkdir(parents=True, exist_ok=True)
    for arm in study.all_arms:
        points = curves[arm.name]
        figures = DecodeFigures(
            ms_per_token={str(point.context): point.ms_per_token for point in points},
            cache_bytes={str(point.context): point.cache_bytes for point in points},
            machine=machine(),
            seconds=seconds,
        )
        name = "".join(c if c.isalnum() else "-" for c in arm.name)
        replace_json(ledger.folder / f"decode-{name}.json", {"run": key(study, arm), **figures.model_dump(mode="json")})


def _size(study: LanguageStudy) -> Size:
    largest = max(study.points, key=lambda point: point.budget)
    return max(largest.sizes, key=lambda size: size.hidden_dim)
