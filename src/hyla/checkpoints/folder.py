"""A folder in the Hugging Face format as a checkpoint, and what its JSON files say. Needs no PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from hyla.checkpoints.protocol import CheckpointConfig
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.formats.published import Strict
from hyla.models.formats.registry import family_of_published
from hyla.ops.weights.blocks import FP8_BLOCK

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

    from hyla.checkpoints.files import ShardReader
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
        """config.json, and the end tokens of generation_config.json. Raises CheckpointError or ConfigError."""
        _check_is_folder(self.path)
        published = read_json(self.path / "config.json")
        family = family_of_published(published)
        config = family.config_from_hf(published)
        eos = _generation_eos(self.path / "generation_config.json")
        if eos:
            config = config.model_copy(update={"eos_token_ids": eos})
        return CheckpointConfig(family, config, published, read_quantization(published, family.text_key))

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

    def tensors(self, dtype: torch.dtype | None = None) -> ShardReader:
        """The shards, mapped. They hold numbers, which are given as they are stored, whatever the dtype."""
        from hyla.checkpoints.files import ShardReader

        return ShardReader(self.path)


def _check_is_folder(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a folder; give one that holds config.json and safetensors, or a GGUF file"
        )
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files and not (path / "config.json").exists():
        raise CheckpointError(f"{path} holds GGUF files: {files[:3]}; give the path of one of them")


def _generation_eos(file: Path) -> tuple[int, ...]:
    """End tokens of generation_config.json, which often lists more of them than config.json."""
    eos = read_json(file).get("eos_token_id") if file.exists() else None
    listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(token) is int for token in listed):
        raise CheckpointError(f"{file}: eos_token_id = {eos!r} must be a token id or a list of them")
    return tuple(listed)


def read_quantization(published: Mapping, text_key: str | None) -> dict | None:
    """The `quantization_config` of a config.json, checked. Raises ConfigError for a format that cannot be read."""
    nested = published.get(text_key) if text_key else None
    found = published.get("quantization_config")
    if found is None and isinstance(nested, Mapping):
        found = nested.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise ConfigError(f"quantization_config = {found!r} in config.json must be an object")
    try:
        FP8Keys.model_validate(dict(found))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"quantization_config: {key} = {first['input']!r} in config.json: {first['msg']}; Hyla reads FP8 weights "
            "in blocks of 128 x 128, or fetch the unquantised checkpoint"
        ) from error
    logger.info("FP8 weights stay FP8; activations are not quantised, whatever activation_scheme says")
    return dict(found)
