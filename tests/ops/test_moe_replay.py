"""Another choice of experts than the router's own: its weights, its gradient, and no bit where it is the same."""

import pytest
import torch

from hyla.errors import ConfigError
from hyla.ops.moe import route
from hyla.ops.moe.routing import NORMALIZE_EPS

pytestmark = pytest.mark.usefixtures("each_backend")

T, E, K = 37, 6, 3
ROUTINGS = [
    {"score": "softmax", "normalize": True},
    {"score": "softmax", "normalize": False, "scaling": 0.5},
    {"score": "sigmoid", "normalize": True, "num_groups": 3, "num_groups_kept": 2, "scaling": 2.5},
]


def made(routing):
    generator = torch.Generator().manual_seed(4)
    logits_TE = torch.randn(T, E, generator=generator).requires_grad_()
    grad_Tk = torch.randn(T, K, generator=generator)
    return logits_TE, torch.randn(E, generator=generator), grad_Tk, {"num_experts_per_token": K, **routing}


def weighed(logits_TE, bias_E, grad_Tk, options, **more):
    weights_Tk, ids_Tk = route(logits_TE, bias_E, **options, **more)
    return weights_Tk, ids_Tk, *torch.autograd.grad(weights_Tk, logits_TE, grad_Tk)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_routers_own_choice_changes_no_bit(routing):
    expected = weighed(*made(routing))
    found = weighed(*made(routing), replay=lambda own_Tk: expected[1].clone())
    assert all(torch.equal(one, other) for one, other in zip(found, expected))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_rows_with_another_choice_are_weighed_by_their_own_scores_and_leave_the_others_alone(routing):
    logits_TE, bias_E, grad_Tk, options = made(routing)
    expected = weighed(logits_TE, bias_E, grad_Tk, options)
    other_Tk = expected[1].clone()
    is_other_T = torch.arange(T) % 3 == 0
    other_Tk[is_other_T] = (other_Tk[is_other_T] + 1) % E
    found = weighed(logits_TE, bias_E, grad_Tk, options, replay=lambda own_Tk: other_Tk)
    assert torch.equal(found[1], other_Tk)
    for one, other in zip(found, expected):
        assert torch.equal(one[~is_other_T], other[~is_other_T])
    logits_TE = logits_TE.detach().double().requires_grad_()
    scores_TE = logits_TE.sigmoid() if options["score"] == "sigmoid" else logits_TE.softmax(-1)
    weights_Tk = scores_TE.gather(1, other_Tk)
    if options["normalize"]:
        weights_Tk = weights_Tk / (weights_Tk.sum(-1, keepdim=True) + NORMALIZE_EPS[options["score"]])
    weights_Tk = weights_Tk * options.get("scaling", 1.0)
    (grad_TE,) = torch.autograd.grad(weights_Tk, logits_TE, grad_Tk.double())
    torch.testing.assert_close(found[0].double(), weights_Tk.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found[2].double(), grad_TE, rtol=1e-5, atol=1e-6)


def test_a_choice_of_another_shape_is_an_error():
    logits_TE, bias_E, _, options = made(ROUTINGS[0])
    with pytest.raises(ConfigError, match=r"\(36, 3\) choices were given to replay for \(37, 3\)"):
        route(logits_TE, bias_E, **options, replay=lambda own_Tk: own_Tk[1:])
