"""The files of every model that is timed, made once in a folder and kept there: what each engine reads."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.machine import ROOT
from bench.peers.process import PeerError

OWN = ("hyla", "vllm", "transformers")
"""Engines that read the published folder itself."""


@dataclass(frozen=True)
class Model:
    """One model. write: makes its published folder, or None where `file` is all there is."""

    name: str
    write: Callable[[Path], None] | None = None
    has_gguf: bool = False
    """Whether bench/gguf_folder.py can write its file for llama.cpp."""
    file: str | None = None
    """A GGUF file that exists."""


@dataclass(frozen=True)
class Files:
    """Where files are, and the environments whose tools make them."""

    folder: Path
    environments: Path

    def python(self, engine: str) -> str:
        """Raises PeerError where it was not installed."""
        python = self.environments / engine / "bin" / "python"
        if not python.exists():
            raise PeerError("not installed: python -m bench peers --install DIR says why")
        return str(python)

    def of(self, model: Model, engine: str) -> str:
        """What the engine loads. Raises PeerError with the reason where it cannot be made."""
        if model.file is not None:
            if engine in ("hyla", "llama"):
                return model.file
            raise PeerError("is not timed on GGUF files")
        if engine in OWN:
            return str(self._made(model.name, lambda place: _written(model, place)))
        published = self.of(model, "hyla")
        if engine == "llama":
            if not model.has_gguf:
                raise PeerError("no GGUF file of this shape is written here")
            command = [self.python("llama"), "-m", "bench.gguf_folder", published]
            return str(self._made(f"{model.name}.gguf", lambda place: _run([*command, str(place)])))
        tool = str(Path(self.python("openvino")).with_name("optimum-cli"))
        flags = ["--task", "text-generation-with-past", "--weight-format", "fp16"]
        command = [tool, "export", "openvino", "--model", published, *flags]
        return str(self._made(f"{model.name}-openvino", lambda place: _run([*command, str(place)])))

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        """Made under another name first, so that what is there is whole."""
        place, unfinished = self.folder / name, self.folder / f"unfinished-{name}"
        if not place.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(place)
        return place


def _written(model: Model, place: Path) -> None:
    assert model.write is not None
    model.write(place)


def _run(command: list[str]) -> None:
    """Raises PeerError with the last line that a tool wrote."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise PeerError(f"{Path(command[0]).name} {' '.join(command[1:3])} fails: {''.join(last)[:300]}")


def decode_bytes(source: str, context: int) -> float:
    """What one token reads there, by hyla.cost: weights in bf16, states, keys and values."""
    from hyla.checkpoints import open_checkpoint
    from hyla.cost.call import decode
    from hyla.cost.memory import model_memory
    from hyla.cost.work import step_work

    config = open_checkpoint(source).config().config
    works = step_work(config, decode(context), weights="bf16", arithmetic="usual")
    return sum(work.weight_bytes for work in works) + model_memory(config, 2).published_bytes(context)
