"""A GGUF file wherever a folder works: weights, dtypes, engine, verbs."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from gguf_writing import BF16, F16, GGUF, Q4_0, Q8_0, Stored
from tiny_gguf import published, stored_tensors, tiny_gguf, tiny_model
from typer.testing import CliRunner

import hyla
from hyla.checkpoints import open_checkpoint, read_config
from hyla.checkpoints.replace import WeightUpdate
from hyla.cli.app import app
from hyla.errors import CheckpointError


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny-model.gguf"
    path.write_bytes(tiny_gguf(model).encode())
    return path


def quantised(array, kind, name):
    import gguf

    data = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), gguf.GGMLQuantizationType[name])
    return kind, data.tobytes(), gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]).reshape(array.shape)


def test_a_file_gives_the_weights_and_logits_of_the_folder_it_was_made_of(model, file):
    loaded = hyla.load(file)
    ours, theirs = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(loaded.logits([[5, 9, 20, 7]])[0], model.logits([[5, 9, 20, 7]])[0])


def test_the_config_is_the_folders_with_the_end_tokens_that_the_texts_name(model, file):
    assert read_config(file).config == model.config
    assert read_config(file).published["model_type"] == "llama"


def test_a_float32_file_stays_so_and_others_become_bfloat16_unless_a_dtype_is_asked_for(model, file, tmp_path, caplog):
    other = tmp_path / "half.gguf"
    other.write_bytes(tiny_gguf(model, matrices=BF16).encode())
    assert hyla.load(file).dtype == torch.float32
    with caplog.at_level(logging.INFO, "hyla.checkpoints"):
        half = hyla.load(other)
    assert "bfloat16" in caplog.text and "BF16" in caplog.text
    assert half.dtype == torch.bfloat16
    assert half.sublayers[0].norm.weight.dtype == torch.float32, "vectors that are stored wider stay so"
    assert hyla.load(other, dtype="float32").dtype == torch.float32


def test_quantised_matrices_are_dequantised_in_float32_and_rounded_once(model, tmp_path):
    expected, tensors = {}, []
    for number, (name, array) in enumerate(stored_tensors(model).items()):
        if array.ndim > 1:
            kind, data, expected[name] = quantised(array, *((Q8_0, "Q8_0") if number % 2 else (Q4_0, "Q4_0")))
            tensors.append(Stored(name, array.shape, kind, data))
        else:
            tensors.append(Stored.plain(name, array))
    path = tmp_path / "quantised.gguf"
    path.write_bytes(GGUF(tiny_gguf(model).metadata, tensors).encode())
    for dtype in (torch.bfloat16, torch.float32):
        loaded = hyla.load(path, dtype=dtype)
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"):
            stored = {"model.embed_tokens.weight": "token_embd.weight"}.get(name, "blk.1.ffn_down.weight")
            wanted = torch.from_numpy(expected[stored]).to(dtype)
            assert np.array_equal(published(loaded)[name], wanted.float().numpy())


def test_a_loaded_file_saves_as_a_folder_in_the_dtype_it_was_given(model, tmp_path):
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny_gguf(model, matrices=BF16).encode())
    hyla.save(hyla.load(path), tmp_path / "folder", tokenizer=open_checkpoint(path).tokenizer())
    folder = open_checkpoint(tmp_path / "folder")
    with folder.tensors() as tensors:
        assert tensors.dtype("model.embed_tokens.weight") == "BF16"
        assert tensors.dtype("model.norm.weight") == "F32"
    assert folder.config().config == read_config(path).config
    text = "the cat of 12"
    assert folder.tokenizer().encode(text) == open_checkpoint(path).tokenizer().encode(text)


def test_the_embedding_is_the_head_where_no_part_has_one(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    path = tmp_path / "tied.gguf"
    path.write_bytes(tiny_gguf(model).encode())
    assert read_config(path).config.tie_embeddings
    assert torch.equal(hyla.load(path).logits([[3, 4]])[0], model.logits([[3, 4]])[0])


def test_biases_of_q_and_k_are_turned_with_their_rows(tmp_path):
    model = tiny_model(attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    path = tmp_path / "biased.gguf"
    path.write_bytes(tiny_gguf(model).encode())
    assert torch.equal(hyla.load(path).logits([[3, 4, 5]])[0], model.logits([[3, 4, 5]])[0])


def test_divisors_of_frequencies_become_a_scaling_of_the_config(model, tmp_path):
    given = tiny_gguf(model)
    factors = np.linspace(1.0, 8.0, 16, dtype=np.float32)
    given.tensors.append(Stored.plain("rope_freqs.weight", factors))
    path = tmp_path / "scaled.gguf"
    path.write_bytes(given.encode())
    found = read_config(path).published["rope_scaling"]
    assert found["rope_type"] == "hyla_factors"
    assert np.array_equal(np.array(found["factors"], np.float32), factors)
    assert not torch.equal(hyla.load(path).logits([[3, 4, 5, 6]])[0], model.logits([[3, 4, 5, 6]])[0])


def test_vectors_in_half_precision_are_not_rounded_again(model, tmp_path):
    given = tiny_gguf(model, matrices=BF16)
    norm = next(number for number, tensor in enumerate(given.tensors) if tensor.name == "output_norm.weight")
    values = np.linspace(0.5, 1.5, 64).astype("<f2")
    given.tensors[norm] = Stored("output_norm.weight", (64,), F16, values.tobytes())
    path = tmp_path / "norm.gguf"
    path.write_bytes(given.encode())
    found = hyla.load(path).norm.weight
    assert found.dtype == torch.float32 and np.array_equal(found.detach().numpy(), values.astype(np.float32))


def test_a_config_is_read_without_torch_and_without_any_number_of_the_tensors(model, tmp_path):
    given = tiny_gguf(model)
    spoilt = [Stored(tensor.name, tensor.shape, tensor.kind, b"\xff" * len(tensor.data)) for tensor in given.tensors]
    path = tmp_path / "spoilt.gguf"
    path.write_bytes(GGUF(given.metadata, spoilt).encode())
    code = (
        "import sys\nfrom hyla.checkpoints import read_config\n"
        f"assert read_config({str(path)!r}).config.hidden_dim == 64\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(CheckpointError, match="not finite"):
        hyla.load(path)


def test_an_engine_takes_a_file_and_completes_text(file):
    engine = hyla.Engine(file, memory=1 << 24)
    (completion,) = engine.generate(["the cat"], hyla.SamplingParams(max_tokens=4, temperature=0.0))
    assert 1 <= len(completion.token_ids) <= 4
    assert completion.text == engine.tokenizer.decode(completion.token_ids)


def test_weights_of_a_file_go_into_a_model_in_use(model, file, tmp_path):
    used = tiny_model()
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.zero_()
    with WeightUpdate(used, file, device=torch.device("cpu"), pack=False) as update:
        update.apply()
    assert torch.equal(used.logits([[5, 9]])[0], model.logits([[5, 9]])[0])


def test_inspect_and_cost_take_a_file_and_name_it_after_its_stem(file):
    shown = CliRunner().invoke(app, ["inspect", str(file), "--json"])
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.output)
    assert report["family"] == "llama" and report["stored_dtypes"] == {"F32": 21}
    assert open_checkpoint(file).name == "tiny-model"
    costed = CliRunner().invoke(app, ["cost", str(file), "--json"])
    assert costed.exit_code == 0 and "tiny-model" in costed.output


def test_a_folder_of_gguf_files_names_them(file):
    with pytest.raises(CheckpointError, match=r"tiny-model\.gguf.*give the path of one"):
        hyla.load(file.parent)


def test_a_file_without_the_suffix_is_known_by_its_first_bytes(file, tmp_path):
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(file.read_bytes())
    assert read_config(blob).config == read_config(file).config
