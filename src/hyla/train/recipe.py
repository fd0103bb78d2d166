"""A hybrid of any size from a few numbers: Kimi Linear's block with the ratio as a string."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hyla.models.config import (
    Config,
    Count,
    KDAConfig,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RouterConfig,
    SublayerConfig,
)

NORM = NormConfig(eps=1e-5)


class HybridRecipe(Config):
    """Sizes of a `kimi_linear` model. The defaults are the quickstart's: about 5 million parameters."""

    pattern: Annotated[str, Field(pattern="^[KM]+$")] = "KKKM"
    """One letter per layer: K, Kimi Delta Attention, memory of one size; M, MLA without positions, exact lookup."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of the byte-level BPE. Larger: fewer tokens per text, more parameters in embedding and head."""
    hidden_dim: Count = 256
    """Width of the residual stream."""
    num_heads: Count = 4
    """Heads of both mixers."""
    head_dim: Count = 32
    """Key and value size of a KDA head, value and position-free key size of an MLA head."""
    rope_dim: Count = 16
    """Extra key channels that all MLA heads share (never rotated here: the KDA layers know the order)."""
    kv_lora_dim: Count = 64
    """Latent that MLA keeps per token instead of keys and values."""
    dense_dim: Count = 512
    """Width of layer 0's dense SwiGLU."""
    num_experts: Count = 8
    """Routed experts of every later layer."""
    num_experts_per_token: Count = 2
    """Experts that one token visits."""
    expert_dim: Count = 128
    """Width of one expert."""
    shared_dim: Count = 128
    """Width of the expert that every token visits; a multiple of expert_dim, as the published format counts it."""
    max_len: Count = 65536
    """Longest context that the saved model declares."""

    @model_validator(mode="after")
    def _experts(self):
        if self.num_experts_per_token > self.num_experts:
            raise ValueError("num_experts_per_token must not exceed num_experts")
        if self.shared_dim % self.expert_dim:
            raise ValueError("shared_dim must be a multiple of expert_dim")
        return self

    def _mixer(self, letter: str) -> KDAConfig | MLAConfig:
        if letter == "K":
            return KDAConfig(
                num_heads=self.num_heads, key_dim=self.head_dim, value_dim=self.head_dim, gate_rank=self.head_dim
            )
        return MLAConfig(
            num_heads=self.num_heads,
            kv_lora_dim=self.kv_lora_dim,
            nope_dim=self.head_dim,
            rope_dim=self.rope_dim,
            value_dim=self.head_dim,
        )

    def _channel_mixer(self, layer: int) -> MLPConfig | MoEConfig:
        if layer == 0:
            return MLPConfig(intermediate_dim=self.dense_dim)
        return MoEConfig(
            num_experts=self.num_experts,
            num_experts_per_token=self.num_experts_per_token,
            expert_dim=self.expert_dim,
            shared_dim=self.shared_dim,
            router=RouterConfig(score="sigmoid", has_bias=True),
        )

    def model_config_of(self, vocab_size: int, end_of_text_id: int) -> ModelConfig:
        """The model. vocab_size: what the tokenizer really has, at most `self.vocab_size`."""
        sublayers = []
        for layer, letter in enumerate(self.pattern):
            sublayers.append(SublayerConfig(norm=NORM, module=self._mixer(letter)))
            sublayers.append(SublayerConfig(norm=NORM, module=self._channel_mixer(layer)))
        return ModelConfig(
            family="kimi_linear",
            vocab_size=vocab_size,
            hidden_dim=self.hidden_dim,
            sublayers=tuple(sublayers),
            final_norm=NORM,
            max_len=self.max_len,
            bos_token_id=end_of_text_id,
            eos_token_ids=(end_of_text_id,),
            pad_token_id=end_of_text_id,
        )


def full_attention_twin(recipe: HybridRecipe) -> HybridRecipe:
    """The same sizes with MLA in every layer."""
    return recipe.model_copy(update={"pattern": "M" * len(recipe.pattern)})
