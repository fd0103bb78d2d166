"""`hyla inspect MODEL|PRESET`: what a model holds and keeps, without reading or allocating its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.model_flags import Revision

LENGTH_KEYS = {"max_position_embeddings", "model_max_length", "max_len"}
"""Keys of config.json that give the context."""


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder, .gguf file, known name (hyla pull), org/name, preset; none: a list."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    revision: Revision = None,
    device: Annotated[
        str | None, typer.Option(help="Say what would compute there; default: a card, or the CPU.")
    ] = None,
) -> None:
    """Show the stack, the parameters and the memory of a model or of a published size; or list those sizes."""
    import json

    from hyla.cli.console import console
    from hyla.cli.preset_list import list_presets

    if model is None:
        list_presets(as_json)
        return
    report, rows = _report(model, revision, device)
    if as_json:
        print(json.dumps(report))
        return
    console.print(f"{report['model']} ({report['family']})", markup=False, soft_wrap=True)
    console.print(_stack_table(rows))
    console.print(_memory_table(report))
    for name, text in _lines(report):
        console.print(f"{name:<20}{text}", markup=False, soft_wrap=True)


def _report(name: str, revision: str | None, device: str | None) -> tuple[dict, list]:
    """Everything as plain values, and one (count, label, footprint) for each different sublayer."""
    import torch

    from hyla.checkpoints import read_config, resolve
    from hyla.checkpoints.hub import is_on_hub
    from hyla.checkpoints.load import build_on_meta
    from hyla.checkpoints.names import find_known
    from hyla.models.formats.presets import assumptions, find_preset, is_preset
    from hyla.models.operators import backends_of
    from hyla.models.state import cast
    from hyla.ops import backends
    from hyla.ops.devices import resolve_device

    here = resolve_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    title, folder, dtype = name, {}, torch.bfloat16
    is_here = _is_path(name) or find_known(name) is not None
    if is_here or revision is not None or (not is_preset(name) and is_on_hub(name)):
        place = resolve(name, revision, with_weights=False)
        found = read_config(place)
        family, config, published = found.family, found.config, found.published
        folder = {"weights": "not fetched"}  # of a name on the hub only the small files are
        if is_here:
            folder = {**_folder_facts(place, found), **_card_facts(place, find_known(name))}
            dtype = folder.pop("dtype")
        if found.packing is not None:
            folder["quantisation"] = found.packing.title
    else:
        title, family = find_preset(name)
        config, published = family.preset(title), family.sizes[title]
        folder["assumed"] = assumptions(title)
    model = cast(build_on_meta(config), dtype)
    report = {
        "model": title,
        "family": config.family,
        "dtype": str(dtype).removeprefix("torch."),
        **_model_facts(model),
        "device": str(here),
        "arithmetic": backends.on(here),
        "native_build": backends.native_build(here),
        "backends": backends_of(model, here),
        "ignored_keys": {key: family.reasons[key] for key in _flat_keys(published, family) if key in family.reasons},
        **folder,
    }
    return report, _different_sublayers(model)


def _model_facts(model) -> dict:
    """Pattern, parameters and bytes."""
    from hyla.models.summary import ablations, compress, label, summarize

    config, summary = model.config, summarize(model)
    flags = {(label(mixer.kind), tuple(ablations(mixer).items())): None for mixer in config.mixers}
    stack = summary.stack
    channel = [sub.module.kind for sub in config.sublayers if not sub.is_mixer]
    mtp = [
        {
            "sublayers": compress([label(sub.module.kind) for sub in module.sublayers]),
            "parameters": counted.parameters,
            "active_parameters": counted.active,
            "kv_bytes_per_token": counted.kv_bytes_per_token,
            "steps": module.num_steps,
        }
        for module, counted in zip(config.mtp, summary.mtp)
    ]
    return {
        "mixers": compress([label(mixer.kind) for mixer in config.mixers]),
        "channel_mixers": compress([label(kind) for kind in channel]),
        "ablations": [{"mixer": name, **dict(found)} for name, found in flags if found],
        "parameters": summary.total,
        "active_parameters": summary.active,
        "parameters_without_embedding": summary.total - summary.embedding,
        "active_without_embedding": summary.active - summary.embedding,
        "kv_bytes_per_token": stack.kv_bytes_per_token,
        "resident_kv_bytes_per_token": stack.resident_kv_bytes_per_token,
        "window_bytes_per_sequence": stack.window_bytes,
        "published_state_bytes_per_sequence": stack.published_state_bytes + stack.published_conv_bytes,
        "resident_state_bytes_per_sequence": stack.resident_state_bytes,
        "context": config.max_len,
        "vocabulary": config.vocab_size,
        "mtp": mtp,
    }


def _is_path(name: str) -> bool:
    return Path(name).exists() or Path(name).is_absolute() or name.startswith(".") or name.endswith(".gguf")


def _folder_facts(folder: Path, found) -> dict:
    """What only the tensors of a folder say; no tensor is read."""
    import torch

    from hyla.checkpoints import open_checkpoint
    from hyla.checkpoints.placement import DTYPES

    family, config = found.family, found.config
    with open_checkpoint(folder).tensors() as shards:
        names = {family.canonical(name): shards.dtype(name) for name in shards}
        stored = Counter(shards.stored_as(name) for name in shards)
    ignored = Counter(reason for name in names if (reason := family.reason_to_ignore(name, config, names)))
    embedding = next(rule.published[0] for rule in family.trunk if rule.ours == ("embed.weight",))
    return {
        "dtype": DTYPES.get(names.get(embedding, ""), torch.bfloat16),
        "stored_dtypes": dict(sorted(stored.items())),
        "ignored_tensors": dict(ignored),
        "is_fp8": found.quantization is not None,
        "has_mtp_tensors": bool(family.mtp_tensors(config) & names.keys()),
    }


def _card_facts(place: Path, known) -> dict:
    """The model's card, or what is wrong with it: the rest can be shown all the same. known: of `checkpoints.names`."""
    from hyla.checkpoints import open_checkpoint
    from hyla.checkpoints.card import read_card
    from hyla.errors import CheckpointError

    try:
        card = read_card(place)
    except CheckpointError as error:
        return {"card_problem": str(error)}
    if card is not None:
        return {"card": card.model_dump(mode="json", exclude_none=True)}
    licence = known.licence if known is not None else open_checkpoint(place).licence
    return {"licence": licence} if licence is not None else {}


