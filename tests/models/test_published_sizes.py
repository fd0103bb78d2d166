"""Published sizes: built on the meta device, their parameter counts are the published ones and those of arithmetic."""

import pytest
import torch

from hyla.errors import ConfigError
from hyla.models.family import family_of
from hyla.models.presets import find_preset, presets
from hyla.models.summary import summarize
from hyla.models.trunk import Model
from hyla.models.weights import Weights, cast

TOLERANCE = 5e-3

# Billions of parameters without multi-token prediction, computed from the published shapes.
TOTALS = [
    ("qwen3_next", "Qwen3-Next-80B-A3B", 79.67),
    ("qwen3_5", "Qwen3.5-4B", 4.21),
    ("qwen3_5", "Qwen3.5-9B", 8.95),
    ("qwen3_5", "Qwen3.5-27B", 26.90),
    ("qwen3_5_moe", "Qwen3.5-35B-A3B", 34.66),
    ("qwen3_5_moe", "Qwen3.5-122B-A10B", 122.11),
    ("qwen3_5_moe", "Qwen3.5-397B-A17B", 396.35),
    ("kimi_linear", "Kimi-Linear-48B-A3B", 49.12),
    ("deepseek_v3", "DeepSeek-V3", 671.03),
    ("deepseek_v32", "DeepSeek-V3.2", 671.88),
    ("deepseek_v32", "DeepSeek-V3.2-Exp", 671.88),
    ("nemotron_h", "Nemotron-3-Nano-30B-A3B", 31.58),
    ("nemotron_h", "Nemotron-3-Super-120B-A12B", 120.67),
    ("mimo_v2_flash", "MiMo-V2-Flash", 308.78),
    ("mimo_v2", "MiMo-V2.5-Pro", 1021.3),
    ("minimax_m2", "MiniMax-M2", 228.69),
    ("minimax_m2", "MiniMax-M2.7", 228.70),
    ("qwen3_moe", "Qwen3-30B-A3B", 30.53),
    ("qwen3_moe", "Qwen3-235B-A22B", 235.09),
    ("bailing_hybrid_3", "Ling-3.0-Flash", 124.41),
    ("qwen3", "Qwen3-0.6B", 0.596),
    ("qwen3", "Qwen3-8B", 8.19),
    ("qwen3", "Qwen3-32B", 32.76),
    ("minimax", "MiniMax-Text-01", 456.09),
    ("bailing_moe_linear", "Ring-mini-linear-2.0", 16.42),
    ("bailing_moe_linear", "Ring-flash-linear-2.0", 104.18),
    ("bailing_hybrid", "Ling-2.5-1T", 1012.2),
    ("bailing_moe_v2", "Ling-mini-2.0", 16.26),
]

# Of the hybrids: billions that work on one token, KV bytes per token (bf16), MB of fp32 states per sequence.
WORKING = [
    ("Qwen3-Next-80B-A3B", 3.87, 24576, 75.5),
    ("Qwen3.5-9B", 8.95, 32768, 50.3),
    ("Qwen3.5-27B", 26.90, 65536, 151.0),
    ("Qwen3.5-35B-A3B", 3.45, 20480, 62.9),
    ("Qwen3.5-122B-A10B", 9.77, 24576, 151.0),
    ("Qwen3.5-397B-A17B", 17.35, 30720, 188.7),
    ("Kimi-Linear-48B-A3B", 3.48, 8064, 41.9),
]


def on_meta(name: str) -> Model:
    with torch.device("meta"):
        return Model(find_preset(name)[1].preset(name))


# Billions of parameters that work on one token, embedding and head included.
ACTIVE = [
    ("mimo_v2_flash", "MiMo-V2-Flash", 15.45),
    ("mimo_v2", "MiMo-V2.5-Pro", 41.89),
    ("minimax_m2", "MiniMax-M2", 11.03),
]


