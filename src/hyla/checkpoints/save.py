"""Model -> published folder: sharded safetensors, config.json, generation_config.json, tokenizer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from hyla.checkpoints import template_files
from hyla.checkpoints.card import CARD_FILE
from hyla.checkpoints.fp8_rules import fp8_rules_kept, saved_rule
from hyla.checkpoints.index import INDEX_FILE, SINGLE_FILE
from hyla.checkpoints.quantised import without_quantisation
from hyla.checkpoints.tensor_files import write_tensors
from hyla.checkpoints.tokenizer import Tokenizer
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import write_json
from hyla.models.config import ModelConfig
from hyla.models.formats.registry import family_of
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

OWN_FILES = ("config.json", "generation_config.json", INDEX_FILE, CARD_FILE)
OWN_PATTERNS = ("*.safetensors", "tokenizer*.json", "special_tokens_map.json", "chat_template.jinja", "README.md")
OWN_FOLDERS = (template_files.FOLDER,)
MAX_SHARD_BYTES = 5 * 10**9


def save_model(
    model: Model,
    folder: str | Path,
    *,
    hf_config: dict | None = None,
    tokenizer: Tokenizer | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model (plain or packed) in its family's published format.

    hf_config: a config.json to write instead of our own; it must describe this very model.
    The folder appears whole or not at all: it is written beside its place and renamed. An older model there is
    replaced; a folder with other files is refused.
    Raises ConfigError when the format cannot describe the model or an adapter is attached to it, CheckpointError when
    the folder cannot be written.
    """
    if any(projection.terms for projection in model.projections()):
        raise ConfigError(
            "the model has an adapter, which its own folder cannot hold; merge it (hyla.adapters.merge), or save it "
            "apart (save_adapter) and detach it"
        )
    folder = Path(folder).absolute()
    family = family_of(model.config.family)
    published = family.config_to_hf(model.config) if hf_config is None else dict(hf_config)
    described = family.config_from_hf(published)
    # generation_config.json, written below, may list more end tokens; promised MTP modules may have had no tensors.
    allowed = {"eos_token_ids": model.config.eos_token_ids, "mtp": described.mtp[: len(model.config.mtp)]}
    if described.model_copy(update=allowed) != model.config:
        raise ConfigError("hf_config does not describe this model; leave it out, or pass the one it was loaded with")
    if model.quantization is not None:
        published["quantization_config"] = model.quantization
    else:
        published = without_quantisation(published, family.text_key)
    published["dtype"] = str(model.dtype).removeprefix("torch.")
    _check_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"cannot write beside {folder}: {error}; choose another place") from error
    try:
        write_json(scratch / "config.json", published)
        write_json(scratch / "generation_config.json", _generation_keys(model.config))
        _write_shards(_published_tensors(model), scratch, max_shard_bytes)
        if tokenizer is not None:
            tokenizer.save(scratch)
        readers = (scratch / "config.json").stat().st_mode & 0o444
        scratch.chmod(0o700 | readers | readers >> 2)  # mkdtemp makes it private; its files are as the umask says
        _put_in_place(scratch, folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error}; free some space or choose another place") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_place(folder: Path) -> None:
    """Refuse to replace anything but a model."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose a folder")
    ours = {file for pattern in OWN_PATTERNS for file in folder.glob(pattern)} | {
        folder / name for name in (*OWN_FILES, *OWN_FOLDERS)
    }
    other = sorted(file.name for file in folder.iterdir() if file not in ours)
    if other:
        raise CheckpointError(f"{folder} holds files that are not a model's: {other[:3]}; choose an empty folder")


def _put_in_place(scratch: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(scratch, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    os.rename(folder, old / "model")
    try:
        os.rename(scratch, folder)
    except OSError:
        os.rename(old / "model", folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _generation_keys(config: ModelConfig) -> dict:
    eos = list(config.eos_token_ids)
    keys = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_token_id,
    }
    return {key: value for key, value in keys.items() if value is not None}


def _published_tensors(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """The published tensors, one rule at a time, in the dtype they were loaded in where that loses nothing."""
    weights = NamedWeights(model)
    suits = partial(fp8_rules_kept, model=model, weights=weights)
    for rule in family_of(model.config.family).rules(model.config, weights.shapes, suits):
        fp8 = saved_rule(rule, model, weights)
        if fp8 is not None:
            yield from fp8
            continue
        ours = [_stored(weights.read(name), model.stored_dtypes.get(name)) for name in rule.ours]
        yield from zip(rule.published, (tensor.contiguous() for tensor in rule.to_published(ours)))


def _stored(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None or dtype == tensor.dtype:
        return tensor
    narrow = tensor.to(dtype)
    return narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor


def _write_shards(tensors: Iterator[tuple[str, torch.Tensor]], folder: Path, max_bytes: int) -> None:
    """Write shards of at most max_bytes (one tensor at least), and the index when there are several."""
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    pending_bytes = total = 0

    def flush():
        write_tensors(pending, folder / f"shard-{len(shards) + 1}.safetensors")
        shards.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        if pending and pending_bytes + tensor.nbytes > max_bytes:
            flush()
            pending_bytes = 0
        pending[name] = tensor.cpu()
        pending_bytes += tensor.nbytes
        total += tensor.nbytes
    flush()
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        final = SINGLE_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        os.rename(folder / f"shard-{number}.safetensors", folder / final)
        weight_map.update(dict.fromkeys(names, final))
    if len(shards) > 1:
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
