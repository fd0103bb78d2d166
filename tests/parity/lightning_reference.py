"""Independent float64 references of the models with lightning layers, written from their formulas.

They share no code with the package: plain functions over published tensors `w` (a dict), one prompt at a time, the
recurrence token by token.
"""

from __future__ import annotations

import torch


def rms(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x_TK, rotary_dim, theta, interleaved=False):
    """RoPE on the first rotary_dim channels of [T, ..., K], as complex numbers."""
    pairs, rest = x_TK[..., :rotary_dim], x_TK[..., rotary_dim:]
    half = rotary_dim // 2
    first, second = (pairs[..., 0::2], pairs[..., 1::2]) if interleaved else (pairs[..., :half], pairs[..., half:])
    inverse = theta ** -(torch.arange(half, dtype=torch.float64) * 2 / rotary_dim)
    angle = torch.arange(x_TK.shape[0], dtype=torch.float64)[:, None] * inverse
    angle = angle.view(-1, *[1] * (x_TK.dim() - 2), half)
    spun = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    # The order of channels within a head does not matter to dot products of two such heads.
    return torch.cat([spun.real, spun.imag, rest], dim=-1)


def causal_attention(q_THK, k_TGK, v_TGV):
    tokens, heads = q_THK.shape[:2]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_TGK, v_TGV))
    scores = torch.einsum("ihk,jhk->hij", q_THK, k) * q_THK.shape[2] ** -0.5
    scores = scores.masked_fill(~torch.ones(tokens, tokens).tril().bool(), -torch.inf)
    return torch.einsum("hij,jhv->ihv", scores.softmax(-1), v)


def lightning_recurrence(q_THK, k_THK, v_THV, slopes_H):
    state = torch.zeros(q_THK.shape[1], q_THK.shape[2], v_THV.shape[2], dtype=torch.float64)
    outputs = []
    for q, k, v in zip(q_THK, k_THK, v_THV):
        state = state * torch.exp(-slopes_H)[:, None, None] + k[:, :, None] * v[:, None, :]
        outputs.append((q[:, :, None] * state).sum(1))
    return torch.stack(outputs)


def swiglu(x, gate, up, down):
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def alibi(heads):
    return 2.0 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)


# MiniMax-Text-01


def minimax_lightning(w, c, layer, h):
    heads, dim, count = c["num_attention_heads"], c["head_dim"], c["num_hidden_layers"]
    mixed = torch.nn.functional.silu(h @ w["qkv_proj.weight"].T).view(-1, heads, 3 * dim)
    slopes = alibi(heads) * (1 - layer / (count - 1 + 1e-5) + 1e-5)
    o = lightning_recurrence(mixed[..., :dim], mixed[..., dim : 2 * dim], mixed[..., 2 * dim :], slopes)
    o = rms(o.flatten(1), w["norm.weight"], 1e-6)
    return (o * torch.sigmoid(h @ w["output_gate.weight"].T)) @ w["out_proj.weight"].T


def minimax_full(w, c, h):
    dim, rotary, theta = c["head_dim"], c["rotary_dim"], c["rope_theta"]
    q, k, v = ((h @ w[f"{name}_proj.weight"].T).unflatten(-1, (-1, dim)) for name in "qkv")
    o = causal_attention(turned(q, rotary, theta), turned(k, rotary, theta), v)
    return o.flatten(1) @ w["o_proj.weight"].T


def minimax_moe(w, c, x):
    scores = (x @ w["gate.weight"].T).softmax(-1)
    best, ids = scores.topk(c["num_experts_per_tok"])
    best = best / best.sum(-1, keepdim=True)
    rows = []
    for row, weights, experts in zip(x, best, ids.tolist()):
        parts = [swiglu(row, *(w[f"experts.{e}.{m}.weight"] for m in ("w1", "w3", "w2"))) for e in experts]
        rows.append(sum(weight * part for weight, part in zip(weights, parts)))
    return torch.stack(rows)


def minimax(w, c, ids):
    """c: config in the original spelling, with "attn_type_list" and alpha and beta by kind of sublayer."""
    x = w["model.embed_tokens.weight"][ids]
    for layer, is_full in enumerate(c["attn_type_list"]):
        here = under(w, f"model.layers.{layer}.")
        mixer, kind = under(here, "self_attn."), "full_attention" if is_full else "linear_attention"
        h = rms(x, here["input_layernorm.weight"], c["rms_norm_eps"])
        y = minimax_full(mixer, c, h) if is_full else minimax_lightning(mixer, c, layer, h)
        x = c[f"layernorm_{kind}_alpha"] * h + c[f"layernorm_{kind}_beta"] * y
        h = rms(x, here["post_attention_layernorm.weight"], c["rms_norm_eps"])
        y = minimax_moe(under(here, "block_sparse_moe."), c, h)
        x = c["layernorm_mlp_alpha"] * h + c["layernorm_mlp_beta"] * y
    return rms(x, w["model.norm.weight"], c["rms_norm_eps"]) @ w["lm_head.weight"].T


# Ring-linear 2.0, Ling 2.5, Ling 2.0


def bailing_qkv(w, c, h, kv_heads):
    heads, dim, eps = c["num_attention_heads"], c["head_dim"], c["rms_norm_eps"]
    mixed = (h @ w["query_key_value.weight"].T).unflatten(-1, (-1, dim))
    q, k, v = mixed[:, :heads], mixed[:, heads : heads + kv_heads], mixed[:, heads + kv_heads :]
    q, k = rms(q, w["query_layernorm.weight"], eps), rms(k, w["key_layernorm.weight"], eps)
    rotary = round(dim * c["partial_rotary_factor"])
    return turned(q, rotary, c["rope_theta"]), turned(k, rotary, c["rope_theta"]), v


