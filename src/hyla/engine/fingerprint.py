"""What equal bits depend on: weights, arithmetic and machine. States of another fingerprint are never taken up."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from hyla.caches import Cache
from hyla.engine.sources import code_digest
from hyla.grid import BLOCK, CHUNK
from hyla.models.operators import backends_of
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops import native
from hyla.ops.devices import facts
from hyla.ops.weights import LowRank


def fingerprint(model: Model, pool: Cache) -> dict[str, str | int]:
    """The fingerprint's parts by name, as plain data; on CUDA with card, driver, libraries and their settings.

    Reads every weight once (about a second per gigabyte).
    """
    return {
        "torch": torch.__version__,
        "device": _device_name(model.device),
        **facts(model.device),
        "num_threads": torch.get_num_threads(),
        "dtype": str(model.dtype),
        "numerics": pool.numerics,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "grid": f"{CHUNK}/{BLOCK}",
        "snapshot_dtype": pool.snapshot_dtype,
        "layers": _short(repr(pool.specs)),
        "config": _short(json.dumps(model.config.model_dump(mode="json"), sort_keys=True)),
        "kernels": native.build_name() or "none",
        "backends": " ".join(f"{name}={found['backend']}" for name, found in backends_of(model).items()),
        "code": code_digest(model),
        "weights": weights_digest(model),
    }


def weights_digest(model: Model, names: Collection[str] | None = None, terms: Collection[str] | None = None) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all weights, packed or not, and of terms beside them.

    names: of these weights alone; None: of all. terms: of the terms beside these alone.
    """
    weights, digest = NamedWeights(model), hashlib.sha256()
    for name in weights.shapes:
        if names is not None and name not in names:
            continue
        stored = weights.fp8(name)
        for tensor in (weights.read(name),) if stored is None else (stored.codes, stored.scale):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            for part in _parts(tensor):
                digest.update(part)
    for name, places in weights.projections.items():
        for projection, place in places if terms is None or name in terms else ():
            _add_term(digest, name, projection.terms.get(place))
    return digest.hexdigest()


def _add_term(digest, name: str, term: LowRank | None) -> None:
    if term is None:
        return
    for part, tensor in (("down", term.down), ("up", term.up), ("magnitude", term.magnitude_O)):
        if tensor is not None:
            digest.update(f"{name} {part} {term.scale} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            for piece in _parts(tensor):
                digest.update(piece)


def _parts(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, a piece at a time."""
    flat = tensor.detach().contiguous().view(-1)
    for piece in flat.split(1 << 24):
        yield piece.cpu().view(torch.uint8).numpy().data


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
