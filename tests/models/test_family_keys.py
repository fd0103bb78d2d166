"""config.json in and out: every key is handled, ignored with a reason, or an error that names it."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import CheckpointError, ConfigError
from hyla.models.config import ModelConfig, NormConfig
from hyla.models.formats.registry import families, family_of, family_of_published, known_model_types

FAMILIES = tuple(sorted(family.name for family in families() if family.name != "hyla"))  # its keys are our fields


@pytest.fixture(params=FAMILIES)
def family(request):
    return family_of(request.param)


def test_a_config_survives_the_way_out_and_back(family):
    for config in [family.tiny, *map(family.preset, family.sizes)]:
        published = family.config_to_hf(config)
        assert published["model_type"] == (family.model_type or family.name)
        assert family.config_from_hf(published) == config


def test_an_unknown_key_with_a_value_is_refused_by_name(family):
    with pytest.raises(ConfigError, match=r"logit_softcap = 30\.0 .* remove it"):
        family.config_from_hf({**family.tiny_config, "logit_softcap": 30.0})


WRITTEN_IN_FULL = {
    "add_cross_attention": False, "chunk_size_feed_forward": 0, "id2label": {"0": "LABEL_0"}, "is_decoder": False,
    "is_encoder_decoder": False, "max_length": 20, "max_window_layers": 28, "model_name": "base", "num_beams": 1,
    "pruned_heads": {}, "tie_encoder_decoder": False, "torchscript": False, "top_k": 50, "unsloth_fixed": True,
    "unsloth_version": "2026.1.1", "use_sliding_window": False,
}  # fmt: skip


def test_a_config_written_in_full_by_other_tools_is_the_same_model_and_one_line_says_what_was_left_out(family, caplog):
    with caplog.at_level("INFO", "hyla.models"):
        assert family.config_from_hf({**WRITTEN_IN_FULL, **family.tiny_config}) == family.tiny
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert "is_encoder_decoder" in line and "unsloth_version" in line


@pytest.mark.parametrize(("key", "value"), [("is_encoder_decoder", True), ("pruned_heads", {"0": [1]})])
def test_what_another_library_would_honour_is_refused(family, key, value):
    with pytest.raises(ConfigError, match=f"unknown key {key}"):
        family.config_from_hf({**family.tiny_config, key: value})


def test_two_spellings_of_one_key_must_agree():
    family = family_of("kimi_linear")
    both = {**family.tiny_config, "max_position_embeddings": 512}
    assert family.config_from_hf(both) == family.tiny
    with pytest.raises(ConfigError, match="model_max_length and max_position_embeddings differ"):
        family.config_from_hf({**both, "max_position_embeddings": 511})


def test_nemotron_s_letters_decide_over_a_stale_list(caplog):
    family = family_of("nemotron_h")
    assert family.config_from_hf({**family.tiny_config, "layers_block_type": ["mamba"]}) == family.tiny
    assert "hybrid_override_pattern = 'ME*-ME' decides" in caplog.text
    keys = {key: value for key, value in family.tiny_config.items() if key != "head_dim"}
    assert family.config_from_hf({**keys, "attention_head_dim": family.tiny_config["head_dim"]}) == family.tiny


def test_an_unknown_null_key_asks_for_nothing(family):
    assert family.config_from_hf({**family.tiny_config, "logit_softcap": None}) == family.tiny


@pytest.mark.parametrize("value", [True, 1])
def test_a_value_that_cannot_be_run_is_refused(family, value):
    key = "rope_interleaved" if family.name == "llama" else "attention_bias"
    with pytest.raises(ConfigError, match=f"{key} = {value}"):
        family.config_from_hf({**family.tiny_config, key: value})


def test_a_missing_key_is_named(family):
    keys = dict(family.tiny_config)
    del keys["hidden_size"]
    with pytest.raises(ConfigError, match="hidden_size is missing"):
        family.config_from_hf(keys)


def test_ignored_keys_have_reasons_and_are_not_handled(family):
    assert all(reason for reason in family.reasons.values())
    assert not family.handled & set(family.reasons)


def test_an_unknown_model_type_lists_the_known_ones():
    with pytest.raises(CheckpointError, match=r"'mamba'.*kimi_linear.*qwen3_next"):
        family_of("mamba")
    assert set(FAMILIES) <= set(known_model_types())


def test_a_model_that_the_format_cannot_describe_is_refused(family):
    last = family.tiny.sublayers[-1]
    odd = last.model_copy(update={"norm": NormConfig(eps=0.5)})
    config = family.tiny.model_copy(update={"sublayers": (*family.tiny.sublayers[:-1], odd)})
    with pytest.raises(ConfigError, match=r"cannot describe this model: sublayer .* differs in .*norm"):
        family.config_to_hf(config)


BROKEN = st.sampled_from([None, "x", -1, 0, 1.5, [], {}, [1, 2], True, 10**9])


@settings(max_examples=150)
@given(
    name=st.sampled_from(FAMILIES), data=st.data(), value=BROKEN, action=st.sampled_from(["drop", "retype", "rename"])
)
def test_a_damaged_config_gives_an_error_or_a_model_never_a_crash(name, data, value, action):
    keys = copy.deepcopy(dict(family_of(name).tiny_config))
    key = data.draw(st.sampled_from(sorted(keys)))
    old = keys.pop(key)
    if action != "drop":
        keys[key if action == "retype" else key + "_"] = value if action == "retype" else old
    try:
        assert isinstance(family_of(name).config_from_hf(keys), ModelConfig)
    except ConfigError as error:
        assert name.removesuffix("_text") in str(error) or "Config" in str(error)


class TestSpellings:
    def test_flat_and_nested_rope_keys_say_the_same(self):
        family = family_of("qwen3")
        flat = family.config_from_hf({**family.tiny_config, "rope_theta": 5e5, "rope_scaling": None})
        nested = family.config_from_hf(
            {**family.tiny_config, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
        )
        assert flat == nested
        assert flat.mixers[0].rope.theta == 5e5

    def test_contradicting_rope_keys_are_refused(self):
        family = family_of("qwen3")
        with pytest.raises(ConfigError, match=r"rope_theta is 5.0 beside 7.0"):
            family.config_from_hf({**family.tiny_config, "rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}})

    def test_rope_scaling_is_not_dropped(self):
        family = family_of("qwen3")
        with pytest.raises(ConfigError, match="dynamic"):
            family.config_from_hf({**family.tiny_config, "rope_scaling": {"type": "dynamic", "factor": 4.0}})
        with pytest.raises(ConfigError, match="original_max_len"):
            family.config_from_hf({**family.tiny_config, "rope_scaling": {"type": "yarn", "factor": 4.0}})
        with pytest.raises(ConfigError, match=r"'factor': 4.0.* mean nothing with rope_type 'default'"):
            family.config_from_hf({**family.tiny_config, "rope_parameters": {"factor": 4.0}})
        with pytest.raises(ConfigError, match="beta_fast"):
            keys = {"rope_type": "linear", "factor": 4.0, "beta_fast": 32.0}
            family.config_from_hf({**family.tiny_config, "rope_parameters": keys})

    def test_a_yarn_that_has_no_logarithm_to_divide_by_is_refused(self):
        family = family_of("deepseek_v3")
        rope = {**family.tiny_config["rope_parameters"], "rope_theta": 1.0}
        with pytest.raises(ConfigError, match=r"theta 1\.0 must be above 1"):
            family.config_from_hf({**family.tiny_config, "rope_parameters": rope})

    @pytest.mark.parametrize("keys", [
        {"rope_type": "linear", "factor": 4.0},
        {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 128},
        {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768, "truncate": False},
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.1},
    ])  # fmt: skip
    @pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3_next", "deepseek_v3"])
    def test_a_scaled_position_code_survives_the_way_out_and_back(self, name, keys):
        family = family_of(name)
        plain = {key: value for key, value in family.tiny_config.items() if key != "rope_parameters"}
        config = family.config_from_hf({**plain, "rope_theta": 5e5, "rope_scaling": keys})
        rope = next(mixer.rope for mixer in config.mixers if mixer.kind in ("softmax", "mla"))
        assert rope.scaling.kind == keys.get("rope_type", keys.get("type"))
        assert rope.scaling.factor == 4.0 or rope.scaling.kind == "llama3"
        assert family.config_from_hf(family.config_to_hf(config)) == config

    @pytest.mark.parametrize("name", ["llama", "qwen2"])
    def test_divisors_of_the_frequencies_survive_the_way_out_and_back(self, name):
        family, divisors = family_of(name), [1.0, 0.1 + 0.2, 3, 4.5, 5.5, 6.5, 7.5, 8.0, 8.0, 31.7]
        keys = {**family.tiny_config, "rope_theta": 5e5}
        config = family.config_from_hf({**keys, "rope_scaling": {"rope_type": "hyla_factors", "factors": divisors}})
        assert config.mixers[0].rope.scaling.factors == tuple(divisors)
        published = json.loads(json.dumps(family.config_to_hf(config)))
        assert published["rope_parameters"]["rope_type"] == "hyla_factors"
        assert family.config_from_hf(published) == config
        for wrong, message in (
            (divisors[1:], "9 factors for 20"),
            ([0.0, *divisors[1:]], "factors"),
            (None, "factors"),
        ):
            scaling = {"rope_type": "hyla_factors", "factors": wrong}
            with pytest.raises(ConfigError, match=message):
                family.config_from_hf({**keys, "rope_parameters": scaling})
        with pytest.raises(ConfigError, match=r"'factors': .* mean nothing with rope_type 'default'"):
            family.config_from_hf({**keys, "rope_parameters": {"factors": divisors}})

    @pytest.mark.parametrize("name, keys", [
        ("SmolLM2-135M", {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.02,
            "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
            "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
            "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
            "transformers_version": "4.40.1", "vocab_size": 49152,
        }),
        ("Llama-3.1-8B", {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072,
            "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 128256,
        }),
        ("Qwen2.5-0.5B", {
            "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
            "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
            "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "use_cache": True, "use_mrope": False, "use_sliding_window": False,
            "vocab_size": 151936,
        }),
    ])  # fmt: skip
    def test_a_published_config_as_it_stands_is_the_preset_of_its_name(self, name, keys):
        family = family_of_published(keys)
        assert family.config_from_hf(keys) == family.preset(name)

    def test_llama_s_biases_are_two_switches_and_heads_may_be_left_out(self):
        family = family_of("llama")
        plain = {key: value for key, value in family.tiny_config.items() if "bias" not in key and "head" not in key}
        for attention, mlp in ((False, True), (True, False), (False, False)):
            keys = {**plain, "num_attention_heads": 6, "attention_bias": attention, "mlp_bias": mlp}
            config = family.config_from_hf(keys)
            mixer, channel = (sub.module for sub in config.sublayers[:2])
            assert (mixer.qkv_bias, mixer.out_bias, channel.bias) == (attention, attention, mlp)
            assert (mixer.num_kv_heads, mixer.head_dim) == (6, 8)
            published = family.config_to_hf(config)
            assert (published["attention_bias"], published["mlp_bias"]) == (attention, mlp)
        with pytest.raises(ConfigError, match=r"hidden_size = 48 .* num_attention_heads = 5; give head_dim"):
            family.config_from_hf({**plain, "num_attention_heads": 5})
        one_sided = mixer.model_copy(update={"qkv_bias": True})
        first = config.sublayers[0].model_copy(update={"module": one_sided})
        odd = config.model_copy(update={"sublayers": (first, *config.sublayers[1:])})
        with pytest.raises(ConfigError, match="cannot describe this model"):
            family.config_to_hf(odd)

    def test_the_windows_of_qwen2_are_those_of_its_layers(self):
        family = family_of("qwen2")
        keys = {**family.tiny_config, "num_hidden_layers": 3, "sliding_window": 33, "max_window_layers": 1}
        assert [mixer.window for mixer in family.config_from_hf(keys).mixers] == [None, None, None]
        windowed = family.config_from_hf({**keys, "use_sliding_window": True})
        assert [mixer.window for mixer in windowed.mixers] == [None, 33, 33]
        kinds = ["sliding_attention", "full_attention", "full_attention"]
        listed = family.config_from_hf({**keys, "use_sliding_window": True, "layer_types": kinds})
        assert [mixer.window for mixer in listed.mixers] == [33, None, None]
        for config in (windowed, listed):
            assert family.config_from_hf(json.loads(json.dumps(family.config_to_hf(config)))) == config
        with pytest.raises(ConfigError, match=r"asks for a window that use_sliding_window = False"):
            family.config_from_hf({**keys, "layer_types": kinds})
        with pytest.raises(ConfigError, match=r"use_sliding_window = True and sliding_window = None do not give"):
            family.config_from_hf({**keys, "use_sliding_window": True, "sliding_window": None})
        with pytest.raises(ConfigError, match="layer_types has 2 entries"):
            family.config_from_hf({**keys, "layer_types": kinds[:2]})

    def test_deepseek_keeps_yarn_s_magnitude_in_the_softmax_scale(self):
        mixer = family_of("deepseek_v32").preset("DeepSeek-V3.2").mixers[0]
        assert mixer.scale_factor == pytest.approx(1.8739, rel=1e-4)
        assert (mixer.num_index_heads, mixer.index_dim, mixer.num_selected) == (64, 128, 2048)

    def test_deepseek_heads_share_one_latent(self):
        family = family_of("deepseek_v3")
        with pytest.raises(ConfigError, match="num_key_value_heads = 2 must equal"):
            family.config_from_hf({**family.tiny_config, "num_key_value_heads": 2})

    def test_the_nested_multimodal_config_of_qwen3_5_reads_as_its_text_tower(self):
        family = family_of("qwen3_5")
        text = {**family.tiny_config, "model_type": "qwen3_5_text", "mtp_num_hidden_layers": 1}
        del text["tie_word_embeddings"], text["partial_rotary_factor"]
        text["rope_parameters"] = {"mrope_interleaved": True, "mrope_section": [1, 1, 1], "rope_type": "default"}
        outer = {"model_type": "qwen3_5", "text_config": text, "vision_config": {"depth": 12}, "image_token_id": 5}
        assert family.config_from_hf({**outer, "tie_word_embeddings": True}) == family.tiny

    def test_an_unknown_key_beside_the_nested_config_is_refused(self):
        family = family_of("qwen3_5")
        with pytest.raises(ConfigError, match="audio_config"):
            family.config_from_hf({"text_config": family.tiny_config, "audio_config": {"depth": 1}})

    def test_kimi_layers_count_from_one(self):
        config = family_of("kimi_linear").preset("Kimi-Linear-48B-A3B")
        full = [layer for layer, mixer in enumerate(config.mixers) if mixer.kind == "mla"]
        assert full == [3, 7, 11, 15, 19, 23, 26]
        assert [sub.module.kind for sub in config.sublayers[1:4:2]] == ["mlp", "moe"]

    def test_kimi_reads_the_flat_spelling_of_transformers(self):
        family = family_of("kimi_linear")
        keys = dict(family.tiny_config)
        linear = keys.pop("linear_attn_config")
        keys["layer_types"] = ["linear_attention"] * 3 + ["full_attention"]
        keys["mlp_layer_types"] = ["dense"] + ["sparse"] * 3
        keys["linear_num_heads"], keys["linear_head_dim"] = linear["num_heads"], linear["head_dim"]
        assert family.config_from_hf(keys) == family.tiny

    def test_kimi_layers_must_be_listed_once_each(self):
        family = family_of("kimi_linear")
        keys = copy.deepcopy(dict(family.tiny_config))
        keys["linear_attn_config"]["kda_layers"] = [1, 2]
        with pytest.raises(ConfigError, match=r"\[1, 2, 4\] must name each of 1 to 4 once"):
            family.config_from_hf(keys)

    def test_kimi_does_not_tie_its_embeddings(self):
        family = family_of("kimi_linear")
        with pytest.raises(ConfigError, match="tie_word_embeddings = True"):
            family.config_from_hf({**family.tiny_config, "tie_word_embeddings": True})

    def test_a_layer_list_of_the_wrong_length_is_refused(self):
        family = family_of("qwen3_next")
        with pytest.raises(ConfigError, match="layer_types has 1 entries for num_hidden_layers = 4"):
            family.config_from_hf({**family.tiny_config, "layer_types": ["full_attention"]})

    def test_nemotron_layers_as_letters_or_as_names_say_the_same(self):
        family = family_of("nemotron_h")
        keys = dict(family.tiny_config)
        assert keys.pop("hybrid_override_pattern") == "ME*-ME"
        for mamba, attention in (("mamba", "attention"), ("linear_attention", "full_attention")):
            names = [mamba, "moe", attention, "mlp", mamba, "moe"]
            assert family.config_from_hf({**keys, "layers_block_type": names}) == family.tiny

    @pytest.mark.parametrize("pattern", ["", "MX", "M,E"])
    def test_nemotron_knows_its_letters(self, pattern):
        family = family_of("nemotron_h")
        with pytest.raises(ConfigError, match="must be letters of M, E"):
            family.config_from_hf({**family.tiny_config, "hybrid_override_pattern": pattern})

    @pytest.mark.parametrize("key, value", [("num_hidden_layers", 7), ("norm_eps", 1e-6), ("mamba_num_heads", 5)])
    def test_nemotron_numbers_must_agree(self, key, value):
        family = family_of("nemotron_h")
        with pytest.raises(ConfigError, match=f"{key}|multiple of num_groups"):
            family.config_from_hf({**family.tiny_config, key: value})

    def test_a_time_step_limit_survives_in_both_spellings(self):
        family = family_of("nemotron_h")
        spelled = {**family.tiny_config, "time_step_limit": [0.0, {"__float__": "Infinity"}]}
        assert family.config_from_hf(spelled) == family.tiny
        limited = family.config_from_hf({**family.tiny_config, "time_step_limit": [0.001, 0.5]})
        assert limited.mixers[0].time_step_limit == (0.001, 0.5)
        assert family.config_from_hf(family.config_to_hf(limited)) == limited

    @pytest.mark.parametrize("key, value", [("topk_group", 5), ("num_expert_group", 4), ("num_experts_per_token", 5)])
    def test_routing_groups_must_fit_the_experts(self, key, value):
        family = family_of("kimi_linear")
        with pytest.raises(ConfigError, match=r"num_groups|num_experts"):
            family.config_from_hf({**family.tiny_config, key: value})


def window_of(keys: dict) -> int:
    family = family_of("mimo_v2_flash")
    tiny = {key: value for key, value in family.tiny_config.items() if key != "sliding_window"}
    return family.config_from_hf({**tiny, **keys}).mixers[1].window


class TestMiMo:
    def test_the_window_counts_a_row_s_own_key_unless_told(self):
        hub = {"sliding_window": 128, "sliding_window_size": 128}
        assert window_of(hub) == window_of({"sliding_window_size": 128}) == 128
        assert window_of({**hub, "sliding_window_excludes_self": True}) == 129
        assert window_of({"sliding_window": 129, "sliding_window_size": 128}) == 129  # as transformers saves it
        with pytest.raises(ConfigError, match="sliding_window is 64 beside sliding_window_size = 128"):
            window_of({**hub, "sliding_window": 64})

    def test_layers_by_number_and_by_name_say_the_same(self):
        family = family_of("mimo_v2_flash")
        named = {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
        assert family.config_from_hf({**family.tiny_config, **named}) == family.tiny
        numbered = family.tiny_config["hybrid_layer_pattern"]
        without = {key: value for key, value in family.tiny_config.items() if key != "hybrid_layer_pattern"}
        assert family.config_from_hf({**without, **named}) == family.tiny
        with pytest.raises(ConfigError, match="hybrid_layer_pattern and layer_types disagree"):
            family.config_from_hf({**without, **named, "hybrid_layer_pattern": numbered[::-1]})

    def test_window_layers_have_numbers_of_their_own(self):
        config = family_of("mimo_v2_flash").preset("MiMo-V2-Flash")
        full, swa = config.mixers[0], config.mixers[1]
        assert (full.num_kv_heads, full.window, full.sinks, full.rope.theta) == (4, None, False, 5e6)
        assert (swa.num_kv_heads, swa.window, swa.sinks, swa.rope.theta) == (8, 128, True, 1e4)
        assert full.rope.rotary_dim == swa.rope.rotary_dim == 64
        layers = [layer for layer, mixer in enumerate(config.mixers) if mixer.window is None]
        assert layers == [0, 5, 11, 17, 23, 29, 35, 41, 47]

    def test_two_epsilons_are_refused(self):
        family = family_of("mimo_v2_flash")
        with pytest.raises(ConfigError, match=r"rms_norm_eps is 0\.1 beside layernorm_epsilon"):
            family.config_from_hf({**family.tiny_config, "rms_norm_eps": 0.1, "layernorm_epsilon": 0.2})


class TestMiniMaxM2:
    def test_the_rotation_by_number_and_by_fraction_say_the_same(self):
        family = family_of("minimax_m2")
        keys = {key: value for key, value in family.tiny_config.items() if key != "rotary_dim"}
        assert family.config_from_hf({**keys, "partial_rotary_factor": 0.5}) == family.tiny
        assert family.config_from_hf(keys).mixers[0].rope.rotary_dim == 20
        with pytest.raises(ConfigError, match=r"rotary_dim = 10 .* beside partial_rotary_factor = 0.8, which are 16"):
            family.config_from_hf({**family.tiny_config, "partial_rotary_factor": 0.8})
        with pytest.raises(ConfigError, match=r"rotary_dim = 22 .* must not exceed"):
            family.config_from_hf({**keys, "rotary_dim": 22})


# config.json as the hub has it, layer lists written shorter.
QWEN3_5 = """{
  "architectures": ["Qwen3_5ForConditionalGeneration"], "image_token_id": 248056, "model_type": "qwen3_5",
  "text_config": {
    "attention_bias": false, "attention_dropout": 0.0, "attn_output_gate": true, "dtype": "bfloat16",
    "eos_token_id": 248044, "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 3584, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 16, "linear_value_head_dim": 128,
    "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_5_text",
    "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false, "num_attention_heads": 8,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "tie_word_embeddings": true,
    "use_cache": true, "vocab_size": 248320, "mamba_ssm_dtype": "float32",
    "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10], "rope_type": "default",
                        "rope_theta": 10000000, "partial_rotary_factor": 0.25}
  },
  "tie_word_embeddings": true, "transformers_version": "4.57.0.dev0", "video_token_id": 248057,
  "vision_config": {"depth": 12, "hidden_size": 768}, "vision_end_token_id": 248054, "vision_start_token_id": 248053
}"""
QWEN3_NEXT = """{
  "architectures": ["Qwen3NextForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
  "decoder_sparse_step": 1, "eos_token_id": 151645, "full_attention_interval": 4, "head_dim": 256,
  "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5120,
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
  "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_next",
  "moe_intermediate_size": 512, "norm_topk_prob": true, "num_attention_heads": 16, "num_experts": 512,
  "num_experts_per_tok": 10, "num_hidden_layers": 48, "num_key_value_heads": 2, "output_router_logits": false,
  "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000000,
  "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.57.0.dev0", "use_cache": true, "use_sliding_window": false,
  "vocab_size": 151936
}"""
KIMI_LINEAR = """{
  "architectures": ["KimiLinearForCausalLM"], "auto_map": {"AutoConfig": "configuration_kimi.KimiLinearConfig"},
  "bos_token_id": 163584, "dtype": "bfloat16", "eos_token_id": 163586, "first_k_dense_replace": 1, "head_dim": 72,
  "hidden_act": "silu", "hidden_size": 2304, "initializer_range": 0.02, "intermediate_size": 9216,
  "kv_lora_rank": 512,
  "linear_attn_config": {
    "full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
    "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26]
  },
  "mla_use_nope": true, "model_max_length": 1048576, "model_type": "kimi_linear", "moe_intermediate_size": 1024,
  "moe_layer_freq": 1, "moe_renormalize": true, "moe_router_activation_func": "sigmoid", "num_attention_heads": 32,
  "num_expert_group": 1, "num_experts": 256, "num_experts_per_token": 8, "num_hidden_layers": 27,
  "num_key_value_heads": 32, "num_nextn_predict_layers": 0, "num_shared_experts": 1, "pad_token_id": 163839,
  "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05, "rope_scaling": null,
  "rope_theta": 10000.0, "routed_scaling_factor": 2.446, "tie_word_embeddings": false, "topk_group": 1,
  "transformers_version": "4.57.1", "use_cache": true, "use_grouped_topk": true, "v_head_dim": 128,
  "vocab_size": 163840
}"""
DEEPSEEK_V32 = """{
  "architectures": ["DeepseekV32ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0,
  "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
  "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, "initializer_range": 0.02,
  "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v32",
  "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
  "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
  "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.44.2",
  "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
}"""

NEMOTRON_3_NANO = """{
  "architectures": ["NemotronHForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
  "chunk_size": 128, "conv_kernel": 4, "eos_token_id": 2, "expand": 2, "head_dim": 128, "hidden_dropout": 0.0,
  "hidden_size": 2688, "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
  "initializer_range": 0.02, "intermediate_size": 1856, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 64,
  "mamba_hidden_act": "silu", "mamba_num_heads": 64, "mamba_proj_bias": false, "mamba_ssm_cache_dtype": "float32",
  "max_position_embeddings": 262144, "mlp_bias": false, "mlp_hidden_act": "relu2", "model_type": "nemotron_h",
  "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_group": 1, "n_groups": 8,
  "n_routed_experts": 128, "n_shared_experts": 1, "norm_eps": 1e-05, "norm_topk_prob": true,
  "num_attention_heads": 32, "num_experts_per_tok": 6, "num_hidden_layers": 52, "num_key_value_heads": 2,
  "num_logits_to_keep": 1, "pad_token_id": 0, "partial_rotary_factor": 1.0, "rescale_prenorm_residual": true,
  "residual_in_fp32": false, "rope_theta": 10000, "routed_scaling_factor": 2.5, "sliding_window": null,
  "ssm_state_size": 128, "tie_word_embeddings": false, "time_step_floor": 0.0001, "time_step_limit": [0.0, Infinity],
  "time_step_max": 0.1, "time_step_min": 0.001, "topk_group": 1, "torch_dtype": "bfloat16", "use_bias": false,
  "use_cache": true, "use_conv_bias": true, "use_mamba_kernels": true, "vocab_size": 131072
}"""
NEMOTRON_3_SUPER = """{
  "architectures": ["NemotronHForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
  "chunk_size": 128, "conv_kernel": 4, "dtype": "bfloat16", "eos_token_id": 2, "expand": 2, "head_dim": 128,
  "hidden_dropout": 0.0, "hidden_size": 4096,
  "hybrid_override_pattern":
    "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
  "initializer_range": 0.02, "intermediate_size": 2688, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 64,
  "mamba_hidden_act": "silu", "mamba_num_heads": 128, "mamba_proj_bias": false, "mamba_ssm_cache_dtype": "float32",
  "max_position_embeddings": 262144, "mlp_bias": false, "mlp_hidden_act": "relu2", "model_type": "nemotron_h",
  "moe_intermediate_size": 2688, "moe_latent_size": 1024, "moe_shared_expert_intermediate_size": 5376,
  "moe_shared_expert_overlap": false, "mtp_hybrid_override_pattern": "*E", "n_group": 1, "n_groups": 8,
  "n_routed_experts": 512, "n_shared_experts": 1, "norm_eps": 1e-05, "norm_topk_prob": true,
  "num_attention_heads": 32, "num_experts_per_tok": 22, "num_hidden_layers": 88, "num_key_value_heads": 2,
  "num_logits_to_keep": 1, "num_nextn_predict_layers": 1, "pad_token_id": 0, "partial_rotary_factor": 1.0,
  "rescale_prenorm_residual": true, "residual_in_fp32": false, "rope_theta": 10000, "routed_scaling_factor": 5.0,
  "sliding_window": null, "ssm_state_size": 128, "tie_word_embeddings": false, "time_step_floor": 0.0001,
  "time_step_max": 0.1, "time_step_min": 0.001, "topk_group": 1, "use_bias": false, "use_cache": true,
  "use_conv_bias": true, "use_mamba_kernels": true, "vocab_size": 131072
}"""

MIMO_V2_FLASH = """{
  "architectures": ["MiMoV2FlashForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "add_full_attention_sink_bias": false, "add_swa_attention_sink_bias": true, "attention_chunk_size": 128,
  "attention_value_scale": 0.707, "head_dim": 192, "hidden_act": "silu", "hidden_size": 4096,
  "hybrid_block_size": null,
  "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0,
                           1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0],
  "initializer_range": 0.02, "intermediate_size": 16384, "layernorm_epsilon": 1e-05,
  "max_position_embeddings": 262144, "model_type": "mimo_v2_flash", "moe_intermediate_size": 2048,
  "moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
  "n_group": 1, "n_routed_experts": 256, "n_shared_experts": null, "norm_topk_prob": true,
  "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
  "partial_rotary_factor": 0.334, "rope_theta": 5000000, "routed_scaling_factor": null, "scoring_func": "sigmoid",
  "sliding_window": 128, "sliding_window_size": 128, "swa_head_dim": 192, "swa_num_attention_heads": 64,
  "swa_num_key_value_heads": 8, "swa_rope_theta": 10000, "swa_v_head_dim": 128, "tie_word_embeddings": false,
  "topk_group": 1, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.57.1",
  "use_cache": true, "v_head_dim": 128, "vocab_size": 152576
}"""
MINIMAX_M2 = """{
  "architectures": ["MiniMaxM2ForCausalLM"], "auto_map": {"AutoConfig": "configuration_minimax_m2.MiniMaxM2Config"},
  "attn_type_list": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
  "dtype": "bfloat16", "head_dim": 128, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 1536,
  "max_position_embeddings": 204800, "model_type": "minimax_m2", "mtp_transformer_layers": 1,
  "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62, "num_key_value_heads": 8,
  "num_local_experts": 256, "num_mtp_modules": 3, "qk_norm_type": "per_layer", "rms_norm_eps": 1e-06,
  "rope_theta": 5000000, "rotary_dim": 64, "scoring_func": "sigmoid", "shared_intermediate_size": 0,
  "tie_word_embeddings": false, "transformers_version": "4.46.1", "use_cache": true, "use_mtp": true,
  "use_qk_norm": true, "use_routing_bias": true, "vocab_size": 200064
}"""


@pytest.mark.parametrize(
    "text, preset",
    [
        (QWEN3_5, "Qwen3.5-0.8B"),
        (QWEN3_NEXT, "Qwen3-Next-80B-A3B"),
        (KIMI_LINEAR, "Kimi-Linear-48B-A3B"),
        (DEEPSEEK_V32, "DeepSeek-V3.2"),
        (NEMOTRON_3_NANO, "Nemotron-3-Nano-30B-A3B"),
        (NEMOTRON_3_SUPER, "Nemotron-3-Super-120B-A12B"),
        (MIMO_V2_FLASH, "MiMo-V2-Flash"),
        (MINIMAX_M2, "MiniMax-M2.7"),
    ],
)
def test_a_published_config_is_understood_whole_and_is_the_preset(text, preset):
    published = json.loads(text)
    family = family_of(published["model_type"])
    config, expected = family.config_from_hf(published), family.preset(preset)
    assert config.sublayers == expected.sublayers
    assert (config.vocab_size, config.hidden_dim, config.max_len, config.tie_embeddings) == (
        (expected.vocab_size, expected.hidden_dim, expected.max_len, expected.tie_embeddings)
    )


MINIMAX = """{
  "architectures": ["MiniMaxText01ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": null, "eos_token_id": null,
  "head_dim": 128, "hidden_act": "silu", "hidden_size": 6144, "initializer_range": 0.02, "intermediate_size": 9216,
  "layernorm_full_attention_alpha": 3.5565588200778455, "layernorm_full_attention_beta": 1.0,
  "layernorm_linear_attention_alpha": 3.5565588200778455, "layernorm_linear_attention_beta": 1.0,
  "layernorm_mlp_alpha": 3.5565588200778455, "layernorm_mlp_beta": 1.0, "max_position_embeddings": 10240000,
  "model_type": "minimax_m1", "num_attention_heads": 64, "num_experts_per_tok": 2, "num_hidden_layers": 80,
  "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": false, "postnorm": true,
  "rms_norm_eps": 1e-05, "rope_theta": 10000000, "rotary_dim": 64, "shared_intermediate_size": 0,
  "tie_word_embeddings": false, "use_cache": true, "vocab_size": 200064
}"""
RING_MINI_LINEAR = """{
  "architectures": ["BailingMoeLinearV2ForCausalLM"], "attention_dropout": 0.0, "embedding_dropout": 0.0,
  "eos_token_id": 156892, "first_k_dense_replace": 1, "group_norm_size": 4, "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 2048, "intermediate_size": 5120, "layer_group_size": 5, "linear_silu": false,
  "max_position_embeddings": 131072, "model_type": "bailing_moe_linear", "moe_intermediate_size": 512,
  "moe_router_enable_expert_bias": true, "moe_shared_expert_intermediate_size": 512, "n_group": 8,
  "norm_topk_prob": true, "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8,
  "num_hidden_layers": 20, "num_key_value_heads": 4, "num_nextn_predict_layers": 0, "num_shared_experts": 1,
  "output_dropout": 0.0, "pad_token_id": 156892, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1000000, "routed_scaling_factor": 2.5, "router_dtype": "fp32",
  "score_function": "sigmoid", "tie_word_embeddings": false, "topk_group": 4, "use_bias": false, "use_cache": true,
  "use_qk_norm": true, "use_qkv_bias": false, "use_rmsnorm": true, "vocab_size": 157184
}"""


LING_FLASH = """{
  "architectures": ["BailingMoeV2ForCausalLM"], "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_bailing_moe_v2.BailingMoeV2Config"}, "num_hidden_layers": 32,
  "hidden_size": 4096, "intermediate_size": 9216, "eos_token_id": 156895, "pad_token_id": 156892,
  "first_k_dense_replace": 1, "hidden_act": "silu", "max_position_embeddings": 32768, "model_type": "bailing_moe",
  "moe_intermediate_size": 1024, "norm_topk_prob": true, "num_experts_per_tok": 8, "num_attention_heads": 32,
  "num_experts": 256, "num_key_value_heads": 4, "rope_theta": 600000, "rope_scaling": null,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.52.3", "use_bias": false,
  "use_rmsnorm": true, "rms_norm_eps": 1e-06, "head_dim": 128, "num_shared_experts": 1, "use_cache": true,
  "use_qkv_bias": false, "embedding_dropout": 0.0, "output_dropout": 0.0, "vocab_size": 157184,
  "partial_rotary_factor": 0.5, "router_dtype": "fp32", "moe_router_enable_expert_bias": true,
  "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "use_qk_norm": true, "score_function": "sigmoid",
  "moe_shared_expert_intermediate_size": 1024
}"""
LING_LITE = """{
  "architectures": ["BailingMoeForCausalLM"], "attention_dropout": 0.0, "eos_token_id": 126081,
  "first_k_dense_replace": 0, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 1408,
  "max_position_embeddings": 32768, "model_type": "bailing_moe", "moe_intermediate_size": 1408, "num_experts": 64,
  "num_shared_experts": 2, "norm_topk_prob": true, "num_attention_heads": 16, "num_experts_per_tok": 6,
  "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 600000,
  "vocab_size": 126464, "norm_head": false, "norm_softmax": false
}"""


class TestLightningFamilies:
    def test_ling_2_0_is_read_under_the_name_that_the_hub_shares_with_ling_1_5(self):
        published = json.loads(LING_FLASH)
        family = family_of_published(published)
        assert family.name == "bailing_moe_v2"
        assert family.config_from_hf(published) == family.preset("Ling-flash-2.0")
        with pytest.raises(CheckpointError, match=r"bailing_moe' without .*moe_router_enable_expert_bias"):
            family_of_published(json.loads(LING_LITE))

    def test_ring_mini_linear_is_understood_whole_and_is_the_preset(self):
        family = family_of("bailing_moe_linear")
        assert family.config_from_hf(json.loads(RING_MINI_LINEAR)) == family.preset("Ring-mini-linear-2.0")

    def test_minimax_in_the_original_spelling_is_the_preset_and_in_the_hf_spelling_the_same(self):
        published = json.loads(MINIMAX)
        published["attn_type_list"] = [int((layer + 1) % 8 == 0) for layer in range(80)]
        family = family_of(published["model_type"])
        config = family.config_from_hf(published)
        assert config == family.preset("MiniMax-M1")
        assert [n for n, mixer in enumerate(config.mixers) if mixer.kind == "softmax"] == list(range(7, 80, 8))
        hf_spelling = family.config_to_hf(config)
        assert "layer_types" in hf_spelling and "attn_type_list" not in hf_spelling
        assert hf_spelling["linear_attn_alpha_factor"] == published["layernorm_linear_attention_alpha"]

    def test_minimax_without_a_list_of_layers_is_refused_because_readers_disagree(self):
        family = family_of("minimax")
        keys = {key: value for key, value in family.tiny_config.items() if key != "attn_type_list"}
        with pytest.raises(ConfigError, match="needs attn_type_list or layer_types"):
            family.config_from_hf(keys)

    def test_minimax_s_two_spellings_of_the_rotation_must_agree(self):
        family = family_of("minimax")
        assert family.config_from_hf({**family.tiny_config, "partial_rotary_factor": 0.6}) == family.tiny
        with pytest.raises(ConfigError, match=r"minimax: rotary_dim = 12 .* beside partial_rotary_factor"):
            family.config_from_hf({**family.tiny_config, "partial_rotary_factor": 0.5})
        with pytest.raises(ConfigError, match=r"rotary_dim = 22 .* must not exceed head_dim = 20"):
            family.config_from_hf({**family.tiny_config, "rotary_dim": 22})

    def test_minimax_s_norm_comes_before_the_residual_or_not_at_all(self):
        family = family_of("minimax")
        with pytest.raises(ConfigError, match="postnorm = False"):
            family.config_from_hf({**family.tiny_config, "postnorm": False})

    def test_the_layers_of_an_unfilled_last_group_are_full(self):
        config = family_of("bailing_moe_linear").config_from_hf(
            {**family_of("bailing_moe_linear").tiny_config, "num_hidden_layers": 8, "layer_group_size": 3}
        )
        kinds = [mixer.kind for mixer in config.mixers]
        assert kinds == ["lightning", "lightning", "softmax"] * 2 + ["softmax", "softmax"]
        assert [mixer.layer for mixer in config.mixers if mixer.kind == "lightning"] == [0, 1, 3, 4]

    def test_ling_3_0_is_not_taken_for_ling_2_5(self):
        family = family_of("bailing_hybrid")
        with pytest.raises(ConfigError, match=r"short_conv_kernel_size = 4 .* Ling 3\.0"):
            family.config_from_hf({**family.tiny_config, "short_conv_kernel_size": 4})

    @pytest.mark.parametrize("name", ["minimax", "bailing_moe_linear", "bailing_hybrid"])
    def test_a_billion_heads_are_refused_before_each_gets_a_slope(self, name):
        family = family_of(name)
        with pytest.raises(ConfigError, match="num_heads = 1000000000"):
            family.config_from_hf({**family.tiny_config, "num_attention_heads": 10**9})

    def test_one_rotation_serves_both_mixers_of_ling_2_5(self):
        family = family_of("bailing_hybrid")
        with pytest.raises(ConfigError, match="qk_rope_head_dim = 8 must be head_dim"):
            family.config_from_hf({**family.tiny_config, "qk_rope_head_dim": 8})
