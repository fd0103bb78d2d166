"""Adapters saved and loaded: the same bits to train on, one rounding when merged, every misfit named."""

import json

import pytest
import torch
from adapted_models import adapted, model_of, prompt
from fp8_folder import make_fp8_folder
from safetensors.torch import load_file, save_file

import hyla
from hyla.adapters import LoraConfig, attach, load_adapted, load_adapter, merge, read_adapter, save_adapter
from hyla.adapters.peft_config import OWN_FILE, TENSORS_FILE
from hyla.checkpoints import load_model, save_model
from hyla.engine.fingerprint import weights_digest
from hyla.errors import CheckpointError, ConfigError, HylaError
from hyla.models.formats.registry import families, family_of
from hyla.models.state import NamedWeights

FAMILIES = tuple(sorted(family.name for family in families()))


def targets_of(family):
    has_experts = any(sublayer.module.kind == "moe" for sublayer in model_of(family).config.sublayers)
    return ("all-linear", "experts") if has_experts else ("all-linear",)


def change_settings(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_is_loaded_bit_for_bit(family, tmp_path):
    model, adapters = adapted(family, targets=targets_of(family))
    save_adapter(adapters, tmp_path / "a")
    again = load_adapter(model_of(family), tmp_path / "a")
    before, after = adapters.state_dict(), again.state_dict()
    assert list(before) == list(after) and again.config == adapters.config
    assert all(torch.equal(before[name], after[name]) for name in before)
    ids = prompt(model, 40)
    assert torch.equal(model.logits([ids])[0], again.model.logits([ids])[0])


@pytest.mark.parametrize(
    "fields", [{"targets": ("gated_delta.k", "experts_up")}, {"targets": ("mixers",), "use_dora": True}]
)
def test_a_part_of_a_published_matrix_is_still_a_part_when_it_comes_back(fields, tmp_path):
    _, adapters = adapted("qwen3_next", **fields)
    save_adapter(adapters, tmp_path / "a")
    again = load_adapter(model_of("qwen3_next"), tmp_path / "a")
    assert again.terms.keys() == adapters.terms.keys()
    before, after = adapters.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_at_load_gives_the_bits_of_merging_in_place(family, dtype, tmp_path):
    _, adapters = adapted(family, dtype, targets=targets_of(family))
    save_adapter(adapters, tmp_path / "a")
    save_model(model_of(family, dtype), tmp_path / "base")
    here, there = (
        NamedWeights(merge(adapters)),
        NamedWeights(load_adapted(tmp_path / "base", tmp_path / "a", pack=True)),
    )
    assert here.shapes == there.shapes
    assert all(torch.equal(here.read(name), there.read(name)) for name in here.shapes)


def test_a_merged_weight_is_rounded_once(tmp_path):
    model, adapters = adapted("llama", torch.bfloat16, targets=("q",))
    (name, term), *_ = adapters.terms.items()
    exact = NamedWeights(model).read(name).double() + term.scale * term.up.double() @ term.down.double()
    merged = NamedWeights(merge(adapters)).read(name)
    assert merged.dtype == torch.bfloat16
    # Half a step of bf16, and what fp32 adds.
    assert ((merged.double() - exact).abs() <= exact.abs() * 2**-8 * 1.0001).all()


def test_a_packed_model_is_packed_again():
    model, adapters = adapted("qwen3_next", targets=("all-linear", "experts"))
    ids = prompt(model, 40)
    _, plain_adapters = adapted("qwen3_next", targets=("all-linear", "experts"))
    with torch.no_grad():
        expected = merge(plain_adapters).logits([ids])[0]
        model.pack()
        merge(adapters)
        assert all(projection.is_packed for projection in model.projections())
        assert torch.equal(model.logits([ids])[0], expected)


def test_an_engine_merges_the_adapter_that_it_is_given(tmp_path):
    model, adapters = adapted("kimi_linear", targets=("all-linear", "experts"))
    save_adapter(adapters, tmp_path / "a")
    save_model(model_of("kimi_linear"), tmp_path / "base")
    merge(adapters)
    params = hyla.SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    answers, digests = [], []
    for options in ({"adapter": tmp_path / "a"}, {}):
        engine = hyla.Engine(tmp_path / "base", memory=1 << 26, **options)
        answers.append(engine.generate([[5, 6, 7]], params)[0].token_ids)
        digests.append(weights_digest(engine.model))
        engine.close()
    expected = hyla.Engine(model, memory=1 << 26).generate([[5, 6, 7]], params)[0].token_ids
    assert answers[0] == expected and answers[0] != answers[1]
    assert digests[0] != digests[1]


def test_kept_prefixes_of_another_adapter_are_not_taken_up():
    model, adapters = adapted("llama")
    digests = [weights_digest(model)]
    with torch.no_grad():
        next(iter(adapters.trainable().values())).mul_(1.5)
    digests.append(weights_digest(model))
    adapters.detach()
    digests.append(weights_digest(model))
    assert len(set(digests)) == 3


def test_an_adapter_beside_a_model_object_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="merge"):
        hyla.Engine(model_of("llama"), adapter=str(tmp_path))


