"""A decoded row of a mixer without a solve, on the CPU's kernels: what PyTorch still computes between them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hyla.layers.lightning import Lightning
from hyla.layers.mamba2 import Mamba2
from hyla.ops import backends, native
from hyla.ops.batch import Batch

pytestmark = pytest.mark.skipif(native.why_missing() is not None, reason="no kernels here")

D = 32
VIEWS = {"detach", "view", "_unsafe_view", "slice", "select", "split", "split_with_sizes", "unbind", "as_strided"}
VIEWS |= {"alias", "transpose", "t", "empty", "unsqueeze", "expand", "permute"}
LIGHTNING = {"num_heads": 2, "head_dim": 12, "slopes": (0.5, 0.1), "scale": 0.3, "norm_groups": 2, "norm_eps": 1e-5}
LIGHTNING |= {"rope_theta": 1e4, "rope_interleaved": False}
MAMBA = {"num_heads": 4, "head_dim": 12, "num_groups": 2, "state_dim": 20, "conv_len": 4, "norm_eps": 1e-5}


@pytest.fixture(autouse=True)
def native_kernels():
    backends.use("native")
    yield
    backends.use("auto")


class Names(TorchDispatchMode):
    """Collects the operations that PyTorch computes, views apart."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def ling():
    return Lightning(D, has_silu=False, qk_norm_eps=1e-6, rotary_dim=6, **LIGHTNING)


def minimax():
    return Lightning(D, has_silu=True, qk_norm_eps=None, rotary_dim=0, **LIGHTNING)


def mamba2():
    return Mamba2(D, time_step_limit=(0.0, float("inf")), **MAMBA)


@pytest.mark.parametrize("build", [ling, minimax, mamba2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_decoded_row_is_a_chain_of_kernels(build, dtype):
    layer = build()
    layer.initialize(0.3, torch.Generator().manual_seed(0))
    for name, parameter in layer.named_parameters():
        if name not in layer.fp32_parameters:
            parameter.data = parameter.data.to(dtype)
    cache = {spec.name: torch.zeros(2, *spec.shape, dtype=spec.dtype) for spec in layer.cache_spec().slot_tensors}
    layer.in_projection.pack()
    layer.out_projection.pack()
    x = torch.randn(4, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    layer(x[:3], Batch((3,), (0,), (1,), ((),)), cache)
    batch = Batch((1,), (3,), (1,), ((),))
    # What a step derives from its batch once, for all layers: spans and angles.
    layer(x[3:], batch, {name: tensor.clone() for name, tensor in cache.items()})
    with Names() as names:
        layer(x[3:], batch, cache)
    assert names.found == []
