"""Folders that quantising libraries wrote (`make_folders.py`) hold the numbers that those libraries read in them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from hyla.checkpoints import load_model, open_checkpoint
from hyla.models.state import NamedWeights

FOLDERS = sorted(path for path in (Path(__file__).parent / "folders").iterdir() if path.is_dir())


def expected(folder):
    """Published name -> (dtype in which the library dequantises, SHA-256 of those bytes)."""
    told = json.loads((folder / "expected.json").read_text())
    return {name: (getattr(torch, dtype), digest) for name, (dtype, digest) in told.items()}


def digest(tensor):
    """Of the bits, where a zero has no sign: some libraries have tables with one."""
    return hashlib.sha256((tensor + 0.0).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_weight_has_the_bits_of_the_library(folder):
    with open_checkpoint(folder).tensors(torch.float32) as source:
        wrong = [
            name for name, (dtype, told) in expected(folder).items() if digest(source.tensor(name).to(dtype)) != told
        ]
    assert wrong == [] and len(expected(folder)) == 7


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_folder_loads_in_the_dtype_of_its_embedding_and_computes(folder):
    model = load_model(folder)
    assert model.dtype == torch.bfloat16 and model.quantization is None
    with torch.inference_mode():
        logits = model.logits([[3, 1, 4, 1, 5]])[0]
    exact = load_model(folder, dtype="float32")
    q = NamedWeights(exact).read("sublayers.0.module.q.weight")
    assert torch.equal(NamedWeights(model).read("sublayers.0.module.q.weight"), q.to(torch.bfloat16))
    with torch.inference_mode():
        difference = (logits.float() - exact.logits([[3, 1, 4, 1, 5]])[0]).norm() / logits.float().norm()
    assert difference < 0.05
