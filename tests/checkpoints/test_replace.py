import pytest
import torch
from fp8_folder import make_fp8_folder
from safetensors.torch import load_file, save_file

from hyla.checkpoints import WeightUpdate, load_model, release_weights, save_model
from hyla.errors import CheckpointError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

PROMPTS = [[3, 1, 4, 1, 5], list(range(20))]
CPU = torch.device("cpu")


def model_of(name, seed, **update):
    return initialize(Model(family_of(name).tiny.model_copy(update=update)), seed, std=0.2)


@torch.no_grad()
def answers(model):
    return torch.cat(model.logits(PROMPTS))


def replace(model, source, *, pack=True, **options):
    with WeightUpdate(model, source, device=CPU, pack=pack, **options) as update:
        update.apply()


@pytest.mark.parametrize("name", ["kimi_linear", "qwen3_next", "nemotron_h"])
@pytest.mark.parametrize("pack", [True, False])
def test_a_model_with_new_weights_is_the_model_that_was_loaded_with_them(tmp_path, name, pack):
    save_model(model_of(name, 2), tmp_path / "new")
    wanted = load_model(tmp_path / "new")
    model = model_of(name, 1)
    if pack:
        model.pack()
    packed = [projection.is_packed for projection in model.projections()]
    replace(model, tmp_path / "new", pack=pack)
    assert torch.equal(answers(model), answers(wanted))
    assert [projection.is_packed for projection in model.projections()] == packed and any(packed) == pack
    old, new = NamedWeights(wanted.unpack()), NamedWeights(model.unpack())
    assert all(torch.equal(old.read(key), new.read(key)) for key in old.shapes)


def test_a_tied_head_follows_the_embedding(tmp_path):
    new = model_of("qwen3_next", 2, tie_embeddings=True)
    save_model(new, tmp_path / "new")
    model = model_of("qwen3_next", 1, tie_embeddings=True).pack()
    replace(model, tmp_path / "new")
    assert torch.equal(answers(model), answers(new))
    assert model.head.projection.is_packed and model.head.weight is model.embed.weight


def test_every_weight_keeps_its_dtype(tmp_path):
    save_model(model_of("kimi_linear", 2), tmp_path / "new")
    save_model(model_of("kimi_linear", 1), tmp_path / "old")
    model = load_model(tmp_path / "old", dtype=torch.bfloat16).pack()
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    replace(model, tmp_path / "new")
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == dtypes
    assert torch.equal(answers(model), answers(load_model(tmp_path / "new", dtype=torch.bfloat16)))


