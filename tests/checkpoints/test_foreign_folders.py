"""Folders of training tools and converters: the same model under other names is read, another one refused."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyla.checkpoints import WeightUpdate, load_model, read_config, save_model
from hyla.errors import CheckpointError
from hyla.json_files import read_json, write_json
from hyla.models.formats.registry import family_of, known_model_types
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

FAMILIES = sorted({family_of(model_type).name for model_type in known_model_types()})
VISION = ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight")


def make(name, **update):
    return initialize(Model(family_of(name).tiny.model_copy(update=update)), 1, std=0.2)


def same(first, second):
    first, second = NamedWeights(first), NamedWeights(second)
    return first.shapes == second.shapes and all(torch.equal(first.read(n), second.read(n)) for n in first.shapes)


def rewrite(folder, change, writer="pt"):
    """Tensors, changed one by one: (name, tensor) -> (name, tensor), or None for one that is left out."""
    file = folder / "model.safetensors"
    changed = [change(name, tensor) for name, tensor in load_file(file).items()]
    tensors = {name: tensor.contiguous() for name, tensor in filter(None, changed)}
    file.unlink()
    save_file(tensors, file, metadata={"format": writer})
    return tensors


def renamed(folder, spell):
    return rewrite(folder, lambda name, tensor: (spell(name), tensor))


def nested(prefix, head="lm_head.", mtp="mtp."):
    """Tensors of the trunk below a prefix."""

    def spell(name):
        if name.startswith("lm_head."):
            return head + name.removeprefix("lm_head.")
        return mtp + name.removeprefix("mtp.") if name.startswith("mtp.") else prefix + name.removeprefix("model.")

    return spell


@pytest.mark.parametrize(
    "spell",
    [
        nested("model.language_model."),
        nested("model.language_model.language_model.language_model."),
        nested("language_model.model.", "language_model.lm_head.", "language_model.mtp."),
        nested("language_model."),
        nested("model.language_model.model.", "model.language_model.lm_head.", "model.mtp."),
        nested("base_model.model.model.language_model.", "base_model.model.lm_head.", "base_model.model.mtp."),
        nested("model.model."),
        nested(""),
    ],
)
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
@pytest.mark.parametrize("vision", ["visual.", "model.visual.", "base_model.model.visual.", "vision_tower."])
def test_qwen3_5_is_read_below_any_nest_of_prefixes(tmp_path, caplog, name, spell, vision):
    model = make(name, tie_embeddings=False)
    save_model(model, tmp_path / "m")
    renamed(tmp_path / "m", spell)
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file) | {vision + part: torch.ones(2, 3) for part in VISION}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, logger="hyla.checkpoints"):
        assert same(load_model(tmp_path / "m"), model)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "ignored 2 tensors" in said and "only the language model is read" in said


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_what_training_tools_put_around_a_model_is_taken_off(tmp_path, name, prefix):
    model = make(name)
    save_model(model, tmp_path / "m")
    renamed(tmp_path / "m", lambda tensor: prefix + tensor)
    assert same(load_model(tmp_path / "m"), model)


def test_what_they_put_around_layers_is_taken_off(tmp_path):
    model = make("qwen3")
    save_model(model, tmp_path / "m")
    renamed(tmp_path / "m", lambda name: name.replace("layers.1.", "layers.1._fsdp_wrapped_module.").replace(
        "up_proj.", "up_proj.base_layer."))  # fmt: skip
    assert same(load_model(tmp_path / "m"), model)


@pytest.mark.parametrize("name", ["qwen3", "nemotron_h", "bailing_hybrid", "qwen3_next"])
def test_a_model_saved_without_its_head_is_read_where_that_is_the_embedding(tmp_path, name):
    model = make(name, tie_embeddings=True)
    save_model(model, tmp_path / "m")
    tensors = renamed(tmp_path / "m", lambda tensor: tensor.removeprefix("model.").removeprefix("backbone."))
    assert any(tensor.startswith("layers.0.") for tensor in tensors)
    assert same(load_model(tmp_path / "m"), model)


def test_two_spellings_of_one_tensor_are_refused(tmp_path):
    save_model(make("qwen3_5"), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.language_model.norm.weight"] = tensors["model.norm.weight"].clone()
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"m: tensors model\.\S*norm\.weight and model\.\S*norm\.weight are two"):
        load_model(tmp_path / "m")


def as_mlx(name, tensor):
    """What MLX makes of a Qwen3.5: other names, no MTP, norms shifted, convolutions turned around."""
    if name.startswith("mtp."):
        return None
    if name.endswith("conv1d.weight"):
        tensor = tensor.movedim(2, 1)
    if name.endswith("norm.weight") and "linear_attn" not in name:
        tensor = tensor + 1
    return f"language_model.{name}", tensor


@pytest.mark.parametrize("writer", ["mlx", "pt"])
def test_an_mlx_conversion_of_changed_values_is_refused_whatever_wrote_it_last(tmp_path, writer):
    save_model(make("qwen3_5"), tmp_path / "m")
    tensors = rewrite(tmp_path / "m", as_mlx, writer)
    for source in (tmp_path / "m", *([tensors] if writer == "pt" else [])):
        with pytest.raises(
            CheckpointError, match=r"MLX conversion, whose values differ \(\S*conv1d.*the model that it was"
        ):
            if isinstance(source, dict):
                WeightUpdate(make("qwen3_5"), source, device=torch.device("cpu"), pack=False)
            else:
                load_model(source)


def test_an_mlx_conversion_without_convolutions_is_known_by_its_writer(tmp_path):
    kinds = ["full_attention"] * 4
    family = family_of("qwen3_5")
    model = initialize(Model(family.config_from_hf({**family.tiny_config, "layer_types": kinds})), 1)
    save_model(model, tmp_path / "m")
    rewrite(tmp_path / "m", lambda name, tensor: (name, tensor + 1 if "norm" in name else tensor), "mlx")
    with pytest.raises(CheckpointError, match=r"MLX conversion, whose values differ \(its norms are shifted by one\)"):
        load_model(tmp_path / "m")


def test_an_mlx_conversion_that_changes_nothing_is_the_model(tmp_path):
    model = make("qwen3")
    save_model(model, tmp_path / "m")
    rewrite(tmp_path / "m", lambda name, tensor: (name, tensor), "mlx")
    assert same(load_model(tmp_path / "m"), model)


def test_mlx_experts_and_quantised_weights_are_refused_by_name(tmp_path):
    save_model(make("qwen3_moe"), tmp_path / "m")
    renamed(tmp_path / "m", lambda name: name.replace("mlp.experts.0.", "mlp.switch_mlp."))
    with pytest.raises(
        CheckpointError, match=r"m is an MLX conversion, whose values differ \(model\.layers\.1\.mlp\.switch"
    ):
        load_model(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    write_json(config, {**read_json(config), "quantization": {"group_size": 64, "bits": 4, "mode": "affine"}})
    with pytest.raises(CheckpointError, match=r"m is an MLX conversion with weights of 4 bits.*give the model that it"):
        read_config(tmp_path / "m")


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3.5-9B", "r": 8}


@pytest.mark.parametrize("has_config", [False, True])
def test_an_adapter_is_refused_with_its_base(tmp_path, has_config):
    save_model(make("qwen3"), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "adapter_model.safetensors")
    if not has_config:
        (tmp_path / "m" / "config.json").unlink()
    write_json(tmp_path / "m" / "adapter_config.json", ADAPTER)
    with pytest.raises(
        CheckpointError, match=r"m is a LORA adapter of Qwen/Qwen3\.5-9B, not a model; merge it into its"
    ):
        load_model(tmp_path / "m")


def test_an_adapter_beside_a_model_is_said_not_to_be_applied(tmp_path, caplog):
    model = make("qwen3")
    save_model(model, tmp_path / "m")
    write_json(tmp_path / "m" / "adapter_config.json", ADAPTER)
    with caplog.at_level(logging.WARNING, logger="hyla.checkpoints"):
        assert same(load_model(tmp_path / "m"), model)
    assert "adapter_config.json: the adapter in it is not applied" in caplog.text


@pytest.mark.parametrize(
    "part", ["lora_A.default.weight", "lora_magnitude_vector.default", "modules_to_save.default.weight"]
)
def test_a_model_with_an_adapter_inside_is_refused(tmp_path, part):
    save_model(make("qwen3"), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = {f"base_model.model.{name}": tensor for name, tensor in load_file(file).items()}
    tensors[f"base_model.model.model.layers.0.self_attn.q_proj.{part}"] = torch.zeros(2, 3)
    file.unlink()
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"m holds an adapter that is not merged \(\S*q_proj\..*merge it into"):
        load_model(tmp_path / "m")
