"""MiniMax-Text-01 and MiniMax-M1: seven lightning layers to one attention layer (arXiv 2501.08313; arXiv 2506.13585).

The trunk, with scaled residuals: the residual is the normed stream. Lightning layers: SiLU on q, k and v, no position
code, no scale. Attention layers rotate the first `rotary_dim` channels of a head (64 of 128). Reads the original
spelling and the "-hf" one of transformers, and writes the latter. The inner norm of lightning has eps 1e-6 whatever
`rms_norm_eps` is: the published code leaves it at its default (llama.cpp takes `rms_norm_eps`).

Verified against transformers 5.23 with whole heads rotated, and, because transformers ignores `rotary_dim`, against an
independent float64 reference of the whole model with the published rotation (tests/parity/test_parity_minimax.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from hyla.errors import ConfigError
from hyla.models.config import (
    LightningConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RouterConfig,
    ScaledResidual,
    SoftmaxConfig,
    SublayerConfig,
)
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.names import fuse, rename, stack, weights

INNER_EPS = 1e-6
EXPERTS = (("w1", "gate"), ("w3", "up"), ("w2", "down"))
BLOCKS = {"linear": "linear_attn", "full": "full_attn", "mlp": "mlp"}
"""Residual of a kind of sublayer: the prefix of its factors in the "-hf" spelling."""
IGNORED = {
    "mlp_intermediate_size": "the width of a dense MLP; every layer has experts",
    "block_size": "a block of another implementation's lightning attention; it changes no result",
    "router_jitter_noise": "noise of training",
    "shared_moe_mode": "there is no shared expert",
}
IGNORED_TENSORS = {
    r"model\.layers\.\d+\.self_attn\.(slope_rate|\w+_decay)$": "decays follow from the config",
}

# fmt: off
# Published key: field of our config.
ATTENTION = {"num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads"}
MOE = {
    "num_local_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token",
    "intermediate_size": "expert_dim",
}
# fmt: on


def _factor(original: str, ours: str):
    """A residual's factor, in either spelling."""
    return Field(default=1.0, validation_alias=AliasChoices(ours, original))


