"""Published sizes on the meta device: their parameters and bytes are those of arithmetic and the published ones."""

import json

import pytest
import torch
from size_arithmetic import count_model, count_mtp, kv_bytes, state_bytes

from hyla.errors import ConfigError
from hyla.models.config import MIXER_KINDS
from hyla.models.formats.presets import assumptions, find_preset, presets
from hyla.models.formats.registry import families, family_of
from hyla.models.state import cast
from hyla.models.summary import summarize
from hyla.models.trunk import Model

TOLERANCE = 5e-3

# Billions of parameters and of those that work on one token (embedding and head in both, multi-token prediction in
# neither), KV bytes per token (bf16), MB per sequence of fp32 states, of convolution inputs and of windows (bf16).
PUBLISHED = {
    "MiniMax-Text-01": (456.09, 48.40, 40_960, 293.6, 0, 0),
    "MiniMax-M1": (456.09, 48.40, 40_960, 293.6, 0, 0),
    "MiniMax-M2": (228.69, 11.03, 253_952, 0, 0, 0),
    "Qwen3-Next-80B-A3B": (79.67, 3.87, 24_576, 75.5, 1.77, 0),
    "Qwen3.5-397B-A17B": (396.35, 17.35, 30_720, 188.7, 3.32, 0),
    "Qwen3.5-122B-A10B": (122.11, 9.77, 24_576, 151.0, 2.65, 0),
    "Qwen3.5-35B-A3B": (34.66, 3.45, 20_480, 62.9, 1.47, 0),
    "Qwen3.5-27B": (26.90, 26.90, 65_536, 151.0, 2.95, 0),
    "Qwen3.5-9B": (8.95, 8.95, 32_768, 50.3, 1.18, 0),
    "Kimi-Linear-48B-A3B": (49.12, 3.48, 8_064, 41.9, 1.47, 0),
    "DeepSeek-V3.2": (671.88, 38.40, 85_888, 0, 0, 0),
    "DeepSeek-V3.2-Exp": (671.88, 38.40, 85_888, 0, 0, 0),
    "Nemotron-3-Nano-30B-A3B": (31.58, 3.58, 6_144, 48.2, 0.85, 0),
    "Nemotron-3-Super-120B-A12B": (120.67, 12.77, 8_192, 167.8, 2.46, 0),
    "MiMo-V2-Flash": (308.78, 15.45, 23_040, 0, 0, 25.6),
    "MiMo-V2.5-Pro": (1021.3, 41.89, 51_200, 0, 0, 39.3),
    "Ring-mini-linear-2.0": (16.42, 1.60, 8_192, 16.8, 0, 0),
    "Ring-flash-linear-2.0": (104.18, 7.44, 8_192, 58.7, 0, 0),
    "Ling-2.5-1T": (1012.2, 63.58, 11_520, 293.6, 0, 0),
    "Ring-2.5-1T": (1012.2, 63.58, 11_520, 293.6, 0, 0),
}

# Sizes without published numbers of that precision: ours (billions, all and working) by arithmetic alone, and why.
NAME_ONLY = "no more than the number in its name"
SAME_SHAPES = "the shapes of MiniMax-M2"
CARD = "the card's rounded numbers agree: "
HUB = "the hub's rounded number agrees: "
ARITHMETIC_ONLY = {
    "SmolLM2-135M": (0.134515, 0.134515, HUB + "135M"),
    "SmolLM2-360M": (0.361821, 0.361821, HUB + "362M"),
    "SmolLM2-1.7B": (1.711376, 1.711376, HUB + "1.71B"),
    "Llama-3.2-1B": (1.235814, 1.235814, HUB + "1.24B"),
    "Llama-3.2-3B": (3.212750, 3.212750, HUB + "3.21B"),
    "Llama-3.1-8B": (8.030261, 8.030261, HUB + "8.03B"),
    "Llama-3.1-70B": (70.553706, 70.553706, HUB + "70.6B"),
    "Qwen2.5-0.5B": (0.494033, 0.494033, CARD + "0.49B"),
    "Qwen2.5-1.5B": (1.543714, 1.543714, CARD + "1.54B"),
    "Qwen2.5-3B": (3.085939, 3.085939, CARD + "3.09B"),
    "Qwen2.5-7B": (7.615617, 7.615617, CARD + "7.61B"),
    "Qwen2.5-14B": (14.770034, 14.770034, CARD + "14.7B"),
    "Qwen2.5-32B": (32.763876, 32.763876, HUB + "32.8B"),
    "Qwen2.5-72B": (72.706204, 72.706204, CARD + "72.7B"),
    "MiniMax-M2.5": (228.69, 11.03, SAME_SHAPES),
    "MiniMax-M2.7": (228.69, 11.03, SAME_SHAPES),
    "DeepSeek-V3": (671.03, 37.55, CARD + "671B, 37B"),
    "Qwen3-0.6B": (0.596, 0.596, CARD + "0.6B"),
    "Qwen3-1.7B": (1.721, 1.721, CARD + "1.7B"),
    "Qwen3-4B": (4.022, 4.022, CARD + "4.0B"),
    "Qwen3-8B": (8.191, 8.191, CARD + "8.2B"),
    "Qwen3-14B": (14.768, 14.768, CARD + "14.8B"),
    "Qwen3-32B": (32.762, 32.762, CARD + "32.8B"),
    "Qwen3-30B-A3B": (30.532, 3.353, CARD + "30.5B, 3.3B"),
    "Qwen3-235B-A22B": (235.09, 22.19, CARD + "235B, 22B"),
    "Qwen3.5-0.8B": (0.752, 0.752, NAME_ONLY),
    "Qwen3.5-4B": (4.206, 4.206, NAME_ONLY),
    "Ling-mini-2.0": (16.256, 1.433, CARD + "16.26B, 1.43B"),
    "Ling-flash-2.0": (102.89, 6.152, CARD + "100B, 6.1B"),
    "Ling-3.0-Flash": (124.41, 5.506, "no number was found"),
    "Gated-DeltaNet-H1-0.4B": (0.5308, 0.5308, NAME_ONLY + ", which leaves out more than the embedding"),
    "Gated-DeltaNet-H1-1.3B": (1.3166, 1.3166, NAME_ONLY),
}


