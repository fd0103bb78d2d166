"""`hyla chat FOLDER`: a conversation in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer


def chat(
    folder: Annotated[str, typer.Argument(help="Model folder in the Hugging Face format, or org/name on its hub.")],
    system: Annotated[str | None, typer.Option(help="First message, from the system.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as stored.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an org/name.")] = None,
) -> None:
    """Talk to a model folder. An empty line, or the end of input, ends the conversation."""
    import hyla
    from hyla.checkpoints import load_tokenizer, resolve
    from hyla.cli.console import loading_bar

    found = resolve(folder, revision)
    tokenizer = load_tokenizer(found)
    with loading_bar() as progress:
        engine = hyla.Engine(found, dtype=dtype, max_num_sequences=1, progress=progress)
    params = hyla.SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    messages = [{"role": "system", "content": system}] if system else []
    while line := _read_line():
        messages.append({"role": "user", "content": line})
        answer = ""
        for event in engine.stream(tokenizer.encode_chat(messages), params):
            print(event.text or "", end="", flush=True)
            answer += event.text or ""
        print()
        messages.append({"role": "assistant", "content": answer})


def _read_line() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""
