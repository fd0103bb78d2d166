"""What a run showed: throughput, percentiles and errors as plain data, and a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyla.loadtest.client import Sample

PERCENTILES = (50, 90, 99)


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p99 and the mean; None without values."""
    if not values:
        return {**{f"p{percent}": None for percent in PERCENTILES}, "mean": None}
    found = np.percentile(values, PERCENTILES)
    return {
        **{f"p{percent}": float(value) for percent, value in zip(PERCENTILES, found)},
        "mean": float(np.mean(values)),
    }


def summarize(samples: Sequence[Sample]) -> dict:
    """Everything about a run, ready for JSON. Rates are over the time from the first request to the last answer."""
    good = [sample for sample in samples if sample.error is None]
    seconds = max((sample.ended for sample in samples), default=0.0) - min((s.sent for s in samples), default=0.0)
    prompt, cached = (sum(getattr(sample, name) for sample in good) for name in ("prompt_tokens", "cached_tokens"))
    generated = sum(sample.completion_tokens for sample in good)
    accepted, rejected = (
        sum(getattr(sample, name) for sample in good) for name in ("accepted_drafts", "rejected_drafts")
    )
    per_token = [sample.per_token_seconds for sample in good]

    def rate(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    return {
        "requests": len(samples),
        "answered": len(good),
        "errors": dict(Counter(sample.error for sample in samples if sample.error is not None)),
        "seconds": seconds,
        "requests_per_second": rate(len(good)),
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "cached_share": cached / prompt if prompt else 0.0,
        "generated_tokens": generated,
        "accepted_drafts": accepted,
        "rejected_drafts": rejected,
        "prompt_tokens_per_second": rate(prompt),
        "generated_tokens_per_second": rate(generated),
        "first_token_seconds": percentiles([sample.first_seconds for sample in good]),
        "per_token_seconds": percentiles([value for value in per_token if value is not None]),
        "gap_seconds": percentiles([gap for sample in good for gap in sample.gaps]),
        "request_seconds": percentiles([sample.ended - sample.sent for sample in good]),
        "driver_late_seconds": max((sample.late for sample in samples), default=0.0),
    }


def plot(samples: Sequence[Sample], path: Path, title: str) -> None:
    """Three pictures in one file: speed over time, the first token over time, and how the times are distributed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    good = sorted((sample for sample in samples if sample.error is None), key=lambda sample: sample.sent)
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    speed, first, share = figure.subplots(1, 3)
    _plot_speed(speed, samples, good)
    _plot_first(first, samples, good)
    _plot_shares(share, good)
    for axes in (speed, first, share):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _plot_speed(axes, samples: Sequence[Sample], good: Sequence[Sample]) -> None:
    end = max((sample.ended for sample in samples), default=1.0)
    edges = np.linspace(0, end or 1.0, 41)
    times = [at for sample in good for at in sample.pieces]
    # A piece may hold several tokens.
    weights = [sample.completion_tokens / len(sample.pieces) for sample in good for _ in sample.pieces]
    tokens, _ = np.histogram(times, edges, weights=weights)
    middles = (edges[:-1] + edges[1:]) / 2
    axes.plot(middles, tokens / (edges[1] - edges[0]), color="#1a6b43", label="tokens/s out")
    axes.set(xlabel="seconds", ylabel="tokens per second", title="Speed", ylim=(0, None))
    running = [sum(sample.sent <= at < sample.ended for sample in samples) for at in middles]
    other = axes.twinx()
    other.plot(middles, running, color="#c2741a", alpha=0.8, linestyle="--", label="unfinished requests")
    other.set(ylabel="unfinished requests", ylim=(0, None))
    other.spines["top"].set_visible(False)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(
        lines,
        [line.get_label() for line in lines],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        frameon=False,
    )


def _plot_first(axes, samples: Sequence[Sample], good: Sequence[Sample]) -> None:
    axes.scatter([s.sent for s in good], [s.first_seconds for s in good], s=12, color="#1a6b43", label="answered")
    failed = [sample for sample in samples if sample.error is not None]
    if failed:
        axes.scatter([s.sent for s in failed], [0.0] * len(failed), marker="x", color="#a3281c", label="failed")
        axes.legend(frameon=False)
    axes.set(xlabel="sent after, seconds", ylabel="seconds", title="Time to first token", ylim=(0, None))


def _plot_shares(axes, good: Sequence[Sample]) -> None:
    first = [sample.first_seconds for sample in good]
    per_token = [value for sample in good if (value := sample.per_token_seconds) is not None]
    for values, label, color in ((first, "to the first token", "#1a6b43"), (per_token, "per token", "#5a3fa0")):
        if values:
            axes.plot(np.sort(values), np.arange(1, len(values) + 1) / len(values), color=color, label=label)
    axes.set(
        xscale="log", xlabel="seconds", ylabel="share of requests at most this slow", title="Distribution", ylim=(0, 1)
    )
    if good:
        axes.legend(frameon=False)
