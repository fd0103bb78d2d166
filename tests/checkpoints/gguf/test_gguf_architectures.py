"""Every architecture, from the headers that llama.cpp's own converter wrote for tiny models (headers/, written by
`bench/gguf_families.py --headers`, which also compares every weight), and what each of them refuses."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_writing import BOOL, FLOAT, GGUF, I32, Stored, Typed

import hyla
from bench import gguf_folder
from hyla.checkpoints import open_checkpoint, read_config
from hyla.checkpoints.gguf.architectures.common import rotary_fraction
from hyla.checkpoints.gguf.architectures.registry import ARCHITECTURES
from hyla.checkpoints.gguf.inverses import interleave_heads, join_latent, unpermute, untile, untile_after
from hyla.errors import CheckpointError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

HEADERS = {file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent / "headers").glob("*.json")}
IDS = {"bos_token_id": None, "eos_token_ids": (), "pad_token_id": None}
"""A file without a tokenizer has none."""


def numbers(name: str, shape: tuple[int, ...], architecture: str) -> np.ndarray:
    """Random numbers of a tensor, always the same; decays and divisors have the sign that an architecture stores."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    found = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if name.endswith("ssm_a"):
        return np.abs(found) + 0.1 if architecture == "bailingmoe3" else -np.abs(found) - 0.1
    return np.abs(found) + 0.1 if name == "rope_freqs.weight" else found


def as_stored(value):
    """A key's value with a type."""
    if isinstance(value, list):
        kind = BOOL if isinstance(value[0], bool) else FLOAT if isinstance(value[0], float) else I32
        return Typed(kind, value)
    return value


def file_of(header: dict) -> GGUF:
    """The file that a header describes, with numbers of ours."""
    architecture = header["keys"]["general.architecture"]
    keys = {key: as_stored(value) for key, value in header["keys"].items()}
    tensors = [
        Stored.plain(name, numbers(name, tuple(shape), architecture)) for name, shape in header["tensors"].items()
    ]
    return GGUF({**keys, "tokenizer.ggml.model": "none"}, tensors)


@pytest.fixture
def written(tmp_path):
    """Writes a header's file with some keys (None: left out) and tensors changed; the path."""

    def write(name: str, keys=None, add=(), leave_out=()):
        given = file_of(HEADERS[name])
        metadata = {**given.metadata, **(keys or {})}
        tensors = [*(tensor for tensor in given.tensors if tensor.name not in leave_out), *add]
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(GGUF({key: value for key, value in metadata.items() if value is not None}, tensors).encode())
        return path

    return write


CHECKSUMS = {
    "bailingmoe2": -226.762588,
    "bailingmoe3": -56.040551,
    "deepseek2": 215.460197,
    "deepseek32": 57.893286,
    "kimi-linear": -108.65283,
    "llama": 14.176039,
    "llama-biases-tied": 37.539395,
    "llama-llama3-scaling": 14.176039,
    "mimo2": -540.85287,
    "minimax-01": -263.237877,
    "minimax-m2": -370.813519,
    "nemotron_h": -313.390979,
    "nemotron_h_moe": -543.58856,
    "qwen2": -232.415453,
    "qwen2-yarn": -232.415453,
    "qwen3": -396.380345,
    "qwen35": 95.037139,
    "qwen35-no-mtp": -36.748282,
    "qwen35moe": 83.043627,
    "qwen3moe": -556.939284,
    "qwen3next": 292.361556,
}
"""Of the published tensors of each file, when a model that the converter wrote came back bit for bit."""


def checksum(path) -> float:
    """Every number times one of its own, so that no two can change places."""
    total = 0.0
    with open_checkpoint(path).tensors() as tensors:
        for number, name in enumerate(sorted(tensors)):
            values = tensors.tensor(name).double().numpy().reshape(-1)
            total += float(values @ np.random.default_rng(number).standard_normal(values.size))
    return total


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_a_converted_file_gives_the_folders_config_and_all_its_weights(written, name):
    header, path = HEADERS[name], written(name)
    family = family_of(header["family"])
    expected = family.config_from_hf({**family.tiny_config, **header["changes"]}).model_copy(update=IDS)
    found = read_config(path).config
    ignored = {field: getattr(expected, field) for field in header["lost"]}
    assert found.model_copy(update=ignored) == expected
    assert dict(hyla.load(path).named_parameters()).keys() == dict(Model(expected).named_parameters()).keys()


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_published_values_are_those_that_the_converter_was_checked_with(written, name):
    assert checksum(written(name)) == pytest.approx(CHECKSUMS[name], abs=1e-4)


