"""The channel mixers: formula, packing, company, start values."""

import pytest
import torch
from dispatched import Dispatched

from hyla.layers.mlp import MLP
from hyla.layers.moe import MoE
from hyla.ops import native
from hyla.ops.moe.reference import experts_reference, route_reference

D, F, WIDTH, E, K, LATENT = 20, 36, 12, 6, 3, 16

needs_kernels = pytest.mark.skipif(native.why_missing() is not None, reason="the CPU has no kernels")


MLPS = {"mlp": {}, "relu2": {"activation": "relu2"}, "biased": {"bias": True}}


def build(kind, dtype=torch.float32):
    if kind in MLPS:
        module = MLP(D, intermediate_dim=F, **MLPS[kind])
    else:
        deepseek = kind in WITH_BIAS
        latent = {"activation": "relu2", "latent_dim": LATENT} if kind == "latent" else {}
        module = MoE(
            D,
            num_experts=E,
            num_experts_per_token=K,
            expert_dim=WIDTH,
            shared_dim=28,
            has_shared_gate=not deepseek,
            score="sigmoid" if deepseek else "softmax",
            has_bias=deepseek,
            normalize=True,
            num_groups=3 if deepseek else 1,
            num_groups_kept=2 if deepseek else 1,
            scaling=2.5 if deepseek else 1.0,
            **latent,
        )
    generator = torch.Generator().manual_seed(0)
    module.initialize(0.3, generator)
    if kind in WITH_BIAS:
        torch.nn.init.normal_(module.router_bias, std=0.3, generator=generator)
    for name, parameter in module.named_parameters():
        if name not in module.fp32_parameters:
            parameter.data = parameter.data.to(dtype)
    return module


def make_rows(num_rows=50, dtype=torch.float32):
    return torch.randn(num_rows, D, generator=torch.Generator().manual_seed(1)).to(dtype)


def dense(x, mlp):
    def linear(y, layer):
        return torch.nn.functional.linear(y, layer.weight.double(), None if layer.bias is None else layer.bias.double())

    if mlp.gate is None:
        return linear(torch.relu(linear(x, mlp.up)).square(), mlp.down)
    return linear(torch.nn.functional.silu(linear(x, mlp.gate)) * linear(x, mlp.up), mlp.down)


def expected_output(module, x_TD):
    """The published formula in float64."""
    x = x_TD.double()
    if isinstance(module, MLP):
        return dense(x, module)
    bias = None if module.router_bias is None else module.router_bias.double()
    weights, ids = route_reference(x @ module.router.double().t(), bias, **module.routing)
    stacked = [module.experts_up.double(), module.experts_down.double()]
    if module.to_latent is None:
        routed = experts_reference(x, weights, ids, module.experts_gate.double(), *stacked)
    else:
        latent = experts_reference(x @ module.to_latent.weight.double().t(), weights, ids, None, *stacked)
        routed = latent @ module.from_latent.weight.double().t()
    gate = 1.0 if module.shared_gate is None else torch.sigmoid(x @ module.shared_gate.weight.double().t())
    return routed + gate * dense(x, module.shared)


KINDS = ["mlp", "qwen", "deepseek", "relu2", "biased", "latent"]
WITH_BIAS = ("deepseek", "latent")


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_equals_the_formula(kind):
    module, x_TD = build(kind), make_rows()
    with torch.no_grad():
        expected = expected_output(module, x_TD)
        assert (module(x_TD) - expected).abs().max() <= 3e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_company_packing_and_autograd_change_no_bit(kind, dtype):
    module, x_TD = build(kind, dtype), make_rows(dtype=dtype)
    trained = module(x_TD)
    assert trained.requires_grad and trained.dtype == dtype
    trained = trained.detach()
    with torch.no_grad():
        for packed in (False, True):
            for projection in all_projections(module) if packed else ():
                projection.pack()
            for size in (1, 3, 7, 50):
                parts = [module(part) for part in x_TD.split(size)]
                assert torch.equal(torch.cat(parts), trained), (packed, size)