@pytest.mark.parametrize("model_type, name, billions", TOTALS)
def test_a_preset_has_the_published_number_of_parameters(model_type, name, billions):
    with torch.device("meta"):
        weights = Weights(Model(family_of(model_type).preset(name)))
    shapes = {name: shape for name, shape in weights.shapes.items() if not name.startswith("mtp.")}
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.mark.parametrize("name, active, kv_bytes, state_megabytes", WORKING)
def test_a_preset_works_and_keeps_as_much_as_published(name, active, kv_bytes, state_megabytes):
    model = on_meta(name).bfloat16()
    summary = summarize(model)
    assert summary.active / 1e9 == pytest.approx(active, rel=TOLERANCE)
    assert summary.stack.kv_bytes_per_token == kv_bytes
    assert summary.stack.published_state_bytes / 1e6 == pytest.approx(state_megabytes, rel=TOLERANCE)
    assert summary.stack.resident_state_bytes > summary.stack.published_state_bytes


# Arithmetic: the weights of one sublayer of each kind, without its norm, as (D, config) -> (all, working on a token).


def mlp_weights(hidden, config):
    return (3 * hidden * config.intermediate_dim,) * 2


def moe_weights(hidden, config):
    expert, router = 3 * hidden * config.expert_dim, config.num_experts * (hidden + config.router.has_bias)
    rest = router + 3 * hidden * config.shared_dim + hidden * bool(config.shared_gate and config.shared_dim)
    return rest + config.num_experts * expert, rest + config.num_experts_per_token * expert


def softmax_weights(hidden, config):
    heads = config.num_heads * (2 + bool(config.output_gate)) + 2 * config.num_kv_heads
    return (hidden * heads * config.head_dim + 2 * config.head_dim * bool(config.qk_norm),) * 2


def gated_delta_weights(hidden, config):
    keys, values = config.num_key_heads * config.key_dim, config.num_value_heads * config.value_dim
    heads = config.num_value_heads
    conv = (2 * keys + values) * config.conv_len
    return (hidden * (2 * keys + 3 * values + 2 * heads) + conv + 2 * heads + config.value_dim,) * 2


ARITHMETIC = {
    "mlp": mlp_weights,
    "moe": moe_weights,
    "softmax": softmax_weights,
    "gated_delta": gated_delta_weights,
}


@pytest.mark.parametrize("name", [name for name, family in presets().items() if family.name.startswith("qwen3")])
def test_the_counts_are_those_of_arithmetic(name):
    model = on_meta(name)
    config, summary = model.config, summarize(model)

    def count(sublayers):
        parts = [ARITHMETIC[sub.module.kind](config.hidden_dim, sub.module) for sub in sublayers]
        return [sum(each) + config.hidden_dim * (len(parts) + 1) for each in zip(*parts)]

    embedding = config.vocab_size * config.hidden_dim
    outside = embedding * (1 if config.tie_embeddings else 2)
    assert [summary.total, summary.active] == [part + outside for part in count(config.sublayers)]
    for module, counted in zip(config.mtp, summary.mtp, strict=True):
        merge = 2 * config.hidden_dim**2 + 2 * config.hidden_dim
        assert [counted.parameters, counted.active] == [part + merge for part in count(module.sublayers)]


def test_names_are_found_in_any_case_and_a_typo_gets_suggestions():
    assert find_preset("qwen/qwen3.5-9b")[0] == "Qwen3.5-9B"
    with pytest.raises(ConfigError, match=r"did you mean Qwen3\.5-27B"):
        find_preset("Qwen3.5-27")
    with pytest.raises(ConfigError, match=r"there are .*Kimi-Linear-48B-A3B"):
        find_preset("zzzzzzzz")


def test_deepseek_v32_caches_the_published_bytes_per_token():
    config = family_of("deepseek_v32").preset("DeepSeek-V3.2")
    with torch.device("meta"):
        specs = cast(Model(config), torch.bfloat16).cache_specs()
    assert sum(spec.bytes_per_token for spec in specs) == 61 * (576 + 128) * 2 == 85_888


