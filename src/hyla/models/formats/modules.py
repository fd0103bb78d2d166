"""What most published formats call the parts of their modules: keys of config.json, and names of tensors."""

from __future__ import annotations

from hyla.models.formats.names import FuseExperts, Rule, Stack, fuse, fuse_experts, rename, stack, weights
from hyla.models.formats.published import Count, Strict

# Published key: field of our config.
GROUPED_QUERY = {"num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim"}
"""Keys of softmax attention, and the fields of `SoftmaxConfig` that they fill."""

MLA = {
    "num_attention_heads": "num_heads",
    "q_lora_rank": "q_lora_dim",
    "kv_lora_rank": "kv_lora_dim",
    "qk_nope_head_dim": "nope_dim",
    "qk_rope_head_dim": "rope_dim",
    "v_head_dim": "value_dim",
}
"""Keys of MLA, and the fields of `MLAConfig` that they fill."""

LATENT_EPS = 1e-6
"""Epsilon of the norms of MLA's latents, whatever `rms_norm_eps` is: the published codes leave it at its default."""

MLP = {"intermediate_size": "intermediate_dim"}
"""Keys of an MLP, and the fields of `MLPConfig` that they fill."""


class MLAKeys(Strict):
    """The keys of `MLA` but the number of heads, with the defaults that the formats share."""

    q_lora_rank: Count | None = None
    kv_lora_rank: Count = 512
    qk_nope_head_dim: Count = 128
    qk_rope_head_dim: Count = 64
    v_head_dim: Count = 128


def mla_names(prefix: str, *others: str, out: str = "o_proj") -> tuple[Rule, ...]:
    """Rules of an MLA layer. others: pairs of renamed weights that a format has beside them; out: the output's name.

    Either the query's projection or its two halves are there; a rule whose tensors a model lacks is left out.
    """
    return (
        *weights(prefix, "q_proj q", "q_a_proj q_a", "q_a_layernorm q_a_norm", "q_b_proj q_b"),
        *weights(prefix, "kv_a_proj_with_mqa kv_a", "kv_a_layernorm kv_norm", f"{out} o", *others),
        fuse(f"{prefix}kv_b_proj.weight", ("k_up", "v_up"), groups="num_heads"),
    )


QK_NORMED_ATTENTION = weights(
    "self_attn.", "q_proj q", "k_proj k", "v_proj v", "o_proj o", "q_norm q_norm", "k_norm k_norm"
)
"""Rules of a softmax layer with QK-norm, each projection a tensor of its own."""

EXPERTS = tuple(stack(f"mlp.experts.{{}}.{name}_proj.weight", f"experts_{name}") for name in ("gate", "up", "down"))
"""Rules of routed experts that are published one by one."""


def other_layout(rules: tuple[Rule, ...]) -> tuple[Rule, ...] | None:
    """The rules of a block whose experts are stored the other way; None for a block without experts.

    One by one for all in one tensor ([E, 2 I, D] `gate_up_proj` and [E, D, I] `down_proj` beside the numbers that the
    experts would have), and back. Writers choose for each block: Qwen3.5 stores the trunk's experts in one tensor and
    those of its MTP module one by one, Qwen3.6 all in one, trainers and other libraries either.
    """
    one_by_one = [rule for rule in rules if isinstance(rule, Stack)]
    in_one = next((rule for rule in rules if isinstance(rule, FuseExperts)), None)
    if one_by_one:
        prefix = one_by_one[0].published[0].partition("{}")[0]
        ours = [rule.ours[0] for rule in one_by_one]
        has_gate = "experts_gate" in ours
        into = fuse_experts(f"{prefix}gate_up_proj", "experts_gate", "experts_up")
        first = into if has_gate else rename(f"{prefix}up_proj", "experts_up")
        rest = [rule for rule in rules if rule not in one_by_one]
        return (first, rename(f"{prefix}down_proj", "experts_down"), *rest)
    if in_one is not None:
        prefix = in_one.published[0].removesuffix("gate_up_proj")
        names = [(name, f"experts_{name}") for name in ("gate", "up", "down")]
        rest = [rule for rule in rules if rule is not in_one and rule.ours != ("experts_down",)]
        return (*(stack(f"{prefix}{{}}.{name}_proj.weight", ours) for name, ours in names), *rest)
    return None
