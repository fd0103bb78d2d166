"""Sparse MLA: plain float64 math, what it trains, and what it keeps."""

import pytest
import torch

from hyla.layers.lesson import Lesson
from hyla.layers.mla import MLA
from hyla.layers.norms import LayerNorm, RMSNorm
from hyla.layers.rope_scaling import LinearScaling
from hyla.layers.sparse_mla import SparseMLA
from hyla.ops.batch import Batch

D, HEADS, NOPE, ROPE, INDEX_DIM = 44, 5, 12, 6, 14
LENGTHS = (1, 63, 64, 65, 150)
TOLERANCE = 1e-5
"""Relative error of an fp32 layer against float64; measured: below 1e-6."""

ATTENTION = dict(num_heads=HEADS, q_lora_dim=16, kv_lora_dim=24, nope_dim=NOPE, rope_dim=ROPE, value_dim=10)
CODE = dict(rotary_dim=ROPE, rope_theta=1000.0, rope_interleaved=True, rope_scaling=LinearScaling(3.0))
INDEXER = dict(num_index_heads=9, index_dim=INDEX_DIM)


def make(num_selected=40, dtype=torch.float32):
    layer = SparseMLA(D, **ATTENTION, **CODE, **INDEXER, norm_eps=1e-5, scale_factor=1.3, num_selected=num_selected)
    generator = torch.Generator().manual_seed(3)
    layer.initialize(0.2, generator)
    for module in layer.modules():
        if isinstance(module, RMSNorm | LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        if isinstance(module, LayerNorm):
            torch.nn.init.normal_(module.bias, std=0.3, generator=generator)
    return layer.to(dtype)


def rows(dtype=torch.float32):
    return torch.randn(sum(LENGTHS), D, generator=torch.Generator().manual_seed(4)).to(dtype)


def turn(x_LHK, pairs):
    """Rotate the given channel pairs of x, channel i of a pair by position * 1000^(-2i / ROPE) / 3."""
    out = x_LHK.clone()
    for i, (a, b) in enumerate(pairs):
        angle = torch.arange(len(x_LHK), dtype=torch.float64) * 1000.0 ** (-2 * i / ROPE) / 3.0
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        out[..., a] = x_LHK[..., a] * cos - x_LHK[..., b] * sin
        out[..., b] = x_LHK[..., b] * cos + x_LHK[..., a] * sin
    return out


def written_out(layer, x_LD, weights=None):
    """One sequence: the scores of all heads, those of the indexer (minus infinity ahead of a row), and the latents."""
    w = weights or {name: weight.detach().double() for name, weight in layer.named_parameters()}

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    neighbours, halves = [(0, 1), (2, 3), (4, 5)], [(0, 3), (1, 4), (2, 5)]
    q_latent = norm(x_LD @ w["q_a.weight"].T, "q_a_norm")
    q_nope, q_pe = (q_latent @ w["q_b.weight"].T).unflatten(-1, (HEADS, -1)).split([NOPE, ROPE], -1)
    latent, k_pe = (x_LD @ w["kv_a.weight"].T).split([24, ROPE], -1)
    latent = norm(latent, "kv_norm")
    q_pe, k_pe = turn(q_pe, neighbours), turn(k_pe[:, None], neighbours)
    k_nope = torch.einsum("lc,hnc->lhn", latent, w["k_up"])
    scores = torch.einsum("lhn,shn->hls", q_nope, k_nope) + torch.einsum("lhr,sgr->hls", q_pe, k_pe)
    q_index = turn((q_latent @ w["indexer.q_b.weight"].T).unflatten(-1, (9, -1)), halves)
    k_index = torch.nn.functional.layer_norm(
        x_LD @ w["indexer.k.weight"].T, (INDEX_DIM,), w["indexer.k_norm.weight"], w["indexer.k_norm.bias"], 1e-6
    )
    by_head = torch.relu(torch.einsum("lhi,sgi->hls", q_index, turn(k_index[:, None], halves)) * INDEX_DIM**-0.5)
    index_scores = torch.einsum("lh,hls->ls", x_LD @ w["indexer.weights"].T * 9**-0.5, by_head)
    is_ahead = torch.ones(len(x_LD), len(x_LD)).triu(1).bool()
    return scores * 18**-0.5 * 1.3, index_scores.masked_fill(is_ahead, -torch.inf), latent


def read_keys(index_scores, num_selected):
    """Which keys each row reads."""
    best = index_scores.sort(dim=-1, descending=True, stable=True)[1][:, :num_selected]
    return torch.zeros_like(index_scores, dtype=torch.bool).scatter(1, best, True) & index_scores.isfinite()


def expected(layer, x_LD, num_selected):
    """One sequence, keys and values of every head written out."""
    scores, index_scores, latent = written_out(layer, x_LD)
    weights = scores.masked_fill(~read_keys(index_scores, num_selected), -torch.inf).softmax(-1)
    o = torch.einsum("hls,sc,hvc->lhv", weights, latent, layer.v_up.detach().double())
    return o.flatten(1) @ layer.o.weight.detach().double().T


def expected_divergence(layer, x_LD, num_selected):
    """One sequence: the sum over rows, and its gradient to the indexer's parameters by their names."""
    learnt = {
        name: p.detach().double().requires_grad_(name.startswith("indexer.")) for name, p in layer.named_parameters()
    }
    scores, index_scores, _ = written_out(layer, x_LD, learnt)
    is_read = read_keys(index_scores.detach(), num_selected)
    p = scores.masked_fill(~is_read, -torch.inf).softmax(-1).sum(0)
    p = p / p.sum(-1, keepdim=True)
    log_r = index_scores.masked_fill(~is_read, -torch.inf).log_softmax(-1)
    total = (p * (p.log() - log_r))[is_read].sum()
    total.backward()
    return total.detach(), {name: weight.grad for name, weight in learnt.items() if weight.requires_grad}


@pytest.mark.parametrize("num_selected", [7, 70, 1000])
def test_a_layer_equals_plain_float64_math(num_selected):
    layer, x_TD = make(num_selected), rows()
    with torch.no_grad():
        out = layer(x_TD, Batch.packed(LENGTHS), None)
        want = torch.cat([expected(layer, x.double(), num_selected) for x in x_TD.split(LENGTHS)])
    assert (out - want).abs().max() / want.abs().max() < TOLERANCE


def test_the_main_loss_trains_everything_but_the_indexer():
    layer, x_TD = make(), rows().requires_grad_()
    exact, x_exact = make().double(), rows().double().requires_grad_()
    for module, x in ((layer, x_TD), (exact, x_exact)):
        module(x, Batch.packed(LENGTHS), None).square().sum().backward()
    assert x_TD.grad.count_nonzero() > 0
    for (name, parameter), other in zip(layer.named_parameters(), exact.parameters()):
        if name.startswith("indexer."):
            assert parameter.grad is None, name
        else:
            assert (parameter.grad - other.grad).abs().max() / other.grad.abs().max() < 1e-4, name


def test_it_keeps_a_latent_and_an_index_key_per_token():
    spec = make().cache_spec()
    assert spec.bytes_per_token == (24 + ROPE + INDEX_DIM) * 4 and spec.bytes_per_sequence == 0
    assert {tensor.name: tensor.shape for tensor in spec.page_tensors} == {"k": (1, 30, 64), "index_k": (14, 64)}


def test_a_selection_of_everything_is_mla():
    layer, x_TD = make(1000), rows()
    dense = MLA(D, **ATTENTION, **CODE, norm_eps=1e-5, scale_factor=1.3)
    dense.load_state_dict({name: x for name, x in layer.state_dict().items() if not name.startswith("indexer.")})
    with torch.no_grad():
        sparse, whole = (module(x_TD, Batch.packed(LENGTHS), None) for module in (layer, dense))
    assert (sparse - whole).abs().max() / whole.abs().max() < TOLERANCE


def lesson_of(layer, stage, x_TD, batch=None):
    """The layer's output, and its rows' divergences."""
    layer.lesson = Lesson(stage)
    layer.lesson.begin()
    out_TD = layer(x_TD, batch or Batch.packed(LENGTHS), None)
    (found_T,) = layer.lesson.take()
    layer.lesson.end()
    return out_TD, found_T


@pytest.mark.parametrize(("stage", "num_selected"), [("warmup", 40), ("sparse", 7), ("sparse", 70)])
def test_what_an_indexer_learns_equals_plain_float64_math(stage, num_selected):
    layer, x_TD = make(num_selected), rows()
    _, found_T = lesson_of(layer, stage, x_TD)
    found_T.sum().backward()
    wanted = [
        expected_divergence(layer, x_LD.double(), 1000 if stage == "warmup" else num_selected)
        for x_LD in x_TD.split(LENGTHS)
    ]
    for part_T, (total, _) in zip(found_T.detach().split(LENGTHS), wanted):
        assert abs(part_T.double().sum() - total) < 1e-5 * max(1.0, float(total))
    for name, parameter in layer.named_parameters():
        if name.startswith("indexer."):
            want = sum(gradients[name] for _, gradients in wanted)
            assert (parameter.grad - want).abs().max() / want.abs().max() < 1e-4, name
        else:
            assert parameter.grad is None, name


def test_a_lesson_moves_no_bit_of_a_sparse_layer_nor_of_its_gradients():
    layer, taught, both = make(), make(), []
    for one, is_taught in ((layer, False), (taught, True)):
        x_TD = rows().requires_grad_()
        out_TD = lesson_of(one, "sparse", x_TD)[0] if is_taught else one(x_TD, Batch.packed(LENGTHS), None)
        out_TD.square().sum().backward()
        both.append((out_TD, x_TD.grad))
    assert all(torch.equal(one, other) for one, other in zip(*both))
    for (name, one), other in zip(layer.named_parameters(), taught.parameters()):
        assert name.startswith("indexer.") or torch.equal(one.grad, other.grad), name


def test_what_an_indexer_owes_gives_the_stream_no_gradient():
    for stage in ("warmup", "sparse"):
        x_TD = rows().requires_grad_()
        lesson_of(make(), stage, x_TD)[1].sum().backward()
        assert x_TD.grad is None


def test_a_layer_that_warms_up_attends_as_mla_does():
    layer, x_TD = make(), rows()
    dense = MLA(D, **ATTENTION, **CODE, norm_eps=1e-5, scale_factor=1.3)
    dense.load_state_dict({name: x for name, x in layer.state_dict().items() if not name.startswith("indexer.")})
    assert torch.equal(lesson_of(layer, "warmup", x_TD)[0], dense(x_TD, Batch.packed(LENGTHS), None))


def test_a_layer_is_served_as_ever_while_it_has_a_lesson():
    layer, x_TD = make(), rows()
    layer.lesson = Lesson("warmup")
    with torch.no_grad():
        assert torch.equal(layer(x_TD, Batch.packed(LENGTHS), None), make()(x_TD, Batch.packed(LENGTHS), None))