class Keys(hf.Published):
    """HANDLED keys of config.json."""

    rms_norm_eps: float = Field(default=1e-5, gt=0)
    num_attention_heads: hf.Count = 32
    num_key_value_heads: hf.Count = 8
    head_dim: hf.Count | None = None
    rotary_dim: hf.Count | None = None
    rope_parameters: hf.RopeParameters = hf.RopeParameters(rope_theta=1e6)
    layer_types: hf.LayerTypes | None = None
    attn_type_list: list[Annotated[int, Field(ge=0, le=1)]] | None = None
    intermediate_size: hf.Count
    num_local_experts: hf.Several = 8
    num_experts_per_tok: hf.Count = 2
    shared_intermediate_size: Literal[0] = 0
    postnorm: Literal[True] = True
    linear_alpha: float = _factor("layernorm_linear_attention_alpha", "linear_attn_alpha_factor")
    linear_beta: float = _factor("layernorm_linear_attention_beta", "linear_attn_beta_factor")
    full_alpha: float = _factor("layernorm_full_attention_alpha", "full_attn_alpha_factor")
    full_beta: float = _factor("layernorm_full_attention_beta", "full_attn_beta_factor")
    mlp_alpha: float = _factor("layernorm_mlp_alpha", "mlp_alpha_factor")
    mlp_beta: float = _factor("layernorm_mlp_beta", "mlp_beta_factor")

    def residual(self, kind: str) -> ScaledResidual:
        return ScaledResidual(alpha=getattr(self, f"{kind}_alpha"), beta=getattr(self, f"{kind}_beta"))

    def kinds(self) -> list[str]:
        """ "linear" or "full" for each layer."""
        spelled = self.layer_types
        if spelled is None and self.attn_type_list is not None:
            spelled = ["full_attention" if kind else "linear_attention" for kind in self.attn_type_list]
        if spelled is None:
            raise ConfigError("minimax: config.json needs attn_type_list or layer_types; without them readers disagree")
        kinds = hf.layer_list("minimax", "attn_type_list or layer_types", spelled, [], self.num_hidden_layers)
        return [kind.removesuffix("_attention") for kind in kinds]


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    head_dim = keys.head_dim or keys.hidden_size // keys.num_attention_heads
    norm, count = NormConfig(eps=keys.rms_norm_eps), keys.num_hidden_layers
    rope = keys.rope_parameters.of_head(head_dim, rotary_dim=keys.rotary_dim)
    full = hf.build(SoftmaxConfig, keys, ATTENTION, head_dim=head_dim, rope=rope)
    moe = hf.build(MoEConfig, keys, MOE, router=RouterConfig(score="softmax"))
    heads = {"num_heads": keys.num_attention_heads, "head_dim": head_dim, "slopes": "minimax", "norm_eps": INNER_EPS}
    sublayers = []
    for layer, kind in enumerate(keys.kinds()):
        lightning = LightningConfig(**heads, layer=layer, num_layers=count, silu=True, scaled=False)
        mixer = lightning if kind == "linear" else full
        for module, name in ((mixer, kind), (moe, "mlp")):
            sublayers.append(SublayerConfig(norm=norm, module=module, residual=keys.residual(name)))
    return ModelConfig(family="minimax", **keys.common(), sublayers=tuple(sublayers), final_norm=norm)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json, in the "-hf" spelling."""
    full, lightning = hf.first(config, SoftmaxConfig), hf.first(config, LightningConfig)
    moe = hf.first(config, MoEConfig)
    layer_types = ["linear_attention" if mixer.kind == "lightning" else "full_attention" for mixer in config.mixers]
    keys = {**hf.common_keys(config), "layer_types": layer_types, **hf.publish(moe, MOE)}
    if heads := full or lightning:
        keys |= {"num_attention_heads": heads.num_heads, "head_dim": heads.head_dim}
    if full:
        keys |= hf.publish(full, ATTENTION)
        keys |= {"rotary_dim": full.rope.rotary_dim, **hf.rope_keys(full.rope, full.head_dim)} if full.rope else {}
    names = {"lightning": "linear", "softmax": "full"}
    for sublayer in config.sublayers:
        if sublayer.residual:
            prefix = BLOCKS[names.get(sublayer.module.kind, "mlp")]
            keys[f"{prefix}_alpha_factor"] = sublayer.residual.alpha
            keys[f"{prefix}_beta_factor"] = sublayer.residual.beta
    return keys


NAMES = {
    "lightning": (
        fuse("self_attn.qkv_proj.weight", ("q.weight", "k.weight", "v.weight"), groups="num_heads"),
        *weights("self_attn.", "output_gate gate", "norm norm", "out_proj o"),
    ),
    "softmax": weights("self_attn.", "q_proj q", "k_proj k", "v_proj v", "o_proj o"),
    "moe": (
        rename("block_sparse_moe.gate.weight", "router"),
        *(stack(f"block_sparse_moe.experts.{{}}.{w}.weight", f"experts_{ours}") for w, ours in EXPERTS),
    ),
}

# fmt: off
ALPHAS = {f"layernorm_{name}_alpha": 3.5565588200778455 for name in ("linear_attention", "full_attention", "mlp")}
BETAS = {f"layernorm_{name}_beta": 1.0 for name in ("linear_attention", "full_attention", "mlp")}
TINY = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 4, "max_position_embeddings": 512, "eos_token_id": 96,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20, "rotary_dim": 12, "rope_theta": 1e4,
    "attn_type_list": [0, 0, 1, 0], "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 28,
    "linear_attn_alpha_factor": 1.7, "linear_attn_beta_factor": 0.8, "full_attn_alpha_factor": 1.3,
    "full_attn_beta_factor": 1.1, "mlp_alpha_factor": 1.5, "mlp_beta_factor": 0.9,
}
SIZE = ALPHAS | BETAS | {
    "vocab_size": 200064, "hidden_size": 6144, "num_hidden_layers": 80, "max_position_embeddings": 10240000,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "rotary_dim": 64, "rope_theta": 1e7,
    "attn_type_list": [int((layer + 1) % 8 == 0) for layer in range(80)],
    "num_local_experts": 32, "num_experts_per_tok": 2, "intermediate_size": 9216,
}
# fmt: on

FAMILY = Family(
    name="minimax",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="MiniMaxForCausalLM",
    names=NAMES,
    model_types=("minimax_text_01", "minimax_m1"),
    ignored=IGNORED,
    ignored_tensors=IGNORED_TENSORS,
    tiny_config=TINY,
    sizes={"MiniMax-Text-01": SIZE, "MiniMax-M1": SIZE},
)
