"""The operators' FLOP formulas against counted runs: the recurrences token by token, and the chunk forms."""

import pytest
import torch
from counting import CountProducts
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.cost import formulas
from hyla.cost.formulas import formulas_of
from hyla.grid import CHUNK
from hyla.ops.attention.reference import attention_reference
from hyla.ops.batch import Batch
from hyla.ops.chunks.inside_blocks import InsideBlocks
from hyla.ops.gated_delta import gated_delta
from hyla.ops.gated_delta.reference import gated_delta_reference
from hyla.ops.gla import gla
from hyla.ops.gla.reference import gla_reference
from hyla.ops.kda import kda
from hyla.ops.kda.reference import kda_reference
from hyla.ops.lightning import lightning
from hyla.ops.lightning.reference import lightning_reference
from hyla.ops.linear import linear_attention
from hyla.ops.linear.reference import linear_attention_reference
from hyla.ops.moe.reference import experts_reference
from hyla.ops.short_conv.reference import short_conv_reference
from hyla.ops.sparse.reference import index_scores_reference, selection_reference, sparse_attention_reference
from hyla.ops.ssd import ssd
from hyla.ops.ssd.reference import ssd_reference

EXAMPLES = settings(max_examples=5)
dims = st.integers(2, 40)
few = st.integers(1, 3)


