"""Multi-token prediction against its formulas in float64, in pieces, as drafts, in and out of folders."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyla.caches import Cache
from hyla.checkpoints import load_model, save_model
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import write_json
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.mtp import earlier
from hyla.models.state import NamedWeights, cast
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

QWEN = ("qwen3_next", "qwen3_5", "qwen3_5_moe")
BAILING = ("bailing_moe_v2", "bailing_moe_linear", "bailing_hybrid", "bailing_hybrid_3")
OTHERS = ("deepseek_v3", "deepseek_v32", "mimo_v2_flash", "mimo_v2", "nemotron_h")
FAMILIES = (*QWEN, *BAILING, *OTHERS)
STEPS = {"deepseek_v3": 2, "deepseek_v32": 2, "mimo_v2_flash": 3, "mimo_v2": 3, "nemotron_h": 2}
LENGTH = 140
TOLERANCE = 1e-4
"""Largest difference of fp32 logits from the float64 reference, over the largest logit."""


def make(family: str, dtype=torch.float32, **keys) -> Model:
    """A tiny model whose norms differ from one."""
    family = family_of(family)
    config = family.config_from_hf({**family.tiny_config, **keys}) if keys else family.tiny
    model = initialize(Model(config), 5, std=0.2)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "router_bias" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return cast(model, dtype)


def some_tokens(model: Model, length: int = LENGTH, seed: int = 3) -> torch.Tensor:
    """Ids of which each of the first `length` has as many next ones as the model has steps."""
    count = length + model.num_mtp_steps
    return torch.randint(model.config.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def whole(model: Model, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Logits of every step over a sequence, without a cache."""
    length = len(tokens) - model.num_mtp_steps
    batch = Batch.packed([length])
    hidden, logits = model.hidden(tokens[:length], batch), []
    for step in range(model.num_mtp_steps):
        hidden = model.predict_next(tokens[step + 1 :][:length], hidden.next_TD, batch, step=step)
        logits.append(model.head_logits(hidden.head_TD, step=step))
    return logits


# The references: published names and formulas, float64, sharing no code with the package.


def norm(x, weight, eps=1e-6, plus=0.0):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * (plus + weight)


