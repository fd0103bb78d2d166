"""FP8 checkpoints: they stay what was published, in memory and on the way back, and compute what they stand for."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from fp8_folder import QUANTIZATION, make_fp8_folder
from loading_memory import measure_loading
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.models.formats.family import published_shapes
from hyla.models.formats.names import fuse_shards
from hyla.models.state import NamedWeights, cast, resident_bytes
from hyla.ops.batch import Batch
from hyla.ops.weights import Shard, dequantise, quantise

pytestmark = pytest.mark.usefixtures("each_backend")

FAMILIES = ("kimi_linear", "qwen3_next")
SLACK_BYTES = 2 << 20
"""Of the allocator, and of what else a moment of loading needs."""
PROMPTS = [[5, 1, 90, 33] * 17, [7]]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return make_fp8_folder(tmp_path_factory.mktemp("fp8") / "m", request.param)


def fp8_names(model):
    weights = NamedWeights(model)
    return [name for name in weights.shapes if weights.fp8(name) is not None]


def stored(folder):
    return load_file(folder / "model.safetensors")


def same_bits(first, second):
    return first.dtype == second.dtype and torch.equal(first.view(torch.uint8), second.view(torch.uint8))


def change(folder, edit):
    tensors = stored(folder)
    edit(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("packed", [False, True])
def test_resident_weights_give_the_bits_of_dequantised_ones(folder, packed):
    resident, plain = load_model(folder), load_model(folder, dtype=torch.bfloat16)
    assert len(fp8_names(resident)) > 20 and not fp8_names(plain)
    if packed:
        resident.pack(), plain.pack()
    with torch.inference_mode():
        for got, expected in zip(resident.logits(PROMPTS), plain.logits(PROMPTS)):
            assert torch.equal(got, expected)
        for got, alone in zip(resident.logits(PROMPTS), PROMPTS):
            assert torch.equal(got, resident.logits([alone])[0])


def test_what_is_packed_while_it_is_loaded_is_the_same_and_needs_its_file_no_more(folder, tmp_path):
    """Plain weights beside FP8 ones in one product are not packed: they must not stay views of the file."""
    copy = shutil.copytree(folder, tmp_path / "m")
    loaded, expected = load_model(copy, pack=True), load_model(folder)
    file = copy / "model.safetensors"
    with open(file, "r+b") as stream:
        stream.write(os.urandom(file.stat().st_size))
    mixed = [one for one in loaded.projections() if one.is_quantised and not all(p.is_meta for p in one.parameters())]
    assert bool(mixed) == (loaded.config.family != "qwen3_next")  # whose products are all of one kind
    with torch.inference_mode():
        for got, wanted in zip(loaded.logits(PROMPTS), expected.logits(PROMPTS)):
            assert torch.equal(got, wanted)


def test_logits_under_autograd_are_the_same_and_reach_the_embedding(folder):
    resident, plain = load_model(folder), load_model(folder, dtype="bfloat16")
    grads = []
    for model in (resident, plain):
        model.logits(PROMPTS)[0].square().sum().backward()
        grads.append(model.embed.weight.grad)
    with torch.inference_mode():
        expected = resident.logits(PROMPTS)[0]
    assert torch.equal(resident.logits(PROMPTS)[0], expected)
    assert (grads[0] - grads[1]).norm() <= 0.02 * grads[1].norm() and grads[0].norm() > 0


def test_memory_is_what_was_published_but_for_the_split_tensors(folder):
    model = load_model(folder)
    names, bytes_by_name = NamedWeights(model), {name: tensor.nbytes for name, tensor in stored(folder).items()}
    # A tensor that ours split inside a block is kept in bf16, beside its published scales.
    split = sum(bytes_by_name[name] for name in model.published_scales)
    scales = sum(scale.nbytes for scale in model.published_scales.values())
    assert resident_bytes(model) == sum(bytes_by_name.values()) + split - scales
    assert resident_bytes(model) < 0.8 * resident_bytes(load_model(folder, dtype="bfloat16"))
    assert all(names.model.get_parameter(name).is_meta for name in fp8_names(model))


def test_only_tensors_that_are_split_inside_a_block_are_dequantised(folder):
    expected = {
        "kimi_linear": {"model.layers.3.self_attn.kv_b_proj.weight"},
        "qwen3_next": {f"model.layers.{n}.linear_attn.in_proj_qkvz.weight" for n in range(3)},
    }
    model = load_model(folder)
    # The query and its gate have 128 rows a head: they are split between blocks.
    assert set(model.published_scales) == expected[model.config.family]


@pytest.mark.parametrize("packed", [False, True])
def test_what_was_loaded_is_saved_bit_for_bit(folder, tmp_path, packed):
    model = load_model(folder)
    save_model(model.pack() if packed else model, tmp_path / "again")
    before, after = stored(folder), stored(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"] == QUANTIZATION


def test_a_changed_split_tensor_is_quantised_anew(folder, tmp_path):
    model = load_model(folder)
    rule_name = next(iter(model.published_scales))
    weights = NamedWeights(model)
    split = {"kimi_linear": "k_up", "qwen3_next": "module.q.weight"}[model.config.family]
    name = next(name for name in weights.shapes if name.endswith(split))
    with torch.no_grad():
        model.get_parameter(name).mul_(7.0)
    save_model(model, tmp_path / "again")
    assert not same_bits(stored(folder)[rule_name], stored(tmp_path / "again")[rule_name])
    again = NamedWeights(load_model(tmp_path / "again"))
    difference = (again.read(name).float() - weights.read(name).float()).abs().max()
    assert difference <= weights.read(name).abs().max() / 16


def test_a_dequantised_model_is_saved_without_fp8(folder, tmp_path):
    save_model(load_model(folder, dtype="float32"), tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert {tensor.dtype for tensor in stored(tmp_path / "plain").values()} == {torch.float32, torch.bfloat16}
    assert stored(tmp_path / "plain").keys() == {n for n in stored(folder) if not n.endswith("_scale_inv")}


def test_casting_a_resident_model_dequantises_it(folder):
    model = cast(load_model(folder), torch.float32)
    assert not fp8_names(model)
    with torch.inference_mode():
        assert model.logits(PROMPTS)[0].isfinite().all()


@pytest.mark.parametrize("scale_dtype", [torch.float8_e8m0fnu, torch.bfloat16])
def test_narrow_scales_are_kept_as_they_are(tmp_path, scale_dtype):
    folder = make_fp8_folder(tmp_path / "m", "qwen3", scale_dtype=scale_dtype)
    model = load_model(folder)
    with torch.inference_mode():
        assert torch.equal(model.logits(PROMPTS)[0], load_model(folder, dtype="bfloat16").logits(PROMPTS)[0])
    save_model(model, tmp_path / "again")
    assert all(same_bits(tensor, stored(tmp_path / "again")[name]) for name, tensor in stored(folder).items())


def test_a_mixture_of_fp8_and_plain_in_one_product(tmp_path):
    folder = make_fp8_folder(tmp_path / "m", "qwen3", dtype=torch.float32, plain="embed|lm_head|norm|k_proj|gate_proj")
    model, plain = load_model(folder), load_model(folder, dtype="float32")
    with torch.inference_mode():
        assert torch.equal(model.pack().logits(PROMPTS)[0], plain.logits(PROMPTS)[0])


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path):
        return make_fp8_folder(tmp_path / "m", "qwen3")

    def refused(self, folder, message, error=CheckpointError):
        with pytest.raises(error, match=message):
            load_model(folder)

    def test_missing_scales(self, folder):
        change(folder, lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight_scale_inv"))
        self.refused(folder, r"missing: model\.layers\.0\.mlp\.up_proj\.weight_scale_inv")

    def test_scales_of_another_shape(self, folder):
        name = "model.layers.0.mlp.up_proj.weight_scale_inv"
        change(folder, lambda tensors: tensors.update({name: torch.ones(2, 2)}))
        self.refused(folder, r"up_proj\.weight_scale_inv \(2, 2\) instead of \(3, 2\)")

    def test_scales_without_codes(self, folder):
        name = "model.layers.0.mlp.up_proj.weight"
        change(folder, lambda tensors: tensors.update({name: tensors[name].float()}))
        self.refused(folder, r"not part of the model: .*up_proj\.weight_scale_inv")

    @pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
    def test_scales_that_are_no_sizes(self, folder, value):
        change(folder, lambda t: t["model.layers.0.mlp.up_proj.weight_scale_inv"].fill_(value))
        self.refused(folder, "scales that are negative or not finite")

    def test_codes_without_a_quantization_config(self, folder):
        config = json.loads((folder / "config.json").read_text())
        del config["quantization_config"]
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(folder, r"not part of the model|not supported")

    @pytest.mark.parametrize(
        "edit",
        [
            {"quant_method": "hqq"},
            {"weight_block_size": [64, 128]},
            {"activation_scheme": "static"},
            {"fmt": "e5m2"},
            {"bits": 4},
        ],
    )
    def test_another_quantisation_is_refused_by_name(self, folder, edit):
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {**QUANTIZATION, **edit}
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(folder, f"quantization_config: {next(iter(edit))}", ConfigError)

    def test_blocks_that_the_config_does_not_name_are_refused(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {**QUANTIZATION, "weight_block_size": None}
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(folder, r"weight_scale_inv is F32 \(\d, \d\) instead of one scale")


def test_an_all_zero_block_keeps_its_codes(tmp_path):
    codes, scale = quantise(torch.zeros(130, 20))
    assert torch.equal(scale, torch.ones(2, 1)) and not codes.float().any()


PUBLISHED_IN_FP8 = ("minimax_m2", "deepseek_v3", "deepseek_v32", "mimo_v2_flash", "mimo_v2", "bailing_hybrid")


@pytest.mark.parametrize("name", PUBLISHED_IN_FP8)
def test_the_families_that_are_published_in_fp8_stay_so_and_come_back(name, tmp_path):
    folder = make_fp8_folder(tmp_path / "m", name)
    resident, plain = load_model(folder), load_model(folder, dtype=torch.bfloat16)
    assert fp8_names(resident)
    prompts = [[5, 1, 60, 33] * 17, [7]]
    with torch.inference_mode():
        for got, expected in zip(resident.logits(prompts), plain.logits(prompts)):
            assert torch.equal(got, expected)
    save_model(resident.pack(), tmp_path / "again")
    before, after = stored(folder), stored(tmp_path / "again")
    assert before.keys() == after.keys() and all(same_bits(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["deepseek_v3", "mimo_v2_flash", "bailing_hybrid"])
@torch.inference_mode()
def test_prediction_modules_in_fp8_give_the_bits_of_dequantised_ones(name, tmp_path):
    folder = make_fp8_folder(tmp_path / "m", name)
    resident, plain = load_model(folder), load_model(folder, dtype=torch.bfloat16)
    assert [place for place in fp8_names(resident) if place.startswith("mtp.0.sublayers.")]
    tokens, batch, found = torch.arange(72) * 7 % 60, Batch.packed([70]), []
    for model in (resident.pack(), plain):
        hidden = model.hidden(tokens[:70], batch)
        for step in range(model.num_mtp_steps):
            hidden = model.predict_next(tokens[1:71].roll(-step), hidden.next_TD, batch, step=step)
            found.append(model.head_logits(hidden.head_TD, step=step))
    half = len(found) // 2
    assert half >= 1 and all(map(torch.equal, found[:half], found[half:]))


def test_shards_that_are_cut_into_blocks_on_their_own_keep_their_numbers(tmp_path):
    """MiMo-V2.5-Pro's qkv matrices: k straddles blocks of its shard, and shares them with q and v."""
    folder = make_fp8_folder(tmp_path / "m", "mimo_v2")
    model, tensors = load_model(folder), stored(folder)
    for layer, (q_rows, k_rows, v_rows) in ((0, (132, 44, 20)), (1, (132, 132, 60))):
        name = f"model.layers.{layer}.self_attn.qkv_proj.weight"
        codes, scale = (tensors[key].chunk(2) for key in (name, name + "_scale_inv"))
        assert tensors[name + "_scale_inv"].shape == (4 if layer == 0 else 6, 2)
        shards = [dequantise(*pair, torch.bfloat16).split((q_rows, k_rows, v_rows)) for pair in zip(codes, scale)]
        weights = NamedWeights(model)
        for letter, parts in zip("qkv", zip(*shards)):
            ours = f"sublayers.{2 * layer}.module.{letter}.weight"
            assert weights.fp8(ours) is not None
            assert torch.equal(weights.read(ours), torch.cat(parts))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_loading_takes_the_resident_weights_and_less_than_one_rule_more(tmp_path):
    sizes = {"hidden_size": 320, "num_hidden_layers": 5, "n_routed_experts": 24, "moe_intermediate_size": 448}
    small = make_fp8_folder(tmp_path / "small", "deepseek_v3")
    large = make_fp8_folder(tmp_path / "large", "deepseek_v3", sizes=sizes)
    model = load_model(large)
    largest = max(NamedWeights(model).fp8(name).nbytes for name in fp8_names(model))
    peak, final, _ = measure_loading(small, large)
    assert final > 30e6 and final <= 1.1 * resident_bytes(model)
    assert peak <= final + largest + SLACK_BYTES


def test_the_published_size_has_the_published_rows_of_scales():
    """MiMo-V2.5-Pro: 8 shards of 27 rows of scales; v begins in the middle of k's second block."""
    rule = fuse_shards("qkv", ("q", "k", "v"), shards=8)
    ours = [(24576, 6144), (1536, 6144), (1024, 6144)]
    assert published_shapes(rule, ours) == [(27136, 6144)] and rule.published_layout((27136, 6144)).scale_shape == (
        216,
        48,
    )
    assert [layout.shard for layout in rule.layouts(ours)] == [Shard(3072), Shard(192), Shard(128, offset=64)]
    scales = torch.arange(216 * 48.0).view(216, 48)
    parts = rule.scales_to_ours([scales], ours)
    assert [len(part) for part in parts] == [8 * 24, 8 * 2, 8 * 2]
    assert torch.equal(rule.scales_to_published(parts, ours)[0], scales)
