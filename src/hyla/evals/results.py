"""A folder of results: of which request, text and model they are, so that no others are mixed in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyla.engine.fingerprint import weights_digest
from hyla.errors import ConfigError
from hyla.json_files import read_json
from hyla.models.trunk import Model
from hyla.train.files import replace_json

EVAL_FILE, ITEMS_FILE = "eval.json", "items.jsonl"


def begin(folder: Path, record: Mapping[str, Any]) -> None:
    """Write what the results of a folder are of, or compare it with what was written there.

    record: plain values; "format" counts the versions of an eval's files.
    Raises ConfigError, which names what differs, for a folder with other results.
    """
    file = folder / EVAL_FILE
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(file, dict(record))
        return
    found = read_json(file)
    changed = [name for name in {**record, **found} if found.get(name) != record.get(name)]
    if changed:
        raise ConfigError(
            f"{folder} has results of another {' and '.join(changed)}; choose another --out, or delete it"
        )


def model_record(model: Model) -> dict[str, str]:
    """Which model it is: its weights, and what its config makes of them."""
    config = hashlib.sha256(model.config.model_dump_json().encode()).hexdigest()[:16]
    return {"weights": weights_digest(model), "config": config}
