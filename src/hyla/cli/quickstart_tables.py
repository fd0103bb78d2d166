"""The quickstart's findings as tables."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from hyla.cli.console import console, describe_bytes

ROWS = (
    ("untrained", "the model before training"),
    ("unigram", "unigram: token frequencies of the training files"),
    ("gzip_files", "gzip -9, each file alone"),
    ("gzip_whole", "gzip -9, all files as one stream"),
    ("trained", "the model after training"),
)
PROMPT_LINES = 6


def show_scores(scores: dict[str, float]) -> None:
    """Held-out bits per byte, and what the model gains."""
    table = Table(title="held-out files, bits per byte (fewer is better)")
    table.add_column("")
    table.add_column("bits per byte", justify="right")
    for key, label in ROWS:
        table.add_row(label, f"{scores[key]:.3f}", style="bold" if key == "trained" else None)
    console.print(table)
    best_gzip = min(scores["gzip_files"], scores["gzip_whole"])
    console.print(
        f"the model needs {_change(scores['trained'], best_gzip)} than the better gzip "
        f"and {_change(scores['trained'], scores['unigram'])} than the unigram model"
    )


def _change(value: float, base: float) -> str:
    share = 100.0 * (value / base - 1.0)
    return f"{abs(share):.0f}% {'less' if share < 0 else 'more'}"


def show_completion(completion: dict[str, str]) -> None:
    """The end of the prompt, what the model wrote, and what the file says."""
    prompt = "\n".join(completion["prompt"].splitlines()[-PROMPT_LINES:])
    console.print(f"\na held-out file, {completion['file']}, continued after:")
    console.print(prompt, style="dim")
    console.print("the model (one drawn sample):", style="bold")
    console.print(completion["text"].rstrip())
    console.print("the file:", style="bold")
    console.print(completion["truth"].rstrip(), style="dim")


def show_curves(curves: dict[str, list[dict]], plot: Path) -> None:
    """Cache bytes and time per decoded token at each context."""
    table = Table(title="one sequence: hybrid and full-attention twin (random caches; medians of turns)")
    table.add_column("context", justify="right")
    for name in curves:
        table.add_column(f"{name}: cache", justify="right")
        table.add_column("ms per token", justify="right")
    for points in zip(*curves.values()):
        cells = [f"{points[0]['context']:,}"]
        for point in points:
            cells += [describe_bytes(point["cache_bytes"]), f"{point['ms_per_token']:.2f}"]
        table.add_row(*cells)
    console.print(table)
    console.print(f"the same as a picture: {plot}")
