"""quantization_config as tools write it in full: keys that change nothing are no reason to refuse a folder."""

import pytest

from hyla.checkpoints.quantised import Declared, quantisation_of

OBSERVED = {"observer": "minmax", "observer_kwargs": {}, "actorder": None, "block_structure": None, "dynamic": False}
ROUNDED = {**OBSERVED, "dynamic": True, "group_size": None, "num_bits": 8, "strategy": "token", "symmetric": True}
LLM_COMPRESSOR = {
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "global_compression_ratio": 1.5,
    "ignore": ["lm_head", "re:.*mlp.gate$"],
    "kv_cache_scheme": None,
    "version": "0.12.2",
    "transform_config": {},
    "sparsity_config": {
        "format": "dense",
        "global_sparsity": 0.14,
        "sparsity_structure": "unstructured",
        "targets": [],
    },
}


def group(weights, activations=None):
    return {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**OBSERVED, "symmetric": True, **weights},
            "input_activations": activations,
            "output_activations": None,
            "format": None,
        }
    }


W4A16 = {
    "num_bits": 4,
    "type": "int",
    "strategy": "group",
    "group_size": 128,
    "actorder": "weight",
    "zp_dtype": "torch.int8",
}
CONFIGS = {
    "compressed-tensors pack-quantized (int4)": {
        **LLM_COMPRESSOR,
        "format": "pack-quantized",
        "config_groups": group(W4A16),
    },
    "compressed-tensors float-quantized (float8)": {
        **LLM_COMPRESSOR,
        "format": "float-quantized",
        "config_groups": group({"num_bits": 8, "type": "float", "strategy": "channel"}, {**ROUNDED, "type": "float"}),
    },
    "compressed-tensors nvfp4-pack-quantized (float4)": {
        **LLM_COMPRESSOR,
        "format": "nvfp4-pack-quantized",
        "provider": "auto-round",
        "config_groups": group({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    },
    "GPTQ, 4 bits, groups of 128 inputs": {
        "bits": 4,
        "checkpoint_format": "gptq",
        "damp_percent": 0.01,
        "desc_act": False,
        "dynamic": {},
        "group_size": 128,
        "lm_head": False,
        "meta": {"quantizer": ["gptqmodel:2.0.0"], "uri": ""},
        "model_file_base_name": None,
        "model_name_or_path": None,
        "pack_dtype": "int32",
        "quant_method": "gptq",
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
    },
    "GPTQ, 8 bits, one group of inputs": {
        "quant_method": "gptq",
        "bits": 8,
        "groupsize": -1,
        "group_size": -1,
        "actorder": False,
        "desc_act": False,
        "sym": False,
        "batch_size": 1,
        "cache_block_outputs": True,
        "exllama_config": {"version": 1},
        "max_input_length": None,
        "use_cuda_fp16": False,
        "tokenizer": None,
        "dataset": "c4",
    },
    "AWQ, 4 bits, groups of 128 inputs": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "modules_to_not_convert": ["visual"],
        "ignore": ["lm_head"],
        "version": "GEMM",
        "zero_point": True,
        "backend": "autoawq",
        "do_fuse": False,
        "fuse_max_seq_len": None,
        "exllama_config": None,
    },
    "ModelOpt NVFP4": {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 16}}},
        "weights": {"num_bits": 4, "type": "float", "group_size": 16},
        "input_activations": {"num_bits": 4, "type": "float", "group_size": 16},
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "producer": {"name": "modelopt", "version": "0.39.0"},
        "ignore": ["lm_head", "model.layers.*.self_attn*"],
    },
    "ModelOpt FP8": {
        "quant_method": "modelopt",
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head"],
    },
    "bitsandbytes nf4": {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": ["lm_head", "multi_modal_projector"],
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    },
    "fp8, FP8 without blocks": {
        "quant_method": "fp8",
        "activation_scheme": "static",
        "ignored_layers": ["lm_head"],
        "kv_cache_scheme": "static",
    },
    "fbgemm_fp8, FP8 without blocks": {
        "quant_method": "fbgemm_fp8",
        "activation_scale_ub": 1200.0,
        "modules_to_not_convert": ["lm_head"],
    },
}


@pytest.mark.parametrize("title", CONFIGS)
def test_a_config_as_tools_write_it_is_read(title):
    assert quantisation_of(Declared(CONFIGS[title], "config.json")).title == title