def on_meta(name: str) -> Model:
    with torch.device("meta"):
        return cast(Model(find_preset(name)[1].preset(name)), torch.bfloat16)


def test_every_preset_is_compared():
    assert sorted([*PUBLISHED, *ARITHMETIC_ONLY]) == sorted(presets())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_parameters_and_bytes(name):
    total, active, kv, state, conv, window = PUBLISHED[name]
    summary = summarize(on_meta(name))
    assert summary.total / 1e9 == pytest.approx(total, rel=TOLERANCE)
    assert summary.active / 1e9 == pytest.approx(active, rel=TOLERANCE)
    assert summary.stack.kv_bytes_per_token == kv
    assert summary.stack.published_state_bytes / 1e6 == pytest.approx(state, rel=TOLERANCE)
    assert summary.stack.published_conv_bytes / 1e6 == pytest.approx(conv, rel=TOLERANCE)
    assert summary.stack.window_bytes / 1e6 == pytest.approx(window, rel=TOLERANCE)


@pytest.mark.parametrize("name", ARITHMETIC_ONLY)
def test_a_preset_without_published_numbers_has_these(name):
    total, active = count_model(find_preset(name)[1].preset(name))
    assert (total / 1e9, active / 1e9) == pytest.approx(ARITHMETIC_ONLY[name][:2], rel=1e-3)


@pytest.mark.parametrize("name", presets())
def test_parameters_and_bytes_of_a_preset_are_those_of_arithmetic(name):
    model = on_meta(name)
    config, summary = model.config, summarize(model)
    assert (summary.total, summary.active) == count_model(config)
    counted = [(module.parameters, module.active) for module in summary.mtp]
    assert counted == [count_mtp(config, module) for module in config.mtp]
    per_token = [(kv_bytes(mixer), getattr(mixer, "window", None)) for mixer in config.mixers]
    states, inputs, rows = (sum(each) for each in zip(*map(state_bytes, config.mixers)))
    stack = summary.stack
    assert stack.kv_bytes_per_token == sum(size for size, window in per_token if window is None)
    assert stack.window_bytes == sum(size * window for size, window in per_token if window)
    assert stack.resident_kv_bytes_per_token == sum(size for size, _ in per_token)
    assert (stack.published_state_bytes, stack.published_conv_bytes) == (states, inputs)
    assert stack.resident_state_bytes == states + rows


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_arithmetic_holds_for_tiny_models_with_odd_sizes(family):
    with torch.device("meta"):
        model = Model(family.tiny)
    summary = summarize(model)
    assert (summary.total, summary.active) == count_model(family.tiny)
    counted = [(module.parameters, module.active) for module in summary.mtp]
    assert counted == [count_mtp(family.tiny, module) for module in family.tiny.mtp]


class TestAssumed:
    @pytest.mark.parametrize("family", [one for one in families() if one.assumed], ids=lambda family: family.name)
    def test_what_is_assumed_is_a_value_of_the_size_with_a_reason(self, family):
        assert set(family.assumed) <= set(family.sizes)
        for name, reasons in family.assumed.items():
            for key, why in reasons.items():
                in_module = key.split(".")[0] in {*MIXER_KINDS, "mlp", "moe"}
                assert why and (in_module or key in family.sizes[name]), key
            assert list(assumptions(name)) == list(reasons)

    def test_all_that_is_not_known_of_ling_2_5_and_ring_flash_is_marked(self):
        assert {"q_lora_rank", "routed_scaling_factor", "rope_scaling"} <= assumptions("Ling-2.5-1T").keys()
        assert assumptions("Ring-2.5-1T") == assumptions("Ling-2.5-1T")
        flash = assumptions("Ring-flash-linear-2.0")
        assert {"group_norm_size", "rope_theta", "max_position_embeddings", "num_experts", "n_group"} <= flash.keys()
        assert flash["group_norm_size"].startswith("8, ")
        assert assumptions("Ring-mini-linear-2.0") == {} == assumptions("Kimi-Linear-48B-A3B")


def test_gated_delta_net_h1_alternates_and_goes_out_and_comes_back():
    family = family_of("hyla")
    for name in family.sizes:
        config = family.preset(name)
        kinds = [mixer.kind for mixer in config.mixers]
        assert kinds == ["gated_delta", "softmax"] * (len(kinds) // 2)
        assert {mixer.window for mixer in config.mixers[1::2]} == {2048}
        assert family.config_from_hf(json.loads(json.dumps(family.config_to_hf(config)))) == config


def test_names_are_found_in_any_case_and_a_typo_gets_suggestions():
    assert find_preset("qwen/qwen3.5-9b")[0] == "Qwen3.5-9B"
    with pytest.raises(ConfigError, match=r"did you mean Qwen3\.5-27B"):
        find_preset("Qwen3.5-27")
    with pytest.raises(ConfigError, match=r"there are .*Kimi-Linear-48B-A3B"):
        find_preset("zzzzzzzz")


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