def bailing_lightning(w, c, layer, h):
    heads, dim, count = c["num_attention_heads"], c["head_dim"], c["num_hidden_layers"]
    q, k, v = bailing_qkv(w, c, h, heads)
    o = lightning_recurrence(q, k, v, alibi(heads) * (1 - (layer - 1) / (count - 1) + 1e-5)) * dim**-0.5
    parts = o.flatten(1).unflatten(-1, (c["group_norm_size"], -1))
    o = rms(parts, 1.0, c["rms_norm_eps"]).flatten(1) * w["g_norm.weight"]
    return (o * torch.sigmoid(h @ w["g_proj.weight"].T)) @ w["dense.weight"].T


def bailing_gqa(w, c, h):
    q, k, v = bailing_qkv(w, c, h, c["num_key_value_heads"])
    return causal_attention(q, k, v).flatten(1) @ w["dense.weight"].T


def bailing_mla(w, c, h):
    """Keys and values expanded per head, as the papers write it."""
    nope, rope, lora = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["kv_lora_rank"]
    heads, theta = c["num_attention_heads"], c["rope_theta"]
    if "q_proj.weight" in w:
        q = h @ w["q_proj.weight"].T
    else:
        q = rms(h @ w["q_a_proj.weight"].T, w["q_a_layernorm.weight"], 1e-6) @ w["q_b_proj.weight"].T
    q = q.unflatten(-1, (heads, nope + rope))
    kv = h @ w["kv_a_proj_with_mqa.weight"].T
    k_pe = turned(kv[:, None, lora:], rope, theta, interleaved=True).expand(-1, heads, -1)
    up = rms(kv[:, :lora], w["kv_a_layernorm.weight"], 1e-6) @ w["kv_b_proj.weight"].T
    up = up.unflatten(-1, (heads, nope + c["v_head_dim"]))
    q = torch.cat([q[..., :nope], turned(q[..., nope:], rope, theta, interleaved=True)], dim=-1)
    o = causal_attention(q, torch.cat([up[..., :nope], k_pe], dim=-1), up[..., nope:])
    return o.flatten(1) @ w["dense.weight"].T


def bailing_moe(w, c, x):
    names = ("gate_proj", "up_proj", "down_proj")
    groups, kept = c["n_group"], c["topk_group"]
    rows = []
    for row in x:
        scores = torch.sigmoid(w["gate.weight"] @ row)
        biased = (scores + w["gate.expert_bias"]).view(groups, -1)
        best_groups = biased.sort(dim=-1, descending=True)[0][:, :2].sum(-1).topk(kept)[1]
        mask = torch.full_like(biased, -torch.inf)
        mask[best_groups] = 0.0
        experts = (biased + mask).flatten().topk(c["num_experts_per_tok"])[1].tolist()
        chosen = scores[experts] / scores[experts].sum() * c["routed_scaling_factor"]
        y = swiglu(row, *(w[f"shared_experts.{name}.weight"] for name in names))
        for weight, expert in zip(chosen, experts):
            y = y + weight * swiglu(row, *(w[f"experts.{expert}.{name}.weight"] for name in names))
        rows.append(y)
    return torch.stack(rows)


def bailing(w, c, ids):
    """c: published config. "layer_group_size" absent: attention everywhere; "kv_lora_rank" present: MLA."""
    return bailing_trunk(w, c, ids) @ w["lm_head.weight"].T


def bailing_steps(w, c, ids):
    """Logits of each multi-token prediction module; the last ids have no row, since they only come after."""
    length = len(ids) - c["num_nextn_predict_layers"]
    hidden, logits, eps = bailing_trunk(w, c, ids[:length]), [], c["rms_norm_eps"]
    for step in range(c["num_nextn_predict_layers"]):
        here = under(w, f"model.layers.{c['num_hidden_layers'] + step}.")
        mixer, embedded = under(here, "attention."), w["model.word_embeddings.weight"][ids[step + 1 :][:length]]
        both = [rms(embedded, here["enorm.weight"], eps), rms(hidden, here["hnorm.weight"], eps)]
        x = torch.cat(both, dim=-1) @ here["eh_proj.weight"].T
        h = rms(x, here["input_layernorm.weight"], eps)
        x = x + (bailing_mla(mixer, c, h) if "kv_lora_rank" in c else bailing_gqa(mixer, c, h))
        x = x + bailing_moe(under(here, "mlp."), c, rms(x, here["post_attention_layernorm.weight"], eps))
        hidden = rms(x, here["final_layernorm.weight"], eps)
        logits.append(hidden @ w["lm_head.weight"].T)
    return logits


def bailing_trunk(w, c, ids):
    """Hidden states after the final norm."""
    x = w["model.word_embeddings.weight"][ids]
    count, eps = c["num_hidden_layers"], c["rms_norm_eps"]
    group = c.get("layer_group_size", 1)
    for layer in range(count):
        here = under(w, f"model.layers.{layer}.")
        mixer, mlp = under(here, "attention."), under(here, "mlp.")
        h = rms(x, here["input_layernorm.weight"], eps)
        if (layer + 1) % group and layer < count // group * group:
            x = x + bailing_lightning(mixer, c, layer, h)
        else:
            x = x + (bailing_mla(mixer, c, h) if "kv_lora_rank" in c else bailing_gqa(mixer, c, h))
        h = rms(x, here["post_attention_layernorm.weight"], eps)
        dense = layer < c["first_k_dense_replace"]
        names = ("gate_proj", "up_proj", "down_proj")
        x = x + (swiglu(h, *(mlp[f"{name}.weight"] for name in names)) if dense else bailing_moe(mlp, c, h))
    return rms(x, w["model.norm.weight"], eps)


def under(w, prefix):
    """The tensors below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in w.items() if name.startswith(prefix)}
