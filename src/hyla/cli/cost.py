"""`hyla cost TARGET...`: what models cost, by arithmetic, before anyone trains or rents anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UNITS = {"k": 1 << 10, "m": 1 << 20}


def cost(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Presets, model folders, .gguf files, known names, recipes (.toml).")
    ] = None,
    vs_full: Annotated[bool, typer.Option("--vs-full", help="Compare with the full-attention twin.")] = False,
    context: Annotated[str | None, typer.Option(help="Context lengths, e.g. 4k,128k,1m.")] = None,
    weights: Annotated[str, typer.Option(help="fp32, bf16, fp8 or int4.")] = "bf16",
    arithmetic: Annotated[
        str | None, typer.Option(help="hyla (this engine's) or usual (other engines'); default: the device's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="h200, h100, b200, ... or this (after --calibrate).")] = None,
    devices: Annotated[int, typer.Option(help="Devices that share the model.")] = 1,
    most_sequences: Annotated[int, typer.Option(help="Largest batch that is considered.")] = 1024,
    price: Annotated[float | None, typer.Option(help="Per device-hour, in any currency.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of one task's prompt.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens of one task's answer.")] = None,
    tensor: Annotated[int | None, typer.Option(help="Tensor-parallel ranks: bytes per rank.")] = None,
    expert: Annotated[int | None, typer.Option(help="Ranks among which experts are divided.")] = None,
    pipeline: Annotated[int | None, typer.Option(help="Pipeline stages.")] = None,
    context_parallel: Annotated[int | None, typer.Option(help="Ranks among which positions are divided.")] = None,
    data: Annotated[int | None, typer.Option(help="Data-parallel ranks.")] = None,
    train_length: Annotated[int | None, typer.Option(help="Training figures at this sequence length.")] = None,
    train_tokens: Annotated[float | None, typer.Option(help="Tokens of the run, e.g. 1.4e12.")] = None,
    budget_flops: Annotated[float | None, typer.Option(help="FLOPs that may be spent on training.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one row per model and context.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw memory, time and price against context (.png, .svg).")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first; then --device this.")
    ] = False,
) -> None:
    """Parameters, bytes, FLOPs, seconds and prices of models, by arithmetic."""
    if calibrate:
        _calibrate(quiet=as_json or as_csv)
        if not targets:
            return
    if context is not None:
        contexts = tuple(parse_context(part) for part in context.split(","))
    else:
        contexts = None
    split = {"tensor": tensor, "expert": expert, "pipeline": pipeline, "context": context_parallel, "data": data}
    question = _question(
        contexts,
        split,
        weights=weights,
        arithmetic=_arithmetic(arithmetic),
        device=_device(device),
        num_devices=devices,
        most_sequences=most_sequences,
        price_per_device_hour=price,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        train_length=train_length or (4096 if train_tokens or budget_flops else None),
        train_tokens=train_tokens,
        budget_flops=budget_flops,
    )
    found = _targets(targets or [], vs_full)
    if plot is not None:
        from hyla.cost.plots import plot_costs

        plot_costs(found, question, plot)
    _print(found, question, as_json=as_json, as_csv=as_csv, plot=plot)


def parse_context(text: str) -> int:
    """Tokens: a number, or one with k (1,024) or m (1,048,576). Raises ConfigError.

    >>> parse_context("128k"), parse_context("1m"), parse_context("300")
    (131072, 1048576, 300)
    """
    from hyla.errors import ConfigError

    lowered = text.strip().lower()
    unit = UNITS.get(lowered[-1:], 1)
    try:
        tokens = float(lowered[:-1] if unit > 1 else lowered) * unit
        if tokens != int(tokens):
            raise ValueError(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"{text!r} is not a context length; give e.g. 4096, 128k or 1m") from None
    return int(tokens)


def _arithmetic(name: str | None):
    from hyla.cost.call import ARITHMETICS
    from hyla.errors import ConfigError

    if name is not None and name not in ARITHMETICS:
        raise ConfigError(f"unknown arithmetic {name!r}; there are {', '.join(ARITHMETICS)}")
    return name


def _device(name: str | None):
    from hyla.cost.devices import find_device

    return None if name is None else find_device(name)


def _question(contexts, split: dict, **fields):
    from hyla.cost.figures import DEFAULT_CONTEXTS, Question
    from hyla.cost.parallel import Split

    given = {name: ranks for name, ranks in split.items() if ranks is not None}
    return Question(contexts=contexts or DEFAULT_CONTEXTS, split=Split(**given) if given else None, **fields)


def _targets(names: list[str], vs_full: bool) -> list:
    from hyla.cost.target import Target
    from hyla.cost.twin import full_attention_twin
    from hyla.errors import ConfigError

    if not names:
        raise ConfigError("name at least one preset, folder or recipe; `hyla inspect` lists what a model holds")
    found = []
    for name in names:
        found.append(_target(name))
        if vs_full:
            twin = full_attention_twin(found[-1].config)
            found.append(Target(f"{found[-1].name}, all full attention", twin))
    return found


def _target(name: str):
    """A recipe where the name ends in .toml, a GGUF file by path or known name, else a folder or preset."""
    from hyla.checkpoints import open_checkpoint, resolve
    from hyla.checkpoints.gguf import is_gguf
    from hyla.checkpoints.names import find_known
    from hyla.cost.target import Target, find_target

    if is_gguf(Path(name)) or (find_known(name) is not None and not Path(name).exists()):
        return Target(open_checkpoint(name).name, open_checkpoint(resolve(name)).config().config)
    if not name.endswith(".toml"):
        return find_target(name)
    from hyla.cli.config_file import read_toml
    from hyla.toml_files import read_tables
    from hyla.train.dry_run import DRAFT_END
    from hyla.train.recipe import HybridRecipe
    from hyla.train.recipe_file import read_recipe

    if "model" in read_tables(Path(name)):
        source = read_recipe(Path(name)).model
        return Target(Path(name).stem, source.model_config_of(source.draft_vocab_size, DRAFT_END))
    recipe = HybridRecipe(**read_toml(Path(name)).get("recipe", {}))
    return Target(Path(name).stem, recipe.model_config_of(recipe.vocab_size, DRAFT_END))


def _print(found: list, question, *, as_json: bool, as_csv: bool, plot: Path | None) -> None:
    from hyla.cost.comparison import comparison
    from hyla.cost.figures import csv_rows, target_report

    reports = [target_report(target, question) for target in found]
    comparisons = [comparison(found[0], other, question) for other in found[1:]]
    if as_json:
        import json

        print(json.dumps({"models": reports, "comparisons": comparisons}))
    elif as_csv:
        import csv
        import sys

        from hyla.terminal_text import escaped

        columns, rows = csv_rows(reports)
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        for warning in (warning for report in reports for warning in report["warnings"]):
            print(f"warning: {escaped(warning)}", file=sys.stderr)
    else:
        from hyla.cli.cost_tables import show

        show(reports, comparisons, question)
        if plot is not None:
            from hyla.cli.console import console

            console.print(f"drawn: {plot}", markup=False, soft_wrap=True)


def _calibrate(*, quiet: bool) -> None:
    from hyla.cli.console import console
    from hyla.cost.calibrate import calibrate
    from hyla.cost.calibration import calibration_file, save_calibration

    machine = calibrate()
    save_calibration(machine)
    if not quiet:
        from hyla.cli.cost_tables import show_machine

        show_machine(machine)
        console.print(f"stored in {calibration_file()}; use it with --device this", markup=False, soft_wrap=True)