def _flat_keys(published: Mapping, family) -> list[str]:
    """The keys of config.json and of the nested text config."""
    nested = published.get(family.text_key) if family.text_key else None
    return sorted({*published, *(nested or {})} - {family.text_key})


def _different_sublayers(model) -> list:
    """(count, label, footprint of one) for each different kind and size of sublayer, in order of appearance."""
    from hyla.models.summary import footprint, label

    counts = Counter((label(sublayer.config.module.kind), footprint(sublayer)) for sublayer in model.sublayers)
    return [(count, name, each) for (name, each), count in counts.items()]


def _stack_table(rows: list):
    """A table with a row for each different sublayer."""
    from rich.table import Table

    from hyla.cli.console import describe_bytes

    table = Table()
    table.add_column("sublayers", no_wrap=True)
    for name in ("parameters", "active", "KV/token", "state, published", "resident"):
        table.add_column(name, justify="right")
    for count, name, each in rows:
        published = each.published_state_bytes + each.published_conv_bytes
        cells = (each.kv_bytes_per_token, published, each.resident_state_bytes)
        memory = [describe_bytes(size) if size else "" for size in cells]
        table.add_row(f"{count}x {name}", _short(each.parameters), _short(each.active), *memory)
    return table


def _memory_table(report: dict):
    """Bytes as published models count them, and as this engine keeps them."""
    from rich.table import Table

    table = Table()
    table.add_column("memory", no_wrap=True)
    table.add_column("as published", justify="right")
    table.add_column("resident here", justify="right")
    rows = [(f"KV per token ({report['dtype']})", report["kv_bytes_per_token"], report["resident_kv_bytes_per_token"])]
    if report["window_bytes_per_sequence"]:
        rows.append(("windows per sequence", report["window_bytes_per_sequence"], None))
    states = report["published_state_bytes_per_sequence"], report["resident_state_bytes_per_sequence"]
    for name, *sizes in [*rows, ("state per sequence", *states)]:
        table.add_row(name, *("in KV per token" if size is None else _bytes(size) for size in sizes))
    return table


