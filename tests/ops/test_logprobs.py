"""One formula of log-probabilities: engine, scores, losses and gradients take it from the same place."""

import math

import numpy as np
import pytest
import torch

from hyla.engine.sampling.sampler import logprobs_of
from hyla.errors import ConfigError
from hyla.ops import backends
from hyla.ops.exact.cross_entropy import chunk_loss, cross_entropy, logits_of
from hyla.ops.exact.logprobs import log_sums, of_tokens, token_logprobs, token_logprobs_and_entropy

ROWS = 67
VOCABULARIES = (1, 37, 4096, 4113, 49_152, 151_936)
TEMPERATURES = (1.0, 0.7, 1.9)


@pytest.fixture(params=["native", "torch", "portable"], autouse=True)
def backend(request):
    """Every way to compute on the CPU."""
    if request.param not in backends.CHOICES[request.config.getoption("--backend") or "auto"]:
        pytest.skip(f"everything is computed with {request.config.getoption('--backend')}")
    if request.param == "native" and backends.on(torch.device("cpu")) != "native":
        pytest.skip("no kernels here")
    backends.use(request.param)
    yield request.param
    backends.use(request.config.getoption("--backend") or "auto")


def draw(*shape, seed=0, scale=1.0, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def ids(count, vocab, seed=3):
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_engine_scorer_trainer_and_loss_have_the_same_bits_in_every_row(vocab, temperature):
    hidden, weight, targets = draw(ROWS, 12), draw(vocab, 12, seed=1, scale=0.9), ids(ROWS, vocab)
    logits = logits_of(hidden, weight)
    value, entropies = of_tokens(logits, targets, temperature), []
    for chunk_rows in (1, 9, 64, 200) if vocab < 10_000 else (64,):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        trained = token_logprobs(*leaves, targets, chunk_rows=chunk_rows, temperature=temperature)
        assert trained.requires_grad and torch.equal(trained.detach(), value)
        both = token_logprobs_and_entropy(*leaves, targets, chunk_rows=chunk_rows, temperature=temperature)
        assert torch.equal(both[0], trained) and not both[1].requires_grad
        entropies.append(both[1])
    assert all(torch.equal(entropy, entropies[0]) for entropy in entropies[1:])
    entries = logprobs_of(logits, targets.tolist(), 0, temperature)
    assert [entry.sampled for entry in entries] == value.tolist()
    if temperature == 1.0:
        assert [entry.logprob for entry in entries] == value.tolist()
        losses, _ = chunk_loss(logits.clone(), targets)
        assert torch.equal(-losses, value)
        losses, _ = chunk_loss(logits.clone(), targets, 0.25)
        assert torch.equal(-losses, value)
        total = value.sum(dtype=torch.float64) * (1.0 / ROWS)
        assert cross_entropy(hidden, weight, targets, chunk_rows=ROWS) == -total.float()


@pytest.mark.parametrize("vocab", [49_152, 151_936])
def test_one_ulp_in_one_logit_or_in_the_temperature_is_seen(vocab):
    """The comparison above must be able to fail."""
    logits, targets = draw(ROWS, vocab, scale=2.0), ids(ROWS, vocab)
    value = of_tokens(logits, targets, 0.7)
    planted = logits.clone()
    # Near 8, an ulp of the token's own logit is larger than one of the result.
    planted[torch.arange(ROWS), targets] = 8.0
    plain = of_tokens(planted, targets, 0.7)
    planted[5, targets[5]] = float(np.nextafter(np.float32(8.0), np.float32(9.0)))
    assert (of_tokens(planted, targets, 0.7) != plain).nonzero().flatten().tolist() == [5]
    assert (of_tokens(logits, targets, 0.7 * (1 + 2**-22)) != value).sum() > ROWS // 4


@pytest.mark.parametrize("vocab", [37, 4113])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_row_s_number_is_the_same_alone_among_others_and_in_a_view(vocab, temperature):
    logits, targets = draw(ROWS, vocab, scale=4.0), ids(ROWS, vocab)
    together = of_tokens(logits, targets, temperature)
    for row in range(ROWS):
        assert torch.equal(
            of_tokens(logits[row : row + 1], targets[row : row + 1], temperature), together[row : row + 1]
        )
    wider = torch.cat([draw(ROWS, 3, seed=9), logits], dim=1)[:, 3:]
    assert not wider.is_contiguous() and torch.equal(of_tokens(wider, targets, temperature), together)
    several = torch.stack([ids(ROWS, vocab, 5), targets, ids(ROWS, vocab, 6)], dim=1)
    assert torch.equal(of_tokens(logits, several, temperature)[:, 1], together)
    sums = log_sums(logits, temperature)
    assert torch.equal(of_tokens(logits, targets, temperature, sums=sums), together)


def test_a_temperature_divides_each_logit_once_in_fp32():
    logits, targets = draw(ROWS, 301, scale=5.0), ids(ROWS, 301)
    before = logits.clone()
    for temperature in (0.7, 0.1, 3.0, 1e-6, 1e6):
        divided = torch.from_numpy(logits.numpy() / np.float32(temperature))
        assert torch.equal(of_tokens(logits, targets, temperature), of_tokens(divided, targets))
    assert torch.equal(logits, before)
    by_reciprocal = logits * torch.tensor(1.0 / 0.7)
    assert not torch.equal(of_tokens(by_reciprocal, targets), of_tokens(logits, targets, 0.7))
    assert torch.equal(of_tokens(logits, targets, 1.0), of_tokens(logits, targets))


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-7, 1e7, float("nan"), float("inf")])
def test_a_temperature_that_divides_nothing_is_refused_by_name(temperature):
    hidden, weight, targets = draw(3, 4), draw(5, 4), ids(3, 5)
    with pytest.raises(ConfigError, match=r"temperature = .* from 1e-06 to 1e\+06"):
        of_tokens(hidden, ids(3, 4), temperature)
    with pytest.raises(ConfigError, match="temperature"):
        token_logprobs(hidden, weight, targets, chunk_rows=2, temperature=temperature)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_values_and_entropy_are_float64_s(temperature):
    hidden, weight, targets = draw(ROWS, 12), draw(5001, 12, seed=1), ids(ROWS, 5001)
    found, entropy = token_logprobs_and_entropy(hidden, weight, targets, chunk_rows=16, temperature=temperature)
    exact = torch.log_softmax(hidden.double() @ weight.double().t() / temperature, -1)
    assert (found.double() - exact.gather(1, targets[:, None])[:, 0]).abs().max() <= 1e-5
    assert (entropy.double() + (exact.exp() * exact).sum(-1)).abs().max() <= 1e-5


