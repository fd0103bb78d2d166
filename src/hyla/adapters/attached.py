"""An adapter on a model: the base is frozen, the terms are what is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from hyla.adapters.config import LoraConfig
from hyla.adapters.read import AdapterFile, read_adapter
from hyla.adapters.targets import Group, groups, places, select, select_whole
from hyla.errors import ConfigError
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.weights import LowRank
from hyla.ops.weights.adapted import row_norms


class Factors(nn.Module):
    """One A, and a B for each of our parameters that it serves: what belongs to one published matrix."""

    def __init__(
        self,
        down: torch.Tensor,
        ups: Mapping[str, torch.Tensor],
        magnitudes: Mapping[str, torch.Tensor],
        scale: float,
    ):
        """down: [r, D], of experts [E, r, D]. ups: [.., O, r] by our parameter's name; magnitudes: DoRA's [.., O]."""
        super().__init__()
        self.scale, self.names = scale, tuple(ups)
        self.down = nn.Parameter(down)
        self.ups = nn.ParameterDict({_key(name): nn.Parameter(up) for name, up in ups.items()})
        self.magnitudes = nn.ParameterDict({_key(name): nn.Parameter(m) for name, m in magnitudes.items()})

    def terms(self) -> dict[str, LowRank]:
        """The low-rank term of each parameter, made of the trained tensors themselves."""
        found = {}
        for name in self.names:
            key = _key(name)
            found[name] = LowRank(self.down, self.ups[key], self.scale, self.magnitudes.get(key))
        return found


def _key(name: str) -> str:
    """A name that PyTorch takes for a parameter."""
    return name.replace(".", "/")


class Adapters(nn.Module):
    """The terms beside a model's matrices, until `detach`. The model is not part of this module, nor this of the model:
    its tensors keep their names, and are saved without the terms.

    While they are attached, every parameter of the model is frozen but those of `config.modules_to_save`.
    """

    def __init__(self, model: Model, config: LoraConfig, factors: Sequence[Factors], whole: Sequence[str]):
        super().__init__()
        self.config, self.whole = config, tuple(whole)
        self._models = [model]  # in a list: not a child of this module
        self._weights = NamedWeights(model)
        # In one order, wherever they come from: an optimizer's sums over all gradients follow it.
        places = {name: place for place, name in enumerate(self._weights.shapes)}
        ordered = sorted(factors, key=lambda part: places[part.names[0]])
        self.factors = nn.ModuleDict({_key(part.names[0]): part for part in ordered})
        self._frozen: list[nn.Parameter] = []
        self._attach()

    @property
    def model(self) -> Model:
        return self._models[0]

    @property
    def terms(self) -> dict[str, LowRank]:
        """Every term by our parameter's name."""
        parts = (part for part in self.factors.values() if isinstance(part, Factors))
        return {name: term for part in parts for name, term in part.terms().items()}

    def trainable(self) -> dict[str, nn.Parameter]:
        """What an optimizer updates, by name: the factors ("<matrix>.down", ...) and what is trained whole."""
        return self.beside() | {name: self._held(name) for name in self.whole}

    def beside(self) -> dict[str, nn.Parameter]:
        """The factors alone, by name."""
        return {name.removeprefix("factors."): parameter for name, parameter in self.named_parameters()}

    def _held(self, name: str) -> nn.Parameter:
        return self.model.get_parameter(name)

    def _attach(self) -> None:
        for projection in self.model.projections():
            if projection.terms:
                raise ConfigError("the model has an adapter already; merge or detach it before another one is attached")
        for name, term in self.terms.items():
            for projection, place in self._weights.projections[name]:
                projection.adapt(place, term)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and name not in self.whole:
                parameter.requires_grad_(False)
                self._frozen.append(parameter)

    def detach(self) -> Model:
        """Take the terms away; the model is as it was before, but for what was trained whole. Returns it."""
        for name in self.terms:
            for projection, place in self._weights.projections[name]:
                projection.adapt(place, None)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen.clear()
        return self.model


