"""The arguments of verbs that load one model and compute with it. Loads no PyTorch."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="Model folder, .gguf file, known name (hyla pull), or org/name.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as stored.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="That compute on the CPU; default: the cores that this process may use.")
]
Device = Annotated[str, typer.Option(help="Where to compute, as PyTorch names devices: cpu, cuda, cuda:1.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of an org/name.")]
