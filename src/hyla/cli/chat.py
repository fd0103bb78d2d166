"""`hyla chat MODEL|URL`: a conversation in the terminal, with a model in this process or behind a server."""

from __future__ import annotations

from typing import Annotated

import typer

from hyla.cli.model_flags import Revision

API_KEY_VARIABLE = "HYLA_API_KEY"


def chat(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|URL", help="A folder, .gguf file, known name, org/name, or a server's URL.")
    ],
    name: Annotated[str | None, typer.Option("--model", help="Of a server: which model; default: its first.")] = None,
    api_key: Annotated[str | None, typer.Option(help=f"Of a server; default: ${API_KEY_VARIABLE}.")] = None,
    system: Annotated[str | None, typer.Option(help="First message, from the system.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; default: 512, of a base model 120.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Default: as the model's card says, or 0.7.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=1e-6, max=1.0, help="Default: as the model's card says, or 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    dtype: Annotated[str | None, typer.Option(help="Of a folder: float32 or bfloat16; default: as stored.")] = None,
    revision: Revision = None,
    adapter: Annotated[
        str | None, typer.Option(help="Of a folder: folder of a LoRA adapter, merged as the model is loaded.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of a folder: where to compute; cpu, cuda, cuda:1.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of a folder: that compute; default: the cores it may use.")
    ] = None,
    history: Annotated[bool, typer.Option(help="Keep what is typed for the arrow keys of the next time.")] = True,
) -> None:
    """Talk to a model, or have a base model continue text.

    /help lists the commands; Ctrl-C stops an answer; the end of input (Ctrl-D) ends it all.
    """
    import os

    from hyla.cli.chat_models import open_model
    from hyla.cli.chat_session import Session
    from hyla.cli.line_editor import line_history

    key = api_key or os.environ.get(API_KEY_VARIABLE)
    given = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    settings = {setting: value for setting, value in given.items() if value is not None}
    options = {"dtype": dtype, "revision": revision, "adapter": adapter, "device": device, "threads": threads}
    with open_model(model, name=name, api_key=key, options=options) as opened, line_history(history):
        Session(opened, settings, system=system).run()
