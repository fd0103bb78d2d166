"""What a folder says about its quantisation, and the format that it names. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from hyla.checkpoints.quantised import awq, bitsandbytes, fp8, gptq
from hyla.checkpoints.quantised.compressed_tensors import compressed_tensors
from hyla.checkpoints.quantised.keys import Declared, shown
from hyla.checkpoints.quantised.modelopt import modelopt
from hyla.checkpoints.quantised.protocol import Quantisation
from hyla.errors import ConfigError
from hyla.json_files import read_json

KEY, OLD_KEY = "quantization_config", "compression_config"
"""In config.json; the second in early folders of compressed-tensors."""
OWN_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files beside config.json in which writers say it, if config.json does not."""
MARKS = (".qweight", ".weight_packed", ".weight.absmax", ".SCB", ".weight_scale", ".weight_scale_inv")


def find_declared(published: Mapping, text_key: str | None, folder: Path) -> Declared | None:
    """What config.json says, at its top or inside the language model's part, or a file beside it."""
    nested = published.get(text_key) if text_key else None
    for keys in (published, nested):
        for key in (KEY, OLD_KEY):
            found = keys.get(key) if isinstance(keys, Mapping) else None
            if found is not None:
                if not isinstance(found, Mapping):
                    raise ConfigError(f"{folder / 'config.json'}: {key} = {shown(found)} must be an object")
                if key == OLD_KEY:
                    found = {"quant_method": "compressed-tensors", **found}
                return Declared(_below(found), "config.json")
    for name, method in OWN_FILES.items():
        if (folder / name).is_file():
            return Declared({"quant_method": method, **_below(read_json(folder / name))}, name)
    return None


def _below(found: Mapping) -> Mapping:
    """ModelOpt's own file has the keys one level further down, and some of its configs as well."""
    inner = found.get("quantization")
    return (
        {**{key: value for key, value in found.items() if key != "quantization"}, **inner}
        if isinstance(inner, Mapping)
        else found
    )


def without_quantisation(published: Mapping, text_key: str | None) -> dict:
    """A config.json that says nothing of quantisation, at its top and inside the language model's part."""
    kept = {key: value for key, value in published.items() if key not in (KEY, OLD_KEY)}
    nested = kept.get(text_key) if text_key else None
    if text_key and isinstance(nested, Mapping):
        kept[text_key] = {key: value for key, value in nested.items() if key not in (KEY, OLD_KEY)}
    return kept


def looks_quantised(name: str) -> bool:
    """Whether a tensor is called as only packed weights are."""
    return name.endswith(MARKS)


def quantisation_of(declared: Declared) -> Quantisation:
    """The format that the config names, with its keys checked. Raises ConfigError for what is not read."""
    method = declared.keys.get("quant_method")
    if method is None and any(declared.keys.get(key) for key in ("load_in_8bit", "load_in_4bit")):
        method = "bitsandbytes"
    make = METHODS.get(method) if isinstance(method, str) else None
    if make is None:
        said = "is missing" if method is None else f"= {shown(method)}"
        raise ConfigError(
            f"quantization_config: quant_method {said} in {declared.where}: Hyla reads {', '.join(METHODS)}; take "
            "another quantisation, or fetch the unquantised checkpoint"
        )
    return make(declared)


def _gptq(declared: Declared) -> Quantisation:
    keys = declared.read(gptq.GPTQKeys, gptq.READS, inert=gptq.INERT, other_names=gptq.OTHER_NAMES)
    return gptq.GPTQ(keys, is_uniform=not any(declared.keys.get(key) for key in gptq.OF_MODULES))


def _auto_round(declared: Declared) -> Quantisation:
    """AutoRound's own method, which packs as other tools do."""
    if declared.keys.get("packing_format") in ("auto_round:auto_awq", "auto_round:awq"):
        said = {key: value for key, value in declared.keys.items() if key != "packing_format"}
        return _awq(Declared(said, declared.where))
    keys = declared.read(gptq.AutoRoundKeys, gptq.READS_AUTO_ROUND, inert=gptq.INERT, other_names=gptq.OTHER_NAMES)
    return gptq.GPTQ(keys.as_gptq, is_uniform=not declared.keys.get("extra_config"))


def _awq(declared: Declared) -> Quantisation:
    return awq.AWQ(declared.read(awq.AWQKeys, awq.READS, inert=awq.INERT, other_names=awq.OTHER_NAMES))


def _bitsandbytes(declared: Declared) -> Quantisation:
    underscored = {f"_{key}": key for key in ("load_in_8bit", "load_in_4bit")}
    keys = declared.read(
        bitsandbytes.BitsAndBytesKeys, bitsandbytes.READS, inert=bitsandbytes.INERT, other_names=underscored
    )
    return bitsandbytes.BitsAndBytes(keys)


def _fp8(declared: Declared) -> Quantisation:
    declared.read(fp8.FP8Keys, fp8.READS, inert=fp8.INERT)
    return fp8.PlainFP8(f"{declared.keys['quant_method']}, FP8 without blocks")


METHODS: Mapping[str, Callable[[Declared], Quantisation]] = MappingProxyType(
    {
        "auto-round": _auto_round,
        "awq": _awq,
        "bitsandbytes": _bitsandbytes,
        "compressed-tensors": compressed_tensors,
        "fbgemm_fp8": _fp8,
        "fp8": _fp8,
        "gptq": _gptq,
        "modelopt": modelopt,
        "modelopt_fp4": modelopt,
    }
)
"""By `quant_method`."""