def attach(model: Model, config: LoraConfig, *, seed: int = 0) -> Adapters:
    """Put new terms beside a model's matrices, and freeze the rest. The model computes what it did before: B is zero.

    Start values are PEFT's: A uniform within 1 / sqrt(inputs) (He et al. with a = sqrt(5)), drawn from the seed in the
    order of the model's matrices; B zero; DoRA's magnitudes the lengths of the rows. Factors are fp32 (float64 in a
    float64 model), whatever the model is stored as.
    Raises ConfigError for a target that matches nothing, and for DoRA on routed experts or on what is there already.
    """
    names = select(model.config, config.targets)
    whole = select_whole(model.config, config.modules_to_save, names)
    known, weights = places(model.config), NamedWeights(model)
    _refuse_stacked_dora(config.use_dora, [name for name in names if known[name].is_expert])
    for name in whole:
        if weights.read(name).is_meta or any(
            projection.is_packed for projection, _ in weights.projections.get(name, ())
        ):
            raise ConfigError(f"{name} is packed and cannot be trained whole; call model.unpack() first")
    generator = torch.Generator().manual_seed(seed)
    factors = [_drawn(group, config, weights, generator) for group in groups(model.config, names)]
    return Adapters(model, config, factors, whole)


def _refuse_stacked_dora(use_dora: bool, experts: Iterable[str]) -> None:
    for name in experts if use_dora else ():
        raise ConfigError(
            f"use_dora: {name} is a stack of experts, for which DoRA has no file; adapt it with LoRA alone"
        )


def _drawn(group: Group, config: LoraConfig, weights: NamedWeights, generator: torch.Generator) -> Factors:
    """The start values of one published matrix."""
    dtype = torch.promote_types(weights.held_dtype(group.ours[0]), torch.float32)
    device, shapes = weights.model.device, {name: weights.shapes[name] for name in group.ours}
    row = weights.row(group.ours[0])
    in_dim = shapes[group.ours[0]][-1]
    lead = (row.experts,) if row is not None and row.experts else ()
    bound = 1.0 / math.sqrt(in_dim)
    down = torch.empty(*lead, config.rank, in_dim, dtype=dtype).uniform_(-bound, bound, generator=generator)
    ups = {name: torch.zeros(*shape[:-1], config.rank, dtype=dtype, device=device) for name, shape in shapes.items()}
    magnitudes = {name: row_norms(weights.read(name).to(dtype)) for name in group.ours if config.use_dora}
    return Factors(down.to(device), ups, magnitudes, config.scale)


def load_adapter(model: Model, folder: str | Path | AdapterFile) -> Adapters:
    """Put a saved adapter beside a model's matrices, to train it on or to look at it; see `adapters.merge` for one that
    only computes. folder: in PEFT's format, its own or of `save_adapter`.

    Raises CheckpointError for a file that is missing, damaged or of another model, ConfigError for what it asks for.
    """
    file = folder if isinstance(folder, AdapterFile) else read_adapter(folder, model.config)
    return attach_file(model, file)


def attach_file(model: Model, file: AdapterFile) -> Adapters:
    """`load_adapter` of what was read already."""
    weights, device = NamedWeights(model), model.device
    by_down: dict[int, dict[str, LowRank]] = {}
    for name, term in file.terms.items():
        by_down.setdefault(id(term.down), {})[name] = term
    factors = []
    for terms in by_down.values():
        first = next(iter(terms.values()))
        dtype = torch.promote_types(weights.held_dtype(next(iter(terms))), torch.float32)
        new = {"device": device, "dtype": dtype, "copy": True}
        ups = {name: term.up.to(**new) for name, term in terms.items()}
        lengths = {name: term.magnitude_O.to(**new) for name, term in terms.items() if term.magnitude_O is not None}
        factors.append(Factors(first.down.to(**new), ups, lengths, first.scale))
    with torch.no_grad():
        for name, tensor in file.whole.items():
            held = weights.read(name)
            if held.shape != tensor.shape:
                raise ConfigError(
                    f"{file.folder}: {name} is {tuple(tensor.shape)}, the model's {tuple(held.shape)}; give the model "
                    "the adapter's tokens first (extend_vocabulary), or use load_adapted"
                )
            weights.assign(name, tensor.to(device, held.dtype, copy=True))
    return Adapters(model, file.config, factors, tuple(file.whole))
