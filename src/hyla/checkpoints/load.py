"""Published folder -> model. Tensors stream from memory-mapped shards into place, one rule at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.checkpoints.files import ShardReader
from hyla.checkpoints.hub import resolve
from hyla.checkpoints.quantised import CODE_DTYPE, SCALE_DTYPES, SUFFIX, place_rule, read_quantization
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config import ModelConfig
from hyla.models.formats.family import Family, published_shapes
from hyla.models.formats.names import Rule
from hyla.models.formats.registry import family_of_published
from hyla.models.trunk import Model
from hyla.models.weights import Weights
from hyla.ops.quant import dequantise

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""

logger = logging.getLogger("hyla.checkpoints")

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64}
"""Stored dtypes that a model can compute in."""


@dataclass(frozen=True)
class FolderConfig:
    """What the JSON files of a folder say."""

    family: Family
    config: ModelConfig
    published: dict
    """config.json as it is."""
    quantization: dict | None = None
    """Its quantization_config, checked."""


def read_config(folder: str | Path) -> FolderConfig:
    """Read config.json, and the end tokens of generation_config.json. Raises CheckpointError or ConfigError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one that holds config.json and safetensors")
    published = read_json(folder / "config.json")
    family = family_of_published(published)
    config = family.config_from_hf(published)
    eos = _generation_eos(folder / "generation_config.json")
    if eos:
        config = config.model_copy(update={"eos_token_ids": eos})
    return FolderConfig(family, config, published, read_quantization(published, family.text_key))


def _generation_eos(file: Path) -> tuple[int, ...]:
    """End tokens of generation_config.json, which often lists more of them than config.json."""
    eos = read_json(file).get("eos_token_id") if file.exists() else None
    listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int for token in listed):
        raise CheckpointError(f"{file}: eos_token_id = {eos!r} must be a token id or a list of them")
    return tuple(listed)


