"""The delta rules' layers with a cache: kernels and views only, with the bits of the primitives they stand for."""

import pytest
import torch
from conftest import CPU_BACKENDS
from torch.utils._python_dispatch import TorchDispatchMode

from hyla.layers.gated_delta import GatedDelta
from hyla.layers.kda import KDA
from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.gates import decays_and_betas, gated_norm
from hyla.ops.exact.primitives import pytorch as composed
from hyla.ops.short_conv import short_conv
from hyla.ops.short_conv.heads import EPS, conv_heads

pytestmark = pytest.mark.skipif("native" not in CPU_BACKENDS, reason="no C compiler on this machine")

DIM, SLOTS = 40, 3
VIEWS = frozenset(
    {"view", "split", "split_with_sizes", "slice", "select", "unbind", "as_strided", "unsqueeze", "squeeze"}
)
NOTHING = VIEWS | {"detach", "empty", "alias", "_unsafe_view", "t", "transpose", "expand"}
"""Operations of PyTorch that compute nothing."""


@pytest.fixture(autouse=True)
def native_kernels():
    backends.use("native")
    yield
    backends.use("auto")


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gated_delta():
    sizes = {"num_key_heads": 2, "num_value_heads": 4, "key_dim": 24, "value_dim": 20}
    return GatedDelta(DIM, conv_len=4, norm_eps=1e-6, **sizes)


def kda(gate_rank=8, decay_lower_bound=None):
    sizes = {"num_heads": 2, "key_dim": 24, "value_dim": 20, "gate_rank": gate_rank}
    return KDA(DIM, conv_len=4, norm_eps=1e-6, decay_lower_bound=decay_lower_bound, **sizes)


LAYERS = {"gated_delta": gated_delta, "kda": kda, "kda, bounded": lambda: kda(None, -5.0)}


def made(name, dtype):
    layer = LAYERS[name]()
    layer.initialize(0.3, torch.Generator().manual_seed(1))
    for parameter_name, parameter in layer.named_parameters():
        if parameter_name not in layer.fp32_parameters:
            parameter.data = parameter.data.to(dtype)
    return layer.requires_grad_(False)


def cache_of(layer):
    specs = layer.cache_spec().slot_tensors
    return {spec.name: torch.zeros(SLOTS, *spec.shape, dtype=spec.dtype) for spec in specs}


