"""An adapter made part of the weights: W + scale B A in fp32, rounded once to the weight's dtype."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from hyla.adapters.attached import Adapters
from hyla.adapters.read import AdapterFile, read_adapter
from hyla.adapters.vocabulary import with_vocabulary
from hyla.checkpoints import load_model, open_checkpoint, resolve
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.weights import LowRank

logger = logging.getLogger("hyla.adapters")

Edit = Callable[[torch.Tensor], torch.Tensor]
Progress = Callable[[int, int], None]


@torch.no_grad()
def merge(adapters: Adapters) -> Model:
    """Make the terms part of their matrices, and detach the adapter. Returns the model, plain and trainable.

    An FP8 matrix that had a term is plain afterwards, in the dtype that it stood for. A packed model is packed again.
    Exactness: the bits are those of a model that was loaded with this adapter (`load_adapted`), if it is of one dtype
    with the checkpoint.
    """
    model, terms = adapters.model, adapters.terms
    adapters.detach()
    weights = NamedWeights(model)
    touched = {projection for name in terms for projection, _ in weights.projections[name]}
    packed = [projection for projection in touched if projection.is_packed]
    for projection in packed:
        projection.unpack()
    for name, term in terms.items():
        weights.assign(name, merged(weights.read(name), term, weights.held_dtype(name)))
    for projection in packed:
        projection.pack()
    return model


def merged(weight: torch.Tensor, term: LowRank, dtype: torch.dtype) -> torch.Tensor:
    """The weight with its term, rounded once to dtype."""
    with torch.no_grad():
        return term.merged(weight).to(dtype)


def edits(file: AdapterFile) -> Mapping[str, Edit]:
    """What loading does to the numbers of each parameter that an adapter changes (`checkpoints.load_model`)."""
    changed: dict[str, Edit] = {name: partial(_with_term, term=term) for name, term in file.terms.items()}
    return changed | {name: partial(_replaced, new=tensor) for name, tensor in file.whole.items()}


def _with_term(weight: torch.Tensor, *, term: LowRank) -> torch.Tensor:
    with torch.no_grad():
        return term.merged(weight)


def _replaced(weight: torch.Tensor, *, new: torch.Tensor) -> torch.Tensor:
    return new


def load_adapted(
    model: str | Path,
    adapter: str | Path,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    *,
    revision: str | None = None,
    pack: bool = False,
    progress: Progress | None = None,
) -> Model:
    """`load_model` with an adapter's terms merged as the weights come in, each matrix rounded once.

    adapter: a folder in PEFT's format. Tokens that it adds are part of the model; their texts are in its tokenizer.
    Raises as `load_model` does, and CheckpointError for an adapter that does not fit the model.
    """
    folder = resolve(model, revision)
    config = open_checkpoint(folder).config().config
    file = read_adapter(adapter, config)
    if file.base is not None:
        logger.info("%s: an adapter of %s, merged into %s", adapter, file.base, folder)
    rows = file.vocab_size(config)
    if rows == config.vocab_size:
        return load_model(folder, dtype, device, pack=pack, progress=progress, edits=edits(file))
    terms = AdapterFile(file.folder, file.config, file.base, file.terms, {})
    loaded = load_model(folder, dtype, device, progress=progress, edits=edits(terms))
    wider = with_vocabulary(loaded, rows)
    weights = NamedWeights(wider)
    for name, tensor in file.whole.items():
        weights.assign(name, tensor.to(weights.model.device, weights.held_dtype(name), copy=True))
    return wider.pack() if pack else wider
