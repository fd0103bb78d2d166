import pytest
import torch
from tiny_run import CONFIG, RECIPE

from hyla.errors import ConfigError
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.ops.exact import gradients
from hyla.ops.exact.cross_entropy import cross_entropy
from hyla.train import muon as muon_module
from hyla.train.config import TrainConfig
from hyla.train.muon import Muon, orthogonalize
from hyla.train.optimizer import Optimizer
from hyla.train.schedule import rate_factor

LOSS_TOLERANCE = 2e-6


@pytest.mark.parametrize("chunk_rows", [1, 7, 64, 1000])
def test_chunked_loss_and_gradients_are_those_of_the_whole(chunk_rows):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 24, generator=generator, requires_grad=True)
    weight = torch.randn(37, 24, generator=generator, requires_grad=True)
    targets = torch.randint(0, 37, (50,), generator=generator)
    expected = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().t(), targets)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    loss = cross_entropy(hidden, weight, targets, chunk_rows=chunk_rows)
    found = torch.autograd.grad(3.0 * loss, (hidden, weight))
    assert abs(loss.item() - expected.item()) < LOSS_TOLERANCE
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, 3.0 * theirs, rtol=1e-4, atol=LOSS_TOLERANCE)


def test_very_large_logits_give_a_finite_loss():
    hidden = torch.full((3, 8), 100.0, requires_grad=True)
    weight = torch.eye(12, 8) * 50.0
    loss = cross_entropy(hidden, weight, torch.tensor([0, 9, 3]), chunk_rows=2)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(hidden.grad).all()


def test_the_rate_rises_stays_falls_and_never_is_zero():
    config = TrainConfig(steps=100, warmup_fraction=0.1, decay_fraction=0.4, final_rate_fraction=0.1)
    factors = [rate_factor(step, config) for step in range(100)]
    assert factors[:10] == sorted(factors[:10]) and 0 < factors[0] < 0.2
    assert factors[10:60] == [1.0] * 50
    assert factors[60:] == sorted(factors[60:], reverse=True)
    assert 0.1 < factors[-1] < 0.13


def test_only_matrices_decay_and_muon_takes_only_those_of_the_stack():
    with torch.device("meta"):
        model = Model(RECIPE.model_config_of(300, 0))
    parameters = dict(model.named_parameters())
    table = model_parameters(model.config)
    adamw, muon = Optimizer(parameters, table, TrainConfig(steps=10, optimizer="muon")).parts
    names = {parameter: name for name, parameter in parameters.items()}
    orthogonal = {names[parameter] for group in muon.param_groups for parameter in group["params"]}
    decayed = orthogonal | {
        names[parameter] for group in adamw.param_groups if group["weight_decay"] for parameter in group["params"]
    }
    spared = {name.rpartition(".")[2] for name in parameters.keys() - decayed}
    assert spared == {"weight", "conv_weight", "A_log", "dt_bias", "router_bias"}
    assert all("norm" in n or n.startswith("embed") for n in parameters.keys() - decayed if n.endswith(".weight"))
    assert orthogonal < decayed
    assert "head.weight" in decayed - orthogonal
    assert {n for n in orthogonal if "experts_" in n} == {
        f"sublayers.3.module.experts_{part}" for part in ("gate", "up", "down")
    }


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 24, 40)])
def test_orthogonalized_matrices_have_singular_values_near_one(monkeypatch, shape, has_bf16):
    monkeypatch.setattr(gradients, "multiplies_bf16", lambda: has_bf16)
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 7.0
    values = torch.linalg.svdvals(orthogonalize(matrix).double())
    assert values.min() > 0.5 and values.max() < 1.4


def test_a_stack_of_experts_is_updated_as_its_slices_are():
    generator = torch.Generator().manual_seed(2)
    whole = torch.nn.Parameter(torch.randn(3, 10, 16, generator=generator))
    slices = [torch.nn.Parameter(part.clone()) for part in whole.detach()]
    whole.grad = torch.randn(3, 10, 16, generator=generator)
    for part, grad in zip(slices, whole.grad):
        part.grad = grad.clone()
    for parameters in ([whole], slices):
        Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.01).step()
    torch.testing.assert_close(whole.detach(), torch.stack([part.detach() for part in slices]), rtol=2e-2, atol=2e-3)


def test_matrices_of_one_shape_are_updated_together_as_they_are_alone(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    shapes = [(24, 40), (40, 24), (24, 40), (3, 10, 16), (24, 40), (12, 8), (40, 24)]
    starts = [torch.randn(*shape, generator=generator) for shape in shapes]
    grads = [[torch.randn(*shape, generator=generator) for shape in shapes] for _ in range(3)]
    calls = []
    monkeypatch.setattr(muon_module, "orthogonalize", lambda x: calls.append(tuple(x.shape)) or orthogonalize(x))

    def updated(most):
        monkeypatch.setattr(muon_module, "STACKED_ELEMENTS", most)
        parameters = [torch.nn.Parameter(start.clone()) for start in starts]
        heads = {parameters[5]: 3}
        muon = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.01, heads=heads)
        calls.clear()
        for step in grads:
            for parameter, grad in zip(parameters, step):
                parameter.grad = grad.clone()
            muon.step()
        return [parameter.detach() for parameter in parameters], len(calls) // len(grads)

    one_by_one = []
    for number, start in enumerate(starts):
        parameter = torch.nn.Parameter(start.clone())
        muon = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.01, heads={parameter: 3} if number == 5 else {})
        for step in grads:
            parameter.grad = step[number].clone()
            muon.step()
        one_by_one.append(parameter.detach())

    alone, alone_calls = updated(0)
    together, together_calls = updated(1 << 19)
    pairs, pairs_calls = updated(2 * 24 * 40)
    assert (alone_calls, together_calls, pairs_calls) == (7, 4, 5)
    assert all(torch.equal(expected, found) for expected, found in zip(one_by_one, alone))
    for expected, found, also in zip(alone, together, pairs):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-3)
        torch.testing.assert_close(also, expected, rtol=2e-2, atol=2e-3)


def test_a_schedule_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="must not exceed 1"):
        TrainConfig(steps=10, warmup_fraction=0.5, decay_fraction=0.6)
    with pytest.raises(ConfigError, match="learning_rates"):
        TrainConfig(**CONFIG.model_dump(), learning_rates=1.0)
