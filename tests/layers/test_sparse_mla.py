"""Sparse MLA: plain float64 math, what it trains, and what it keeps."""

import pytest
import torch

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


def expected(layer, x_LD, num_selected):
    """One sequence, keys and values of every head written out."""
    w = {name: weight.detach().double() for name, weight in layer.named_parameters()}

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
    index_scores = index_scores.masked_fill(is_ahead, -torch.inf)
    best = index_scores.sort(dim=-1, descending=True, stable=True)[1][:, :num_selected]
    is_read = torch.zeros_like(is_ahead).scatter(1, best, True) & ~is_ahead
    weights = (scores * 18**-0.5 * 1.3).masked_fill(~is_read, -torch.inf).softmax(-1)
    o = torch.einsum("hls,sc,hvc->lhv", weights, latent, w["v_up"])
    return o.flatten(1) @ w["o.weight"].T


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
