"""Low-rank terms beside weights of every kind: the formula, the rows, the gradients."""

import pytest
import torch

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops.weights import Adapted, FP8Tensor, FP8Weights, LowRank, Plain, pack, pack_stack, quantise
from hyla.ops.weights.adapted import row_norms

OUTS, IN, RANK, EXPERTS = (7, 130, 5), 36, 3, 4
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}

pytestmark = pytest.mark.usefixtures("each_backend")


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain(*lead, dtype=torch.float32):
    return Plain(tuple(draw(*lead, out, IN, seed=out, dtype=dtype) for out in OUTS))


def terms(*lead, dora=False):
    """Beside the first and the last matrix, which share an A."""
    down = draw(*lead, RANK, IN, seed=1)

    def term(out, seed):
        length = 0.5 + draw(out, seed=seed + 1).abs() if dora else None
        return LowRank(down, draw(*lead, out, RANK, seed=seed), 0.7, length)

    return term(OUTS[0], 2), None, term(OUTS[2], 4)


def expected(weight, term, x):
    """The formula in float64."""
    weight, x = weight.double(), x.double()
    if term is None:
        return x @ weight.mT
    changed = weight + term.scale * term.up.double() @ term.down.double()
    if term.magnitude_O is not None:
        changed = term.magnitude_O.double()[:, None] * changed / changed.norm(dim=1, keepdim=True)
    return x @ changed.mT


def error(ours, theirs):
    return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_a_product_is_that_of_the_formula(dtype, dora):
    base, beside, x = plain(dtype=dtype), terms(dora=dora), draw(11, IN, dtype=dtype)
    y = Adapted(base, beside, OUTS).product(x)
    whole = torch.cat([expected(weight, term, x) for weight, term in zip(base.parts, beside)], dim=-1)
    assert y.dtype == dtype and error(y, whole) < TOLERANCE[dtype]


