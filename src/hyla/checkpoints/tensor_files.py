"""Tensors into a safetensors file that others can read, and that outlives a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file


def write_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write a new file with the permissions that the umask gives (the library's own writer makes files private), and
    wait until the disk has it. Raises OSError; no file is left then."""
    file.open("wb").close()
    mode = file.stat().st_mode
    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
        file.chmod(mode)
        with file.open("rb") as written:
            os.fsync(written.fileno())
    except BaseException as error:
        file.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):  # what the library makes of a full disk
            raise OSError(errno.EIO, str(error), str(file)) from error
        raise
