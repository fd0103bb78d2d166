"""Adapters beside transformers' models, loaded by PEFT: the same logits; and PEFT's own files read here."""

import json
import warnings

import pytest
import torch
from adapted_models import error, model_of, prompt, stirred
from parity_oracle import draw, read_oracle
from test_parity_minimax import read_by_transformers

from hyla.adapters import LoraConfig, attach, load_adapted, load_adapter, save_adapter
from hyla.adapters.peft_names import layout
from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

peft = pytest.importorskip("peft", reason="PEFT is not installed (the extra `peft`)")

# transformers 5.23 says of a property that PEFT 0.21 asks for that it will be called otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

TOLERANCE = 1e-4

CASES = [
    ("llama", {"targets": ("all-linear",)}),
    ("llama", {"targets": ("q", "kv"), "use_dora": True}),
    ("llama", {"targets": ("all-linear",), "use_rslora": True}),
    ("qwen3_next", {"targets": ("mixers", "experts")}),
    ("qwen3_next", {"targets": ("mixers",), "use_dora": True}),
    ("qwen3_next", {"targets": ("gated_delta.q", "softmax.gate", "experts_up")}),
    ("qwen3_next", {"targets": ("sublayers.[0246].*",), "use_rslora": True}),
    ("qwen3_5_moe", {"targets": ("mixers", "experts")}),
    ("qwen3_moe", {"targets": ("experts",), "use_rslora": True}),
    ("kimi_linear", {"targets": ("all-linear", "experts")}),
    ("kimi_linear", {"targets": ("mixers",), "use_dora": True}),
    ("minimax", {"targets": ("mixers", "experts")}),
    ("minimax", {"targets": ("lightning.v", "lightning.gate"), "use_dora": True}),
    ("nemotron_h", {"targets": ("mamba2.[!o]*", "softmax.*", "channel-mixers", "experts")}),
    ("nemotron_h", {"targets": ("mamba2.x", "mamba2.dt", "softmax.o"), "use_dora": True}),
    ("deepseek_v3", {"targets": ("mixers", "experts")}),
]


def folder_of(family, place):
    """A folder of a tiny model whose terms all matter. MiniMax rotates whole heads, as transformers always does."""
    config = model_of(family).config
    if family == "minimax":
        config = family_of(family).config_from_hf({**family_of(family).tiny_config, "rotary_dim": 20})
    model, generator = initialize(Model(config), 3), torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name.replace("router_bias", "e_score_correction_bias"), parameter, generator))
    save_model(model, place)
    return model


def oracle_of(family, place):
    """transformers' model of a folder, in float64."""
    return read_by_transformers(place) if family == "minimax" else read_oracle(place)


