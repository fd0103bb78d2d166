"""config.json in and out: every key is handled, ignored with a reason, or an error that names it."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import CheckpointError, ConfigError
from hyla.models.config import ModelConfig, NormConfig
from hyla.models.family import family_of, known_model_types

FAMILIES = ("qwen3", "qwen3_5", "qwen3_next", "kimi_linear", "bailing_hybrid_3")


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


def test_an_unknown_null_key_asks_for_nothing(family):
    assert family.config_from_hf({**family.tiny_config, "logit_softcap": None}) == family.tiny


@pytest.mark.parametrize("value", [True, 1])
def test_a_value_that_cannot_be_run_is_refused(family, value):
    with pytest.raises(ConfigError, match=f"attention_bias = {value}"):
        family.config_from_hf({**family.tiny_config, "attention_bias": value})


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


@settings(max_examples=150, deadline=None)
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
        with pytest.raises(ConfigError, match="yarn"):
            family.config_from_hf({**family.tiny_config, "rope_scaling": {"type": "yarn", "factor": 4.0}})

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

    @pytest.mark.parametrize("key, value", [("topk_group", 5), ("num_expert_group", 4), ("num_experts_per_token", 5)])
    def test_routing_groups_must_fit_the_experts(self, key, value):
        family = family_of("kimi_linear")
        with pytest.raises(ConfigError, match=r"num_groups|num_experts"):
            family.config_from_hf({**family.tiny_config, key: value})


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


@pytest.mark.parametrize(
    "text, preset",
    [(QWEN3_5, "Qwen3.5-0.8B"), (QWEN3_NEXT, "Qwen3-Next-80B-A3B"), (KIMI_LINEAR, "Kimi-Linear-48B-A3B")],
)
def test_a_published_config_is_understood_whole_and_is_the_preset(text, preset):
    published = json.loads(text)
    family = family_of(published["model_type"])
    config, expected = family.config_from_hf(published), family.preset(preset)
    assert config.sublayers == expected.sublayers
    assert (config.vocab_size, config.hidden_dim, config.max_len, config.tie_embeddings) == (
        (expected.vocab_size, expected.hidden_dim, expected.max_len, expected.tie_embeddings)
    )
