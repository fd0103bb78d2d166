"""`hyla generate MODEL PROMPT`: one completion, streamed to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.model_flags import Device, Dtype, ModelName, Revision, Threads


def generate(
    folder: ModelName,
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1.0)] = 0.95,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be given again.")] = None,
    dtype: Dtype = None,
    numerics: Annotated[str, typer.Option(help="exact, or fast: see hyla serve --help.")] = "exact",
    revision: Revision = None,
    adapter: Annotated[
        str | None, typer.Option(help="Folder of a LoRA adapter, merged as the model is loaded.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    profile: Annotated[Path | None, typer.Option(help="File for a Chrome trace of the first steps.")] = None,
) -> None:
    """Continue a prompt and print the continuation."""
    import sys

    from hyla.engine.waiting_threads import load_torch

    load_torch()
    import hyla
    from hyla.adapters import tokenizer_beside
    from hyla.checkpoints import open_checkpoint, resolve
    from hyla.cli.console import loading_bar
    from hyla.engine.threads import default_threads
    from hyla.terminal_text import printable

    text = sys.stdin.read() if prompt == "-" else prompt
    params = hyla.SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=tuple(stop or ())
    )
    found = resolve(folder, revision)
    checkpoint = open_checkpoint(found)
    checkpoint.config()  # what is no model says so before its tokenizer is missed
    tokenizer = tokenizer_beside(checkpoint, adapter) or checkpoint.tokenizer()
    with loading_bar() as progress:
        options = {"tokenizer": tokenizer, "dtype": dtype, "adapter": adapter, "device": device, "profile": profile}
        options |= {"numerics": numerics, "threads": threads or default_threads(), "max_num_sequences": 1}
        engine = hyla.Engine(found, progress=progress, **options)
    # A file or a pipe gets what the model wrote; a terminal obeys some of it.
    shown = printable if sys.stdout.isatty() else str
    for event in engine.stream(text, params):
        print(shown(event.text or ""), end="", flush=True)
    engine.close()
    print()
