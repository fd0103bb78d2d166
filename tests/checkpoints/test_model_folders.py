"""Folders out and in again: the same tensors, whole or not at all."""

import json
import os
from pathlib import Path

import pytest
import torch
from loading_memory import measure_loading
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, read_config, save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops import native

FAMILIES = ("qwen3", "qwen3_5", "qwen3_next", "kimi_linear", "deepseek_v3", "deepseek_v32", "nemotron_h")


def make(model_type, seed=0):
    return initialize(Model(family_of(model_type).tiny), seed)


def assert_same(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def rewrite(folder, change):
    """Apply `change` to the dict of published tensors of a folder."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    save_file(change(tensors) or tensors, file)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_saved_model_loads_bit_for_bit(tmp_path, model_type):
    model = make(model_type)
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert loaded.config == model.config
    assert_same(model, loaded)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_packed_model_saves_the_same_file(tmp_path, model_type):
    model = make(model_type)
    save_model(model, tmp_path / "plain")
    save_model(model.pack(), tmp_path / "packed")
    plain, packed = (tmp_path / name / "model.safetensors" for name in ("plain", "packed"))
    assert plain.read_bytes() == packed.read_bytes()


def test_shards_respect_their_limit_and_the_index_lists_them(tmp_path):
    model = make("kimi_linear")
    save_model(model, tmp_path / "m", max_shard_bytes=40_000)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    sizes = {file: sum(t.nbytes for t in load_file(tmp_path / "m" / file).values()) for file in files}
    assert max(sizes.values()) <= 40_000
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    assert_same(model, load_model(tmp_path / "m"))


def test_a_bfloat16_load_keeps_fp32_what_must_stay(tmp_path):
    save_model(make("kimi_linear"), tmp_path / "m")
    model = load_model(tmp_path / "m", dtype="bfloat16")
    wide = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "dt_bias", "router", "router_bias"}
    assert model.dtype == torch.bfloat16


def test_vectors_stored_wider_than_the_model_stay_so(tmp_path):
    save_model(make("qwen3_next"), tmp_path / "m")

    def narrow(tensors):
        return {name: t if name.endswith("linear_attn.norm.weight") else t.bfloat16() for name, t in tensors.items()}

    rewrite(tmp_path / "m", narrow)
    model = load_model(tmp_path / "m")
    assert model.dtype == torch.bfloat16
    assert model.sublayers[0].module.norm.weight.dtype == torch.float32
    assert model.sublayers[0].norm.weight.dtype == torch.bfloat16
    save_model(model, tmp_path / "again")
    before, after = load_file(tmp_path / "m" / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_trained_fp32_values_are_not_narrowed_to_the_dtype_of_the_file(tmp_path):
    save_model(make("kimi_linear"), tmp_path / "m")
    rewrite(tmp_path / "m", lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    model = load_model(tmp_path / "m")
    with torch.no_grad():
        model.sublayers[0].module.A_log += 1e-6
    save_model(model, tmp_path / "again")
    assert torch.equal(load_model(tmp_path / "again").sublayers[0].module.A_log, model.sublayers[0].module.A_log)


def test_tied_embeddings_are_stored_once_and_stay_tied(tmp_path):
    model = make("qwen3_5")
    save_model(model, tmp_path / "m")
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    loaded = load_model(tmp_path / "m")
    assert loaded.head.weight is loaded.embed.weight


def test_a_stored_tied_head_must_equal_the_embedding(tmp_path):
    save_model(make("qwen3_5"), tmp_path / "m")
    rewrite(tmp_path / "m", lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"].clone()})
    load_model(tmp_path / "m")
    rewrite(tmp_path / "m", lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from the embedding"):
        load_model(tmp_path / "m")


def test_the_multimodal_prefix_loads_and_what_is_left_out_is_reported(tmp_path, caplog):
    model = make("qwen3_5")
    save_model(model, tmp_path / "m")

    def nest(tensors):
        nested = {name.replace("model.", "model.language_model.", 1): t for name, t in tensors.items()}
        return {**nested, "model.visual.patch.weight": torch.zeros(3)}

    rewrite(tmp_path / "m", nest)
    assert_same(model, load_model(tmp_path / "m"))
    assert "ignored 1 tensors (model.visual.patch.weight, ...): only the language model is read" in caplog.text


def test_kimi_loads_a_dense_layer_under_either_name(tmp_path):
    model = make("kimi_linear")
    save_model(model, tmp_path / "m")
    rewrite(
        tmp_path / "m",
        lambda t: {name.replace("layers.0.mlp.", "layers.0.block_sparse_moe."): v for name, v in t.items()},
    )
    assert "model.layers.0.block_sparse_moe.up_proj.weight" in load_file(tmp_path / "m" / "model.safetensors")
    assert_same(model, load_model(tmp_path / "m"))


def test_generation_config_adds_end_tokens(tmp_path):
    save_model(make("qwen3"), tmp_path / "m")
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text()) == {"eos_token_id": 96}
    (tmp_path / "m" / "generation_config.json").write_text('{"eos_token_id": [96, 95]}')
    assert read_config(tmp_path / "m").config.eos_token_ids == (96, 95)
    model = load_model(tmp_path / "m")
    save_model(model, tmp_path / "again", hf_config=json.loads((tmp_path / "m" / "config.json").read_text()))
    assert read_config(tmp_path / "again").config.eos_token_ids == (96, 95)


def test_a_given_config_must_describe_the_model(tmp_path):
    model = make("qwen3")
    family = family_of("qwen3")
    save_model(model, tmp_path / "m", hf_config={**family.tiny_config, "model_type": "qwen3"})
    with pytest.raises(ConfigError, match="does not describe this model"):
        save_model(model, tmp_path / "n", hf_config={**family.tiny_config, "rms_norm_eps": 1e-3})
    assert not (tmp_path / "n").exists()


def test_saving_over_a_model_replaces_it_and_leaves_nothing_beside(tmp_path):
    save_model(make("qwen3", seed=1), tmp_path / "m", max_shard_bytes=40_000)
    save_model(make("qwen3", seed=2), tmp_path / "m")
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
    assert not list((tmp_path / "m").glob("model-*"))
    assert_same(make("qwen3", seed=2), load_model(tmp_path / "m"))


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(CheckpointError, match=r"not a model's: \['thesis.tex'\]"):
        save_model(make("qwen3"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "three years"


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_a_saved_model_is_readable_by_whom_the_umask_lets(tmp_path, umask, file_mode, folder_mode):
    before = os.umask(umask)
    try:
        save_model(initialize(Model(family_of("qwen3").tiny), 0), tmp_path / "m")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "m").iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {file_mode}
    assert (tmp_path / "m").stat().st_mode & 0o777 == folder_mode


def test_a_failed_save_leaves_the_old_model_and_no_scraps(tmp_path, monkeypatch):
    save_model(make("qwen3", seed=1), tmp_path / "m")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyla.checkpoints.tensor_files.save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_model(make("qwen3", seed=2), tmp_path / "m")
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
    assert_same(make("qwen3", seed=1), load_model(tmp_path / "m"))


def test_a_loaded_model_survives_the_loss_of_its_folder(tmp_path):
    model = make("qwen3")
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    with open(file, "r+b") as stream:
        stream.write(os.urandom(file.stat().st_size))
    assert_same(model, loaded)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_packed_while_it_is_loaded_is_the_packed_one_and_needs_its_file_no_more(tmp_path, family, dtype):
    save_model(make(family), tmp_path / "m")
    expected = load_model(tmp_path / "m", dtype=dtype)
    loaded = load_model(tmp_path / "m", dtype=dtype, pack=True)
    file = tmp_path / "m" / "model.safetensors"
    with open(file, "r+b") as stream:
        stream.write(os.urandom(file.stat().st_size))
    is_packed = [projection.is_packed for projection in loaded.projections()]
    assert is_packed and all(is_packed)
    with torch.no_grad():
        assert torch.equal(loaded.logits([[1, 2, 3]])[0], expected.pack().logits([[1, 2, 3]])[0])
    assert_same(expected.unpack(), loaded.unpack())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.skipif(native.why_missing() is not None, reason="the library's layout is made of copies")
def test_loading_into_tiles_holds_no_weight_twice_and_lets_go_of_the_file(tmp_path):
    family = family_of("qwen3_next")
    sizes = {"num_hidden_layers": 12, "hidden_size": 320, "num_experts": 24, "moe_intermediate_size": 64}
    large = initialize(Model(family.config_from_hf({**family.tiny_config, **sizes, "vocab_size": 6000})), 0)
    save_model(make("qwen3_next"), tmp_path / "small")
    save_model(large, tmp_path / "large")
    weights = sum(parameter.nbytes for parameter in large.parameters())
    piece = max(sum(p.nbytes for p in sublayer.parameters()) for sublayer in large.sublayers)
    assert weights > 100e6 and piece < weights / 8
    peak, final, _ = measure_loading(tmp_path / "small", tmp_path / "large", pack=True)
    assert 0.9 * weights < final < 1.1 * weights + 4e6
    assert peak <= final + 2 * piece + 4e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_loading_takes_little_memory_beside_the_model_and_no_heavy_imports(tmp_path):
    family = family_of("qwen3_next")
    sizes = {"num_hidden_layers": 6, "hidden_size": 320, "num_experts": 24, "moe_intermediate_size": 64}
    sizes["vocab_size"] = 6000
    save_model(make("qwen3_next"), tmp_path / "small")
    save_model(initialize(Model(family.config_from_hf({**family.tiny_config, **sizes})), 0), tmp_path / "large")
    peak, final, is_sympy_imported = measure_loading(tmp_path / "small", tmp_path / "large")
    assert not is_sympy_imported  # some operations on the meta device cost seconds of imports
    assert final > 40e6
    assert peak <= 1.2 * final