def test_a_file_or_a_dict_may_be_a_part_of_the_model(tmp_path):
    model, new = model_of("kimi_linear", 1), model_of("kimi_linear", 2)
    save_model(new, tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    part = {key: tensor for key, tensor in tensors.items() if "layers.0" in key}
    mixed = model_of("kimi_linear", 1)
    weights = NamedWeights(new)
    for key in weights.shapes:
        if key.startswith(("sublayers.0.", "sublayers.1.")):
            NamedWeights(mixed).assign(key, weights.read(key).clone())
    replace(model.pack(), part)
    assert torch.equal(answers(model), answers(mixed))
    save_file({key: tensor for key, tensor in tensors.items() if key not in part}, tmp_path / "rest.safetensors")
    replace(model, tmp_path / "rest.safetensors")
    assert torch.equal(answers(model), answers(new))


def test_whatever_does_not_fit_changes_nothing(tmp_path):
    model = model_of("kimi_linear", 1).pack()
    before = answers(model)
    save_model(model_of("kimi_linear", 2), tmp_path / "new")
    good = load_file(tmp_path / "new" / "model.safetensors")
    first, *_, last = sorted(good)
    with pytest.raises(CheckpointError, match="not part of the model: foreign"):
        replace(model, {**good, "foreign": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="have another shape"):
        replace(model, {**good, last: torch.zeros(3, 2, 7)})
    with pytest.raises(CheckpointError, match="in a dtype that is not supported"):
        replace(model, {**good, last: good[last].to(torch.int32)})
    with pytest.raises(CheckpointError, match="1 tensors are missing"):
        replace(model, {key: tensor for key, tensor in good.items() if key != first}, whole=True)
    with pytest.raises(CheckpointError, match="no tensor of this model"):
        replace(model, {})
    save_model(model_of("qwen3_next", 2), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"not part of the model|another model"):
        replace(model, tmp_path / "other")
    assert torch.equal(answers(model), before)


def test_released_weights_come_back_only_as_a_whole(tmp_path):
    model, new = model_of("qwen3_next", 1).pack(), model_of("qwen3_next", 2)
    save_model(new, tmp_path / "new")
    release_weights(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(projection.is_packed for projection in model.projections())
    replace(model, tmp_path / "new", whole=True)
    assert torch.equal(answers(model), answers(new))


def test_fp8_weights_are_replaced_by_fp8_weights_and_by_plain_ones(tmp_path):
    model = load_model(make_fp8_folder(tmp_path / "old", "qwen3_next")).pack()
    new = make_fp8_folder(tmp_path / "new", "qwen3_next", scale_dtype=torch.bfloat16)
    replace(model, new)
    assert model.quantization is not None
    assert torch.equal(answers(model), answers(load_model(new)))
    save_model(load_model(new, dtype=torch.bfloat16), tmp_path / "plain")
    replace(model, tmp_path / "plain")
    assert model.quantization is None and all(projection.is_packed for projection in model.projections())
    assert torch.equal(answers(model), answers(load_model(tmp_path / "plain")))


def test_scales_that_are_not_numbers_change_nothing(tmp_path):
    folder = make_fp8_folder(tmp_path / "old", "qwen3_next")
    model = load_model(folder)
    before = answers(model)
    tensors = load_file(folder / "model.safetensors")
    *_, last = sorted(key for key in tensors if key.endswith("_scale_inv"))
    tensors[last] = tensors[last] * float("nan")
    with pytest.raises(CheckpointError, match="negative or not finite"):
        replace(model, tensors)
    assert torch.equal(answers(model), before)


@pytest.mark.parametrize("pack", [True, False])
def test_fp8_shards_are_replaced_from_the_same_folder_and_from_another(tmp_path, pack):
    """MiMo-V2.5-Pro: blocks begin anew in every shard of the qkv matrices, which then have more rows of scales."""
    old = make_fp8_folder(tmp_path / "old", "mimo_v2")
    new = make_fp8_folder(tmp_path / "new", "mimo_v2", scale_dtype=torch.bfloat16)
    model = load_model(old)
    if pack:
        model.pack()
    before = answers(model)
    replace(model, old, pack=pack)
    assert torch.equal(answers(model), before)
    replace(model, new, pack=pack)
    assert torch.equal(answers(model), answers(load_model(new))) and not torch.equal(answers(model), before)
    assert NamedWeights(model).fp8("sublayers.0.module.k.weight") is not None
    tensors = load_file(old / "model.safetensors")
    replace(model, {name: tensor for name, tensor in tensors.items() if "qkv_proj" in name}, pack=pack)
    mixed = load_model(new)
    for name, tensor in ((name, NamedWeights(load_model(old)).fp8(name)) for name in NamedWeights(mixed).shapes):
        if ".module." in name and name.split(".")[-2] in ("q", "k", "v"):
            NamedWeights(mixed).assign_fp8(name, tensor)
    assert torch.equal(answers(model), answers(mixed))


def test_scales_of_another_shape_change_nothing(tmp_path):
    folder = make_fp8_folder(tmp_path / "old", "mimo_v2")
    model = load_model(folder)
    before = answers(model)
    tensors = load_file(folder / "model.safetensors")
    name = next(key for key in tensors if key.endswith("qkv_proj.weight_scale_inv"))
    with pytest.raises(CheckpointError, match=r"qkv_proj\.weight_scale_inv \(3, 2\) instead of \(4, 2\)"):
        replace(model, {**tensors, name: tensors[name][:3].contiguous()})
    assert torch.equal(answers(model), before)