def load_model(
    folder: str | Path,
    dtype: torch.dtype | str | None = None,
    device: str = "cpu",
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """Load a model in the Hugging Face format. Nothing is unpickled and no code of the folder is run.

    folder: a folder, or a name "org/name" on the Hugging Face hub; revision: of a name, its branch, tag or commit.
    dtype: of weights and activations, e.g. torch.bfloat16 or "bfloat16"; None: the one in which the checkpoint stores
    the embedding (vectors that it stores wider stay so). What modules name in `fp32_parameters` is fp32 either way.
    FP8 weights stay FP8 and are dequantised block by block as they are used; with a dtype, once, here: the same bits.
    progress: called with (bytes placed, bytes of the checkpoint) as tensors come in.
    Memory: the model plus one rule's tensors. Ignored tensors are logged with the reason.
    Raises CheckpointError for missing, extra, damaged or misshapen tensors, ConfigError for what config.json asks.
    """
    folder = resolve(folder, revision)
    asked = None if dtype is None else _computable(dtype)
    found = read_config(folder)
    with ShardReader(folder) as shards:
        names = _published_names(shards, found.family, found.config)
        config = _without_absent_mtp(folder, found, names)
        model = build_on_meta(config)
        weights = Weights(model)
        rules = found.family.as_stored(config, names).rules(config, weights.shapes)
        if model.config.tie_embeddings:
            _drop_tied_head(shards, names, found.family)
        expected = {name: shape for rule in rules for name, shape in zip(rule.published, _shapes(rule, weights))}
        if found.quantization is not None:
            expected |= {
                name + SUFFIX: rule.scale_shape(expected[name])
                for rule in rules
                for name in rule.published
                if name in names and shards.dtype(names[name]) == CODE_DTYPE and len(expected[name]) == 2
            }
        _check(folder, expected, names, shards)
        dtype = asked or _model_dtype(folder, shards, names, rules)
        # float64 is an oracle's dtype: dequantised, since no product promises anything there.
        keep = None if asked or dtype == torch.float64 else dtype
        placer = _Placer(
            model, weights, shards, names, device=device, dtype=dtype, is_asked=asked is not None, keep=keep
        )
        placer.place_all(rules, progress)
    if keep is not None:
        model.quantization = found.quantization
    return model


@dataclass(frozen=True)
class _Placer:
    """Copies the tensors of a folder into a model."""

    model: Model
    weights: Weights
    shards: ShardReader
    names: dict[str, str]
    """Our spelling of each published name -> the folder's."""
    device: str
    dtype: torch.dtype
    is_asked: bool
    """Whether the caller chose the dtype: it then holds for vectors, too."""
    keep: torch.dtype | None
    """The dtype that resident FP8 weights stand for; None: dequantise them."""

    def read(self, name: str) -> torch.Tensor:
        return self.shards.tensor(self.names[name])

    def place_all(self, rules: list[Rule], progress: Progress | None) -> None:
        total = sum(self.shards.nbytes(name) for name in self.names.values())
        done = 0
        for rule in rules:
            self.place(rule)
            stored = [name for base in rule.published for name in (base, base + SUFFIX) if name in self.names]
            done += sum(self.shards.nbytes(self.names[name]) for name in stored)
            if progress is not None:
                progress(done, total)

    def place(self, rule: Rule) -> None:
        """One rule's tensors."""
        has_scales = [name + SUFFIX in self.names for name in rule.published]
        if all(has_scales):
            ours = place_rule(rule, self.read, self.model, self.weights, keep=self.keep, device=self.device)
        else:
            published = [
                self._dequantised(name) if scaled else self.read(name)
                for name, scaled in zip(rule.published, has_scales)
            ]
            ours = rule.to_ours(published, [self.weights.shapes[name] for name in rule.ours])
        for name, tensor in zip(rule.ours, ours or ()):
            target = self.weights.dtype(name, self.dtype)
            if not self.is_asked and tensor.dim() == 1:
                target = torch.promote_types(target, tensor.dtype)
            # A copy: the mapped file may be replaced or deleted while the model lives.
            self.weights.assign(name, tensor.to(device=self.device, dtype=target, copy=True).contiguous())
            if not any(has_scales):
                self.model.stored_dtypes[name] = tensor.dtype

    def _dequantised(self, name: str) -> torch.Tensor:
        """One FP8 tensor of a rule whose others are not."""
        return dequantise(self.read(name), self.read(name + SUFFIX), self.dtype)


def _computable(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that a model can compute in, by itself or by name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise ConfigError(f"dtype = {dtype!r} is not one that Hyla computes in; choose bfloat16, float32 or float64")
    return found


def build_on_meta(config: ModelConfig) -> Model:
    """The model without memory for its weights. Raises ConfigError for sizes that no tensor can have."""
    try:
        with torch.device("meta"):
            return Model(config)
    except RuntimeError as error:  # sizes that even a shape without memory cannot have
        reason = str(error).splitlines()[0]
        raise ConfigError(f"config.json asks for impossible sizes: {reason}; fetch it again") from error


def _shapes(rule: Rule, weights: Weights) -> list[tuple[int, ...]]:
    return published_shapes(rule, [weights.shapes[name] for name in rule.ours])


def _published_names(shards: ShardReader, family: Family, config: ModelConfig) -> dict[str, str]:
    """Our spelling of each tensor's name -> the folder's, without the ignored ones."""
    names, ignored = {}, {}
    spelled = {name: family.canonical(name) for name in shards}
    stored = frozenset(spelled.values())
    for name, canonical in spelled.items():
        reason = family.reason_to_ignore(canonical, config, stored)
        if reason is not None:
            ignored.setdefault(reason, []).append(name)
        elif canonical in names:
            raise CheckpointError(f"tensors {names[canonical]} and {name} are two spellings of one; remove one")
        else:
            names[canonical] = name
    for reason, left_out in ignored.items():
        logger.warning("ignored %d tensors (%s, ...): %s", len(left_out), left_out[0], reason)
    return names


def _without_absent_mtp(folder: Path, found: FolderConfig, names: Collection[str]) -> ModelConfig:
    """The config, without the last multi-token prediction modules of which the folder holds no tensor."""
    config, promised = found.config, len(found.config.mtp)
    while config.mtp:
        fewer = config.model_copy(update={"mtp": config.mtp[:-1]})
        if not (found.family.mtp_tensors(config) - found.family.mtp_tensors(fewer)).isdisjoint(names):
            break
        config = fewer
    if len(config.mtp) < promised:
        logger.warning(
            "%s: the config promises multi-token prediction with %d modules, but there are tensors of %d only; "
            "the others are left out",
            folder,
            promised,
            len(config.mtp),
        )
    return config


def _drop_tied_head(shards: ShardReader, names: dict[str, str], family: Family) -> None:
    """Some writers store a tied head as well: leave it out when it is the embedding, bit for bit."""
    published = {rule.ours[0]: rule.published[0] for rule in family.trunk}
    embedding, head = names.get(published["embed.weight"]), names.pop(published["head.weight"], None)
    if embedding and head and not torch.equal(shards.tensor(head), shards.tensor(embedding)):
        raise CheckpointError(f"{head} differs from the embedding, but config.json ties them")


def _check(folder: Path, expected: dict, names: dict[str, str], shards: ShardReader) -> None:
    """Raise CheckpointError unless the folder holds exactly the expected tensors."""
    problems = {
        "are missing": [name for name in expected if name not in names],
        "are not part of the model": [names[name] for name in names if name not in expected],
        "have another shape": [
            f"{names[name]} {shards.shape(names[name])} instead of {shape}"
            for name, shape in expected.items()
            if name in names and shards.shape(names[name]) != shape
        ],
        "are stored in a dtype that is not supported": [
            f"{names[name]} {shards.dtype(names[name])}"
            for name in expected
            if name in names and shards.dtype(names[name]) not in _allowed_dtypes(name, expected)
        ],
    }
    for what, items in problems.items():
        if items:
            raise CheckpointError(
                f"{folder}: {len(items)} tensors {what}: {_some(items)}; config.json and the safetensors files "
                "must belong together"
            )


def _allowed_dtypes(name: str, expected: Mapping) -> tuple[str, ...]:
    """Of a stored tensor: FP8 only beside scales."""
    if name.endswith(SUFFIX):
        return SCALE_DTYPES
    return (CODE_DTYPE,) if name + SUFFIX in expected else (*DTYPES, "F16")


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:4]) + (", ..." if len(items) > 4 else "")


def _model_dtype(folder: Path, shards: ShardReader, names: dict[str, str], rules: list[Rule]) -> torch.dtype:
    """The dtype of the embedding."""
    embedding = next(rule.published[0] for rule in rules if rule.ours == ("embed.weight",))
    stored = shards.dtype(names[embedding])
    if stored not in DTYPES:
        raise CheckpointError(
            f"{folder} stores {stored}, in which Hyla does not compute; load it with dtype=torch.bfloat16 or float32"
        )
    return DTYPES[stored]