def test_every_architecture_has_a_header():
    assert {header["keys"]["general.architecture"] for header in HEADERS.values()} == set(ARCHITECTURES) - {
        "nemotron_h"
    }


def test_files_of_an_independent_writer_give_the_folders_weights(tmp_path):
    family = family_of("qwen3_5_text")
    config = family.config_from_hf({**family.tiny_config, "mtp_num_hidden_layers": 0, "linear_value_head_dim": 8})
    model = initialize(Model(config), 0)
    hyla.save(model, tmp_path / "folder")
    gguf_folder.write_gguf(tmp_path / "folder", tmp_path / "file.gguf", float32=True)
    loaded = dict(hyla.load(tmp_path / "file.gguf").named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(loaded[name], parameter, rtol=0, atol=1.2e-7), name


def draw(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def test_rows_in_pairs_become_halves_again_for_any_head_size():
    for heads, size in ((3, 4), (5, 6), (2, 64)):
        for rows in (draw(heads * size, 7), draw(heads * size)):
            halves = rows.reshape(heads, 2, size // 2, *rows.shape[1:])
            assert np.array_equal(unpermute(halves.swapaxes(1, 2).reshape(rows.shape), heads), rows)


def test_tiled_value_heads_are_grouped_again_along_rows_and_columns():
    values = draw(2 * 3 * 4, 2 * 3 * 5)
    tiled = values.reshape(2, 3, 4, 30).swapaxes(0, 1).reshape(24, 30)
    assert np.array_equal(untile(tiled, 0, 2, 3, 4), values)
    tiled = values.reshape(24, 2, 3, 5).swapaxes(1, 2).reshape(24, 30)
    assert np.array_equal(untile(tiled, 1, 2, 3, 5), values)
    after = np.concatenate([values[:6], values[6:].reshape(2, 3, 3, 30).swapaxes(0, 1).reshape(18, 30)])
    assert np.array_equal(untile_after(after, 6, 2, 3, 3), values)


def test_projections_one_after_another_become_one_by_heads():
    heads = [[draw(rows, 5) + head for rows in (2, 2, 3, 3)] for head in range(4)]
    stacked = np.concatenate([np.concatenate([head[part] for head in heads]) for part in range(3)])
    last = np.concatenate([head[3] for head in heads])
    expected = np.concatenate([part for head in heads for part in head])
    assert np.array_equal(interleave_heads(stacked, last, 4, (2, 2, 3)), expected)


def test_halves_of_a_latent_projection_are_joined_head_by_head():
    whole = draw(3, 4 + 5, 7)
    key, value = whole[:, :4].transpose(0, 2, 1), whole[:, 4:]
    assert np.array_equal(join_latent(key, value), whole.reshape(27, 7))


def test_the_fraction_of_rotated_channels_gives_their_number_back():
    for head in range(1, 257):
        for rotated in range(1, head + 1):
            assert int(head * rotary_fraction(rotated, head)) == rotated


def test_older_files_with_a_whole_latent_projection_are_read(written):
    header = HEADERS["deepseek2"]
    split = [name for name in header["tensors"] if name.endswith(("attn_k_b.weight", "attn_v_b.weight"))]
    sizes = {"deepseek2.attention.key_length_mla": None, "deepseek2.attention.value_length_mla": None}
    sizes |= {"deepseek2.attention.key_length": 16, "deepseek2.attention.value_length": 12}
    whole = [Stored.plain(f"blk.{n}.attn_kv_b.weight", draw(5 * (10 + 12), 28) + n) for n in range(3)]
    path = written("deepseek2", sizes, whole, split)
    assert read_config(path).config == read_config(written("deepseek2")).config
    path = written("deepseek2", sizes, whole, split)
    with open_checkpoint(path).tensors() as tensors:
        found = tensors.tensor("model.layers.1.self_attn.kv_b_proj.weight").numpy()
    assert np.array_equal(found, draw(5 * 22, 28) + 1)


def test_an_expert_is_decoded_alone(written):
    stack = np.array(numbers("blk.1.ffn_up_exps.weight", (5, 20, 48), "qwen3moe"))
    stack[3, 7, 2] = np.nan
    path = written(
        "qwen3moe", add=[Stored.plain("blk.1.ffn_up_exps.weight", stack)], leave_out=["blk.1.ffn_up_exps.weight"]
    )
    with open_checkpoint(path).tensors() as tensors:
        names = [f"model.layers.1.mlp.experts.{number}.up_proj.weight" for number in range(5)]
        for number in (0, 1, 2, 4):
            assert np.array_equal(tensors.tensor(names[number]).numpy(), stack[number])
        with pytest.raises(CheckpointError, match="not finite, in row 67"):
            tensors.tensor(names[3])


def test_scales_beside_tensors_multiply_them_expert_by_expert(written):
    factors = np.array([2.0, 3.0, 5.0, 7.0, 11.0], np.float32)
    scales = [
        Stored.plain("blk.1.ffn_up_exps.scale", factors),
        Stored.plain("blk.1.ffn_up_exps.input_scale", factors),
        Stored.plain("blk.0.attn_output.scale", np.array([0.5], np.float32)),
    ]
    names = [f"model.layers.1.mlp.experts.{number}.up_proj.weight" for number in range(5)]
    with open_checkpoint(written("qwen3moe")).tensors() as tensors:
        plain = {name: tensors.tensor(name).clone() for name in (*names, "model.layers.0.self_attn.o_proj.weight")}
    with open_checkpoint(written("qwen3moe", add=scales)).tensors() as tensors:
        for name, factor in zip(plain, [*factors, 0.5]):
            assert torch.equal(tensors.tensor(name), plain[name] * factor)
    with (
        open_checkpoint(
            written("qwen3moe", add=[Stored.plain("blk.1.ffn_up_exps.scale", factors[:3])])
        ).tensors() as tensors,
        pytest.raises(CheckpointError, match="has 3 factors"),
    ):
        tensors.tensor(names[0])


def test_two_stored_tensors_for_one_published_are_refused(written):
    both = [Stored.plain("blk.0.ssm_dt", np.ones(6))]
    with pytest.raises(CheckpointError, match=r"make model\.layers\.0\.linear_attn\.dt_bias"):
        hyla.load(written("qwen35", add=both))


def test_one_projection_of_q_k_and_v_is_cut_into_the_three(written):
    header = HEADERS["mimo2"]
    parts = [f"blk.1.attn_{name}.weight" for name in "qkv"]
    rows = np.concatenate([numbers(name, tuple(header["tensors"][name]), "mimo2") for name in parts])
    path = written("mimo2", add=[Stored.plain("blk.1.attn_qkv.weight", rows)], leave_out=parts)
    fused = checksum(path)
    assert fused == checksum(written("mimo2"))


def test_a_module_that_is_promised_and_absent_is_left_out(written):
    names = [name for name in HEADERS["qwen35"]["tensors"] if name.startswith("blk.4.")]
    assert names and len(read_config(written("qwen35")).config.mtp) == 1
    path = written("qwen35", leave_out=names)
    assert read_config(path).config.mtp == ()
    hyla.load(path)


def test_kinds_of_layers_are_read_from_the_tensors_whatever_the_metadata_says(written):
    wrong = {
        "nemotron_h_moe.attention.head_count_kv": Typed(I32, [0] * 7),
        "nemotron_h_moe.feed_forward_length": Typed(I32, [0] * 7),
    }
    assert read_config(written("nemotron_h_moe", wrong)).config == read_config(written("nemotron_h_moe")).config
    lying = {"qwen35.attention.recurrent_layers": None, "qwen35.full_attention_interval": 2}
    assert read_config(written("qwen35", lying)).config == read_config(written("qwen35")).config


def test_a_dense_file_may_say_that_it_has_no_experts(written):
    none = {"llama.expert_count": 0, "llama.expert_used_count": 0}
    assert read_config(written("llama", none)).config == read_config(written("llama")).config


def test_experts_are_chosen_by_sigmoid_where_they_have_a_bias(written):
    silent = {"minimax-m2.expert_gating_func": None}
    assert read_config(written("minimax-m2", silent)).config == read_config(written("minimax-m2")).config


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"keys": {"general.architecture": "gemma3"}}, "general.architecture = 'gemma3' is not one that Hyla"),
        (
            "llama",
            {"keys": {"general.architecture": "bailing_hybrid"}},
            "Ling-2.5 .bailing_hybrid., Ring-linear-2.0 and",
        ),
        ("llama", {"keys": {"llama.expert_count": 8}}, "a llama with experts .Mixtral."),
        ("llama", {"keys": {"llama.attention.causal": False}}, "attention.causal = False"),
        ("llama", {"keys": {"llama.attention.clamp_kqv": 8.0}}, "1 keys are unknown: llama.attention.clamp_kqv"),
        ("llama", {"keys": {"llama.block_count": None}}, "key llama.block_count is missing"),
        ("llama", {"keys": {"llama.block_count": "two"}}, "llama.block_count is a bytes and should be a whole number"),
        ("llama", {"keys": {"llama.rope.dimension_count": 4}}, "rope.dimension_count = 4 is not the head's"),
        ("llama", {"keys": {"llama.attention.value_length": 4}}, "value_length = 4 differs from key_length"),
        ("llama", {"keys": {"llama.rope.scaling.type": "longrope"}}, "rope.scaling.type = 'longrope'"),
        ("llama", {"keys": {"llama.vocab_size": 96}}, "vocab_size = 96 and token_embd.weight says 97"),
        ("llama", {"add": [Stored.plain("blk.0.attn_sub_norm.weight", np.ones(48))]}, "blk.0.attn_sub_norm.weight"),
        ("llama", {"add": [Stored.plain("v.patch_embd.weight", np.ones(48))]}, "1 tensors have no place"),
        ("llama", {"leave_out": ["blk.1.ffn_up.weight"]}, "model.layers.1.mlp.up_proj.weight"),
        ("qwen3moe", {"keys": {"qwen3moe.expert_gating_func": 2}}, "expert_gating_func = 'sigmoid'"),
        ("qwen3moe", {"keys": {"qwen3moe.expert_gating_func": 4}}, "expert_gating_func = 4 is not softmax"),
        ("deepseek2", {"keys": {"deepseek2.expert_gating_func": 1}}, "expert_gating_func = 'softmax'"),
        (
            "bailingmoe3",
            {"keys": {"bailingmoe3.swiglu_clamp_exp": Typed(FLOAT, [0.0] * 4 + [7.0])}},
            "swiglu_clamp_exp",
        ),
        ("qwen35", {"leave_out": ["blk.0.ssm_a"], "add": [Stored.plain("blk.0.ssm_a", np.ones(6))]}, "holds 1, and"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_honoured_is_refused_by_name(written, name, changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        hyla.load(written(name, **changes))
    assert "\n" not in str(caught.value)


def test_a_million_experts_are_refused_before_they_get_names(written):
    many = [Stored.plain(f"blk.1.ffn_{name}_exps.weight", np.zeros((1 << 20, 1, 1))) for name in ("gate", "up", "down")]
    path = written("qwen3moe", None, many, [tensor.name for tensor in many])
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"impossible shape: blk\.1\.ffn_gate_exps\.weight \(1048576, 1, 1\)"):
        hyla.load(path)
    assert time.process_time() - start < 60


def test_a_file_with_a_vocabulary_and_no_tensors_is_refused(written):
    path = written("llama", leave_out=HEADERS["llama"]["tensors"])
    with pytest.raises(CheckpointError, match="holds no tensors, only a vocabulary"):
        read_config(path)
