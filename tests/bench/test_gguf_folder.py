"""The GGUF writer of bench/: names, order and shapes of tensors, without the gguf package."""

import json

import numpy as np
import pytest

import hyla
from bench import gguf_folder
from hyla.models.families.qwen3_5 import FAMILY
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

BOTH = {"attn_norm.weight", "post_attention_norm.weight", *(f"ffn_{name}.weight" for name in ("gate", "up", "down"))}
FULL = {f"attn_{name}.weight" for name in ("q", "k", "v", "output", "q_norm", "k_norm")}
LINEAR = {"attn_qkv.weight", "attn_gate.weight", "ssm_a", "ssm_dt.bias"}
LINEAR |= {f"ssm_{name}.weight" for name in ("alpha", "beta", "conv1d", "norm", "out")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six value heads and two key heads, three linear layers and a full one."""
    path = tmp_path_factory.mktemp("tiny") / "model"
    hyla.save(initialize(Model(FAMILY.config_from_hf({**FAMILY.tiny_config, "mtp_num_hidden_layers": 0})), 0), path)
    return path


@pytest.fixture(scope="module")
def published(folder):
    return dict(gguf_folder.read_tensors(folder))


@pytest.fixture(scope="module")
def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_every_tensor_of_a_folder_has_a_place_and_every_place_is_filled(published):
    names = [gguf_folder.gguf_name(name) for name in published]
    expected = {"token_embd.weight", "output_norm.weight"}
    for layer in range(4):
        expected |= {f"blk.{layer}.{name}" for name in BOTH | (FULL if layer == 3 else LINEAR)}
    assert len(names) == len(expected) and set(names) == expected


def test_a_tensor_of_another_family_has_no_place():
    with pytest.raises(KeyError):
        gguf_folder.gguf_name("model.layers.0.mlp.experts.gate_up_proj")


def test_tensors_keep_their_sizes_and_vectors_norms_and_convolutions_are_float32(published, config):
    for name, array in published.items():
        found = gguf_folder.converted(name, array, config)
        expected = (array.shape[0], array.shape[2]) if name.endswith("conv1d.weight") else array.shape
        assert found.shape == expected
        if found.ndim == 1 or "conv1d" in name:
            assert found.dtype == np.float32


def test_value_heads_are_tiled_over_key_heads_wherever_they_are(published, config):
    order = [0, 3, 1, 4, 2, 5]  # heads 0, 1, 2 read key head 0, heads 3, 4, 5 read key head 1
    before = "model.layers.1.linear_attn."
    shapes = {name: array.shape for name, array in published.items() if name.startswith(before)}
    marked = {  # the number of the value head that a row or a column belongs to; -1: queries and keys
        "A_log": np.arange(6.0),
        "in_proj_b.weight": np.arange(6).repeat(shapes[before + "in_proj_b.weight"][1]).reshape(6, -1),
        "in_proj_z.weight": np.arange(6).repeat(12)[:, None],
        "in_proj_qkv.weight": np.concatenate([np.full(32, -1), np.arange(6).repeat(12)])[:, None],
        "out_proj.weight": np.arange(6).repeat(12)[None],
    }
    for name, array in marked.items():
        found = gguf_folder.in_llama_order(before + name, array, config).reshape(-1)
        heads = found[found >= 0].reshape(6, -1)
        assert (heads == np.array(order)[:, None]).all(), name
        assert (found[: (found < 0).sum()] < 0).all(), "queries and keys stay in front"


def test_decays_are_negative_and_norms_have_their_one_except_the_gated_norm(published, config):
    def changed(name):
        array = published[name]
        return gguf_folder.as_float32(array), gguf_folder.converted(name, array, config)

    before, after = changed("model.layers.0.linear_attn.A_log")
    assert np.allclose(after, -np.exp(gguf_folder.tiled(before, 2, 6)))
    before, after = changed("model.layers.3.self_attn.q_norm.weight")
    assert np.array_equal(after, before + 1)
    before, after = changed("model.layers.0.linear_attn.norm.weight")
    assert np.array_equal(after, before)


def test_bfloat16_bits_widen_to_the_same_numbers():
    assert gguf_folder.as_float32(np.array([0x3F80, 0xC000, 0x3E20], np.uint16)).tolist() == [1.0, -2.0, 0.15625]


def test_a_layout_that_llama_cpp_cannot_have_is_refused(config):
    with pytest.raises(ValueError, match="one head size"):
        gguf_folder.metadata(config)
    square = {**config, "linear_value_head_dim": config["linear_key_head_dim"]}
    assert gguf_folder.metadata(square)["qwen35.full_attention_interval"] == 4
    with pytest.raises(ValueError, match="full attention"):
        gguf_folder.metadata({**square, "layer_types": square["layer_types"][::-1]})
