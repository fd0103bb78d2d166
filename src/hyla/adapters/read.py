"""A folder in PEFT's format as terms of our parameters, checked against a model's config before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.adapters.config import LoraConfig
from hyla.adapters.peft_config import OWN_FILE, TENSORS_FILE, PeftConfig, read_peft_config
from hyla.adapters.peft_names import Experts, Layout, Matrix, layout, theirs
from hyla.adapters.peft_tensors import apart, our_magnitudes, our_ups, stacked_experts
from hyla.adapters.targets import select
from hyla.checkpoints.files import ShardReader
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.layers.parameters import by_name
from hyla.models.config import ModelConfig
from hyla.models.formats.names import Rule, Stack
from hyla.models.formats.registry import family_of
from hyla.models.parameters import model_parameters
from hyla.ops.weights import LowRank
from hyla.terminal_text import shortened

TERM = re.compile(r"^(?P<path>.+)\.lora_(?P<part>A|B|magnitude_vector)(\.default)?(\.weight)?$")
PREFIX = re.compile(r"^(?:base_model\.model\.|module\.|_orig_mod\.)+")
FLOATS = ("F32", "BF16", "F16", "F64")

Parts = dict[str, torch.Tensor]
"""Of one of PEFT's modules: "A", "B" and perhaps "magnitude_vector"."""


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter's folder holds."""

    folder: Path
    config: LoraConfig
    """Its own where Hyla wrote it; else what PEFT's says, with the adapted parameters as targets."""
    base: str | None
    """The name of the model that it was trained on, if it says so."""
    terms: Mapping[str, LowRank]
    """By our parameter's name, fp32."""
    whole: Mapping[str, torch.Tensor]
    """Parameters that were trained whole, by our name."""

    def vocab_size(self, config: ModelConfig) -> int:
        """Rows of the embedding with it: more than the base's where tokens were added."""
        embedding = self.whole.get("embed.weight")
        return config.vocab_size if embedding is None else embedding.shape[0]


def read_adapter(folder: str | Path, config: ModelConfig) -> AdapterFile:
    """Read an adapter for a model. Nothing is unpickled and no code is run.

    Raises CheckpointError for files that are missing, damaged or of another model, ConfigError for settings that Hyla
    cannot honour.
    """
    folder = Path(folder)
    settings = read_peft_config(folder)
    if not (folder / TENSORS_FILE).exists():
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        hint = f", only {pickles}: pickles can run code and are never opened; save it as safetensors" if pickles else ""
        raise CheckpointError(f"{folder} has no {TENSORS_FILE}{hint}")
    with ShardReader(folder / TENSORS_FILE) as shards:
        _check_dtypes(folder, shards)
        tensors = {name: shards.tensor(name).clone() for name in shards}
    return _Reading(folder, settings, config).file(tensors)


def _check_dtypes(folder: Path, shards: ShardReader) -> None:
    for name in shards:
        if shards.dtype(name) not in FLOATS:
            raise CheckpointError(f"{folder}: {name} is stored as {shards.dtype(name)}; adapters are {FLOATS}")


