"""Every family of Hyla that GGUF knows, through llama.cpp's own converter and back.

    python -m bench.gguf_families CONVERTER [--only NAME]

A tiny random float32 model is saved as a folder, converted, and read again: every published tensor must come back, none
more, and the config must be the same. CONVERTER: a checkout of llama.cpp (convert_hf_to_gguf.py stands in it). Ends with
one JSON line; docs/gguf.md has the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

import hyla
from hyla.checkpoints import open_checkpoint
from hyla.errors import HylaError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

RUNNER = Path(__file__).with_name("gguf_converter.py")
WORST = 2.5e-7
"""Largest difference over the largest value: (w + 1) - 1 and log(exp(x)) in float32; the rest is bit-equal."""
IDS = {"bos_token_id", "eos_token_ids", "pad_token_id"}
"""A file says them with its tokenizer, and these have none."""


@dataclass(frozen=True)
class Case:
    """One tiny model: a family's, with some keys changed."""

    name: str
    family: str
    changes: dict = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    """Fields of our config that no GGUF file keeps, and which are not compared."""


CASES = (
    Case("llama", "llama"),
    Case("qwen2", "qwen2"),
    Case("qwen3", "qwen3"),
    Case("qwen3moe", "qwen3_moe"),
    Case("qwen3next", "qwen3_next"),
    Case("qwen35", "qwen3_5_text"),
    Case("qwen35-no-mtp", "qwen3_5_text", {"mtp_num_hidden_layers": 0}),
    Case("qwen35moe", "qwen3_5_moe_text"),
)


def build(case: Case, folder: Path) -> Model:
    """The model, drawn so that no two tensors or rows are alike, and its folder."""
    family = family_of(case.family)
    model = initialize(Model(family.config_from_hf({**family.tiny_config, **case.changes})), 5, std=0.2)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    hyla.save(model, folder)
    return model


def convert(converter: Path, places: list[Path]) -> str:
    """By llama.cpp's code, in a process of its own; what it said. places: folder, file, folder, file, ..."""
    done = subprocess.run([sys.executable, str(RUNNER), str(converter), *map(str, places)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the converter failed:\n{done.stderr[-3000:]}")
    return done.stderr


def compare(case: Case, model: Model, folder: Path, file: Path) -> dict:
    """What came back."""
    config = open_checkpoint(file).config().config
    differ = [key for key in type(config).model_fields if getattr(config, key) != getattr(model.config, key)]
    with open_checkpoint(file).tensors() as stored:
        num_tensors = len(list(stored))
    expected, found = (dict(hyla.load(place).named_parameters()) for place in (folder, file))
    worst = {
        name: float((expected[name] - found[name]).abs().max() / expected[name].abs().max())
        for name in expected
        if name in found and not torch.equal(expected[name], found[name])
    }
    return {
        "case": case.name,
        "tensors": num_tensors,
        "parameters": len(found),
        "not_bit_equal": len(worst),
        "worst": max(worst.values(), default=0.0),
        "missing": sorted(expected.keys() ^ found.keys())[:5],
        "wrong": sorted(name for name in worst if worst[name] > WORST)[:8],
        "other_config": sorted(set(differ) - set(case.lost) - IDS),
    }


def is_good(found: dict) -> bool:
    """Whether the folder came back."""
    lists = ("missing", "wrong", "other_config")
    return found["worst"] <= WORST and not any(found[key] for key in lists)


def main() -> None:
    """All cases, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("converter", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--keep", type=Path, help="Keep folders and files there.")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or Path(scratch)
        cases = [case for case in CASES if arguments.only in (None, case.name)]
        places = {case.name: (root / case.name, root / f"{case.name}.gguf") for case in cases}
        models = {case.name: build(case, places[case.name][0]) for case in cases}
        said = convert(arguments.converter, [place for pair in places.values() for place in pair])
        for case in cases:
            folder, file = places[case.name]
            try:
                found = compare(case, models[case.name], folder, file)
            except HylaError as error:
                found = {"case": case.name, "error": str(error), "worst": float("inf")}
                print(said[-3000:] if not file.exists() else "", file=sys.stderr)
            results.append(found)
            print(json.dumps(found), flush=True)
    good = all(map(is_good, results))
    print(json.dumps({"cases": len(results), "good": good, "worst": max(found["worst"] for found in results)}))
    sys.exit(not good)


if __name__ == "__main__":
    main()
