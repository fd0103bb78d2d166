"""`hyla chat FOLDER`: a conversation in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def chat(
    folder: Annotated[Path, typer.Argument(help="Model folder in the Hugging Face format.")],
    system: Annotated[str | None, typer.Option(help="First message, from the system.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as stored.")] = None,
) -> None:
    """Talk to a model folder. An empty line, or the end of input, ends the conversation."""
    import hyla
    from hyla.checkpoints import load_tokenizer

    tokenizer = load_tokenizer(folder)
    engine = hyla.Engine(folder, dtype=dtype, max_num_sequences=1)
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
