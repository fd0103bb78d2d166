"""Softmax attention with a window, sinks, scaled values and QK-norm over the whole projection."""

import pytest
import torch
from torch import nn

from hyla.grid import CHUNK
from hyla.layers.softmax import SoftmaxAttention
from hyla.models.build import build_module
from hyla.models.config import NormConfig, SoftmaxConfig
from hyla.ops.attention.reference import attention_reference
from hyla.ops.batch import Batch

HIDDEN = 44
LENGTHS = (1, 63, 90)
TOLERANCE = 1e-5
"""Relative error of fp32 outputs against float64."""
CONFIG = SoftmaxConfig(num_heads=6, num_kv_heads=2, head_dim=14, value_dim=10, window=40, sinks=True, value_scale=0.707)
NORMED = CONFIG.model_copy(update={"qk_norm": NormConfig(eps=1e-5), "qk_norm_scope": "projection"})


def make(config: SoftmaxConfig, seed: int = 0) -> SoftmaxAttention:
    module = build_module(config, HIDDEN)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = HIDDEN**-0.5 if parameter.dim() == 2 else 1.0
        nn.init.normal_(parameter, std=scale, generator=generator)
    return module


def expected(module: SoftmaxAttention, config: SoftmaxConfig, x_TD: torch.Tensor) -> torch.Tensor:
    """The formula in float64."""
    x_TD = x_TD.double()
    q, k, v = (x_TD @ linear.weight.double().T for linear in (module.q, module.k, module.v))
    if config.qk_norm is not None:
        q, k = (
            y / (y.square().mean(-1, keepdim=True) + config.qk_norm.eps).sqrt() * norm.weight.double()
            for y, norm in ((q, module.q_norm), (k, module.k_norm))
        )
    heads = q.unflatten(-1, (6, 14)), k.unflatten(-1, (2, 14)), (v * config.value_scale).unflatten(-1, (2, 10))
    sinks = module.sinks.double()
    o = attention_reference(*heads, Batch.packed(LENGTHS), 14**-0.5, window=config.window, sinks_H=sinks)
    return o.flatten(1) @ module.o.weight.double().T


@pytest.mark.parametrize("config", [CONFIG, NORMED], ids=["plain", "projection norm"])
def test_the_mixer_computes_the_formula(config):
    module = make(config)
    x_TD = torch.randn(sum(LENGTHS), HIDDEN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = expected(module, config, x_TD)
        assert (module(x_TD, Batch.packed(LENGTHS), None) - right).norm() <= TOLERANCE * right.norm()


def test_the_norm_of_a_projection_is_not_that_of_its_heads():
    per_head = build_module(NORMED.model_copy(update={"qk_norm_scope": "head"}), HIDDEN)
    assert per_head.q_norm.weight.shape == per_head.k_norm.weight.shape == (14,)
    whole = build_module(NORMED, HIDDEN)
    assert (whole.q_norm.weight.shape, whole.k_norm.weight.shape) == ((84,), (28,))


def test_the_cache_declares_its_window_and_the_width_of_values():
    spec = make(CONFIG).cache_spec()
    assert spec.window == 40
    assert {tensor.name: tensor.shape for tensor in spec.page_tensors} == {"k": (2, 14, CHUNK), "v": (2, CHUNK, 10)}
    assert make(CONFIG.model_copy(update={"window": None})).cache_spec().window is None


def test_gradients_reach_fp32_sinks_of_a_bf16_mixer():
    module = make(NORMED)
    for name, parameter in module.named_parameters():
        if name not in module.fp32_parameters:
            parameter.data = parameter.data.bfloat16()
    x_TD = torch.randn(sum(LENGTHS), HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    module(x_TD, Batch.packed(LENGTHS), None).float().square().sum().backward()
    assert module.sinks.grad.dtype == torch.float32
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())