def test_float64_logits_give_float64():
    logits, targets = draw(5, 301, dtype=torch.float64), ids(5, 301)
    found = of_tokens(logits, targets, 0.7)
    exact = torch.log_softmax(logits / 0.7, -1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradients_are_those_of_float64_autograd(temperature):
    hidden, weight, targets = draw(20, 12), draw(301, 12, seed=1), ids(20, 301)
    row_weights = draw(20, seed=4)
    leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
    exact = [x.double().requires_grad_() for x in (hidden, weight)]
    found = token_logprobs(*leaves, targets, chunk_rows=7, temperature=temperature)
    (found * row_weights).sum().backward()
    logprobs = torch.log_softmax(exact[0] @ exact[1].t() / temperature, -1).gather(1, targets[:, None])[:, 0]
    (logprobs * row_weights.double()).sum().backward()
    for mine, other in zip(leaves, exact):
        assert (mine.grad - other.grad).abs().max() <= 2e-6 * other.grad.abs().max()


def test_float64_gradients_pass_gradcheck_and_entropy_adds_none():
    hidden, weight = (draw(n, 4, seed=n, dtype=torch.float64).requires_grad_() for n in (5, 11))

    def logprobs(*leaves):
        return token_logprobs(*leaves, ids(5, 11), chunk_rows=2, temperature=0.7)

    assert torch.autograd.gradcheck(logprobs, (hidden, weight))
    found = torch.autograd.grad(logprobs(hidden, weight).sum(), (hidden, weight))
    both, _ = token_logprobs_and_entropy(hidden, weight, ids(5, 11), chunk_rows=2, temperature=0.7)
    assert all(map(torch.equal, found, torch.autograd.grad(both.sum(), (hidden, weight))))


def test_impossible_tokens_take_nothing_from_the_others():
    """-inf stands for what cannot be drawn: exactly zero of the sum."""
    logits = draw(9, 4113, scale=3.0)
    is_kept = torch.arange(4113) % 7 == 2
    masked = logits.masked_fill(~is_kept, -torch.inf)
    found = of_tokens(masked, torch.arange(9) * 7 + 2, 0.7)
    exact = torch.log_softmax(logits[:, is_kept].double() / 0.7, -1)[torch.arange(9), torch.arange(9)]
    assert (found.double() - exact).abs().max() <= 1e-5
    assert of_tokens(masked, torch.zeros(9, dtype=torch.int64)).tolist() == [-math.inf] * 9
    alone = torch.full((1, 301), -math.inf)
    alone[0, 17] = 5.0
    assert of_tokens(alone, torch.tensor([17])).tolist() == [0.0]


def test_no_rows_are_no_numbers():
    none = torch.zeros(0, dtype=torch.int64)
    assert of_tokens(torch.zeros(0, 37), none).shape == (0,)
    assert token_logprobs(torch.zeros(0, 4), draw(37, 4), none, chunk_rows=8).shape == (0,)
