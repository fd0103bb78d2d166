"""A folder in the Hugging Face format as a checkpoint, and what its JSON files say. Needs no PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property, partial
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hyla.checkpoints.foreign import refuse_adapter, refuse_quantised_mlx
from hyla.checkpoints.index import has_tensors
from hyla.checkpoints.protocol import CheckpointConfig
from hyla.checkpoints.quantised import Declared, Quantisation, find_declared, quantisation_of
from hyla.errors import CheckpointError
from hyla.json_files import read_json
from hyla.models.formats.published import Strict
from hyla.models.formats.registry import names_file, read_published
from hyla.ops.weights.blocks import FP8_BLOCK

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

    from hyla.checkpoints.files import ShardReader
    from hyla.checkpoints.quantised.reader import QuantisedReader
    from hyla.checkpoints.tokenizer import Tokenizer

logger = logging.getLogger("hyla.checkpoints")

Side = Annotated[int, Field(ge=FP8_BLOCK, le=FP8_BLOCK)]


class FP8Keys(Strict):
    """HANDLED keys of quantization_config. Which tensors are FP8 the files say; the lists are kept as they are."""

    quant_method: Literal["fp8"]
    weight_block_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    fmt: Literal["e4m3", "float8_e4m3fn"] = "e4m3"
    activation_scheme: Literal["dynamic"] = "dynamic"
    """How other engines round activations; here they are not quantised."""
    scale_fmt: Literal["ue8m0", "float32", "float"] | None = None
    modules_to_not_convert: list[str] | None = None
    ignored_layers: list[str] | None = None
    packed_modules_mapping: dict | None = None
    dequantize: Literal[False] = False


class Folder:
    """A `Checkpoint` in a folder: config.json, safetensors, tokenizer.json or tiktoken.model."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.absolute().name

    def config(self) -> CheckpointConfig:
        """config.json and generation_config.json's end tokens, read once. Raises CheckpointError or ConfigError."""
        return self._found

    @cached_property
    def _found(self) -> CheckpointConfig:
        _check_is_folder(self.path)
        file = self.path / "config.json"
        refuse_adapter(self.path, is_alone=not (lexists(file) and has_tensors(self.path)))
        family, config, published = read_published(file, look=partial(refuse_quantised_mlx, self.path))
        eos = _generation_eos(self.path / "generation_config.json")
        if eos:
            config = config.model_copy(update={"eos_token_ids": eos})
        declared = find_declared(published, family.text_key, self.path)
        if declared is None:
            return CheckpointConfig(family, config, published)
        with names_file(self.path / declared.where):
            if is_resident(declared):
                return CheckpointConfig(family, config, published, quantization=_fp8_blocks(declared))
            return CheckpointConfig(family, config, published, packing=quantisation_of(declared))

    @property
    def licence(self) -> None:
        """None: the files that Hyla reads do not say."""
        return None

    @property
    def has_tokenizer(self) -> bool:
        from hyla.checkpoints.tokenizer import has_tokenizer

        return has_tokenizer(self.path)

    def tokenizer(self) -> Tokenizer:
        """Raises CheckpointError when its tokenizer is missing or broken, or the other files do not fit it."""
        from hyla.checkpoints.tokenizer import folder_tokenizer

        return folder_tokenizer(self.path)

    def tensors(self, dtype: torch.dtype | None = None) -> ShardReader | QuantisedReader:
        """The shards, mapped. Numbers are given as they are stored, whatever the dtype; packed weights in it."""
        from hyla.checkpoints.files import ShardReader

        found = self.config()
        shards = ShardReader(self.path)
        return shards if found.packing is None else _decoded(self.path, shards, found, found.packing, dtype)


def _decoded(
    place: Path, shards: ShardReader, found: CheckpointConfig, packing: Quantisation, dtype: torch.dtype | None
) -> QuantisedReader:
    """The shards with packed weights as plain ones. They are closed where that fails."""
    import torch

    from hyla.checkpoints.quantised.reader import QuantisedReader

    nested = found.published.get(found.family.text_key) if found.family.text_key else None
    said = [
        keys.get(key)
        for keys in (nested, found.published)
        for key in ("dtype", "torch_dtype")
        if isinstance(keys, Mapping)
    ]
    published = next(rule.published[0] for rule in found.family.trunk if rule.ours == ("embed.weight",))
    try:
        return QuantisedReader(
            place,
            shards,
            packing,
            embedding=next((name for name in shards if found.family.canonical(name) == published), None),
            dtype=dtype,
            fallback=torch.float32 if "float32" in said else torch.bfloat16,
        )
    except BaseException:
        shards.close()
        raise


def _check_is_folder(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a folder; give one that holds config.json and safetensors, or a GGUF file"
        )
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files and not lexists(path / "config.json"):
        raise CheckpointError(f"{path} holds GGUF files: {files[:3]}; give the path of one of them")


def _generation_eos(file: Path) -> tuple[int, ...]:
    """End tokens of generation_config.json, which often lists more of them than config.json."""
    eos = read_json(file).get("eos_token_id") if lexists(file) else None
    listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int for token in listed):
        raise CheckpointError(f"{file}: eos_token_id = {eos!r} must be a token id or a list of them")
    return tuple(listed)


def is_resident(declared: Declared) -> bool:
    """Whether weights are FP8 in blocks, which stay FP8 in memory."""
    return declared.keys.get("quant_method") == "fp8" and declared.keys.get("weight_block_size") is not None


def _fp8_blocks(declared: Declared) -> dict:
    """The `quantization_config` of FP8 in blocks, checked. Raises ConfigError for what is not read of it."""
    declared.read(FP8Keys, "FP8 weights in blocks of 128 x 128")
    logger.info("FP8 weights stay FP8; activations are not quantised, whatever activation_scheme says")
    return dict(declared.keys)