def random(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def counted(call, *, with_outer=False):
    with CountProducts() as count, torch.no_grad():
        call()
    return count.flops + count.outer * with_outer


@EXAMPLES
@given(K=dims, V=dims, key_heads=few, group=few)
def test_a_token_of_each_recurrence_costs_what_its_formula_says(K, V, key_heads, group):
    T, H = 5, key_heads * group
    q, k, v, decay, beta = random(T, H, K), random(T, H, K), random(T, H, V), -random(T, H), random(T, H)
    grouped = (random(T, key_heads, K), random(T, key_heads, K), v, decay)
    sizes = {"key_dim": K, "value_dim": V}
    calls = {
        "gated_delta": lambda: gated_delta_reference(*grouped, beta, lengths=[2, 3], scale=1.0),
        "kda": lambda: kda_reference(q, k, v, -random(T, H, K), beta, lengths=[2, 3], scale=1.0),
        "gla": lambda: gla_reference(q, k, v, -random(T, H, K), lengths=[2, 3], scale=1.0),
        "lightning": lambda: lightning_reference(q, k, v, (0.1,) * H, lengths=[2, 3], scale=1.0),
        "ssd": lambda: ssd_reference(*grouped, lengths=[2, 3]),
    }
    for name, call in calls.items():
        heads = {"num_value_heads" if name == "gated_delta" else "num_heads": H}
        assert counted(call, with_outer=True) == T * formulas_of(name).recurrent_flops_per_token(**heads, **sizes), name


def test_linear_attention_counts_its_normaliser_with_the_padded_width():
    T, H, K, V = 5, 3, 20, 36
    q, k, v = random(T, H, K), random(T, H, K), random(T, H, V)
    found = counted(lambda: linear_attention_reference(q, k, v, lengths=[T], eps=1.0), with_outer=True)
    write_and_read, normaliser = 2 * H * 2 * K * V, 2 * H * K
    assert found == T * (write_and_read + normaliser)
    padded = formulas_of("linear").recurrent_flops_per_token(num_heads=H, key_dim=K, value_dim=V)
    assert padded == 2 * H * 2 * K * formulas_of("linear").row_width(V) and found < T * padded


@EXAMPLES
@given(K=dims, V=dims, key_heads=few, group=few, chunks=few)
def test_the_chunk_forms_cost_what_their_formulas_say(K, V, key_heads, group, chunks):
    T, H = chunks * CHUNK, key_heads * group
    q, k, v, decay, beta = random(T, H, K), random(T, H, K), random(T, H, V), -random(T, H), random(T, H)
    grouped = (random(T, key_heads, K), random(T, key_heads, K), v, decay)
    batch = Batch.packed([T])
    sizes = {"key_dim": K, "value_dim": V}
    own_block = formulas_of("kda").own_block_flops_per_token(num_heads=H, key_dim=K)
    own_gla_block = formulas_of("gla").own_block_flops_per_token(num_heads=H, key_dim=K)
    expected = {
        "gated_delta": formulas_of("gated_delta").flops_per_token(num_key_heads=key_heads, num_value_heads=H, **sizes),
        "kda": formulas_of("kda").flops_per_token(num_heads=H, **sizes) - own_block,
        "gla": formulas_of("gla").flops_per_token(num_heads=H, **sizes) - own_gla_block,
        "lightning": formulas_of("lightning").flops_per_token(num_heads=H, **sizes),
        "ssd": formulas_of("ssd").flops_per_token(num_groups=key_heads, num_heads=H, **sizes),
        "linear": formulas_of("linear").flops_per_token(num_heads=H, **sizes),
    }
    calls = {
        "gated_delta": lambda: gated_delta(*grouped, beta, batch=batch, scale=1.0),
        "kda": lambda: kda(q, k, v, -random(T, H, K), beta, batch=batch, scale=1.0),
        "gla": lambda: gla(q, k, v, -random(T, H, K), batch=batch, scale=1.0),
        "lightning": lambda: lightning(q, k, v, (0.1,) * H, batch=batch, cache=None, scale=1.0),
        "ssd": lambda: ssd(*grouped, batch=batch, cache=None),
        "linear": lambda: linear_attention(q, k, v, batch=batch, cache=None, eps=1.0),
    }
    for name, call in calls.items():
        assert counted(call) == T * expected[name], name


@pytest.mark.parametrize(("operator", "keys_read"), [("kda", True), ("gla", False)])
def test_a_row_with_a_decay_per_channel_meets_its_own_block_without_matrix_products(operator, keys_read):
    heads, K, blocks = 3, 24, 2
    q, k, decay = (random(1, heads, blocks, 16, K) for _ in range(3))
    with CountProducts() as count, torch.no_grad():
        InsideBlocks.apply(q, k, -decay, keys_read)
    expected = formulas_of(operator).own_block_flops_per_token(num_heads=heads, key_dim=K)
    masks = (1 + keys_read) * heads * blocks * 16 * 16
    assert count.multiplied + count.summed == blocks * 16 * expected + masks and count.flops == 0


@EXAMPLES
@given(K=dims, V=dims, kv_heads=few, group=few, T=st.integers(1, 9), window=st.sampled_from([None, 1, 4]))
def test_attention_costs_what_its_formula_says(K, V, kv_heads, group, T, window):
    heads = kv_heads * group
    q, k, v = random(T, heads, K), random(T, kv_heads, K), random(T, kv_heads, V)
    found = counted(lambda: attention_reference(q, k, v, Batch.packed([T]), 1.0, window=window))
    assert found == formulas.attention.flops(0, T, heads, K, V, window)
    both = formulas.attention.flops(0, 3, heads, K, V, window) + formulas.attention.flops(3, 6, heads, K, V, window)
    assert both == formulas.attention.flops(0, 9, heads, K, V, window)


@EXAMPLES
@given(K=st.integers(20, 40), V=st.integers(2, 20), index_dim=dims, T=st.integers(1, 9), selected=st.integers(1, 12))
def test_sparse_attention_costs_what_its_formulas_say(K, V, index_dim, T, selected):
    heads, index_heads, batch = 3, 2, Batch.packed([T])
    inputs = (random(T, index_heads, index_dim), random(T, index_dim), random(T, index_heads))
    scores = index_scores_reference(*inputs, batch, 1.0)
    with CountProducts() as count:
        index_scores_reference(*inputs, batch, 1.0)
    # A weight and a sum per head and key are element-wise.
    assert count.flops + count.multiplied + count.summed == formulas.sparse.index_flops(0, T, index_heads, index_dim)
    chosen = selection_reference(scores, selected)
    q, k = random(T, heads, K), random(T, K)
    found = counted(lambda: sparse_attention_reference(q, k, chosen, batch, 1.0, V))
    assert found == formulas.sparse.attention_flops(0, T, heads, K, V, selected)


@pytest.mark.parametrize("num_matrices", [2, 3])
def test_experts_cost_what_their_formula_says(num_matrices):
    T, D, E, k, width = 5, 12, 6, 2, 20
    ids = torch.stack([torch.randperm(E)[:k] for _ in range(T)])
    gate = random(E, width, D) if num_matrices == 3 else None
    x, weights = random(T, D), random(T, k)
    found = counted(lambda: experts_reference(x, weights, ids, gate, random(E, width, D), random(E, D, width)))
    assert found == T * formulas.moe.expert_flops_per_token(D, k, width, num_matrices=num_matrices)
    whole = formulas.moe.flops_per_token(D, E, k, width, num_matrices=num_matrices)
    assert T * whole == found + counted(lambda: x @ random(D, E))


def test_a_convolution_multiplies_once_per_tap_once_the_window_is_full():
    T, C, taps = 9, 10, 4
    with CountProducts() as count:
        short_conv_reference(random(T, C), random(C, taps), Batch.packed([T]))
    assert count.multiplied == C * (T * taps - sum(range(taps)))
    assert formulas.short_conv.flops_per_token(C, taps) == C * (2 * taps - 1)
