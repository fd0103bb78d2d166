"""Damaged folders: one clear error each, never a crash and never a wrong model."""

import json
import shutil
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    save_model(initialize(Model(family_of("qwen3").tiny), 0), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "m")


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    return str(caught.value)


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    file.unlink()
    save_file(tensors, file)


def test_no_folder_is_named(tmp_path):
    refused(tmp_path / "nowhere", r"nowhere is not a folder")


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    refused(folder, r"has no config\.json")


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": ' * 100_000, "\xff"])
def test_a_broken_config_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    refused(folder, r"config\.json (is not valid JSON|holds a JSON list)")


def test_an_unknown_model_type_lists_the_known_ones(folder):
    (folder / "config.json").write_text('{"model_type": ["qwen3"]}')
    refused(folder, r"unknown model_type \['qwen3'\].*kimi_linear")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, r"has no model\.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_pickle_is_refused_by_name_and_never_opened(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, rf"only \['{name}'\]: pickle files can run code")


def test_a_truncated_file_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, r"model\.safetensors is truncated or not a safetensors file")


def test_an_index_that_names_missing_shards_is_refused(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, r"names 2 missing shards: \['model-00001")


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {"a": 3}}])
def test_a_broken_index_is_refused(folder, index):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "has no weight_map")


def test_an_index_cannot_reach_outside_its_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    refused(folder, "outside its folder")


def test_missing_tensors_are_listed(folder):
    change_tensors(folder, lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name])
    message = refused(folder, r"11 tensors are missing: ")
    assert "model.layers.1." in message and message.count("model.layers.1.") == 4


def test_extra_tensors_are_listed(folder):
    change_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(3)}))
    refused(folder, r"1 tensors are not part of the model: model\.layers\.0\.self_attn\.q_proj\.bias")


def test_wrong_shapes_are_listed_with_both_sizes(folder):
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.zeros(47)}))
    refused(folder, r"have another shape: model\.norm\.weight \(47,\) instead of \(48,\)")


def test_a_quantised_tensor_is_refused(folder):
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.zeros(48, dtype=torch.int8)}))
    refused(folder, r"dtype that is not supported: model\.norm\.weight I8")


def test_float16_must_be_converted_on_purpose(folder):
    change_tensors(folder, lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
    refused(folder, "stores F16.*dtype=torch.bfloat16")
    assert load_model(folder, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float16", "int8", "bf16", torch.float16])
def test_a_dtype_that_cannot_be_computed_in_is_refused(folder, dtype):
    with pytest.raises(ConfigError, match="not one that Hyla computes in; choose bfloat16"):
        load_model(folder, dtype=dtype)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "head_dim"])
def test_impossible_sizes_are_refused_before_any_memory_is_taken(folder, key):
    config = json.loads((folder / "config.json").read_text())
    for size in (10**9, 2**31 - 2, 2**62):
        (folder / "config.json").write_text(json.dumps({**config, key: size}))
        with pytest.raises((CheckpointError, ConfigError), match=r"impossible sizes|another shape|2147483648"):
            load_model(folder)


def test_a_tied_model_without_an_embedding_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    change_tensors(folder, lambda t: t.pop("model.embed_tokens.weight"))
    refused(folder, r"1 tensors are missing: model\.embed_tokens\.weight")


def test_a_tensor_in_two_shards_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, folder / "extra.safetensors")
    weight_map = {**dict.fromkeys(tensors, "model.safetensors"), "x": "extra.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "also in another shard")


def test_end_tokens_must_be_ids(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    refused(folder, r"eos_token_id = \['</s>'\] must be a token id")


@settings(max_examples=60)
@given(place=st.integers(0, 4000), byte=st.integers(0, 255), cut=st.none() | st.integers(0, 5000))
def test_a_damaged_header_gives_an_error_or_the_model(saved, tmp_path_factory, place, byte, cut):
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("fuzz") / "m")
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    data[place % (header + 8)] = byte
    file.write_bytes(data[:cut])
    try:
        model = load_model(folder)
    except CheckpointError:
        return
    assert all(not parameter.is_meta for parameter in model.parameters())
