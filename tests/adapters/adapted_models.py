"""Tiny models of every family with an adapter whose terms say something."""

import torch

from hyla.adapters import LoraConfig, attach
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model


def model_of(family: str, dtype=torch.float32, seed: int = 3) -> Model:
    """A tiny model of a family, without multi-token prediction, which transformers leaves out."""
    config = family_of(family).tiny.model_copy(update={"mtp": ()})
    return cast(initialize(Model(config), seed, std=0.2), dtype)


def stirred(adapters, seed: int = 0):
    """The adapters, with B drawn (it starts as zero) and DoRA's magnitudes moved. Returns them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if ".ups." in name:
                parameter.copy_(noise * 0.1)
            elif ".magnitudes." in name:
                parameter.mul_(1 + noise * 0.2)
    return adapters


def adapted(family: str, dtype=torch.float32, **fields):
    """A tiny model and its stirred adapter."""
    model = model_of(family, dtype)
    return model, stirred(attach(model, LoraConfig(**{"rank": 3, "alpha": 5.0, **fields}), seed=7))


def prompt(model: Model, length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (length,), generator=generator).tolist()


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
