"""Every run: the last table of the page, and the CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from hyla.evals.pages import table
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, flops
from hyla.study.results import DecodeResult, LanguageResult


def runs(found: Findings) -> str:
    """A row for each result file."""
    role = roles(found)
    lines = []
    for result in found.language:
        run, bits = result.run, result.figures.test_bits
        shown = "diverged" if bits is None else f"{bits:.4f}"
        lines.append(
            [result.name, run.arm, flops(run.budget), f"{run.rate:g}", str(run.seed), shown, role[result.name]]
        )
    lines += [[result.name, result.run.arm, *[NOTHING] * 4, role[result.name]] for result in found.decode]
    titles = ["file", "arm", "FLOPs", "rate", "seed", "test bits per byte", "for"]
    return f"## Runs\n\n{table([titles, *lines])}\n\nresults.csv has all figures of each."


def roles(found: Findings) -> dict[str, str]:
    """By file, what a result is there for."""
    counted = {run.name for cell in found.cells.values() for run in cell.runs}
    found_roles = {result.name: "decoding" for result in found.decode}
    for result in found.language:
        is_counted, has_seed = result.name in counted, result.run.seed in found.about.seeds
        found_roles[result.name] = "the table" if is_counted else "another size" if has_seed else "its rate"
    return found_roles


def to_csv(found: Findings) -> str:
    """A row for each result file, a column for each figure; numbers as the files have them."""
    role = roles(found)
    rows = [_language(result, role[result.name]) for result in found.language]
    rows += [_decode(result, role[result.name]) for result in found.decode]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _run(result: LanguageResult | DecodeResult, role: str) -> dict[str, Any]:
    run = result.run
    return {
        "file": f"{result.name}.json",
        "kind": run.kind,
        "for": role,
        "arm": run.arm,
        "layers": " ".join(run.layers),
        "changes": json.dumps(run.changes, sort_keys=True),
        **run.size,
    }


def _language(result: LanguageResult, role: str) -> dict[str, Any]:
    run, figures = result.run, result.figures
    names = ("flops", "steps", "tokens", "parameters", "validation_bits", "test_bits")
    return {
        **_run(result, role),
        **{name: getattr(run, name) for name in ("budget", "rate", "seed", "data")},
        **{name: getattr(figures, name) for name in names},
        **_columns("task", figures.tasks),
        **_columns("bits_from", figures.bits_by_position),
        **_columns("cache_bytes", figures.cache_bytes),
        **{f"{name}_largest": max(values) for name, values in figures.layers_inside.items() if values},
        "seconds": figures.seconds,
        "evaluation_seconds": figures.evaluation_seconds,
        "machine": figures.machine,
    }


def _decode(result: DecodeResult, role: str) -> dict[str, Any]:
    figures = result.figures
    return {
        **_run(result, role),
        **_columns("ms_per_token", figures.ms_per_token),
        **_columns("cache_bytes", figures.cache_bytes),
        "seconds": figures.seconds,
        "machine": figures.machine,
    }


def _columns(name: str, table_of: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in table_of.items()}