def rotate(x_THd, theta, dims):
    """Half-split rotation of the leading channels; row t is position t."""
    frequency = theta ** -(torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angle = torch.arange(len(x_THd))[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, second, rest = x_THd.split([dims // 2, dims // 2, x_THd.shape[-1] - dims], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def rotate_pairs(x_THd, theta):
    """Rotation of neighbouring channels, all of them, which then stand in halves."""
    return rotate(torch.cat([x_THd[..., 0::2], x_THd[..., 1::2]], dim=-1), theta, x_THd.shape[-1])


def attend(q, k, v, scale):
    """Causal softmax attention; fewer key heads than query heads are repeated."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q, k) * scale
    scores = scores.masked_fill(torch.ones(len(q), len(q)).triu(1).bool(), -torch.inf)
    return torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1)


def gated_attention(x, w, config):
    heads, groups, dim = config.num_heads, config.num_kv_heads, config.head_dim
    q, gate = (x @ w["self_attn.q_proj.weight"].T).unflatten(-1, (heads, 2 * dim)).split(dim, dim=-1)
    k, v = ((x @ w[f"self_attn.{name}_proj.weight"].T).unflatten(-1, (groups, dim)) for name in "kv")
    turn = (config.rope.theta, config.rope.rotary_dim)
    q = rotate(norm(q, w["self_attn.q_norm.weight"], plus=1.0), *turn)
    k = rotate(norm(k, w["self_attn.k_norm.weight"], plus=1.0), *turn)
    return (attend(q, k, v, dim**-0.5) * gate.sigmoid().flatten(1)) @ w["self_attn.o_proj.weight"].T


def swiglu(x, w, name):
    gate, up, down = (w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def relu2(x, w, name):
    return (x @ w[f"{name}.up_proj.weight"].T).relu().square() @ w[f"{name}.down_proj.weight"].T


def experts(x, w, config):
    chances, chosen = (x @ w["mlp.gate.weight"].T).softmax(-1).topk(config.num_experts_per_token)
    rows = []
    for row, weight, ids in zip(x, chances / chances.sum(-1, keepdim=True), chosen):
        rows.append(sum(share * swiglu(row, w, f"mlp.experts.{i}") for share, i in zip(weight, ids.tolist())))
    shared = (x @ w["mlp.shared_expert_gate.weight"].T).sigmoid() * swiglu(x, w, "mlp.shared_expert")
    return torch.stack(rows) + shared


def routed(x, inner, w, place, config, expert):
    """DeepSeek's router: experts chosen by biased sigmoid scores within the best groups, weighed without the bias."""
    router = config.router
    scores = (x @ w[f"{place}.gate.weight"].T).sigmoid()
    grouped = (scores + w[f"{place}.gate.e_score_correction_bias"]).unflatten(-1, (router.num_groups, -1))
    order = grouped.topk(min(2, grouped.shape[-1]), dim=-1)[0].sum(-1).argsort(dim=-1, descending=True)
    dropped = order[:, router.num_groups_kept :, None].expand(-1, -1, grouped.shape[-1])
    chosen = grouped.scatter(1, dropped, -torch.inf).flatten(1).topk(config.num_experts_per_token)[1]
    shares = scores.gather(1, chosen)
    shares = shares / shares.sum(-1, keepdim=True) * router.scaling
    rows = []
    for row, weight, ids in zip(inner, shares, chosen.tolist()):
        rows.append(sum(share * expert(row, w, f"{place}.experts.{i}") for share, i in zip(weight, ids)))
    return torch.stack(rows)


def qwen_step(w, config, tokens, hidden, step):
    """Hidden states of Qwen's step for the head."""
    layer = {name.removeprefix("mtp.layers.0."): tensor for name, tensor in w.items()}
    both = [norm(w["model.embed_tokens.weight"][tokens], w["mtp.pre_fc_norm_embedding.weight"], plus=1.0)]
    both.append(norm(hidden, w["mtp.pre_fc_norm_hidden.weight"], plus=1.0))
    x = torch.cat(both, dim=-1) @ w["mtp.fc.weight"].T
    attention, channel = (sub.module for sub in config.mtp[0].sublayers)
    x = x + gated_attention(norm(x, layer["input_layernorm.weight"], plus=1.0), layer, attention)
    normed = norm(x, layer["post_attention_layernorm.weight"], plus=1.0)
    x = x + (swiglu(normed, layer, "mlp") if channel.kind == "mlp" else experts(normed, layer, channel))
    out = norm(x, w["mtp.norm.weight"], plus=1.0)
    return out, out, w.get("lm_head.weight", w["model.embed_tokens.weight"])


def deepseek_step(w, config, tokens, hidden, step):
    """arXiv 2412.19437 eq. 21 to 25 with the MLA of its eq. 1 to 11 and the MoE of eq. 12 to 16."""
    prefix = f"model.layers.{len(config.mixers) + step}."
    w = {name.removeprefix(prefix): tensor for name, tensor in w.items() if name.startswith(prefix)}
    both = [norm(w["embed_tokens.weight"][tokens], w["enorm.weight"]), norm(hidden, w["hnorm.weight"])]
    x = torch.cat(both, dim=-1) @ w["eh_proj.weight"].T
    attention, channel = (sub.module for sub in config.mtp[step].sublayers)
    heads, nope, theta = attention.num_heads, attention.nope_dim, attention.rope.theta
    normed = norm(x, w["input_layernorm.weight"])
    latent = norm(normed @ w["self_attn.q_a_proj.weight"].T, w["self_attn.q_a_layernorm.weight"])
    q = (latent @ w["self_attn.q_b_proj.weight"].T).unflatten(-1, (heads, -1))
    c, pe = (normed @ w["self_attn.kv_a_proj_with_mqa.weight"].T).split([attention.kv_lora_dim, attention.rope_dim], -1)
    c = norm(c, w["self_attn.kv_a_layernorm.weight"])
    k, v = (c @ w["self_attn.kv_b_proj.weight"].T).unflatten(-1, (heads, -1)).split([nope, attention.value_dim], -1)
    pe = rotate_pairs(pe[:, None], theta).expand(-1, heads, -1)
    q = torch.cat([q[..., :nope], rotate_pairs(q[..., nope:], theta)], dim=-1)
    scale = (nope + attention.rope_dim) ** -0.5
    x = x + attend(q, torch.cat([k, pe], dim=-1), v, scale) @ w["self_attn.o_proj.weight"].T
    normed = norm(x, w["post_attention_layernorm.weight"])
    x = x + routed(normed, normed, w, "mlp", channel, swiglu) + swiglu(normed, w, "mlp.shared_experts")
    out = norm(x, w["shared_head.norm.weight"])
    return out, {"normed": out, "raw": x}[config.mtp[0].hands_on], w["shared_head.head.weight"]


def nemotron_step(w, config, tokens, hidden, step):
    """Attention without positions, then LatentMoE; the same weights in every step."""
    eps, attention, channel = 1e-5, *(sub.module for sub in config.mtp[0].sublayers)
    first, last = ({name.removeprefix(f"mtp.layers.{n}."): tensor for name, tensor in w.items()} for n in (0, 1))
    both = [norm(w["backbone.embeddings.weight"][tokens], first["enorm.weight"], eps)]
    x = torch.cat([*both, norm(hidden, first["hnorm.weight"], eps)], dim=-1) @ first["eh_proj.weight"].T
    normed = norm(x, first["norm.weight"], eps)
    q, k, v = (
        (normed @ first[f"mixer.{name}_proj.weight"].T).unflatten(-1, (-1, attention.head_dim)) for name in "qkv"
    )
    x = x + attend(q, k, v, attention.head_dim**-0.5) @ first["mixer.o_proj.weight"].T
    normed = norm(x, last["norm.weight"], eps)
    latent = routed(normed, normed @ last["mixer.fc1_latent_proj.weight"].T, last, "mixer", channel, relu2)
    x = x + latent @ last["mixer.fc2_latent_proj.weight"].T + relu2(normed, last, "mixer.shared_experts")
    out = norm(x, last["final_layernorm.weight"], eps)
    return out, out, w["lm_head.weight"]


PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
REFERENCES = [(family, {}, qwen_step) for family in QWEN]
REFERENCES += [("deepseek_v3", PLAIN_ROPE | {"mtp_hands_on": kind}, deepseek_step) for kind in ("normed", "raw")]
REFERENCES += [("nemotron_h", {}, nemotron_step)]


@pytest.mark.parametrize("family, keys, reference", REFERENCES)
@torch.no_grad()
def test_the_guesses_are_those_of_the_formulas(family, keys, reference, tmp_path):
    model = make(family, **keys)
    save_model(model, tmp_path / "m")
    tokens = some_tokens(model)
    got = whole(load_model(tmp_path / "m"), tokens)
    assert len(got) == STEPS.get(family, 1)
    w = {name: tensor.double() for name, tensor in load_file(tmp_path / "m" / "model.safetensors").items()}
    hidden = model(tokens[:LENGTH], Batch.packed([LENGTH])).double()
    for step, logits in enumerate(got):
        out, hidden, head = reference(w, model.config, tokens[step + 1 :][:LENGTH], hidden, step)
        expected = out @ head.T
        assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max(), step


# One arithmetic.


@torch.inference_mode()
def in_pieces(model: Model, prompts: list[torch.Tensor], pieces: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Logits of every step for prompts that arrive side by side; trunk and steps share one pool, so one grid."""
    specs = [model.cache_specs(), *(model.mtp_cache_specs(step) for step in range(model.num_mtp_steps))]
    cache = Cache([spec for part in specs for spec in part], num_pages=16, num_slots=len(prompts))
    trunk, *layers = split(cache.layers, [len(part) for part in specs])
    sequences, logits = [cache.open() for _ in prompts], [[] for _ in layers]
    for sizes in pieces:
        parts = [(n, size) for n, size in enumerate(sizes) if size]
        batch = cache.batch([(sequences[n], size) for n, size in parts])
        spans = [(prompts[n], start, start + size) for (n, size), start in zip(parts, batch.starts)]
        hidden = model.hidden(torch.cat([ids[start:end] for ids, start, end in spans]), batch, trunk)
        for step, caches in enumerate(layers):
            tokens = torch.cat([ids[start + step + 1 : end + step + 1] for ids, start, end in spans])
            hidden = model.predict_next(tokens, hidden.next_TD, batch, caches, step=step)
            rows = model.head_logits(hidden.head_TD, step=step).split(batch.lengths)
            logits[step] += [part for (n, _), part in zip(parts, rows) if n == 0]
        for n, size in parts:
            cache.commit(sequences[n], size)
    return [torch.cat(rows) for rows in logits]


def split(layers, counts: list[int]) -> list[tuple]:
    """A pool's layers by part."""
    layers = iter(layers)
    return [tuple(next(layers) for _ in range(count)) for count in counts]


def same(first, second) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_neighbours_and_packed_weights_change_no_bit_of_the_guesses(family, dtype):
    model = make(family, dtype)
    tokens, other = some_tokens(model), some_tokens(model, 90, seed=8)
    logits = whole(model, tokens)
    assert all(rows.requires_grad and rows.dtype == torch.float32 for rows in logits)
    pieces = [(64, 0), (36, 70), (13, 1), (13, 1), (14, 18)]
    assert same(in_pieces(model, [tokens, other], pieces), logits)
    model.pack()
    assert same(in_pieces(model, [tokens], [(60,), *[(1,)] * 10, (70,)]), logits)
    model.unpack()
    assert same(whole(model, tokens), logits)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_greedy_drafts_one_by_one_are_those_of_the_whole_sequence(family):
    """What an engine does: rows whose tokens were guessed are computed again, over what a wrong guess had left."""
    model, count = make(family), STEPS.get(family, 1)
    tokens = some_tokens(model, 72)
    specs = [model.cache_specs(), *(model.mtp_cache_specs(step) for step in range(count))]
    cache = Cache([spec for part in specs for spec in part], num_pages=4, num_slots=1)
    trunk, *layers = split(cache.layers, [len(part) for part in specs])
    sequence, read = cache.open(), torch.empty(0, model.config.hidden_dim)
    for size in (61, *[1] * 8):
        batch = cache.batch([(sequence, size)])
        (start,), (end,) = batch.starts, batch.ends
        read = torch.cat([read, model.hidden(tokens[start:end], batch, trunk).next_TD])
        again = earlier(batch, count - 1)
        drafted, next_TD, got = tokens[: end + 1], read[again.starts[0] :], []
        for step, caches in enumerate(layers):
            ids = drafted[again.starts[0] + step + 1 :]
            hidden = model.predict_next(ids, next_TD, again, caches, step=step)
            got.append(model.head_logits(hidden.head_TD[-1:], step=step))
            drafted, next_TD = torch.cat([drafted, got[-1].argmax(-1)]), hidden.next_TD
        cache.commit(sequence, size)
        assert same(got, [rows[-1:] for rows in whole(model, drafted[:-1])])
    assert end == 69 and len(drafted) == end + 1 + count


def test_the_last_module_serves_further_steps():
    model = make("deepseek_v3")
    tokens, batch = some_tokens(model), Batch.packed([LENGTH])
    next_TD = model.hidden(tokens[:LENGTH], batch).next_TD
    second, third, first = (model.predict_next(tokens[:LENGTH], next_TD, batch, step=step) for step in (1, 5, 0))
    assert torch.equal(second.head_TD, third.head_TD) and not torch.equal(second.head_TD, first.head_TD)
    rows = [model.head_logits(next_TD, step=step) for step in (None, 0, 1, 2)]
    assert torch.equal(rows[2], rows[3]) and not torch.equal(rows[1], rows[2]) and not torch.equal(rows[0], rows[1])
    with pytest.raises(ConfigError, match="no multi-token prediction"):
        Model(family_of("qwen3").tiny).mtp_cache_specs()


def test_mimo_reads_the_trunk_before_its_norm_in_every_step():
    model = make("mimo_v2_flash")
    tokens, batch = some_tokens(model), Batch.packed([LENGTH])
    hidden = model.hidden(tokens[:LENGTH], batch)
    assert torch.equal(model.norm(hidden.next_TD), hidden.head_TD) and not torch.equal(*hidden)
    assert torch.equal(model(tokens[:LENGTH], batch), hidden.head_TD)
    assert model.predict_next(tokens[1 : LENGTH + 1], hidden.next_TD, batch).next_TD is hidden.next_TD


def test_modules_must_agree_in_what_they_read():
    config = family_of("mimo_v2_flash").tiny
    other = config.mtp[0].model_copy(update={"reads": "normed"})
    with pytest.raises(ConfigError, match="must agree in what they read"):
        type(config)(**{**dict(config), "mtp": (*config.mtp, other)})


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


# In and out of folders.

SOME_NAMES = {
    "qwen3_next": {"mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.self_attn.q_proj.weight"},
    "qwen3_5": {"mtp.pre_fc_norm_hidden.weight", "mtp.layers.0.mlp.up_proj.weight"},
    "qwen3_5_moe": {"mtp.layers.0.mlp.experts.4.gate_proj.weight"},
    "deepseek_v3": {
        *(f"model.layers.{n}.{name}.weight" for n in (3, 4) for name in ("enorm", "hnorm", "eh_proj", "embed_tokens")),
        "model.layers.4.shared_head.norm.weight",
        "model.layers.4.shared_head.head.weight",
        "model.layers.4.mlp.gate.e_score_correction_bias",
        "model.layers.3.self_attn.kv_a_proj_with_mqa.weight",
    },
    "deepseek_v32": {"model.layers.4.self_attn.indexer.k_norm.bias", "model.layers.4.eh_proj.weight"},
    "bailing_moe_v2": {"model.layers.2.final_layernorm.weight", "model.layers.2.attention.query_key_value.weight"},
    "bailing_moe_linear": {"model.layers.4.hnorm.weight", "model.layers.4.attention.key_layernorm.weight"},
    "bailing_hybrid": {"model.layers.4.eh_proj.weight", "model.layers.4.attention.kv_a_proj_with_mqa.weight"},
    "bailing_hybrid_3": {"model.layers.4.attention.g_proj.weight", "model.layers.4.mlp.gate.expert_bias"},
    "mimo_v2_flash": {
        "model.mtp.layers.2.pre_mlp_layernorm.weight",
        "model.mtp.layers.2.self_attn.attention_sink_bias",
        "model.mtp.layers.0.mlp.gate_proj.weight",
    },
    "mimo_v2": {"model.mtp.layers.1.self_attn.qkv_proj.weight", "model.mtp.layers.1.final_layernorm.weight"},
    "nemotron_h": {
        *(f"mtp.layers.0.{name}.weight" for name in ("enorm", "hnorm", "eh_proj", "norm", "mixer.q_proj")),
        "mtp.layers.1.norm.weight",
        "mtp.layers.1.final_layernorm.weight",
        "mtp.layers.1.mixer.fc1_latent_proj.weight",
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_its_tensors_come_back_bit_for_bit(family, tmp_path):
    save_model(make(family, torch.bfloat16), tmp_path / "first")
    model = load_model(tmp_path / "first")
    assert len(model.mtp) == len(family_of(family).tiny.mtp) and model.num_mtp_steps == STEPS.get(family, 1)
    save_model(model.pack(), tmp_path / "again")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again"))
    assert SOME_NAMES[family] <= first.keys()
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_the_own_format_holds_them_as_well(tmp_path):
    model = make("deepseek_v3")
    own = Model(model.config.model_copy(update={"family": "hyla"}))
    own.load_state_dict(model.state_dict())
    save_model(own, tmp_path / "m")
    tokens = some_tokens(model)
    assert same(whole(load_model(tmp_path / "m"), tokens), whole(model, tokens))


def test_experts_are_fused_in_the_trunk_and_single_in_the_module_of_qwen3_5_moe(tmp_path):
    save_model(make("qwen3_5_moe"), tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert tensors["model.layers.0.mlp.experts.gate_up_proj"].shape == (5, 40, 44)
    assert tensors["mtp.layers.0.mlp.experts.4.gate_proj.weight"].shape == (20, 44)


def strip(folder, keep) -> set[str]:
    """Leave only some tensors in a folder; returns their names."""
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if keep(name)}
    save_file(kept, file, metadata={"format": "pt"})
    return set(kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_promise_without_tensors_is_said_and_the_model_loads(family, tmp_path, caplog):
    model = make(family)
    save_model(model, tmp_path / "m")
    own = family_of(family).rules(model.config, NamedWeights(model).shapes)
    prediction = {name for rule in own if rule.ours[0].startswith("mtp.") for name in rule.published}
    kept = strip(tmp_path / "m", lambda name: name not in prediction)
    with caplog.at_level(logging.WARNING, "hyla.checkpoints"):
        model = load_model(tmp_path / "m")
    assert "promises multi-token prediction" in caplog.text and len(model.mtp) == 0
    save_model(model, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == kept


def test_fewer_blocks_than_promised_are_said_and_load(tmp_path, caplog):
    save_model(make("mimo_v2_flash"), tmp_path / "m")
    kept = strip(tmp_path / "m", lambda name: not name.startswith(("model.mtp.layers.1", "model.mtp.layers.2")))
    with caplog.at_level(logging.WARNING, "hyla.checkpoints"):
        model = load_model(tmp_path / "m")
    assert "with 3 modules, but there are tensors of 1 only" in caplog.text and len(model.mtp) == 1
    save_model(model, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == kept


PARTS = [("qwen3_5", r"mtp\.fc\.weight"), ("deepseek_v3", r"model\.layers\.4\.shared_head\.norm\.weight")]
PARTS += [
    ("mimo_v2_flash", r"model\.mtp\.layers\.1\.enorm\.weight"),
    ("nemotron_h", r"mtp\.layers\.0\.eh_proj\.weight"),
]


@pytest.mark.parametrize("family, name", PARTS)
def test_part_of_the_tensors_is_an_error(family, name, tmp_path):
    save_model(make(family), tmp_path / "m")
    strip(tmp_path / "m", lambda stored: stored != name.replace("\\", ""))
    with pytest.raises(CheckpointError, match=rf"1 tensors are missing: {name}"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_that_the_config_does_not_count_are_left_out_and_reported(family, tmp_path, caplog):
    model = make(family)
    save_model(model, tmp_path / "m")
    published = family_of(family).config_to_hf(model.config.model_copy(update={"mtp": ()}))
    write_json(tmp_path / "m" / "config.json", published)
    with caplog.at_level(logging.WARNING, "hyla.checkpoints"):
        loaded = load_model(tmp_path / "m")
    assert "does not count this multi-token prediction module" in caplog.text and len(loaded.mtp) == 0


def test_nemotron_spells_its_module_in_letters_or_names():
    family = family_of("nemotron_h")
    keys = {key: value for key, value in family.tiny_config.items() if key != "mtp_hybrid_override_pattern"}
    assert family.config_from_hf({**keys, "mtp_layers_block_type": ["attention", "moe"]}) == family.tiny
    with pytest.raises(ConfigError, match="mtp_hybrid_override_pattern = ''"):
        family.config_from_hf(keys)
    longer = family.config_from_hf({**keys, "mtp_hybrid_override_pattern": "*-E"})
    assert {"mtp.layers.0.enorm.weight", "mtp.layers.2.final_layernorm.weight"} <= family.mtp_tensors(longer)
    assert family.config_from_hf(family.config_to_hf(longer)) == longer
