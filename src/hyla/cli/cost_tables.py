"""What `hyla cost` prints for people."""

from __future__ import annotations

from rich.table import Table

from hyla.cli.console import console
from hyla.cost.calibration import NEVER
from hyla.cost.figures import Question
from hyla.models.pattern import label

DECIMAL = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
RATIO_COLUMNS = {
    "cache_bytes": "cache",
    "prefill_flops": "prefill FLOPs",
    "decode_bytes": "decode bytes",
    "first_token_seconds": "first token",
    "token_seconds": "token, alone",
    "tokens_per_second_at_largest_batch": "tokens/s, full",
    "price_per_million_tokens": "price",
}


def short(value: float | None, unit: str = "") -> str:
    """A quantity with a decimal prefix and three digits.

    >>> short(8499101696, "B"), short(0.5), short(None)
    ('8.5 GB', '0.5', '-')
    """
    if value is None:
        return "-"
    for size, prefix in DECIMAL:
        if abs(value) >= size:
            return (
                f"{value / size:.3g} {prefix}{unit}" if value / size < 999.5 else f"{value / size:,.0f} {prefix}{unit}"
            )
    return f"{value:.3g} {unit}".rstrip()


def count(number: int) -> str:
    """Parameters with three digits.

    >>> count(49122681728), count(63700992)
    ('49.1 B', '63.7 M')
    """
    return short(number).replace("G", "B") if number < 1e12 else f"{number / 1e9:,.0f} B"


def seconds(value: float | None) -> str:
    """A time for people.

    >>> seconds(0.0025), seconds(95.0), seconds(7300.0)
    ('2.5 ms', '95 s', '2.03 h')
    """
    if value is None:
        return "-"
    if value >= 7200:
        return f"{value / 3600:.3g} h"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def tokens(count: int) -> str:
    """A context length: 128k, 1m, or the number."""
    for size, unit in ((1 << 20, "m"), (1 << 10, "k")):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count:,}"


def show(reports: list[dict], comparisons: list[dict], question: Question) -> None:
    """Every model, then every comparison."""
    for report in reports:
        _show_model(report, question)
    for compared in comparisons:
        _show_comparison(compared)


def _show_model(report: dict, question: Question) -> None:
    console.print(f"\n{report['name']} ({report['family']})", markup=False, soft_wrap=True, style="bold")
    for name, text in _facts(report):
        console.print(f"{name:<20}{text}", markup=False, soft_wrap=True)
    console.print(_count_table(report))
    if question.device is not None:
        console.print(_device_table(report))
    console.print(_kind_table(report))
    for name, text in _further(report):
        console.print(f"{name:<20}{text}", markup=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True, style="yellow")


def _facts(report: dict):
    """(name, text) of the lines above the tables."""
    found = report["parameters"]
    yield "mixers", report["mixers"]
    yield "channel mixers", report["channel_mixers"] or "none"
    without = (found["without_embeddings"], found["active_without_embeddings"])
    less = "without embeddings {}, active {}".format(*map(count, without))
    yield "parameters", f"{count(found['total'])}, active {count(found['active'])}; {less}"
    yield "", ", ".join(f"{label(kind)} {count(number)}" for kind, number in found["by_kind"].items())
    yield "weights", ", ".join(f"{short(size, 'B')} in {dtype}" for dtype, size in report["weight_bytes"].items())
    longest = tokens(report["max_context_tokens"])
    yield (
        "context",
        f"declared for {longest}; figures below: {report['weights']} weights, {report['arithmetic']} arithmetic",
    )


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _by_context(first: str, contexts: list[int], rows: dict[str, list[str]], title: str | None = None) -> Table:
    """A column for each context length, which fits a narrow terminal; rows without any text are left out."""
    table = _table(first, *map(tokens, contexts))
    table.columns[0].justify, table.title = "left", title
    for name, cells in rows.items():
        if any(cells):
            table.add_row(name, *cells)
    return table


def _count_table(report: dict) -> Table:
    """Memory, FLOPs and bytes by context."""
    figures = {
        "KV": lambda at: short(at["kv_bytes"], "B") if at["kv_bytes"] else "",
        "window": lambda at: short(at["window_bytes"], "B") if at["window_bytes"] else "",
        "state": lambda at: short(at["state_bytes"], "B") if at["state_bytes"] else "",
        "cache": lambda at: short(at["cache_bytes"], "B"),
        "resident here": lambda at: short(at["resident_cache_bytes"], "B"),
        "prefill FLOPs": lambda at: short(at["prefill_flops"]),
        "prefill FLOP/B": lambda at: f"{at['prefill_flops_per_byte']:.0f}",
        "token FLOPs": lambda at: short(at["decode_flops"]),
        "token bytes": lambda at: short(at["decode_bytes"], "B"),
        "token FLOP/B": lambda at: f"{at['decode_flops_per_byte']:.1f}",
    }
    contexts = report["contexts"]
    rows = {name: [figure(at) for at in contexts] for name, figure in figures.items()}
    return _by_context("one sequence", [at["context_tokens"] for at in contexts], rows)