def _bytes(count: int) -> str:
    from hyla.cli.console import describe_bytes

    return f"{count:,}" if count < 1024 else f"{count:,} ({describe_bytes(count)})"


def _short(count: int) -> str:
    """A count in billions, millions or thousands."""
    for size, unit in ((10**9, " B"), (10**6, " M"), (10**3, " K")):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return str(count)


def _card_lines(report: dict):
    """What the card knows besides what the config says."""
    from hyla.checkpoints.card import ModelCard, facts

    if "card_problem" in report:
        yield "card", report["card_problem"]
    if "licence" in report:
        yield "licence", report["licence"]
    if "card" in report:
        told = facts(ModelCard(**report["card"]))
        yield from ((name, text) for name, text in told if name not in ("parameters", "layers", "context"))


def _lines(report: dict):
    """(name, text) of each line below the table."""
    from hyla.ops.backends import describe

    yield "mixers", report["mixers"]
    yield "channel mixers", report["channel_mixers"] or "none"
    for flags in report["ablations"]:
        told = ", ".join(f"{name} = {value}" for name, value in flags.items() if name != "mixer")
        yield "ablation", f"{flags['mixer']}: {told}"
    yield "parameters", f"{report['parameters']:,}, of which {report['active_parameters']:,} work on one token"
    without = f"{report['parameters_without_embedding']:,}, active {report['active_without_embedding']:,}"
    yield "without embedding", without
    assumed = report.get("assumed", {})
    length = " (assumed)" if LENGTH_KEYS & assumed.keys() else ""
    yield "context", f"{report['context']:,} tokens{length}; vocabulary {report['vocabulary']:,}"
    for module in report["mtp"]:
        absent = "" if report.get("has_mtp_tensors", True) else "; promised, but the folder has no tensors of it"
        steps = "" if module["steps"] == 1 else f", {module['steps']} steps with shared weights"
        yield "MTP", f"{module['sublayers']}{steps}: {module['parameters']:,} parameters on top{absent}"
    if not report["mtp"]:
        yield "MTP", "none (assumed)" if "num_nextn_predict_layers" in assumed else "none"
    build = f" ({report['native_build']})" if report["native_build"] else ""
    yield "on", f"{report['device']}, in the {report['arithmetic']} arithmetic{build}"
    for line in describe(report["backends"]):
        yield "computed by", line
    for key, value_and_reason in assumed.items():
        yield "assumed", f"{key} = {value_and_reason}"
    yield from _card_lines(report)
    if "weights" in report:
        yield "weights", report["weights"]
    if "stored_dtypes" in report:
        stored = ", ".join(f"{count} {dtype}" for dtype, count in report["stored_dtypes"].items())
        yield "stored dtypes", stored + ("; FP8 in blocks of 128 x 128, kept so in memory" if report["is_fp8"] else "")
    if "quantisation" in report:
        yield "quantised", f"{report['quantisation']}; dequantised to {report['dtype']} as it is loaded"
    for reason, count in report.get("ignored_tensors", {}).items():
        yield "ignored", f"{count} tensors: {reason}"
    for key, reason in report["ignored_keys"].items():
        yield "ignored", f"{key}: {reason}"