def theirs_with(oracle, place):
    """transformers' model with an adapter, as PEFT loads it; nothing may be missing or left over."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(oracle, place, autocast_adapter_dtype=False)
    left_over = [str(one.message) for one in said if "adapter keys" in str(one.message)]
    assert not left_over
    return model.double().eval()


def check_same(family, config, tmp_path, seed=0):
    model = folder_of(family, tmp_path / "base")
    ids = prompt(model, 90)
    with torch.no_grad():
        (before,) = model.logits([ids])
        adapters = stirred(attach(model, config, seed=seed))
        (ours,) = model.logits([ids])
        save_adapter(adapters, tmp_path / "adapter", base=str(tmp_path / "base"))
        oracle = theirs_with(oracle_of(family, tmp_path / "base"), tmp_path / "adapter")
        theirs = oracle(torch.tensor([ids]), use_cache=False).logits[0]
        (merged,) = load_adapted(tmp_path / "base", tmp_path / "adapter").logits([ids])
    assert error(before.double(), theirs) > 10 * TOLERANCE
    assert error(ours.double(), theirs) <= TOLERANCE and error(merged.double(), theirs) <= TOLERANCE


@pytest.mark.parametrize("family, fields", CASES)
def test_peft_loads_what_is_saved_here_with_the_same_logits(family, fields, tmp_path):
    check_same(family, LoraConfig(rank=3, alpha=5.0, **fields), tmp_path)


@pytest.mark.parametrize("family, modules", [("llama", ["q_proj", "down_proj"]), ("nemotron_h", ["in_proj", "o_proj"])])
@pytest.mark.parametrize("use_dora", [False, True])
def test_what_peft_saves_is_read_with_the_same_logits(family, modules, use_dora, tmp_path):
    ids = prompt(folder_of(family, tmp_path / "base"), 90)
    settings = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=modules, use_dora=use_dora, rank_pattern={modules[0]: 2}
    )
    wrapped = peft.get_peft_model(read_oracle(tmp_path / "base"), settings, autocast_adapter_dtype=False).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        wrapped.save_pretrained(tmp_path / "adapter")
        theirs = wrapped.eval()(torch.tensor([ids]), use_cache=False).logits[0]
        merged = load_adapted(tmp_path / "base", tmp_path / "adapter")
        (ours,) = merged.logits([ids])
        beside = load_model(tmp_path / "base")
        load_adapter(beside, tmp_path / "adapter")
        assert error(beside.logits([ids])[0].double(), theirs) <= TOLERANCE
    assert error(ours.double(), theirs) <= TOLERANCE


def test_experts_that_peft_adapted_as_parameters_are_read(tmp_path):
    ids = prompt(folder_of("qwen3_next", tmp_path / "base"), 90)
    stacks = ["experts.gate_up_proj", "experts.down_proj"]
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["o_proj"], target_parameters=stacks)
    wrapped = peft.get_peft_model(read_oracle(tmp_path / "base"), settings, autocast_adapter_dtype=False).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        wrapped.save_pretrained(tmp_path / "adapter")
        theirs = wrapped.eval()(torch.tensor([ids]), use_cache=False).logits[0]
        (ours,) = load_adapted(tmp_path / "base", tmp_path / "adapter").logits([ids])
    assert error(ours.double(), theirs) <= TOLERANCE


@pytest.mark.parametrize("is_tied", [False, True])
def test_embedding_and_head_that_were_trained_whole_reach_peft(is_tied, tmp_path):
    config = model_of("llama").config.model_copy(update={"tie_embeddings": is_tied})
    model = initialize(Model(config), 3, std=0.2)
    save_model(model, tmp_path / "base")
    whole = ("embed",) if is_tied else ("embed", "head")
    adapters = stirred(attach(model, LoraConfig(rank=2, targets=("q",), modules_to_save=whole)))
    with torch.no_grad():
        for name in adapters.whole:
            parameter = adapters.trainable()[name]
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
        ids = prompt(model, 50)
        (ours,) = model.logits([ids])
        save_adapter(adapters, tmp_path / "adapter")
        oracle = theirs_with(read_oracle(tmp_path / "base"), tmp_path / "adapter")
        theirs = oracle(torch.tensor([ids]), use_cache=False).logits[0]
        (merged,) = load_adapted(tmp_path / "base", tmp_path / "adapter").logits([ids])
    assert error(ours.double(), theirs) <= TOLERANCE and error(merged.double(), theirs) <= TOLERANCE


def test_every_matrix_is_a_module_of_transformers():
    from transformers import AutoConfig, AutoModelForCausalLM

    checked = 0
    for family in families():
        config = family.tiny.model_copy(update={"mtp": ()})
        published = family.config_to_hf(config)
        kind = published.pop("model_type")
        published.pop("architectures")
        try:
            with torch.device("meta"):
                names = dict(
                    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **published)).named_parameters()
                )
        except ValueError:
            continue  # transformers does not have the family
        found = layout(config)
        missing = [matrix.path for matrix in found.matrices if f"{matrix.path}.weight" not in names]
        missing += [experts.target for experts in found.experts if experts.target not in names]
        # bailing_hybrid's lightning layers, which transformers does not have.
        assert not missing or family.name == "bailing_hybrid", (family.name, missing)
        checked += not missing
    assert checked >= 12


def test_the_settings_are_those_that_peft_knows(tmp_path):
    adapters = attach(model_of("qwen3_next"), LoraConfig(rank=3, targets=("mixers", "experts")))
    save_adapter(adapters, tmp_path / "a", base="org/name")
    written = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    known = peft.LoraConfig.from_pretrained(str(tmp_path / "a"))
    assert known.base_model_name_or_path == "org/name" and known.r == 3
    assert all(hasattr(known, key) for key in written)