def _device_table(report: dict) -> Table:
    """Times and prices by context."""
    figures = {
        "first token": lambda at: seconds(at["first_token_seconds"]),
        "  bound by": lambda at: at["first_token_bound"],
        "token, alone": lambda at: seconds(at["token_seconds"]),
        "  bound by ": lambda at: at["token_bound"],
        "largest batch": lambda at: f"{at['largest_batch']:,}" if at["largest_batch"] else "does not fit",
        "  token": lambda at: seconds(at["token_seconds_at_largest_batch"]),
        "  tokens/s": lambda at: short(at["tokens_per_second_at_largest_batch"]),
    }
    contexts, device = report["contexts"], report["device"]
    if "price_per_million_tokens" in contexts[0]:
        figures["price, 1M written"] = lambda at: short(at["price_per_million_tokens"])
        figures["price, 1M read"] = lambda at: short(at["price_per_million_prompt_tokens"])
    rows = {name: [figure(at) for at in contexts] for name, figure in figures.items()}
    title = f"{device['num_devices']} x {device['name']}"
    return _by_context("one sequence, or many", [at["context_tokens"] for at in contexts], rows, title)


def _kind_table(report: dict) -> Table:
    """How prefill FLOPs and a decoded token's bytes are divided among the kinds of sublayers."""
    table = _table("share of", *(tokens(at["context_tokens"]) for at in report["contexts"]))
    table.columns[0].justify = "left"
    for figure, name in (("prefill_flops_by_kind", "prefill FLOPs"), ("decode_bytes_by_kind", "token bytes")):
        for kind in report["contexts"][0][figure]:
            parts = [at[figure][kind] / sum(at[figure].values()) for at in report["contexts"]]
            if max(parts) >= 0.005:
                table.add_row(f"{name}: {label(kind)}", *(f"{100 * part:.0f}%" for part in parts))
    return table


def _further(report: dict):
    """(name, text) of what was asked for beside the tables."""
    if "task" in report:
        task = report["task"]
        price = f"; {short(task['price'])} at the largest batch" if task.get("price") is not None else ""
        what = f"{task['prompt_tokens']:,} tokens read, {task['output_tokens']:,} written"
        yield "one task", f"{what}: {seconds(task['seconds_alone'])} alone{price}"
    if "rank" in report:
        rank = report["rank"]
        ways = " x ".join(f"{name} {rank[name]}" for name in ("tensor", "expert", "pipeline", "context", "data"))
        yield "one rank", f"{ways} = {rank['num_ranks']} ranks; the heaviest (stage {rank['stage']}):"
        cache = (
            f"{short(rank['kv_bytes_per_sequence'], 'B')} KV and {short(rank['state_bytes_per_sequence'], 'B')} state"
        )
        yield "", f"{short(rank['weight_bytes'], 'B')} weights, {cache} a sequence of {tokens(rank['context_tokens'])}"
    if "training" in report:
        yield from _training_lines(report["training"])


def _training_lines(training: dict):
    flops = f"{short(training['flops_per_token'])} FLOPs a token at {tokens(training['length_tokens'])}"
    executed = short(training["executed_flops_per_token"])
    again = short(training["executed_flops_per_token_with_recomputation"])
    yield (
        "training",
        f"{flops} ({short(training['six_n_flops_per_token'])} by 6 N); executed {executed}, recomputing {again}",
    )
    kept, less = training["activation_bytes"], training["recomputed_activation_bytes"]
    memory = f"{short(training['weights_and_optimizer_bytes'], 'B')} weights and AdamW"
    yield "", f"{memory}; a sequence keeps {short(kept, 'B')}, recomputing {short(less, 'B')}"
    if "tokens" in training:
        hours = [f"{training[name]:,.1f} h" for name in ("hours", "hours_with_recomputation") if name in training]
        yield "", f"{short(training['tokens'])} tokens" + (f": {hours[0]}, recomputing {hours[1]}" if hours else "")


def _show_comparison(compared: dict) -> None:
    rows = compared["second_over_first"]
    columns = {name: title for name, title in RATIO_COLUMNS.items() if any(name in row for row in rows)}
    cells = {title: [f"{row[name]:.2f}x" if name in row else "-" for row in rows] for name, title in columns.items()}
    title = f"{compared['second']} over {compared['first']}"
    table = _by_context("ratio", [row["context_tokens"] for row in rows], cells, title)
    console.print(table)
    for figure, context in compared["first_is_cheaper_from_tokens"].items():
        when = "never" if context is None else "at every length" if context == 1 else f"from {context:,} tokens"
        console.print(f"{figure:<20}{compared['first']} is cheaper {when}", markup=False, soft_wrap=True)


def show_machine(machine) -> None:
    """The measured rates of a calibrated machine."""
    table = _table("operator", "FLOP/s", "bytes/s", "a call")
    table.columns[0].justify = "left"
    for operator, rate in machine.rates.items():
        speeds = (rate.flops_per_second, rate.bytes_per_second)
        table.add_row(operator, *(short(s) if s < NEVER else "" for s in speeds), seconds(rate.overhead_seconds))
    console.print(table)
    console.print(f"{'memory read':<20}{short(machine.bytes_per_second, 'B/s')}", markup=False)
    for name, rate in machine.measurements.items():
        console.print(f"{name:<20}{short(rate, 'FLOP/s')}", markup=False)
