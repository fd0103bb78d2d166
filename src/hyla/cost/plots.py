"""Memory, time per token and cost of some models against the context length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hyla.cost.figures import Question, context_figures
from hyla.cost.target import Target
from hyla.errors import ConfigError

FIRST_CONTEXT = 1 << 10
STYLES = ("-", "--", "-.", ":")
MARKERS = "os^Dv*"
FORMATS = (".png", ".svg", ".pdf")
MEMORY = ("Cache of one sequence", "GB", "cache_bytes", 1e9)
WITHOUT_DEVICE = (
    ("Bytes of one decoded token", "GB", "decode_bytes", 1e9),
    ("Reading the whole context", "PFLOP", "prefill_flops", 1e15),
)
WITH_DEVICE = (
    ("One decoded token, alone", "ms", "token_seconds", 1e-3),
    ("Tokens per second, largest batch", "tokens/s", "tokens_per_second_at_largest_batch", 1.0),
)
PRICE = ("A million decoded tokens, largest batch", "price", "price_per_million_tokens", 1.0)


def plot_contexts(question: Question) -> tuple[int, ...]:
    """Powers of two from 1k to the longest context asked for."""
    longest = max(*question.contexts, 4 * FIRST_CONTEXT)
    contexts = [FIRST_CONTEXT]
    while contexts[-1] * 2 <= longest:
        contexts.append(contexts[-1] * 2)
    return tuple(contexts)


def _panels(question: Question) -> tuple[tuple[str, str, str, float], ...]:
    if question.device is None:
        return (MEMORY, *WITHOUT_DEVICE)
    return (MEMORY, WITH_DEVICE[0], WITH_DEVICE[1] if question.price_per_device_hour is None else PRICE)


def plot_costs(targets: Sequence[Target], question: Question, path: Path) -> None:
    """Three panels over the context, all axes logarithmic. Raises ConfigError for a file of another kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} cannot be drawn; give a file that ends in {', '.join(FORMATS)}")
    question = replace(question.resolved(), contexts=plot_contexts(question))
    figures = {
        target.name: [context_figures(target, question, context) for context in question.contexts] for target in targets
    }
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, 3), _panels(question)):
        _draw(axes, panel, figures, question.contexts)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False)
    figure.suptitle(_title(question), fontsize=11)
    figure.savefig(path, dpi=130)


def _title(question: Question) -> str:
    where = f"{question.num_devices} x {question.device.name}, " if question.device else ""
    return f"{where}{question.weights} weights, {question.arithmetic} arithmetic, by roofline"


def _draw(axes, panel: tuple[str, str, str, float], figures: dict[str, list[dict]], contexts: tuple[int, ...]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

    title, unit, name, scale = panel
    lowest, highest = float("inf"), 0.0
    for place, (label, rows) in enumerate(figures.items()):
        points = [(row["context_tokens"], row[name] / scale) for row in rows if row[name]]
        if points:
            style, marker = STYLES[place % len(STYLES)], MARKERS[place % len(MARKERS)]
            axes.plot(*zip(*points), style, marker=marker, markersize=4, label=label)
            lowest, highest = min(lowest, *(y for _, y in points)), max(highest, *(y for _, y in points))
        else:
            axes.plot([], [], STYLES[place % len(STYLES)], marker=MARKERS[place % len(MARKERS)], label=label)
    axes.set(xscale="log", yscale="log", title=title, xlabel="context, tokens", ylabel=unit)
    shown = contexts[::2] if len(contexts) > 6 else contexts
    names = [f"{context >> 20}m" if context >= 1 << 20 else f"{context >> 10}k" for context in shown]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(FixedLocator([]))
    decades = highest / lowest if highest else 1.0
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 300 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, alpha=0.3)
