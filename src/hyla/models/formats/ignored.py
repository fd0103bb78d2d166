"""Keys of config.json that say nothing about the model, in any family, each with its reason."""

from __future__ import annotations

import re
from types import MappingProxyType

COMMON_IGNORED = MappingProxyType(
    {
        "_name_or_path": "where the config was loaded from",
        "architectures": "names a class of another library",
        "attention_dropout": "dropout is a matter of training; Hyla has none",
        "auto_map": "code in a checkpoint is never run",
        "dtype": "the tensors say their own dtype",
        "torch_dtype": "the tensors say their own dtype",
        "model_type": "chose this family",
        "output_attentions": "an output option of another library",
        "output_hidden_states": "an output option of another library",
        "output_router_logits": "an output option of another library",
        "pretraining_tp": "a parallel layout of the original training",
        "quantization_config": "how the tensors are stored; the checkpoint reader checks it",
        "compression_config": "how the tensors are stored; the checkpoint reader checks it",
        "return_dict": "an output option of another library",
        "router_aux_loss_coef": "the weight of a training loss",
        "transformers_version": "who wrote the file",
        "use_cache": "Hyla's callers decide whether to cache",
    }
)
"""At any value."""

_SAMPLING = "a default of generation, which requests and generation_config.json decide"
_TASK = "names of another task's head"
_OUTPUT = "an output option of another library"
BY_WRITERS = MappingProxyType(
    {
        "model_name": "who wrote the file",
        "model_max_length": "max_position_embeddings says it",
        "max_window_layers": "only used with use_sliding_window",
        "_commit_hash": "where the config was loaded from",
        "_attn_implementation": "an option of another library's runtime",
        "_attn_implementation_autoset": "an option of another library's runtime",
        "attn_implementation": "an option of another library's runtime",
        "torchscript": "an option of another library's runtime",
        "tf_legacy_loss": "an option of another library's training",
        "use_bfloat16": "the tensors say their own dtype",
        "tokenizer_class": "tokenizer.json says it",
        "prefix": "a text that another library's pipelines put before prompts",
        "output_scores": _OUTPUT,
        "return_dict_in_generate": _OUTPUT,
        **dict.fromkeys(("finetuning_task", "id2label", "label2id", "problem_type", "task_specific_params"), _TASK),
        **dict.fromkeys(
            (
                *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams"),
                *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
                *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
                *("bad_words_ids", "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id"),
                *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
                *("begin_suppress_tokens", "decoder_start_token_id", "sep_token_id"),
            ),
            _SAMPLING,
        ),
    }
)
"""At any value too, but of some writers only: what is left out is logged."""

AT_DEFAULT = MappingProxyType(
    {
        "is_encoder_decoder": False,
        "is_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "tie_encoder_decoder": False,
        "chunk_size_feed_forward": 0,
        "pruned_heads": {},
        "use_sliding_window": False,
    }
)
"""At this value only, at which they ask for nothing: configs that are written in full have them."""

PATTERNS = MappingProxyType({re.compile(r"unsloth_\w+"): "a mark of a training tool"})


def writers_reason(key: str, value: object) -> str | None:
    """Why a key that a family does not know may be left out at this value, or None."""
    if key in BY_WRITERS:
        return BY_WRITERS[key]
    if key in AT_DEFAULT and value == AT_DEFAULT[key] and type(value) is type(AT_DEFAULT[key]):
        return "at its default, which asks for nothing"
    return next((reason for pattern, reason in PATTERNS.items() if pattern.fullmatch(key)), None)
