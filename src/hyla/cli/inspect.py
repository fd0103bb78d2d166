"""`hyla inspect FOLDER`: what a model folder holds, without reading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    folder: Annotated[str, typer.Argument(help="Model folder in the Hugging Face format, or org/name on its hub.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an org/name.")] = None,
) -> None:
    """Show the stack, the parameters and the memory that a model folder needs."""
    import torch

    from hyla.checkpoints import read_config, resolve
    from hyla.cli.console import console, describe_bytes
    from hyla.models.trunk import Model

    path = resolve(folder, revision, with_weights=False)
    found = read_config(path)
    with torch.device("meta"):
        model = Model(found.config)
    # Of a name only the small files are fetched.
    stored = _stored_dtypes(path) if Path(folder).is_dir() else "not fetched"
    if found.quantization is not None:
        stored += "; FP8 in blocks of 128 x 128, kept so in memory"
    console.print(_stack_table(model, f"{folder} ({model.config.family})"))
    total = sum(parameter.numel() for parameter in model.parameters())
    active = total - sum(map(_idle_parameters, model.sublayers, model.config.sublayers))
    specs = model.cache_specs()
    console.print(f"parameters          {total:,}, of which {active:,} work on one token")
    console.print(f"cache per token     {describe_bytes(sum(spec.bytes_per_token for spec in specs))}")
    console.print(f"state per sequence  {describe_bytes(sum(spec.bytes_per_sequence for spec in specs))}")
    console.print(f"context             {model.config.max_len:,} tokens; vocabulary {model.config.vocab_size:,}")
    console.print(f"stored dtypes       {stored}")


def _stack_table(model, title: str):
    """One row per sublayer."""
    from rich.table import Table

    from hyla.cli.console import describe_bytes

    table = Table(title=title)
    for name in ("sublayer", "module"):
        table.add_column(name)
    for name in ("parameters", "active per token", "cache per token", "state per sequence"):
        table.add_column(name, justify="right")
    for number, (sublayer, config) in enumerate(zip(model.sublayers, model.config.sublayers)):
        total = sum(parameter.numel() for parameter in sublayer.parameters())
        active = total - _idle_parameters(sublayer, config)
        spec = sublayer.module.cache_spec() if sublayer.is_mixer else None
        memory = (describe_bytes(spec.bytes_per_token), describe_bytes(spec.bytes_per_sequence)) if spec else ("", "")
        table.add_row(str(number), config.module.kind, f"{total:,}", f"{active:,}", *memory)
    return table


def _idle_parameters(sublayer, config) -> int:
    """Weights of routed experts that one token does not visit."""
    if config.module.kind != "moe":
        return 0
    experts = sublayer.module
    weights = sum(weight.numel() for weight in (experts.experts_gate, experts.experts_up, experts.experts_down))
    return weights // config.module.num_experts * (config.module.num_experts - config.module.num_experts_per_token)


def _stored_dtypes(folder: Path) -> str:
    """How many stored tensors have which dtype."""
    from collections import Counter

    from hyla.checkpoints.files import ShardReader

    with ShardReader(folder) as shards:
        counts = Counter(shards.dtype(name) for name in shards)
    return ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items()))
