"""Experts one by one and all in one tensor: each block of a folder in either layout, whatever the others have."""

import itertools
import re

import pytest
import torch
from fp8_folder import QUANTIZATION
from safetensors.torch import load_file, save_file

from hyla.checkpoints import WeightUpdate, load_model, save_model
from hyla.errors import CheckpointError
from hyla.json_files import read_json, write_json
from hyla.models.formats.registry import family_of, known_model_types
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.weights import quantise

FAMILIES = sorted(
    name
    for name in {family_of(model_type).name for model_type in known_model_types()} - {"hyla"}
    if any(sub.module.kind == "moe" for sub in family_of(name).tiny.sublayers)
)


def grouped(tensors, block):
    """A block's experts, published one by one, all in one tensor each."""
    spelled = re.compile(re.escape(block) + r"\.(\d+)\.(\w+)\.weight$")
    found = {}
    for name in [name for name in tensors if spelled.match(name)]:
        number, kind = spelled.match(name).groups()
        found.setdefault(kind, {})[int(number)] = tensors.pop(name)
    stacks = {kind: torch.stack([parts[n] for n in sorted(parts)]) for kind, parts in found.items()}
    of = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    stacks = {of.get(kind, kind): stack for kind, stack in stacks.items()}
    if "gate_proj" in stacks:
        tensors[f"{block}.gate_up_proj"] = torch.cat([stacks.pop("gate_proj"), stacks.pop("up_proj")], dim=1)
    tensors.update({f"{block}.{kind}": stack.contiguous() for kind, stack in stacks.items()})


def one_by_one(tensors, block):
    gate, up = tensors.pop(f"{block}.gate_up_proj").chunk(2, dim=1)
    for kind, stack in (("gate", gate), ("up", up), ("down", tensors.pop(f"{block}.down_proj"))):
        tensors.update({f"{block}.{n}.{kind}_proj.weight": part.contiguous() for n, part in enumerate(stack)})


def blocks(tensors):
    found = (re.match(r"(.*(?<!shared_)experts)\.", name) for name in tensors)
    return sorted({match[1] for match in found if match})


def turned(tensors, block):
    (grouped if f"{block}.down_proj" not in tensors else one_by_one)(tensors, block)


def make(name, seed=1):
    return initialize(Model(family_of(name).tiny), seed, std=0.2)


def same(first, second):
    first, second = NamedWeights(first), NamedWeights(second)
    return first.shapes == second.shapes and all(torch.equal(first.read(n), second.read(n)) for n in first.shapes)


def rewrite(folder, change):
    file = folder / "model.safetensors"
    tensors = dict(load_file(file))
    change(tensors)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize("name", FAMILIES)
def test_every_block_of_every_family_is_read_in_either_layout(tmp_path, name):
    model = make(name)
    save_model(model, tmp_path / "m")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    found = blocks(stored)
    assert found
    for turn in (found, found[:1], found[-1:]):

        def change(tensors, turn=turn):
            tensors.clear()
            tensors.update(stored)
            for block in turn:
                turned(tensors, block)

        rewrite(tmp_path / "m", change)
        assert same(load_model(tmp_path / "m"), model)


@pytest.mark.parametrize("trunk, other, mtp", [*itertools.product([False, True], repeat=3)])
def test_trunk_and_mtp_of_qwen3_5_choose_for_themselves(tmp_path, trunk, other, mtp):
    model = make("qwen3_5_moe")
    save_model(model, tmp_path / "m")
    places = ("model.layers.0", "model.layers.2", "mtp.layers.0")
    choices = {f"{place}.mlp.experts": chosen for place, chosen in zip(places, (trunk, other, mtp))}

    def choose(tensors):
        assert choices.keys() <= set(blocks(tensors))
        for block, is_grouped in choices.items():
            if (f"{block}.gate_up_proj" in tensors) != is_grouped:
                turned(tensors, block)

    tensors = rewrite(tmp_path / "m", choose)
    loaded = load_model(tmp_path / "m")
    assert same(loaded, model) and len(loaded.config.mtp) == 1

    # New weights from that folder, or the experts alone, reach a model in use.
    experts = {name: tensor for name, tensor in tensors.items() if ".experts." in name}
    for source, others in ((tmp_path / "m", 2), (experts, 1)):
        used = make("qwen3_5_moe", others)
        weights = NamedWeights(used)
        for name in [name for name in weights.shapes if "experts_" in name]:
            weights.assign(name, torch.zeros(weights.shapes[name]))
        used.pack()
        with WeightUpdate(used, source, device=torch.device("cpu"), pack=True) as update:
            update.apply()
        assert same(used.unpack(), model)

    save_model(loaded, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert "model.layers.0.mlp.experts.gate_up_proj" in again and "mtp.layers.0.mlp.experts.0.up_proj.weight" in again
    assert same(load_model(tmp_path / "again"), model)


def test_a_block_in_both_layouts_at_once_is_refused_by_name(tmp_path):
    save_model(make("qwen3_5_moe"), tmp_path / "m")

    def add(tensors):
        tensors["model.layers.1.mlp.experts.0.up_proj.weight"] = torch.zeros(20, 44)

    rewrite(tmp_path / "m", add)
    with pytest.raises(CheckpointError, match=r"not part of the model: model\.layers\.1\.mlp\.experts\.0\.up_proj"):
        load_model(tmp_path / "m")


def test_fp8_experts_stay_so_and_are_saved_one_by_one(tmp_path):
    family = family_of("qwen3_5_moe")
    config = family.config_from_hf({**family.tiny_config, "hidden_size": 200, "moe_intermediate_size": 136})
    save_model(initialize(Model(config), 3, std=0.1), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = dict(load_file(file))
    for block in blocks(tensors):
        if f"{block}.gate_up_proj" in tensors:
            one_by_one(tensors, block)
    for name in [name for name in tensors if ".experts." in name]:
        codes, scale = quantise(tensors[name].bfloat16())
        tensors |= {name: codes, f"{name}_scale_inv": scale}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    config_file = tmp_path / "m" / "config.json"
    write_json(config_file, {**read_json(config_file), "quantization_config": QUANTIZATION})

    model = load_model(tmp_path / "m")
    weights = NamedWeights(model)
    assert weights.fp8("sublayers.1.module.experts_gate") is not None
    save_model(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[n].view(torch.uint8), tensors[n].view(torch.uint8)) for n in again if ".experts." in n)
    assert same(load_model(tmp_path / "again"), model)
