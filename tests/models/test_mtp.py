"""Multi-token prediction against its formulas in float64, in pieces, in and out of folders."""

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyla.caches import Cache
from hyla.checkpoints import load_model, save_model
from hyla.models.config import MTPConfig
from hyla.models.family import MTPNames, family_of
from hyla.models.initialize import initialize
from hyla.models.names import weights
from hyla.models.trunk import Model
from hyla.models.weights import Weights, cast
from hyla.ops.batch import Batch

FAMILIES = ("qwen3_next", "qwen3_5", "qwen3_5_moe")
LENGTH = 140
TOLERANCE = 1e-4
"""Largest difference of fp32 logits from the float64 reference, over the largest logit."""


def make(family: str, dtype=torch.float32) -> Model:
    """A tiny model whose norms differ from one."""
    model = initialize(Model(family_of(family).tiny), 5, std=0.2)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return cast(model, dtype)


def some_tokens(model: Model, length: int = LENGTH) -> torch.Tensor:
    """length + 1 ids: each of the first `length` has a next one."""
    return torch.randint(model.config.vocab_size, (length + 1,), generator=torch.Generator().manual_seed(3))


def whole(model: Model, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Trunk hidden states and MTP logits of a sequence, without a cache."""
    batch = Batch.packed([len(tokens) - 1])
    hidden = model(tokens[:-1], batch)
    return hidden, model.head_logits(model.predict_next(tokens[1:], hidden, batch), module=0)


# The reference: published names and formulas, float64, sharing no code with the package.


def norm(x, weight, eps=1e-6):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * (1 + weight)


def rotate(x_THd, theta, dims):
    """Half-split rotation of the leading channels; row t is position t."""
    frequency = theta ** -(torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angle = torch.arange(len(x_THd))[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second, rest = x_THd.split([dims // 2, dims // 2, x_THd.shape[-1] - dims], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def gated_attention(x, w, config):
    heads, groups, dim = config.num_heads, config.num_kv_heads, config.head_dim
    q, gate = (x @ w["self_attn.q_proj.weight"].T).unflatten(-1, (heads, 2 * dim)).split(dim, dim=-1)
    k = (x @ w["self_attn.k_proj.weight"].T).unflatten(-1, (groups, dim))
    v = (x @ w["self_attn.v_proj.weight"].T).unflatten(-1, (groups, dim)).repeat_interleave(heads // groups, dim=1)
    turn = (config.rope.theta, config.rope.rotary_dim)
    q = rotate(norm(q, w["self_attn.q_norm.weight"]), *turn)
    k = rotate(norm(k, w["self_attn.k_norm.weight"]), *turn).repeat_interleave(heads // groups, dim=1)
    scores = torch.einsum("thd,shd->hts", q, k) * dim**-0.5
    scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
    out = torch.einsum("hts,shd->thd", scores.softmax(-1), v) * gate.sigmoid()
    return out.flatten(1) @ w["self_attn.o_proj.weight"].T


def swiglu(x, w, name):
    gate, up, down = (w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def experts(x, w, config):
    chances, chosen = (x @ w["mlp.gate.weight"].T).softmax(-1).topk(config.num_experts_per_token)
    rows = []
    for row, weight, ids in zip(x, chances / chances.sum(-1, keepdim=True), chosen):
        rows.append(sum(share * swiglu(row, w, f"mlp.experts.{i}") for share, i in zip(weight, ids.tolist())))
    shared = (x @ w["mlp.shared_expert_gate.weight"].T).sigmoid() * swiglu(x, w, "mlp.shared_expert")
    return torch.stack(rows) + shared


def reference(tensors, config, tokens, hidden):
    """MTP logits [T, vocab] from the published tensors, the tokens after and the trunk's hidden states."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    layer = {name.removeprefix("mtp.layers.0."): tensor for name, tensor in w.items()}
    embedding = w["model.embed_tokens.weight"]
    both = [norm(embedding[tokens], w["mtp.pre_fc_norm_embedding.weight"])]
    both.append(norm(hidden, w["mtp.pre_fc_norm_hidden.weight"]))
    x = torch.cat(both, dim=-1) @ w["mtp.fc.weight"].T
    attention, channel = (sub.module for sub in config.mtp[0].sublayers)
    x = x + gated_attention(norm(x, layer["input_layernorm.weight"]), layer, attention)
    normed = norm(x, layer["post_attention_layernorm.weight"])
    x = x + (swiglu(normed, layer, "mlp") if channel.kind == "mlp" else experts(normed, layer, channel))
    return norm(x, w["mtp.norm.weight"]) @ w.get("lm_head.weight", embedding).T


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_guess_is_that_of_the_formulas(family, tmp_path):
    model = make(family)
    save_model(model, tmp_path / "m")
    tokens = some_tokens(model)
    hidden, logits = whole(load_model(tmp_path / "m"), tokens)
    expected = reference(load_file(tmp_path / "m" / "model.safetensors"), model.config, tokens[1:], hidden.double())
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert not torch.equal(logits, model.head_logits(hidden))


@torch.inference_mode()
def in_pieces(model: Model, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """MTP logits of a sequence that arrives in pieces; trunk and module share one pool, so one grid."""
    trunk = len(model.cache_specs())
    cache = Cache((*model.cache_specs(), *model.mtp_cache_specs()), num_pages=8, num_slots=1)
    sequence, logits, start = cache.open(), [], 0
    for size in sizes:
        batch = cache.batch([(sequence, size)])
        hidden = model(tokens[start : start + size], batch, cache.layers[:trunk])
        start += size
        hidden = model.predict_next(tokens[start - size + 1 : start + 1], hidden, batch, cache.layers[trunk:])
        logits.append(model.head_logits(hidden, module=0))
        cache.commit(sequence, size)
    return torch.cat(logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_and_packed_weights_change_no_bit_of_the_guess(family, dtype):
    model = make(family, dtype)
    tokens = some_tokens(model)
    _, logits = whole(model, tokens)
    assert logits.requires_grad and logits.dtype == torch.float32
    for sizes in ([64, 64, 12], [100] + [13] * 3 + [1]):
        assert torch.equal(in_pieces(model, tokens, sizes), logits)
    model.pack()
    assert torch.equal(in_pieces(model, tokens, [60] + [1] * 10 + [70]), logits)
    model.unpack()
    assert torch.equal(whole(model, tokens)[1], logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_does_not_know_of_it(family):
    model = make(family)
    without = Model(model.config.model_copy(update={"mtp": ()}))
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mtp.")}
    without.load_state_dict(own)
    ids = some_tokens(model).tolist()
    assert torch.equal(model.logits([ids])[0], without.logits([ids])[0])
    initialize(model, seed=2)
    initialize(without, seed=2)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in without.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_its_tensors_come_back_bit_for_bit(family, tmp_path):
    save_model(make(family, torch.bfloat16), tmp_path / "first")
    model = load_model(tmp_path / "first")
    assert len(model.mtp) == 1
    save_model(model.pack(), tmp_path / "again")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again"))
    assert {"mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.self_attn.q_proj.weight"} <= first.keys()
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_experts_are_fused_in_the_trunk_and_single_in_the_module_of_qwen3_5_moe(tmp_path):
    save_model(make("qwen3_5_moe"), tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert tensors["model.layers.0.mlp.experts.gate_up_proj"].shape == (5, 40, 44)
    assert tensors["mtp.layers.0.mlp.experts.4.gate_proj.weight"].shape == (20, 44)


def test_a_promise_without_tensors_is_said_and_the_model_loads(tmp_path, caplog):
    save_model(make("qwen3_5"), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("mtp.")}
    save_file(kept, file, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "hyla.checkpoints"):
        model = load_model(tmp_path / "m")
    assert "promises multi-token prediction" in caplog.text and len(model.mtp) == 0
    save_model(model, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == kept.keys()


def test_part_of_the_tensors_is_an_error(tmp_path):
    from hyla.errors import CheckpointError

    save_model(make("qwen3_5"), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if name != "mtp.fc.weight"}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: mtp\.fc\.weight"):
        load_model(tmp_path / "m")


def test_several_modules_with_their_own_embedding_and_head_have_names_past_the_last_layer():
    """DeepSeek's layout: model.layers.{L}, embedding and head of its own."""
    family, base = family_of("qwen3_5"), family_of("qwen3_5").tiny
    own = MTPConfig(**{**dict(base.mtp[0]), "has_own_embedding": True, "has_own_head": True, "num_steps": 2})
    config = base.model_copy(update={"mtp": (own, own)})
    pairs = ("enorm embed_norm", "hnorm hidden_norm", "eh_proj merge", "shared_head.norm norm")
    names = MTPNames(
        prefix="model.layers.{after}.",
        own=weights("", *pairs, "embed_tokens embed", "shared_head.head head"),
        layer_prefix="model.layers.{after}.",
    )
    model = initialize(Model(config), 1, std=0.2)
    rules = replace(family, mtp=names).rules(config, Weights(model).shapes)
    published = {name for rule in rules for name in rule.published}
    assert {"model.layers.4.eh_proj.weight", "model.layers.5.shared_head.head.weight"} <= published
    assert "model.layers.5.self_attn.q_proj.weight" in published
    tokens = some_tokens(model)
    batch = Batch.packed([LENGTH])
    first = model.predict_next(tokens[1:], model(tokens[:-1], batch), batch)
    second = model.predict_next(tokens[1:].roll(-1), first, batch, module=1)
    logits = model.head_logits(second, module=1)
    assert not torch.equal(logits, model.head_logits(second))
    model.pack()
    with torch.inference_mode():
        assert torch.equal(model.head_logits(second.detach(), module=1), logits.detach())


def test_one_published_layer_per_sublayer_has_names_as_well():
    """Nemotron's layout: the projection beside the first layer, the final norm beside the second."""
    family, config = family_of("qwen3_5"), family_of("qwen3_5").tiny
    pairs = ("layers.0.enorm embed_norm", "layers.0.hnorm hidden_norm", "layers.0.eh_proj merge")
    names = MTPNames(
        prefix="mtp.",
        own=weights("", *pairs, "layers.1.final_layernorm norm"),
        layer_prefix="mtp.layers.{layer}.",
        layer_norms=("norm.weight",),
    )
    published = replace(family, mtp=names).mtp_tensors(config)
    assert {"mtp.layers.0.eh_proj.weight", "mtp.layers.1.final_layernorm.weight"} <= published
    assert {"mtp.layers.0.self_attn.q_proj.weight", "mtp.layers.1.mlp.up_proj.weight"} <= published
    assert {"mtp.layers.0.norm.weight", "mtp.layers.1.norm.weight"} <= published
