"""How fast the arms of a study decode: measured in turns, when nothing else of the study runs."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.study.arms import Arm, arm_config, file_name
from hyla.study.ledger import Ledger
from hyla.study.machine import machine
from hyla.study.plan import LanguageStudy
from hyla.study.results import DecodeFigures, DecodeResult, read_result
from hyla.study.run_key import MAX_LEN
from hyla.study.sizes import Size
from hyla.study.text import TEXT_IDS
from hyla.train.files import replace_json
from hyla.train.precision import DTYPES
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
        "dtype": study.dtype,
        **({"modules": study.modules} if study.modules else {}),
    }


def file_of(ledger: Ledger, arm: Arm) -> Path:
    """Of an arm's measurement."""
    return ledger.folder / f"decode-{file_name(arm.name)}.json"


def measured(study: LanguageStudy, ledger: Ledger) -> list[DecodeResult]:
    """Arms' measurements of what the study says now."""
    found = []
    for arm in study.all_arms:
        file = file_of(ledger, arm)
        result = read_result(file) if file.exists() else None
        if isinstance(result, DecodeResult) and result.run.model_dump(mode="json") == key(study, arm):
            found.append(result)
    return found


def measure(study: LanguageStudy, ledger: Ledger) -> None:
    """Time a decoded token of every arm at every context, in turns, and write a file for each arm."""
    started, size = time.perf_counter(), _size(study)
    models: dict[str, Model] = {}
    for arm in study.all_arms:
        config = arm_config(size, arm.layers(size), study.modules, arm.changes, TEXT_IDS, MAX_LEN)
        models[arm.name] = cast(initialize(Model(config), 0), DTYPES[study.dtype]).eval()
    curves = decode_curves(models, study.decode_contexts, rounds=ROUNDS)
    seconds = (time.perf_counter() - started) / len(models)
    ledger.folder.mkdir(parents=True, exist_ok=True)
    for arm in study.all_arms:
        points = curves[arm.name]
        figures = DecodeFigures(
            ms_per_token={str(point.context): point.ms_per_token for point in points},
            cache_bytes={str(point.context): point.cache_bytes for point in points},
            machine=machine(),
            threads=torch.get_num_threads(),
            seconds=seconds,
        )
        replace_json(file_of(ledger, arm), {"run": key(study, arm), **figures.model_dump(mode="json")})


def _size(study: LanguageStudy) -> Size:
    largest = max(study.points, key=lambda point: point.budget)
    return max(largest.sizes, key=lambda size: size.hidden_dim)
