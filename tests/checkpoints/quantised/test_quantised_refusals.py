"""What is not read is refused by its true value, and damage by its tensor: one clear line, never another error."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, read_config
from hyla.errors import CheckpointError, ConfigError, HylaError

FOLDERS = Path(__file__).parent / "folders"
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def copy(tmp_path):
    return lambda name: Path(shutil.copytree(FOLDERS / name, tmp_path / name))


def say(folder, **keys):
    """Change quantization_config; None removes a key."""
    config = json.loads((folder / "config.json").read_text())
    said = {**config["quantization_config"], **keys}
    config["quantization_config"] = {key: value for key, value in said.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("method", ["hqq", "quanto", "torchao", "mxfp4", "aqlm", "quark", "exl3", 7, ["gptq"]])
def test_another_method_is_named_with_those_that_are_read(copy, method):
    folder = copy("gptq-int4")
    say(folder, quant_method=method)
    with pytest.raises(
        ConfigError, match=r"quant_method = .* in config\.json: Hyla reads auto-round, awq, bitsandbytes,"
    ) as caught:
        read_config(folder)
    assert repr(method) in str(caught.value) and "unquantised checkpoint" in str(caught.value)


def weights(**update):
    said = json.loads((FOLDERS / "ct-int4-group" / "config.json").read_text())["quantization_config"]["config_groups"]
    return {"group_0": {**said["group_0"], "weights": {**said["group_0"]["weights"], **update}}}


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("gptq-int4", {"bits": 0}, "bits = 0 in config.json"),
        ("gptq-int4", {"bits": 5}, "bits = 5 in config.json"),
        ("gptq-int4", {"bits": "4"}, "bits = '4' in config.json"),
        ("gptq-int4", {"bits": None}, "bits is missing in config.json"),
        ("gptq-int4", {"group_size": 0}, "group_size = 0 in config.json.*-1"),
        ("gptq-int4", {"group_size": -2}, "group_size = -2 in config.json"),
        ("gptq-int4", {"group_size": 10**30}, "group_size = 1000"),
        ("gptq-int4", {"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin' in config.json"),
        (
            "gptq-int4",
            {"format": "gptq_v2", "checkpoint_format": "gptq"},
            "checkpoint_format is 'gptq.*' and 'gptq.*' in config.json",
        ),
        ("gptq-int4", {"pack_dtype": "int64"}, "pack_dtype = 'int64' in config.json"),
        (
            "gptq-int4",
            {"rotation": "hadamard"},
            "rotation = 'hadamard' in config.json is a key that Hyla does not know",
        ),
        ("gptq-int4", {"quant_method": "auto-round", "packing_format": "mlx"}, "packing_format = 'mlx' in config.json"),
        ("awq-int4", {"bits": 3}, "bits = 3 in config.json"),
        ("awq-int4", {"version": "gemv"}, "version = 'gemv' in config.json"),
        ("awq-int4", {"zero_point": False}, "zero_point = False in config.json"),
        ("awq-int4", {"backend": "llm-awq"}, "backend = 'llm-awq' in config.json"),
        ("bnb-nf4", {"bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type = 'int4' in config.json"),
        ("modelopt-fp8", {"quant_algo": "W4A16_AWQ"}, "quant_algo = 'W4A16_AWQ' in config.json"),
        ("modelopt-fp8", {"quant_algo": None}, "quant_algo is missing in config.json"),
        (
            "modelopt-fp8",
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "W4A8_AWQ"}}},
            "quant_algo = 'W4A8_AWQ'",
        ),
        ("ct-int4-group", {"format": "marlin-24"}, "format = 'marlin-24' in config.json"),
        ("ct-int4-group", {"config_groups": weights(num_bits=3)}, r"config_groups.group_0.weights.num_bits = 3 in"),
        ("ct-int4-group", {"config_groups": weights(actorder="random")}, "actorder"),
        ("ct-int4-group", {"config_groups": weights(group_size=0)}, "group_size = 0 in config.json"),
        ("ct-int4-group", {"config_groups": weights(dynamic=True)}, "dynamic"),
        ("ct-int4-group", {"config_groups": {"W4A16": ["Linear"]}}, r"config_groups.W4A16 = \['Linear'\]"),
        ("ct-int4-group", {"config_groups": {str(n): {} for n in range(300)}}, "config_groups = .*at most 256"),
        ("gptq-int4", {"secret": "x" * 10**6}, r"secret = 'x{159}\.\.\. in config.json is a key"),
        ("ct-int4-group", {"config_groups": {}}, "config_groups = 'no scheme for weights'"),
        ("ct-int4-group", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.format = 'sparse-24"),
        (
            "ct-int4-group",
            {"transform_config": {"config_groups": {"R1": {}}}},
            r"transform_config.config_groups = \{'R1'",
        ),
    ],
)
def test_a_value_that_is_not_read_is_named(copy, name, keys, message):
    folder = copy(name)
    say(folder, **keys)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(folder)
    assert "quantization_config: " in str(caught.value)
    assert "unquantised checkpoint" in str(caught.value) or "keep one" in str(caught.value)


def shorter(name, dim=0):
    return lambda tensors: tensors.update(
        {name: tensors[name].narrow(dim, 0, tensors[name].shape[dim] - 1).contiguous()}
    )


def without(name):
    return lambda tensors: tensors.pop(name)


def filled(name, value, dtype=None):
    def edit(tensors):
        tensors[name] = torch.full(tensors[name].shape, value, dtype=torch.float32).to(dtype or tensors[name].dtype)

    return edit


def replaced(name, tensor):
    return lambda tensors: tensors.update({name: tensor})


NAN = float("nan")
STATE = f"{UP}.weight.quant_state.bitsandbytes__nf4"


def state(**keys):
    said = {"quant_type": "nf4", "blocksize": 64, "shape": [64, 64], **keys}
    return replaced(STATE, torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8))


DAMAGE = [
    ("gptq-int4", without(f"{UP}.scales"), r"up_proj\.scales is missing beside model.*up_proj\.qweight"),
    ("gptq-int4", without(f"{UP}.qzeros"), r"up_proj\.qzeros is missing"),
    ("gptq-int4", shorter(f"{UP}.qweight"), r"up_proj\.qzeros is I32 \(2, 8\) instead of I32 \(2, 6\)"),
    ("gptq-int4", shorter(f"{UP}.g_idx"), r"up_proj\.weight \(64, 31\) instead of \(64, 32\)"),
    ("gptq-int4", shorter(f"{UP}.qzeros", 1), r"up_proj\.qzeros is I32 \(2, 7\) instead of I32 \(2, 8\)"),
    ("gptq-int4", shorter(f"{UP}.scales", 1), r"up_proj\.scales is F16 \(2, 63\) instead of .*\(2, 64\)"),
    ("gptq-int4", filled(f"{UP}.scales", NAN), r"up_proj\.scales holds numbers that are not finite"),
    ("gptq-int4", filled(f"{UP}.g_idx", 9), r"up_proj\.g_idx holds groups outside 0 to 1"),
    ("gptq-int4", filled(f"{UP}.g_idx", -1), r"up_proj\.g_idx holds groups outside 0 to 1"),
    (
        "gptq-int4",
        replaced(f"{UP}.qweight", torch.zeros(0, 64, dtype=torch.int32)),
        r"qweight is I32 \(0, 64\) instead",
    ),
    ("gptq-int4", replaced(f"{UP}.qweight", torch.zeros(4, 64)), r"up_proj\.qweight is F32 \(4, 64\) instead of"),
    ("gptq-int4", replaced(f"{UP}.weight", torch.zeros(64, 32)), r"up_proj\.weight is stored both packed and plain"),
    ("awq-int4", shorter(f"{UP}.qweight", 1), r"up_proj\.qweight has 7 words of 8 codes for 64 outputs"),
    ("awq-int4", shorter(f"{UP}.scales"), r"up_proj\.scales has 1 groups for 32 inputs, but group_size = 16"),
    ("awq-int4", filled(f"{UP}.scales", float("inf")), r"up_proj\.scales holds numbers that are not finite"),
    ("ct-int4-group", without(f"{UP}.weight_scale"), r"up_proj\.weight_scale is missing"),
    ("ct-int4-group", without(f"{UP}.weight_shape"), r"up_proj\.weight_shape is missing"),
    ("ct-int4-group", replaced(f"{UP}.weight_shape", torch.tensor([2**60, 2**60])), r"weight_packed holds 4 words for"),
    ("ct-int4-group", replaced(f"{UP}.weight_shape", torch.tensor([64, -32])), r"weight_packed holds 4 words for -32"),
    (
        "ct-int4-group",
        shorter(f"{UP}.weight_scale", 1),
        r"up_proj\.weight_scale holds \(64, 1\) scales for 64 x 32 codes, which no scheme",
    ),
    ("ct-int4-group", filled(f"{UP}.weight_scale", NAN), r"up_proj\.weight_scale holds numbers that are not finite"),
    ("ct-int4-asymmetric", without(f"{UP}.weight_zero_point"), r"up_proj\.weight_zero_point is missing"),
    ("ct-int4-asymmetric", shorter(f"{UP}.weight_zero_point"), r"weight_zero_point is I32 \(7, 2\) instead of"),
    ("ct-w8a8", without(f"{UP}.weight_scale"), r"up_proj\.weight_scale is missing beside"),
    (
        "ct-fp8-channel",
        shorter(f"{UP}.weight_scale"),
        r"up_proj\.weight holds F8_E4M3 codes with \(63, 1\) scales, which no",
    ),
    (
        "ct-fp8-channel",
        replaced(f"{UP}.weight", torch.full((64, 32), NAN).to(torch.float8_e4m3fn)),
        r"up_proj\.weight \(FP8",
    ),
    ("ct-nvfp4", shorter(f"{UP}.weight_scale", 1), r"up_proj\.weight_scale is F8_E4M3 \(64, 1\) instead of"),
    (
        "ct-nvfp4",
        filled(f"{UP}.weight_global_scale", 0),
        r"up_proj\.weight_scale holds numbers that are not finite, or",
    ),
    ("ct-mxfp4", filled(f"{UP}.weight_scale", 255), r"up_proj\.weight_scale holds numbers that are not finite"),
    ("ct-nvfp4", without(f"{UP}.weight_global_scale"), r"up_proj\.weight_global_scale is missing"),
    ("ct-w8a8", replaced(f"{UP}.weight_g_idx", torch.zeros(32)), r"not part of the model: .*up_proj\.weight_g_idx"),
    ("ct-nvfp4", replaced(f"{UP}.weight_zero_point", torch.zeros(64)), r"not part of the model: .*weight_zero_point"),
    ("modelopt-fp8", replaced(f"{UP}.weight_scale_2", torch.ones(())), r"not part of the model: .*weight_scale_2"),
    ("modelopt-nvfp4", without(f"{UP}.weight_scale_2"), r"up_proj\.weight_scale_2 is missing"),
    ("modelopt-fp8", without(f"{UP}.weight_scale"), r"up_proj\.weight_scale is missing"),
    ("modelopt-fp8", replaced(f"{UP}.pre_quant_scale", torch.ones(32)), r"up_proj\.pre_quant_scale scales activations"),
    ("bnb-int8", filled(f"{UP}.SCB", NAN), r"up_proj\.SCB holds numbers that are not finite"),
    ("bnb-int8", filled(f"{UP}.weight_format", 1), r"up_proj\.weight_format says layout 1"),
    ("bnb-int8", shorter(f"{UP}.SCB"), r"up_proj\.SCB is F32 \(63,\) instead of"),
    ("bnb-nf4", without(f"{UP}.weight.absmax"), r"up_proj\.weight\.absmax is missing"),
    ("bnb-nf4", without(STATE), r"quant_state\.bitsandbytes__nf4 is missing"),
    (
        "bnb-nf4",
        shorter(f"{UP}.weight.absmax"),
        r"up_proj\.weight\.absmax is F32 \(63,\) instead of F32 or F16 or BF16 \(64,",
    ),
    ("bnb-nf4", filled(f"{UP}.weight.quant_map", NAN), r"up_proj\.weight\.quant_map holds numbers that are not finite"),
    ("bnb-nf4", replaced(STATE, torch.tensor([123], dtype=torch.uint8)), r"quant_state\.bitsandbytes__nf4 is not JSON"),
    ("bnb-nf4", replaced(STATE, torch.full((60_000,), 91, dtype=torch.uint8)), r"bitsandbytes__nf4 is not JSON"),
    ("bnb-nf4", state(shape=[2**31 - 1, 2**31 - 1]), r"up_proj\.weight has 2,048 bytes for \(2147483647, 2147483647\)"),
    ("bnb-nf4", state(blocksize=0), r"quant_state\.bitsandbytes__nf4 says blocksize = 0"),
    ("bnb-nf4", state(shape=[4096]), r"quant_state\.bitsandbytes__nf4 says shape = \[4096\]"),
    ("bnb-nf4", state(nested_blocksize=4), r"nested_absmax is missing"),
]


@pytest.mark.parametrize(
    ("name", "edit", "message"), DAMAGE, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(DAMAGE)]
)
def test_damage_is_named_by_its_tensor(copy, name, edit, message):
    folder = copy(name)
    change(folder, edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_zero_points_of_the_other_version_are_noticed(copy):
    folder = copy("gptq-int4")
    say(folder, checkpoint_format="gptq_v2")
    with pytest.raises(
        CheckpointError, match=r"qzeros holds zero points of 7 .* checkpoint_format 'gptq' and not 'gptq_v2'"
    ):
        load_model(folder)


def test_a_weight_that_no_scheme_describes_is_refused(copy):
    folder = copy("ct-int4-group")
    say(folder, config_groups=weights(num_bits=8))
    with pytest.raises(
        CheckpointError, match=r"weight_packed holds 8 words for 64 inputs .* no scheme of config_groups"
    ):
        load_model(folder)


ROUNDS = 16
VALUES = (None, 0, -1, 2**31, 2**70, 1e308, "", "x" * 50, [], [[]], {}, {"a": {}}, True, False, ["re:(a+)+$"] * 3)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDERS.iterdir()))
def test_hostile_configs_and_tensors_end_in_one_clear_error_or_in_a_model(copy, name):
    folder = copy(name)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    rng = random.Random(name)
    for _ in range(ROUNDS):
        changed = json.loads(json.dumps(config))
        place = changed["quantization_config"]
        while any(isinstance(value, dict) and value for value in place.values()) and rng.random() < 0.6:
            place = rng.choice([value for value in place.values() if isinstance(value, dict) and value])
        place[rng.choice(sorted(place))] = rng.choice(VALUES)
        (folder / "config.json").write_text(json.dumps(changed))
        outcome(folder)
    (folder / "config.json").write_text(json.dumps(config))
    names = [key for key in tensors if not key.endswith("norm.weight") and "layers" in key]
    for _ in range(ROUNDS):
        mutated = dict(tensors)
        key = rng.choice(names)
        mutated[key] = mutation(rng, mutated[key])
        (folder / "model.safetensors").unlink()
        save_file(mutated, folder / "model.safetensors")
        outcome(folder)


def outcome(folder):
    try:
        load_model(folder)
    except HylaError as error:
        assert len(str(error)) < 1500 and "\n" not in str(error)


def mutation(rng, tensor):
    kind = rng.randrange(5)
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).clone()
    if kind == 0 and raw.numel():
        raw[rng.randrange(raw.numel())] = rng.choice((0, 127, 128, 255))
        return raw.view(tensor.dtype).reshape(tensor.shape)
    if kind == 1:
        return tensor.reshape(-1)
    if kind == 2:
        return tensor.reshape(1, *tensor.shape)
    if kind == 3:
        return torch.zeros(0, dtype=tensor.dtype)
    return torch.zeros(tensor.shape, dtype=rng.choice((torch.float32, torch.int32, torch.uint8, torch.float64)))