class _Reading:
    """Finds the terms in an adapter's tensors."""

    def __init__(self, folder: Path, settings: PeftConfig, config: ModelConfig):
        self.folder, self.settings, self.config = folder, settings, config
        self.layout: Layout = layout(config)
        self.shapes = {row.name: row.shape for row in model_parameters(config)}
        self.rows = by_name(model_parameters(config))
        self.own = _own_config(folder)
        self.terms: dict[str, LowRank] = {}

    def file(self, tensors: Mapping[str, torch.Tensor]) -> AdapterFile:
        modules, rest = self._sorted(tensors)
        whole = self._whole(rest)
        self._matrices(modules)
        self._single_experts(modules)
        self._stacks(modules)
        if modules:
            paths = shortened(", ".join(sorted(modules)[:3]), 300)
            raise CheckpointError(
                f"{self.folder}: {len(modules)} adapted modules are no matrices of this model that can have terms (its "
                f"projections and experts; no router, no head): {paths}{self._of()}"
            )
        if not self.terms and not whole:
            raise CheckpointError(f"{self.folder}: {TENSORS_FILE} holds no terms")
        terms = self._kept()
        config = self.own or self._foreign_config(terms, whole)
        return AdapterFile(self.folder, config, self.settings.base_model_name_or_path, terms, whole)

    def _sorted(self, tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Parts], Parts]:
        """The parts of terms by PEFT's module, and all other tensors by name."""
        modules: dict[str, Parts] = {}
        rest = {}
        for name, tensor in tensors.items():
            if ".lora_embedding_" in name:
                raise ConfigError(
                    f"{self.folder}: {name} adapts an embedding, which is not read; merge it with PEFT first"
                )
            bare = PREFIX.sub("", name)
            match = TERM.match(bare)
            if match is None:
                rest[bare.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")] = tensor
            else:
                modules.setdefault(match["path"], {})[match["part"]] = (
                    tensor.float() if tensor.dtype != torch.float64 else tensor
                )
        for path, parts in modules.items():
            missing = {"A", "B", *(("magnitude_vector",) if self.settings.use_dora else ())} - parts.keys()
            if missing:
                raise CheckpointError(f"{self.folder}: {path} has no lora_{sorted(missing)[0]}; save it again")
        return modules, rest

    def _of(self) -> str:
        base = self.settings.base_model_name_or_path
        return f"; it was made for {base}" if base else "; it was made for another model"

    def _check(self, path: str, parts: Parts, down: tuple[int, ...], up: tuple[int, ...]) -> None:
        for part, wanted in (("A", down), ("B", up), ("magnitude_vector", up[:1])):
            if part in parts and tuple(parts[part].shape) != wanted:
                found = tuple(parts[part].shape)
                raise CheckpointError(
                    f"{self.folder}: lora_{part} of {path} is {found} instead of {wanted}{self._of()}"
                )

    def _matrices(self, modules: dict[str, Parts]) -> None:
        """Take the modules that are published matrices."""
        for matrix in self.layout.matrices:
            parts = modules.pop(matrix.path, None) or modules.pop(matrix.published, None)
            if parts is not None:
                self._matrix(matrix, parts)

    def _matrix(self, matrix: Matrix, parts: Parts) -> None:
        rank, names = self.settings.rank(matrix.path), matrix.rule.ours
        shapes = [self.shapes[name] for name in names]
        out_dim = sum(_rows(shape) for shape in shapes)
        self._check(matrix.path, parts, (rank, shapes[0][-1]), (out_dim, rank))
        scale, magnitudes = self.settings.scale(matrix.path), [None] * len(names)
        if self.settings.use_dora:
            magnitudes = our_magnitudes(matrix.rule, parts["magnitude_vector"], shapes)
        for name, up, magnitude in zip(names, our_ups(matrix.rule, parts["B"], shapes), magnitudes):
            self.terms[name] = LowRank(parts["A"], up, scale, magnitude)

    def _single_experts(self, modules: dict[str, Parts]) -> None:
        """Take experts that are modules of their own, as they were before transformers stacked them."""
        family = self.config.family
        for name, rule in self.layout.rules.items():
            if not isinstance(rule, Stack) or rule.ours != (name,):
                continue
            paths = [published.removesuffix(".weight") for published in rule.published]
            found = [modules.pop(path, None) or modules.pop(theirs(family, path), None) for path in paths]
            if any(found):
                self._stack_of(name, paths, found)

    def _stack_of(self, name: str, paths: list[str], found: list[Parts | None]) -> None:
        self._refuse_dora(name)
        _, out_dim, in_dim = self.shapes[name]
        rank = self.settings.rank(paths[0])
        for path, parts in zip(paths, found):
            self._check(path, parts or {}, (rank, in_dim), (out_dim, rank))
        # An expert without a term has zeros.
        downs = [torch.zeros(rank, in_dim) if parts is None else parts["A"] for parts in found]
        ups = [torch.zeros(out_dim, rank) if parts is None else parts["B"] for parts in found]
        self.terms[name] = LowRank(torch.stack(downs), torch.stack(ups), self.settings.scale(paths[0]))

    def _stacks(self, modules: dict[str, Parts]) -> None:
        """Take experts that are parameters of three dimensions."""
        nested = {experts.path for experts in self.layout.experts if f"{experts.path}.base_layer" in modules}
        for experts in self.layout.experts:
            is_nested = experts.path in nested
            key = f"{experts.path}.base_layer" if is_nested and experts.is_inner else experts.path
            if key not in modules or not (is_nested or self._is_target(experts)):
                continue
            self._refuse_dora(experts.target)
            parts = modules.pop(key)
            rank, shapes = self.settings.rank(experts.target), [self.shapes[name] for name in experts.ours]
            count, out_dims = shapes[0][0], [shape[1] for shape in shapes]
            self._check(experts.target, parts, (rank * count, shapes[0][2]), (sum(out_dims), rank * count))
            down, ups = stacked_experts(parts["A"], parts["B"], count, out_dims)
            named, scale = dict(zip(experts.ours, ups)), self.settings.scale(experts.target)
            # What was joined to be saved is taken apart again: the same terms, to train on.
            own_rank = self.own.rank if self.own is not None else rank
            self.terms |= apart(down, named, scale, own_rank)

    def _is_target(self, experts: Experts) -> bool:
        """Whether a module of experts without a nested one holds the terms of this parameter."""
        named = self.settings.target_parameters or ()
        return not experts.parameter or any(
            experts.target == name or experts.target.endswith(f".{name}") for name in named
        )

    def _refuse_dora(self, name: str) -> None:
        if self.settings.use_dora:
            raise ConfigError(f"{self.folder}: use_dora with the experts of {name}, for which there is no DoRA")

    def _whole(self, rest: Parts) -> dict[str, torch.Tensor]:
        """Parameters that were trained whole, by our name."""
        family = family_of(self.config.family)
        single = {
            spelling: rule.ours[0]
            for rule in family.rules(self.config, self.shapes)
            if type(rule) is Rule
            for spelling in (rule.published[0], theirs(self.config.family, rule.published[0]))
        }
        tied = (
            {rule.published[0] for rule in family.trunk if rule.ours == ("head.weight",)}
            if self.config.tie_embeddings
            else ()
        )
        found = {}
        for name, tensor in rest.items():
            if name in tied:
                continue  # the embedding again
            ours = single.get(name) or single.get(family.canonical(name))
            if ours is None:
                raise CheckpointError(f"{self.folder}: {name} is no parameter of this model{self._of()}")
            wanted, shape = self.shapes[ours], tuple(tensor.shape)
            if ours in ("embed.weight", "head.weight"):  # tokens may have been added
                wanted = (max(wanted[0], shape[0]), wanted[1])
            if shape != wanted:
                raise CheckpointError(f"{self.folder}: {name} is {shape} instead of {wanted}{self._of()}")
            found[ours] = tensor
        return found

    def _kept(self) -> dict[str, LowRank]:
        """Without the zeros that stand for what has no term, where the file is our own."""
        if self.own is None:
            return self.terms
        chosen = set(select(self.config, self.own.targets))
        return {name: term for name, term in self.terms.items() if name in chosen}

    def _foreign_config(self, terms: Mapping[str, LowRank], whole: Mapping[str, torch.Tensor]) -> LoraConfig:
        return LoraConfig(
            rank=self.settings.r,
            alpha=self.settings.lora_alpha,
            targets=tuple(name.removesuffix(".weight") for name in self.rows if name in terms) or ("all-linear",),
            use_dora=self.settings.use_dora,
            use_rslora=self.settings.use_rslora,
            modules_to_save=tuple(name.removesuffix(".weight") for name in whole),
        )


def _rows(shape: tuple[int, ...]) -> int:
    """Outputs of a matrix, or of all heads' matrices."""
    count = 1
    for size in shape[:-1]:
        count *= size
    return count


def _own_config(folder: Path) -> LoraConfig | None:
    file = folder / OWN_FILE
    return LoraConfig(**read_json(file)) if file.exists() else None