def all_projections(module):
    return [projection for part in module.modules() for projection in getattr(part, "projections", ())]


@pytest.mark.parametrize("kind", KINDS)
def test_packing_keeps_one_copy_and_unpacking_gives_it_back(kind):
    module = build(kind)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for projection in all_projections(module):
        plain = [weight.clone() for weight in projection.plain_weights()]
        projection.pack()
        assert projection.is_packed
        assert all(torch.equal(mine, other) for mine, other in zip(projection.plain_weights(), plain))
    matrices = {name for name in before if name.endswith(".weight") or name.startswith("experts") or name == "router"}
    after = dict(module.named_parameters())
    assert {name for name, parameter in after.items() if parameter.is_meta} == matrices
    assert {name: parameter.shape for name, parameter in after.items()} == {n: p.shape for n, p in before.items()}
    for projection in all_projections(module):
        projection.unpack()
        assert not projection.is_packed
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_every_trainable_parameter_gets_a_gradient(kind):
    module = build(kind)
    module(make_rows()).square().sum().backward()
    without = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    assert without == ({"router_bias"} if kind in WITH_BIAS else set())


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_named_as_documented(kind):
    mlp = {"gate.weight", "up.weight", "down.weight"}
    moe = {"router", "experts_gate", "experts_up", "experts_down"} | {f"shared.{name}" for name in mlp}
    latent = {"router_bias", "to_latent.weight", "from_latent.weight"}
    expected = {
        "mlp": mlp,
        "qwen": moe | {"shared_gate.weight"},
        "deepseek": moe | {"router_bias"},
        "relu2": mlp - {"gate.weight"},
        "biased": mlp | {"gate.bias", "up.bias", "down.bias"},
        "latent": (moe | latent) - {"experts_gate", "shared.gate.weight"},
    }
    module = build(kind)
    assert {name for name, _ in module.named_parameters()} == expected[kind]
    assert set(module.fp32_parameters) == {name for name, _ in module.named_parameters() if name.startswith("router")}


def test_a_moe_without_a_shared_expert_has_only_routed_ones():
    module = MoE(
        D,
        num_experts=E,
        num_experts_per_token=K,
        expert_dim=WIDTH,
        shared_dim=0,
        has_shared_gate=False,
        score="softmax",
        has_bias=False,
        normalize=True,
        num_groups=1,
        num_groups_kept=1,
        scaling=1.0,
    )
    module.initialize(0.3, torch.Generator().manual_seed(0))
    assert {name for name, _ in module.named_parameters()} == {"router", "experts_gate", "experts_up", "experts_down"}
    x_TD = make_rows(5)
    with torch.no_grad():
        weights, ids = route_reference(x_TD.double() @ module.router.double().t(), None, **module.routing)
        stacked = (module.experts_gate.double(), module.experts_up.double(), module.experts_down.double())
        expected = experts_reference(x_TD.double(), weights, ids, *stacked)
        torch.testing.assert_close(module(x_TD).double(), expected, rtol=1e-5, atol=1e-5)


def test_start_values_repeat_and_have_the_asked_spread():
    first, again = build("deepseek"), build("deepseek")
    for mine, other in zip(first.parameters(), again.parameters()):
        assert torch.equal(mine, other)
    assert first.experts_gate.std().item() == pytest.approx(0.3, rel=0.1)


@needs_kernels
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in MLPS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 9])
def test_a_step_of_experts_is_kernels_and_views_only(kind, dtype, num_rows):
    module, x_TD = build(kind, dtype), make_rows(num_rows, dtype)
    for projection in all_projections(module):
        projection.pack()
    with torch.no_grad():
        expected = module(x_TD)
        with Dispatched() as run:
            y_TD = module(x_TD)
    assert run.found == [] and torch.equal(y_TD, expected)
