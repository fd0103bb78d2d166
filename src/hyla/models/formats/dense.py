"""What the formats of dense full-attention models share, from Llama on: keys, the rotation, names."""

from __future__ import annotations

from typing import Self

from hyla.errors import ConfigError
from hyla.models.config import MLPConfig, ModelConfig, RopeConfig, SoftmaxConfig
from hyla.models.formats import published as hf
from hyla.models.formats.modules import GROUPED_QUERY, MLP
from hyla.models.formats.names import SWIGLU, biases, weights

ATTENTION = ("q_proj q", "k_proj k", "v_proj v", "o_proj o")


class DenseKeys(hf.Published):
    """Keys of config.json that these families handle."""

    intermediate_size: hf.Count
    num_attention_heads: hf.Count
    num_key_value_heads: hf.Count | None = None
    head_dim: hf.Count | None = None
    rope_parameters: hf.RopeParameters = hf.RopeParameters()

    def with_heads(self) -> Self:
        """With what may be left out: as many heads of keys as of queries, which are together as wide as the model.

        Raises ConfigError where no whole number is that wide.
        """
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size = {self.hidden_size} in config.json is no multiple of num_attention_heads = "
                f"{self.num_attention_heads}; give head_dim"
            )
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        kv_heads = self.num_key_value_heads or self.num_attention_heads
        return self.model_copy(update={"head_dim": head_dim, "num_key_value_heads": kv_heads})

    def rope(self) -> RopeConfig:
        """The rotation of a head, once its width is known (`with_heads`)."""
        if self.head_dim is None:
            raise TypeError("with_heads must come first")
        return self.rope_parameters.of_head(self.head_dim)


def dense_keys(config: ModelConfig) -> dict:
    """The inverse of `DenseKeys`."""
    attention = hf.first(config, SoftmaxConfig)
    return {
        **hf.common_keys(config),
        **hf.publish(attention, GROUPED_QUERY),
        **(hf.rope_keys(attention.rope, attention.head_dim) if attention and attention.rope else {}),
        **hf.publish(hf.first(config, MLPConfig), MLP),
    }


IGNORED_TENSORS = {
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$": "frequencies follow from the config",
}
"""Old writers kept them."""

NAMES = {
    "softmax": (*weights("self_attn.", *ATTENTION), *biases("self_attn.", *ATTENTION)),
    "mlp": (*weights("mlp.", *SWIGLU), *biases("mlp.", *SWIGLU)),
}
"""Rules of a layer without norms inside; biases where the model has them."""
