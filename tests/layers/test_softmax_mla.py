"""The softmax mixers against plain float64 math, and their independence of how rows arrive."""

import pytest
import torch
from dispatched import Dispatched

from hyla.grid import CHUNK
from hyla.layers.mla import MLA
from hyla.layers.norms import RMSNorm
from hyla.layers.rope import TABLE_POSITIONS, RotaryTable
from hyla.layers.softmax import SoftmaxAttention
from hyla.ops import native
from hyla.ops.batch import Batch
from hyla.ops.rotary import rotate

needs_kernels = pytest.mark.skipif(native.why_missing() is not None, reason="the CPU has no kernels")

D = 44
LENGTHS = (1, 63, 64, 65, 200)
TOLERANCE = 1e-5
"""Relative error of an fp32 layer against float64."""

SOFTMAX = dict(num_heads=6, num_kv_heads=2, head_dim=20, rope_theta=1000.0)
PLAIN = dict(has_output_gate=False, qk_norm_eps=None, qk_norm_zero_centered=False, rotary_dim=0)
BIASED = dict(**PLAIN, qkv_bias=True, out_bias=True)
# The gate's projection joins those with biases and has none itself.
GATED_BIASED = dict(has_output_gate=True, qk_norm_eps=None, qk_norm_zero_centered=False, rotary_dim=12, qkv_bias=True)
FULL = dict(has_output_gate=True, qk_norm_eps=1e-6, qk_norm_zero_centered=True, rotary_dim=12)
LATENT = dict(num_heads=5, kv_lora_dim=24, nope_dim=12, rope_dim=8, value_dim=14, norm_eps=1e-5, rope_theta=1000.0)

