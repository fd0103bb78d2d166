"""Models whose projections have biases: what is stored as FP8, what is trained, what the numbers depend on."""

import pytest
import torch
from fp8_folder import make_fp8_folder
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.checkpoints.replace import WeightUpdate
from hyla.cost.inventory import inventory
from hyla.models.config import MLPConfig, SoftmaxConfig, SublayerConfig
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.parameters import model_parameters
from hyla.models.state import NamedWeights, cast
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

FAMILIES = ("llama", "qwen2")
PROMPTS = [[5, 1, 90, 33] * 17, [7]]


def biases(model: Model) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if name.endswith(".bias")}


def make(family: str, dtype: torch.dtype = torch.float32) -> Model:
    return cast(initialize(Model(family_of(family).tiny), 3, std=0.2), dtype)


@pytest.mark.parametrize("family, per_layer", [("llama", "qkvo gate up down"), ("qwen2", "qkv")])
def test_each_family_has_the_biases_of_its_format(family, per_layer):
    names = {name.split(".")[-2] for name in biases(make(family))}
    assert names == {*per_layer.partition(" ")[0], *per_layer.split()[1:]}
    rows = [row for row in model_parameters(family_of(family).tiny) if row.name.endswith(".bias")]
    assert len(rows) == len(biases(make(family)))
    assert not any(row.is_decayed or row.is_fp32 or row.is_quantisable or row.muon for row in rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bias_changes_the_logits(family, dtype):
    model = make(family, dtype)
    with torch.inference_mode():
        before = model.logits(PROMPTS)[0]
    for name, bias in biases(model).items():
        kept = bias.detach().clone()
        bias.data.add_(1.0)
        with torch.inference_mode():
            assert not torch.equal(model.logits(PROMPTS)[0], before), name
        bias.data.copy_(kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_biases_are_those_of_float64(family):
    def gradients(model):
        tokens = torch.tensor(PROMPTS[0])
        batch = Batch.packed([len(tokens)])
        model(tokens, batch, targets=Targets(tokens.roll(-1), chunk_rows=16)).total.backward()
        return {name: bias.grad.double() for name, bias in biases(model).items()}

    found, exact = gradients(make(family)), gradients(cast(make(family), torch.float64))
    largest = max(grad.norm() for grad in exact.values())
    for name, grad in exact.items():
        assert (found[name] - grad).norm() <= 1e-5 * max(grad.norm(), 1e-3 * largest), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_packed", [False, True])
def test_weights_that_stay_fp8_beside_biases_give_the_bits_of_dequantised_ones(tmp_path, family, is_packed):
    folder = make_fp8_folder(tmp_path / "m", family, sizes={"hidden_size": 198, "intermediate_size": 264})
    resident, plain = load_model(folder), load_model(folder, dtype=torch.bfloat16)
    weights = NamedWeights(resident)
    kept = [name for name in weights.shapes if weights.fp8(name) is not None]
    assert len(kept) == 14 and biases(resident).keys() == biases(plain).keys()
    assert all(bias.dtype == torch.bfloat16 and not bias.is_meta for bias in biases(resident).values())
    if is_packed:
        resident.pack(), plain.pack()
    with torch.inference_mode():
        for prompt, got, expected in zip(PROMPTS, resident.logits(PROMPTS), plain.logits(PROMPTS)):
            assert torch.equal(got, expected)
            assert torch.equal(got, resident.logits([prompt])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_that_are_stored_wider_than_the_matrices_stay_so(tmp_path, family):
    """As files of other programs have them (GGUF)."""
    save_model(make(family, torch.bfloat16), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    fine = {name: tensor.float() * 1.001 for name, tensor in tensors.items() if name.endswith(".bias")}
    file.unlink()
    extra = {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(10)}  # as old writers kept
    save_file({**tensors, **fine, **extra}, file, metadata={"format": "pt"})
    model = load_model(tmp_path / "m")
    assert model.dtype == torch.bfloat16
    assert len(biases(model)) == len(fine) and all(bias.dtype == torch.float32 for bias in biases(model).values())
    trained = model.logits(PROMPTS)[0].detach()
    with torch.inference_mode():
        assert torch.equal(model.logits(PROMPTS[:1])[0], trained)
        assert torch.equal(model.logits([PROMPTS[0][:9]])[0], trained[:9])
        assert torch.equal(model.pack().logits(PROMPTS)[0], trained)
    save_model(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], bias) and again[name].dtype == bias.dtype for name, bias in fine.items())
    narrow = load_model(tmp_path / "m", dtype=torch.bfloat16)
    assert all(bias.dtype == torch.bfloat16 for bias in biases(narrow).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_model_keeps_its_biases_and_saves_them(tmp_path, family):
    model = make(family, torch.bfloat16)
    before = {name: bias.detach().clone() for name, bias in biases(model).items()}
    save_model(model.pack(), tmp_path / "m")
    back = biases(load_model(tmp_path / "m"))
    assert all(torch.equal(back[name], bias) for name, bias in before.items()) and len(back) == len(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_biases_take_the_place_of_old_ones_in_a_packed_model(tmp_path, family):
    model, other = make(family, torch.bfloat16).pack(), make(family, torch.bfloat16)
    for bias in biases(other).values():
        bias.data.neg_()
    save_model(other, tmp_path / "m")
    with WeightUpdate(model, tmp_path / "m", device=torch.device("cpu"), pack=True) as update:
        update.apply()
    with torch.inference_mode():
        assert torch.equal(model.logits(PROMPTS)[0], other.logits(PROMPTS)[0])
    published = "model.layers.1.self_attn.k_proj.bias"
    with WeightUpdate(model, {published: torch.zeros(40, dtype=torch.bfloat16)}, device=model.device, pack=True) as one:
        one.apply()
    assert not biases(model)["sublayers.2.module.k.bias"].any()
    with torch.inference_mode():
        assert not torch.equal(model.logits(PROMPTS)[0], other.logits(PROMPTS)[0])


def test_biases_are_counted_and_cost_no_products():
    plain = SoftmaxConfig(num_heads=6, num_kv_heads=2, head_dim=20)
    biased = plain.model_copy(update={"qkv_bias": True, "out_bias": True})
    for without, having, count in (
        (plain, biased, 6 * 20 + 2 * 2 * 20 + 48),
        (MLPConfig(intermediate_dim=80), MLPConfig(intermediate_dim=80, bias=True), 2 * 80 + 48),
        (MLPConfig(intermediate_dim=80, activation="relu2"),
         MLPConfig(intermediate_dim=80, activation="relu2", bias=True), 80 + 48),
    ):  # fmt: skip
        first, second = (inventory(SublayerConfig(module=module), 48) for module in (without, having))
        assert second.parameters - first.parameters == second.vectors - first.vectors == count
        assert second.matrices == first.matrices
        assert second.nbytes("fp8") - first.nbytes("fp8") == 2 * count
