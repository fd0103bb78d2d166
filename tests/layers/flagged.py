"""Mixers with flags of ablations, and each one's formula in float64, token by token, from its parameters alone."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid, sigmoid, silu, softplus

from hyla.layers.slopes import slopes
from hyla.models.config import (
    GatedDeltaConfig,
    GLAConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    NormConfig,
    RopeConfig,
    SoftmaxConfig,
)
from hyla.ops.attention.reference import attention_reference
from hyla.ops.batch import Batch
from hyla.ops.gated_delta.reference import gated_delta_reference
from hyla.ops.gla.reference import gla_reference
from hyla.ops.kda.reference import kda_reference
from hyla.ops.lightning.reference import lightning_reference
from hyla.ops.ssd.reference import ssd_reference

KDA = KDAConfig(num_heads=3, key_dim=12, value_dim=10, gate_rank=7)
GATED = GatedDeltaConfig(num_key_heads=2, num_value_heads=4, key_dim=12, value_dim=10)
GLA = GLAConfig(num_heads=3, key_dim=12, value_dim=10, gate_rank=7)
LIGHTNING = LightningConfig(num_heads=3, head_dim=12, slopes="minimax", layer=1, num_layers=4, norm_groups=2)
MAMBA2 = Mamba2Config(num_heads=4, head_dim=6, num_groups=2, state_dim=10)
SOFTMAX = SoftmaxConfig(num_heads=4, num_kv_heads=2, head_dim=12, value_dim=10)
NORM, ROPE = NormConfig(eps=1e-5), RopeConfig(rotary_dim=8)


LINEAR = LinearAttentionConfig(num_heads=3, key_dim=12, value_dim=10)


def changed(config, **fields):
    return type(config)(**{**config.model_dump(), **fields})


FLAGGED = {
    "kda as it is": KDA,
    "kda silu": changed(KDA, output_gate="silu"),
    "kda no gate": changed(KDA, output_gate="none"),
    "kda no conv": changed(KDA, conv_len=0),
    "kda negative": changed(KDA, negative_eigenvalues=True),
    "kda head": changed(KDA, decay="head"),
    "kda head bounded": changed(KDA, decay="head", decay_lower_bound=-4.0, gate_rank=None),
    "kda no decay": changed(KDA, decay="none"),
    "kda bare": changed(KDA, decay="none", output_gate="none", conv_len=0, negative_eigenvalues=True),
    "gated sigmoid": changed(GATED, output_gate="sigmoid"),
    "gated no gate": changed(GATED, output_gate="none"),
    "gated no conv": changed(GATED, conv_len=0),
    "gated negative": changed(GATED, negative_eigenvalues=True),
    "gated no decay": changed(GATED, decay="none"),
    "gated bare": changed(GATED, decay="none", output_gate="none", conv_len=0, negative_eigenvalues=True),
    "gla sigmoid": changed(GLA, output_gate="sigmoid"),
    "gla no gate": changed(GLA, output_gate="none"),
    "gla head": changed(GLA, decay="head"),
    "gla bare": changed(GLA, decay="none", output_gate="none"),
    "lightning silu": changed(LIGHTNING, output_gate="silu"),
    "lightning no gate": changed(LIGHTNING, output_gate="none"),
    "lightning fla": changed(LIGHTNING, slopes="fla"),
    "lightning no decay": changed(LIGHTNING, slopes="none"),
    "mamba2 sigmoid": changed(MAMBA2, output_gate="sigmoid"),
    "mamba2 no gate": changed(MAMBA2, output_gate="none"),
    "mamba2 no conv": changed(MAMBA2, conv_len=0),
    "mamba2 bare": changed(MAMBA2, conv_len=0, output_gate="none"),
    "softmax silu": changed(SOFTMAX, output_gate=True, gate_activation="silu"),
    "softmax normed": changed(SOFTMAX, qk_norm=NORM, rope=ROPE),
    "softmax window": changed(SOFTMAX, window=40, sinks=True),
    "softmax all": changed(
        SOFTMAX, output_gate=True, gate_activation="silu", qk_norm=NORM, rope=ROPE, window=40, sinks=True
    ),
}
"""By name: single flags, and some together."""

GATES = {"sigmoid": sigmoid, "silu": silu}


def _normed(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def _convolved(w, rows_TC):
    """The short convolution where there is one, and SiLU."""
    weight_CL = w.get("conv_weight")
    if weight_CL is None:
        return silu(rows_TC)
    taps = weight_CL.shape[1]
    padded = torch.cat([rows_TC.new_zeros(taps - 1, rows_TC.shape[1]), rows_TC])
    mixed = sum(padded[j : j + len(rows_TC)] * weight_CL[:, j] for j in range(taps))
    return silu(mixed + w.get("conv_bias", 0.0))


def _delta(config, w, x, log_decay, reference, key_heads, heads, gate):
    """Either delta rule from its log decays on. gate: its raw numbers, or None."""
    mixed = _convolved(w, torch.cat([x @ w[f"{name}.weight"].T for name in "qkv"], dim=1))
    width = key_heads * config.key_dim
    q, k, v = mixed.split([width, width, heads * config.value_dim], dim=1)
    q, k = (_unit(y.unflatten(1, (key_heads, -1))) for y in (q, k))
    beta = sigmoid(x @ w["b.weight"].T) * (2.0 if config.negative_eigenvalues else 1.0)
    q, v = q * config.key_dim**-0.5, v.unflatten(1, (heads, -1))
    o, _ = reference(q, k, v, log_decay, beta, lengths=[len(x)], scale=1.0)
    y = _normed(o, w["norm.weight"], config.norm_eps).flatten(1)
    return (y if gate is None else y * GATES[config.output_gate](gate)) @ w["o.weight"].T


def _through(w, name, x):
    """A projection of one matrix or of two."""
    if f"{name}.weight" in w:
        return x @ w[f"{name}.weight"].T
    return x @ w[f"{name}_a.weight"].T @ w[f"{name}_b.weight"].T if f"{name}_a.weight" in w else None


def _kda(config, w, x):
    shape = (len(x), config.num_heads, config.key_dim)
    if config.decay == "none":
        log_decay = x.new_zeros(shape)
    else:
        z = (_through(w, "f", x) + w["dt_bias"]).unflatten(1, (config.num_heads, -1))
        rate, bound = w["A_log"].exp()[:, None], config.decay_lower_bound
        log_decay = -rate * softplus(z) if bound is None else bound * sigmoid(rate * z)
        log_decay = log_decay.expand(shape)
    return _delta(config, w, x, log_decay, kda_reference, config.num_heads, config.num_heads, _through(w, "g", x))


def _gated_delta(config, w, x):
    heads = config.num_value_heads
    log_decay = x.new_zeros(len(x), heads)
    if config.decay != "none":
        log_decay = -w["A_log"].exp() * softplus(x @ w["a.weight"].T + w["dt_bias"])
    return _delta(
        config, w, x, log_decay, gated_delta_reference, config.num_key_heads, heads, _through(w, "z", x)
    )  # fmt: skip


def _gla(config, w, x):
    q, k, v = ((x @ w[f"{name}.weight"].T).unflatten(1, (config.num_heads, -1)) for name in "qkv")
    log_decay = torch.zeros_like(k)
    if config.decay != "none":
        raw = _through(w, "f", x) + w["decay_bias"]
        log_decay = logsigmoid(raw).unflatten(1, (config.num_heads, -1)).expand_as(k) / config.decay_divisor
    o, _ = gla_reference(q, k, v, log_decay, lengths=[len(x)], scale=config.key_dim**-0.5)
    y, gate = _normed(o, w["norm.weight"], config.norm_eps).flatten(1), _through(w, "gate", x)
    return (y if gate is None else y * GATES[config.output_gate](gate)) @ w["o.weight"].T


def _lightning(config, w, x):
    q, k, v = ((x @ w[f"{name}.weight"].T).unflatten(1, (config.num_heads, -1)) for name in "qkv")
    rates = slopes(config.num_heads, schedule=config.slopes, layer=config.layer, num_layers=config.num_layers)
    o, _ = lightning_reference(q, k, v, rates, lengths=[len(x)], scale=config.head_dim**-0.5)
    groups = o.flatten(1).unflatten(1, (config.norm_groups, -1))
    y, gate = _normed(groups, 1.0, config.norm_eps).flatten(1) * w["norm.weight"], _through(w, "gate", x)
    return (y if gate is None else y * GATES[config.output_gate](gate)) @ w["o.weight"].T


def _mamba2(config, w, x):
    heads, groups = config.num_heads, config.num_groups
    mixed = _convolved(w, torch.cat([x @ w[f"{name}.weight"].T for name in "xbc"], dim=1))
    keys = groups * config.state_dim
    xs, b, c = mixed.split([heads * config.head_dim, keys, keys], dim=1)
    xs, b, c = xs.unflatten(1, (heads, -1)), b.unflatten(1, (groups, -1)), c.unflatten(1, (groups, -1))
    dt = softplus(x @ w["dt.weight"].T + w["dt_bias"])
    o, _ = ssd_reference(c, b, xs * dt[..., None], -w["A_log"].exp() * dt, lengths=[len(x)])
    y, gate = (o + w["D"][:, None] * xs).flatten(1), _through(w, "z", x)
    y = (y if gate is None else y * GATES[config.output_gate](gate)).unflatten(1, (groups, -1))
    return (_normed(y, 1.0, config.norm_eps).flatten(1) * w["norm.weight"]) @ w["o.weight"].T


def _rotated(x_THK, rope):
    half = rope.rotary_dim // 2
    frequency = rope.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(len(x_THK), dtype=torch.float64)[:, None, None] * frequency
    first, second, rest = x_THK.split([half, half, x_THK.shape[-1] - 2 * half], dim=-1)
    turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin(), rest)
    return torch.cat(turned, dim=-1)


def _softmax(config, w, x):
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    q, k, v = ((x @ w[f"{name}.weight"].T).unflatten(1, (count, -1)) for name, count in zip("qkv", heads))
    if config.qk_norm is not None:
        q, k = (_normed(y, w[f"{name}_norm.weight"], config.qk_norm.eps) for y, name in ((q, "q"), (k, "k")))
    if config.rope is not None:
        q, k = (_rotated(y, config.rope) for y in (q, k))
    batch, scale = Batch.packed([len(x)]), config.head_dim**-0.5
    o = attention_reference(q, k, v, batch, scale, window=config.window, sinks_H=w.get("sinks")).flatten(1)
    gate = _through(w, "gate", x)
    return (o if gate is None else o * GATES[config.gate_activation](gate)) @ w["o.weight"].T


FORMULAS = {
    "kda": _kda,
    "gated_delta": _gated_delta,
    "gla": _gla,
    "lightning": _lightning,
    "mamba2": _mamba2,
    "softmax": _softmax,
}


def formula(config, parameters: dict[str, torch.Tensor], x_TD: torch.Tensor) -> torch.Tensor:
    """[T, D] of one sequence that begins; parameters by the names of the layer's table. Differentiable."""
    return FORMULAS[config.kind](config, parameters, x_TD)