KINDS = {
    "plain": lambda: SoftmaxAttention(D, **SOFTMAX, **PLAIN),
    "full": lambda: SoftmaxAttention(D, **SOFTMAX, **FULL),
    "biased": lambda: SoftmaxAttention(D, **SOFTMAX, **BIASED),
    "gated biased": lambda: SoftmaxAttention(D, **SOFTMAX, **GATED_BIASED),
    "mla": lambda: MLA(D, **LATENT, q_lora_dim=None, rotary_dim=0),
    "mla rope": lambda: MLA(D, **LATENT, q_lora_dim=16, rotary_dim=6),
}
ALL = pytest.mark.parametrize("kind", KINDS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def make(kind, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    layer = KINDS[kind]()
    layer.initialize(0.2, generator)
    for module in layer.modules():
        if isinstance(module, RMSNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return layer.to(dtype)


def rows(lengths=LENGTHS, dtype=torch.float32):
    return torch.randn(sum(lengths), D, generator=torch.Generator().manual_seed(4)).to(dtype)


def serve(layer, x_TD, lengths, chunk):
    """All sequences together, `chunk` rows of each at a time, through interleaved pages."""
    counts = [-(-length // CHUNK) for length in lengths]
    pages = [tuple(1 + n + len(lengths) * i for i in range(count))[::-1] for n, count in enumerate(counts)]
    num_pages = 2 + max(page for owned in pages for page in owned)
    cache = {
        spec.name: torch.zeros(num_pages, *spec.shape, dtype=spec.dtype) for spec in layer.cache_spec().page_tensors
    }
    out, done, offsets = torch.empty_like(x_TD), [0] * len(lengths), Batch.packed(lengths).offsets
    while active := [n for n, length in enumerate(lengths) if done[n] < length]:
        new = {n: min(chunk, lengths[n] - done[n]) for n in active}
        batch = Batch(
            lengths=tuple(new.values()),
            starts=tuple(done[n] for n in new),
            slots=tuple(n + 1 for n in new),
            pages=tuple(pages[n] for n in new),
        )
        here = torch.cat([torch.arange(count) + offsets[n] + done[n] for n, count in new.items()])
        out[here] = layer(x_TD[here], batch, cache)
        for n, count in new.items():
            done[n] += count
    return out


def norm(x, weight, eps, is_zero_centered):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (weight + is_zero_centered)


def rotated(x_LHK, rotary_dim, theta):
    """Rotation as a complex product, one position at a time."""
    if not rotary_dim:
        return x_LHK
    half = rotary_dim // 2
    rate = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(len(x_LHK), dtype=torch.float64)[:, None, None] * rate
    z = torch.complex(x_LHK[..., :half], x_LHK[..., half:rotary_dim]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag, x_LHK[..., rotary_dim:]], -1)


def attend(q_LHK, k_LHK, v_LHV):
    scores = torch.einsum("ihk,jhk->hij", q_LHK, k_LHK) * q_LHK.shape[-1] ** -0.5
    scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), float("-inf"))
    return torch.einsum("hij,jhv->ihv", scores.softmax(-1), v_LHV)


def plain_softmax(layer, x_LD, *, has_output_gate, qk_norm_eps, qk_norm_zero_centered, rotary_dim, **biases):
    weights = {name: weight.detach().double() for name, weight in layer.named_parameters()}
    assert {name for name in weights if "bias" in name} == {
        f"{name}.bias" for name in "qkv" * biases.get("qkv_bias", False) + "o" * biases.get("out_bias", False)
    }

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    q, k, v = (linear(name, x_LD).unflatten(-1, (-1, 20)) for name in "qkv")
    if qk_norm_eps is not None:
        q = norm(q, weights["q_norm.weight"], qk_norm_eps, qk_norm_zero_centered)
        k = norm(k, weights["k_norm.weight"], qk_norm_eps, qk_norm_zero_centered)
    q, k = rotated(q, rotary_dim, 1000.0), rotated(k, rotary_dim, 1000.0)
    o = attend(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)).flatten(1)
    if has_output_gate:
        o = o * torch.sigmoid(x_LD @ weights["gate.weight"].T)
    return linear("o", o)


def expanded_mla(layer, x_LD, rotary_dim):
    """Keys and values of every head written out: the form that absorption replaces."""
    weights = {name: weight.detach().double() for name, weight in layer.named_parameters()}
    if "q.weight" in weights:
        q = x_LD @ weights["q.weight"].T
    else:
        q = norm(x_LD @ weights["q_a.weight"].T, weights["q_a_norm.weight"], 1e-5, False) @ weights["q_b.weight"].T
    q_nope, q_pe = q.unflatten(-1, (5, 20)).split([12, 8], -1)
    latent, k_pe = (x_LD @ weights["kv_a.weight"].T).split([24, 8], -1)
    latent = norm(latent, weights["kv_norm.weight"], 1e-5, False)
    k_nope = torch.einsum("lc,hnc->lhn", latent, weights["k_up"])
    v = torch.einsum("lc,hvc->lhv", latent, weights["v_up"])
    q_pe, k_pe = rotated(q_pe, rotary_dim, 1000.0), rotated(k_pe[:, None], rotary_dim, 1000.0)
    k = torch.cat([k_nope, k_pe.expand(-1, 5, -1)], -1)
    return attend(torch.cat([q_nope, q_pe], -1), k, v).flatten(1) @ weights["o.weight"].T


def expected(kind, layer, x_LD):
    if not kind.startswith("mla"):
        options = {"plain": PLAIN, "full": FULL, "biased": BIASED, "gated biased": GATED_BIASED}
        return plain_softmax(layer, x_LD, **options[kind])
    return expanded_mla(layer, x_LD, 0 if kind == "mla" else 6)


@ALL
def test_a_layer_equals_plain_float64_math(kind):
    layer, x_TD = make(kind), rows()
    out = layer(x_TD, Batch.packed(LENGTHS), None)
    right = torch.cat([expected(kind, layer, x_LD.double()) for x_LD in x_TD.split(LENGTHS)])
    assert (out - right).abs().max() <= TOLERANCE * right.abs().max()
    double = layer.double()(x_TD.double(), Batch.packed(LENGTHS), None)
    torch.testing.assert_close(double, right, rtol=1e-9, atol=1e-9)


@ALL
@DTYPES
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_served_rows_equal_the_whole_under_autograd(kind, dtype, chunk):
    layer, x_TD = make(kind, dtype), rows(dtype=dtype)
    whole = layer(x_TD, Batch.packed(LENGTHS), None)
    assert whole.requires_grad and whole.dtype == dtype
    with torch.no_grad():
        assert torch.equal(serve(layer, x_TD, LENGTHS, chunk), whole)


@ALL
@DTYPES
def test_packing_changes_no_bit_and_unpacking_gives_the_weights_back(kind, dtype):
    layer, x_TD = make(kind, dtype), rows(dtype=dtype)
    batch = Batch.packed(LENGTHS)
    before = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    specs = layer.cache_spec()
    with torch.no_grad():
        plain = layer(x_TD, batch, None)
        for projection in layer.projections:
            projection.pack()
        assert torch.equal(layer(x_TD, batch, None), plain)
        assert layer.cache_spec() == specs
    for projection in layer.projections:
        stored = projection.plain_weights()
        assert [weight.dtype for weight in stored] == [dtype] * len(stored)
        projection.unpack()
    assert all(torch.equal(weight, before[name]) for name, weight in layer.named_parameters())
    assert torch.equal(layer(x_TD, batch, None), plain)


@ALL
def test_training_sees_changed_weights_and_reaches_every_parameter(kind):
    layer, x_TD = make(kind), rows((70,))
    batch = Batch.packed([70])
    first = layer(x_TD, batch, None)
    first.square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
        with torch.no_grad():
            weight.sub_(0.1 * weight.grad / weight.grad.norm())
    second = layer(x_TD, batch, None)
    right = expected(kind, layer, x_TD.double())
    assert not torch.equal(first, second)
    assert (second - right).abs().max() <= TOLERANCE * right.abs().max()


def test_the_cache_is_declared_in_the_models_dtype():
    k_pages, v_pages = make("full", torch.bfloat16).cache_spec().page_tensors
    assert (k_pages.shape, v_pages.shape) == ((2, 20, CHUNK), (2, CHUNK, 20))
    assert make("full", torch.bfloat16).cache_spec().bytes_per_token == 2 * 2 * 20 * 2
    assert make("mla").cache_spec().bytes_per_token == (24 + 8) * 4


def test_a_positions_rotation_does_not_depend_on_how_far_the_table_reaches():
    near, far = RotaryTable(12, 1000.0), RotaryTable(12, 1000.0)
    late = Batch(lengths=(3,), starts=(TABLE_POSITIONS + 5,), slots=(1,), pages=((1,),))
    early = Batch.packed([70])
    at_once = far(late, torch.float32), far(early, torch.float32)
    grown = near(early, torch.float32), near(late, torch.float32)
    assert torch.equal(at_once[1], grown[0]) and torch.equal(at_once[0], grown[1])
    angle = (TABLE_POSITIONS + 5) * 1000.0 ** (-2 / 12)
    assert abs(float(grown[1][0, 1]) - torch.tensor(angle, dtype=torch.float64).cos()) < 1e-7


def test_rotated_dots_depend_on_the_distance_alone():
    table = RotaryTable(12, 1000.0)(Batch.packed([40]), torch.float64)
    generator = torch.Generator().manual_seed(1)
    q_1HK, k_1HK = (torch.randn(1, 2, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    q_THK, k_THK = (rotate(x.expand(40, -1, -1), table) for x in (q_1HK, k_1HK))
    dots = torch.einsum("ihk,jhk->hij", q_THK, k_THK)
    torch.testing.assert_close(dots[:, 5:, 5:], dots[:, :-5, :-5])
    assert not torch.allclose(dots[:, 5], dots[:, 6])


@needs_kernels
@DTYPES
@pytest.mark.parametrize("options", [{"q_lora_dim": None, "head_gate": True}, {"q_lora_dim": 16}])
def test_a_cached_step_of_mla_is_kernels_and_views_only(dtype, options):
    layer = MLA(D, **LATENT, rotary_dim=6, **options)
    layer.initialize(0.2, torch.Generator().manual_seed(3))
    layer.to(dtype)
    for projection in layer.projections:
        projection.pack()
    cache = {spec.name: torch.zeros(4, *spec.shape, dtype=spec.dtype) for spec in layer.cache_spec().page_tensors}
    batch, x_TD = Batch((1, 1), (3, 70), (1, 2), ((1,), (2, 3))), rows((1, 1), dtype)
    with torch.no_grad():
        layer(x_TD, batch, cache)  # the batch's own tables are made once for all layers
        with Dispatched() as run:
            layer(x_TD, batch, cache)
    assert run.found == []
