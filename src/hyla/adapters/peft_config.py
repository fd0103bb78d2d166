"""adapter_config.json: what Hyla reads of PEFT's settings and what it writes. Needs no PyTorch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyla.checkpoints.foreign import ADAPTER_CONFIG
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config.base import Count
from hyla.terminal_text import shortened

TENSORS_FILE = "adapter_model.safetensors"
OWN_FILE = "hyla_adapter.json"
"""Beside PEFT's two files: our `LoraConfig`, so that a run goes on with what it had."""

IGNORED = {
    "auto_mapping": "how PEFT finds a class of its own",
    "corda_config": "of a start value that is refused by name",
    "ensure_weight_tying": "a tied head is one parameter here, whatever it says",
    "eva_config": "how start values were found; they were trained since",
    "exclude_modules": "the file holds terms of what was adapted only",
    "inference_mode": "how PEFT loads it",
    "layers_pattern": "the file holds terms of what was adapted only",
    "layers_to_transform": "the file holds terms of what was adapted only",
    "loftq_config": "of a start value that is refused by name",
    "lora_dropout": "of training; nothing is dropped when it is applied",
    "megatron_config": "of another library's runtime",
    "megatron_core": "of another library's runtime",
    "peft_version": "what wrote it",
    "qalora_group_size": "of a variant that is refused by name",
    "revision": "of the base, which is given",
    "runtime_config": "how PEFT loads it",
    "task_type": "how PEFT wraps a model",
}
"""Keys of adapter_config.json that change nothing here, and why."""

SAFE_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it is."""


class PeftConfig(BaseModel):
    """HANDLED keys of adapter_config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    peft_type: str
    base_model_name_or_path: str | None = None
    """What it was trained on, for people: the base that is given is checked by its shapes."""
    r: Count = 8
    lora_alpha: float = Field(default=8, gt=0)
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, Count] = {}
    alpha_pattern: dict[str, float] = {}
    target_modules: list[str] | str | None = None
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    init_lora_weights: bool | str = True

    def rank(self, path: str) -> int:
        """r of a module or parameter of PEFT's."""
        return int(self._pattern(self.rank_pattern, path, self.r))

    def scale(self, path: str) -> float:
        """What B A is multiplied with there."""
        rank = self.rank(path)
        return self._pattern(self.alpha_pattern, path, self.lora_alpha) / (rank**0.5 if self.use_rslora else rank)

    @staticmethod
    def _pattern(patterns: Mapping[str, float], path: str, default: float) -> float:
        """PEFT's rule: the first pattern that the path ends with."""
        return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)


def read_peft_config(folder: Path) -> PeftConfig:
    """Raises CheckpointError for a folder without the file or with a damaged one, ConfigError for what it asks for that
    Hyla cannot honour."""
    file = folder / ADAPTER_CONFIG
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one with {ADAPTER_CONFIG} and {TENSORS_FILE}")
    if not file.exists():
        raise CheckpointError(f"{folder} has no {ADAPTER_CONFIG}; give the folder of an adapter in PEFT's format")
    keys = {key: value for key, value in read_json(file).items() if key not in IGNORED}
    kept = {}
    for key, value in keys.items():
        if key in PeftConfig.model_fields:
            if value is not None:
                kept[key] = value
        elif value not in (None, False, [], {}, ""):
            raise ConfigError(f"{file}: {key} = {value!r} is not read; merge the adapter with PEFT (merge_and_unload)")
    try:
        found = PeftConfig(**kept)
        for patterns in (found.rank_pattern, found.alpha_pattern):
            for pattern in patterns:
                re.compile(pattern)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{file}: {where} = {shortened(repr(first.get('input')), 100)}: {first['msg']}") from error
    except re.error as error:
        raise ConfigError(f"{file}: a pattern of ranks or alphas is no regular expression: {error}") from error
    _refuse(file, found)
    return found


def _refuse(file: Path, found: PeftConfig) -> None:
    if found.peft_type != "LORA":
        raise ConfigError(f"{file}: peft_type = {found.peft_type!r}; only LORA (and DoRA, which is one) is read")
    if found.bias != "none":
        raise ConfigError(f"{file}: bias = {found.bias!r} changes the base's biases; merge it with PEFT first")
    if found.init_lora_weights not in SAFE_STARTS:
        raise ConfigError(
            f"{file}: init_lora_weights = {found.init_lora_weights!r} also changes the base; save it from PEFT with "
            "path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )


def written_peft_config(
    *,
    rank: int,
    alpha: float,
    use_rslora: bool,
    use_dora: bool,
    target_modules: Collection[str],
    target_parameters: Collection[str],
    ranks: Mapping[str, int],
    modules_to_save: Collection[str],
    is_tied: bool,
    base: str | None,
) -> dict[str, Any]:
    """adapter_config.json. ranks: of the modules and parameters whose rank is not `rank`, by path; their scale is the
    same as the others'."""
    factors = {path: (r / rank) ** (0.5 if use_rslora else 1.0) for path, r in ranks.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": use_rslora,
        "use_dora": use_dora,
        "target_modules": sorted(target_modules),
        "target_parameters": sorted(target_parameters) or None,
        "rank_pattern": {re.escape(path): r for path, r in ranks.items()},
        "alpha_pattern": {re.escape(path): _plain(alpha * factor) for path, factor in factors.items()},
        "modules_to_save": sorted(modules_to_save) or None,
        "ensure_weight_tying": is_tied,
    }


def _plain(number: float) -> float | int:
    """A whole number without its point, as PEFT writes it."""
    return int(number) if number == int(number) else number