def test_new_weights_in_place_would_lose_it(tmp_path):
    from hyla.engine.administration import Administration

    _, adapters = adapted("llama")
    save_adapter(adapters, tmp_path / "a")
    save_model(model_of("llama"), tmp_path / "base")
    administration = Administration(hyla.Engine(tmp_path / "base", adapter=tmp_path / "a", memory=1 << 26))
    administration.pause()
    with pytest.raises(HylaError, match="would be lost"):
        administration.update_weights(tmp_path / "base")


def test_an_adapter_of_another_model_is_refused_with_its_name(tmp_path):
    _, adapters = adapted("llama")
    save_adapter(adapters, tmp_path / "a", base="org/llama")
    family = family_of("llama")
    with pytest.raises(CheckpointError, match=r"lora_A of .* instead of .*made for org/llama"):
        read_adapter(tmp_path / "a", family.config_from_hf({**family.tiny_config, "hidden_size": 52}))
    with pytest.raises(CheckpointError, match=r"adapted modules are no matrices of this model .*made for org/llama"):
        read_adapter(tmp_path / "a", model_of("nemotron_h").config)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"use_qalora": True}, "use_qalora = True is not read"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"rank_pattern": {"q_proj(": 3}}, "no regular expression"),
        ({"r": 0}, "r = 0"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(fields, message, tmp_path):
    _, adapters = adapted("llama")
    save_adapter(adapters, tmp_path / "a")
    change_settings(tmp_path / "a", **fields)
    with pytest.raises(ConfigError, match=message):
        read_adapter(tmp_path / "a", model_of("llama").config)


def test_files_that_are_missing_or_incomplete_are_named(tmp_path):
    _, adapters = adapted("llama")
    config = model_of("llama").config
    with pytest.raises(CheckpointError, match="not a folder"):
        read_adapter(tmp_path / "nowhere", config)
    save_adapter(adapters, tmp_path / "a")
    tensors = load_file(tmp_path / "a" / TENSORS_FILE)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "a" / TENSORS_FILE)
    with pytest.raises(CheckpointError, match="has no lora_B"):
        read_adapter(tmp_path / "a", config)
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, tmp_path / "a" / TENSORS_FILE)
    with pytest.raises(CheckpointError, match=r"lora_B of .* instead of"):
        read_adapter(tmp_path / "a", config)
    save_file({**tensors, "base_model.model.lora_extra.weight": tensors[name].clone()}, tmp_path / "a" / TENSORS_FILE)
    with pytest.raises(CheckpointError, match=r"lora_extra\.weight is no parameter"):
        read_adapter(tmp_path / "a", config)
    head = {f"base_model.model.lm_head.lora_{part}.weight": tensors[name].clone() for part in "AB"}
    save_file({**tensors, **head}, tmp_path / "a" / TENSORS_FILE)
    with pytest.raises(CheckpointError, match=r"no head\): lm_head"):
        read_adapter(tmp_path / "a", config)
    (tmp_path / "a" / TENSORS_FILE).rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickles can run code"):
        read_adapter(tmp_path / "a", config)


@pytest.mark.parametrize("family", ["qwen3_next", "minimax", "kimi_linear"])
def test_experts_that_were_adapted_one_by_one_are_read(family, tmp_path):
    """Files of PEFT before transformers stacked the experts; an expert without a term has none here either."""
    _, adapters = adapted(family, targets=("experts",))
    save_adapter(adapters, tmp_path / "a")
    (tmp_path / "a" / OWN_FILE).unlink()
    one_by_one, leaves = {}, set()
    from hyla.adapters.peft_names import layout

    rules = layout(adapters.model.config).rules
    terms = dict(adapters.terms)
    for name, term in terms.items():
        for expert, published in enumerate(rules[name].published):
            path = published.removesuffix(".weight")
            leaves.add(path.rpartition(".")[2])
            if expert != 1:
                one_by_one[f"base_model.model.{path}.lora_A.weight"] = term.down[expert].detach().contiguous()
                one_by_one[f"base_model.model.{path}.lora_B.weight"] = term.up[expert].detach().contiguous()
    save_file(one_by_one, tmp_path / "a" / TENSORS_FILE)
    change_settings(
        tmp_path / "a", target_modules=sorted(leaves), target_parameters=None, rank_pattern={}, alpha_pattern={}
    )
    found = read_adapter(tmp_path / "a", adapters.model.config).terms
    assert found.keys() == terms.keys()
    for name, term in found.items():
        assert not term.up[1].any() and torch.equal(term.up[0], terms[name].up[0])
        assert torch.equal(term.down[2], terms[name].down[2]) and term.scale == terms[name].scale


def test_an_fp8_base_is_dequantised_where_it_is_merged(tmp_path):
    base = make_fp8_folder(tmp_path / "base", "qwen3")
    model = load_model(base)
    target = next(name for name in NamedWeights(model).shapes if NamedWeights(model).fp8(name) is not None)
    adapters = attach(model, LoraConfig(rank=2, targets=(target.removesuffix(".weight"),)))
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            if ".ups." in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    save_adapter(adapters, tmp_path / "a")
    in_place, at_load = NamedWeights(merge(adapters)), NamedWeights(load_adapted(base, tmp_path / "a"))
    assert in_place.fp8(target) is None and at_load.fp8(target) is None
    assert all(torch.equal(in_place.read(name), at_load.read(name)) for name in in_place.shapes)