# Published presets: parameters that one token meets (in billions), anchors (bytes per sequence), KV (bytes per token).
NEMOTRON_3 = [
    ("Nemotron-3-Nano-30B-A3B", 3.58, 23 * 64 * 64 * 128 * 4, 6 * 2 * 2 * 128 * 2),
    ("Nemotron-3-Super-120B-A12B", 12.77, 40 * 128 * 64 * 128 * 4, 8 * 2 * 2 * 128 * 2),
]


@pytest.mark.parametrize("name, billions, state_bytes, kv_bytes", NEMOTRON_3)
def test_nemotron_3_has_the_published_active_parameters_and_cache_sizes(name, billions, state_bytes, kv_bytes):
    with torch.device("meta"):
        config = family_of("nemotron_h").preset(name).model_copy(update={"mtp": ()})
        model = Model(config).bfloat16()
    idle = 0
    for config, sublayer in zip(model.config.sublayers, model.sublayers):
        if config.module.kind == "moe":
            experts = sublayer.module.experts_up.numel() + sublayer.module.experts_down.numel()
            share = config.module.num_experts_per_token / config.module.num_experts
            idle += experts * (1 - share)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (total - idle) / 1e9 == pytest.approx(billions, rel=2e-3)
    specs = model.cache_specs()
    anchors = [tensor.nbytes for spec in specs for tensor in spec.slot_tensors if tensor.role == "anchor"]
    assert sum(anchors) == state_bytes
    assert sum(spec.bytes_per_token for spec in specs) == kv_bytes


@pytest.mark.parametrize("model_type, name, billions", ACTIVE)
def test_a_preset_works_on_one_token_with_the_published_number_of_parameters(model_type, name, billions):
    config = family_of(model_type).preset(name).model_copy(update={"mtp": ()})
    with torch.device("meta"):
        shapes = Weights(Model(config)).shapes
    active = 0.0
    for weight, shape in shapes.items():
        share = 1.0
        if ".experts_" in weight:
            moe = config.sublayers[int(weight.split(".")[1])].module
            share = moe.num_experts_per_token / moe.num_experts
        active += share * torch.Size(shape).numel()
    assert active / 1e9 == pytest.approx(billions, rel=2e-3)


# Bytes of one cached token in bf16 in layers without a window, and of 128 tokens in layers with one.
CACHES = [("mimo_v2_flash", "MiMo-V2-Flash", 23040, 25.6e6), ("mimo_v2", "MiMo-V2.5-Pro", 51200, 39.3e6)]


@pytest.mark.parametrize("model_type, name, per_token, window_bytes", CACHES)
def test_windows_are_declared_where_they_are_published(model_type, name, per_token, window_bytes):
    with torch.device("meta"):
        specs = Model(family_of(model_type).preset(name)).to(torch.bfloat16).cache_specs()
    assert sum(spec.bytes_per_token for spec in specs if spec.window is None) == per_token
    found = sum(spec.bytes_per_token * spec.window for spec in specs if spec.window is not None)
    assert found == pytest.approx(window_bytes, rel=5e-3)


# Billions of parameters with all multi-token prediction modules, as the hub counts them (and the scales of FP8 blocks);
# those of one module without an embedding and a head of its own, as the publishers' reports say.
WITH_MTP = [("DeepSeek-V3.2", 685.4), ("MiMo-V2.5-Pro", 1023.2)]
MODULES = [("DeepSeek-V3", 11.5, 1), ("MiMo-V2-Flash", 0.33, 3)]


@pytest.mark.parametrize("name, billions", WITH_MTP)
def test_with_its_prediction_modules_a_model_has_the_elements_that_the_hub_counts(name, billions):
    summary = summarize(on_meta(name))
    total = summary.total + sum(module.parameters for module in summary.mtp)
    assert total / 1e9 == pytest.approx(billions, rel=2e-4)


@pytest.mark.parametrize("name, billions, count", MODULES)
def test_a_prediction_module_has_its_published_size(name, billions, count):
    model = on_meta(name)
    assert len(model.mtp) == count
    for module, footprint in zip(model.mtp, summarize(model).mtp):
        own = sum(part.weight.numel() for part in (module.embed, module.head) if part is not None)
        assert (footprint.parameters - own) / 1e9 == pytest.approx(billions, rel=1e-2)