class Seen(TorchDispatchMode):
    """Writes down what PyTorch computes."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        stays = name == "to" and result.dtype == args[0].dtype and result.data_ptr() == args[0].data_ptr()
        if name not in NOTHING and not stays:
            self.names.append(name)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_between_the_kernels_of_a_cached_step_nothing_is_computed(name, dtype):
    layer = made(name, dtype)
    for projection in layer.projections:
        projection.pack()
    for lengths, starts in (((1, 1), (63, 64)), ((5, 70), (62, 0))):
        batch = Batch(lengths, starts, (1, 2), ((), ()))
        x = drawn(sum(lengths), DIM, dtype=dtype)
        layer(x, batch, cache_of(layer))  # what the layers of a step share is made now
        cache = cache_of(layer)
        with Seen() as seen:
            layer(x, batch, cache)
        assert seen.names == []
        assert cache["anchor"].abs().sum() > 0 and cache["conv_tail"].abs().sum() > 0


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_served_row_has_the_trainer_s_bits(name, dtype):
    layer, x = made(name, dtype), drawn(131, DIM, dtype=dtype)
    cache, rows = cache_of(layer), []
    for start, length in ((0, 3), (3, 61), (64, 1), (65, 1), (66, 65)):
        batch = Batch((length,), (start,), (1,), ((),))
        rows.append(layer(x[start : start + length], batch, cache))
    trained = layer.requires_grad_()(x.requires_grad_(), Batch.packed([131]), None)
    assert trained.requires_grad
    assert torch.equal(torch.cat(rows), trained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key_dim", [16, 20, 300])
def test_heads_of_one_pass_have_the_bits_of_the_primitives(dtype, key_dim):
    sizes = {"key_heads": 2, "key_dim": key_dim, "value_heads": 3}
    channels, keys = 4 * key_dim + 3 * 36, 2 * key_dim
    x, weight = drawn(90, channels + 7, dtype=dtype)[:, :channels], drawn(channels, 4, seed=1, dtype=dtype)
    batch = Batch((70, 1, 19), (60, 127, 0), (1, 2, 0), ((), (), ()))
    kept = [drawn(SLOTS, 16, channels, seed=2, dtype=dtype), torch.zeros(SLOTS, 3, channels, dtype=dtype)]
    again = [kept_tensor.clone() for kept_tensor in kept]
    q, k, v = conv_heads(x, weight, batch=batch, cache=kept[0], tail=kept[1], scale=0.25, **sizes)
    mixed = primitives.silu(short_conv(x, weight, batch=batch, cache=again[0], tail=again[1]))
    assert torch.equal(
        q.flatten(1), primitives.l2_norm(mixed[:, :keys].unflatten(1, (2, -1)), eps=EPS).flatten(1) * 0.25
    )
    assert torch.equal(k.flatten(1), primitives.l2_norm(mixed[:, keys : 2 * keys].unflatten(1, (2, -1))).flatten(1))
    assert torch.equal(v.flatten(1), mixed[:, 2 * keys :])
    assert all(map(torch.equal, kept, again))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
def test_gated_norms_have_the_bits_of_the_primitives(dtype, activation):
    x, weight = drawn(21, 3, 37), drawn(37, seed=1, dtype=dtype)
    gate = drawn(21, 3 * 37 + 5, seed=2, dtype=dtype)[:, 5:]
    options = {"eps": 1e-6, "activation": activation, "dtype": dtype}
    composed_TW = gated_norm(x, weight.clone().requires_grad_(), gate, **options)
    assert torch.equal(gated_norm(x, weight, gate, **options), composed_TW)


@pytest.mark.parametrize("channels, lower_bound", [(1, None), (19, None), (1, -4.0), (19, -4.0)])
def test_decays_and_betas_are_near_float64_and_the_same_with_gradients(channels, lower_bound):
    heads = 5
    raw, beta = drawn(33, heads * channels + 2)[:, 2:] * 6, drawn(33, heads, seed=1, dtype=torch.bfloat16)
    A_log, bias = drawn(heads, seed=2), drawn(heads * channels, seed=3)
    found = decays_and_betas(raw, beta, A_log, bias, lower_bound=lower_bound)
    leaves = [raw.clone().requires_grad_(), beta.clone(), A_log.clone().requires_grad_(), bias.clone().requires_grad_()]
    trained = decays_and_betas(*leaves, lower_bound=lower_bound)
    assert all(map(torch.equal, found, trained))
    right = composed.decays(raw.double(), beta.double(), A_log.double(), bias.double(), lower_bound)
    for ours, expected in zip(found, right):
        # What the sigmoid's argument, up to 60 here, was rounded by counts as many times.
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("lower_bound", [None, -4.0])
def test_gradients_of_decays_are_those_of_the_formula(lower_bound):
    raw, A_log, bias = (
        drawn(*shape, seed=n).double().requires_grad_() for n, shape in enumerate(((9, 12), (3,), (12,)))
    )
    beta = drawn(9, 3).double()

    def decays(raw, A_log, bias):
        return decays_and_betas(raw, beta, A_log, bias, lower_bound=lower_bound)[0]

    assert torch.autograd.gradcheck(decays, (raw, A_log, bias))


def test_softplus_is_right_to_two_units_in_the_last_place():
    x = torch.cat([torch.linspace(-86, 88, 400_003), drawn(20_000), drawn(5000) * 1e-3])
    expected = x.double().exp().log1p()
    unit = torch.nextafter(expected.float(), torch.tensor(torch.inf)).double() - expected.float().double()
    assert ((primitives.softplus(x).double() - expected).abs() / unit).max() <= 2.0
    ends = primitives.softplus(torch.tensor([-torch.inf, -200.0, 200.0, torch.inf, torch.nan]))
    assert ends[:4].tolist() == [0.0, 0.0, 200.0, torch.inf] and ends[4].isnan()