def test_a_bias_is_added_behind_dora_s_stretch():
    base, beside, x, bias = plain(), terms(dora=True), draw(4, IN), draw(sum(OUTS), seed=9)
    weight = Adapted(base, beside, OUTS)
    assert error(weight.product(x, bias), weight.product(x).double() + bias.double()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_a_row_is_the_same_alone_in_company_and_under_autograd(dtype, dora):
    weight, x = Adapted(plain(dtype=dtype), terms(dora=dora), OUTS), draw(77, IN, dtype=dtype)
    together = weight.product(x)
    assert all(torch.equal(weight.product(x[n : n + 1])[0], together[n]) for n in range(0, 77, 5))
    assert torch.equal(weight.product(x.requires_grad_()), together)


def test_packed_and_fp8_bases_give_the_bits_of_the_plain_one():
    sizes, x = (256, 128), draw(9, 128, dtype=torch.bfloat16)
    stored = tuple(FP8Tensor(*quantise(draw(out, 128, seed=out)), torch.bfloat16) for out in sizes)
    fp8 = FP8Weights(stored, torch.bfloat16)
    numbers = tuple(tensor.dense() for tensor in stored)
    beside = (None, LowRank(draw(RANK, 128), draw(128, RANK, seed=1), 2.0))
    results = [Adapted(base, beside, sizes).product(x) for base in (Plain(numbers), pack(*numbers), fp8)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_an_fp8_base_is_trained_beside_and_a_packed_one_is_refused():
    stored, x = (
        FP8Tensor(*quantise(draw(256, 128)), torch.bfloat16),
        draw(9, 128, dtype=torch.bfloat16).requires_grad_(),
    )
    term = LowRank(draw(RANK, 128).requires_grad_(), draw(256, RANK, seed=1).requires_grad_(), 2.0)
    Adapted(FP8Weights((stored,), torch.bfloat16), (term,), (256,)).product(x).float().sum().backward()
    assert all(grad is not None and grad.isfinite().all() for grad in (x.grad, term.down.grad, term.up.grad))
    # In fp32, for which there is a layout on every processor.
    with pytest.raises(BackendUnavailable, match="unpack"):
        Adapted(pack(draw(256, 128)), (term,), (256,)).product(draw(9, 128).requires_grad_())


def test_only_the_terms_and_the_rows_have_gradients():
    base, x = plain(), draw(6, IN).requires_grad_()
    first = LowRank(draw(RANK, IN, seed=1).requires_grad_(), draw(OUTS[0], RANK, seed=2).requires_grad_(), 0.7)
    y, into = Adapted(base, (first, None, None), OUTS).product(x), draw(6, sum(OUTS), seed=5)
    y.backward(into)
    x64, down, up = (t.detach().double().requires_grad_() for t in (x, first.down, first.up))
    whole = torch.cat([base.parts[0].double() + 0.7 * up @ down, *(part.double() for part in base.parts[1:])])
    (x64 @ whole.mT).backward(into.double())
    for ours, theirs in ((x, x64), (first.down, down), (first.up, up)):
        assert error(ours.grad, theirs.grad) < 2e-6
    assert all(part.grad is None for part in base.parts)


def test_dora_takes_the_norm_as_a_constant():
    weight, x, into = draw(OUTS[0], IN), draw(6, IN), draw(6, OUTS[0], seed=5)
    tensors = draw(RANK, IN, seed=1), draw(OUTS[0], RANK, seed=2), 0.5 + draw(OUTS[0], seed=3).abs()
    down, up, length = (t.requires_grad_() for t in tensors)
    Adapted(Plain((weight,)), (LowRank(down, up, 0.7, length),), OUTS[:1]).product(x).backward(into)
    down64, up64, length64 = (t.detach().double().requires_grad_() for t in tensors)
    changed = weight.double() + 0.7 * up64 @ down64
    (x.double() @ (length64[:, None] * changed / changed.detach().norm(dim=1, keepdim=True)).mT).backward(into.double())
    for ours, theirs in ((down, down64), (up, up64), (length, length64)):
        assert error(ours.grad, theirs.grad) < 5e-6


@pytest.mark.parametrize("is_packed", [False, True])
def test_grouped_rows_of_experts_have_their_expert_s_term(is_packed):
    parts, beside, x = plain(EXPERTS), terms(EXPERTS), draw(9, IN)
    spans = [(0, 0, 2), (2, 2, 3), (3, 3, 9)]
    base = pack_stack(*parts.parts) if is_packed else parts
    weight = Adapted(base, beside, OUTS)
    y = weight.grouped(x, spans)
    for expert, first, last in spans:
        assert torch.equal(y[first:last], Adapted(parts, beside, OUTS).take(expert).product(x[first:last]))
    assert torch.equal(y, weight.grouped(x, torch.tensor([(0, 0, 2), (1, 2, 2), *spans[1:]])))


def test_a_merged_weight_is_that_of_the_formula():
    weight, down = draw(2, 5, IN), draw(RANK, IN, seed=1)
    term = LowRank(down, draw(2, 5, RANK, seed=2), 0.7, 0.5 + draw(2, 5, seed=3).abs())
    changed = weight.double() + 0.7 * term.up.double() @ down.double()
    wanted = term.magnitude_O.double()[..., None] * changed / changed.norm(dim=-1, keepdim=True)
    assert error(term.merged(weight), wanted) < 2e-6
    assert error(row_norms(weight), weight.double().norm(dim=-1)) < 1e-6


def test_the_dense_form_is_the_merged_one():
    base, beside = plain(dtype=torch.bfloat16), terms()
    weight = Adapted(base, beside, OUTS)
    assert torch.equal(weight.dense()[: OUTS[0]], beside[0].merged(base.parts[0]).bfloat16())
    assert torch.equal(weight.dense(OUTS[0], sum(OUTS[:2])), base.parts[1])
    assert weight.nbytes == base.nbytes + (RANK * IN + (OUTS[0] + OUTS[2]) * RANK) * 4


def test_adapted_weights_are_not_divided():
    with pytest.raises(ConfigError, match="merge"):
        Adapted(plain(), terms(), OUTS).shard("out", 0, 2)
