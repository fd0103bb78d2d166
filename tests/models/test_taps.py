"""Taps see what every sublayer reads and gives; the loss is made inside the model's forward call."""

from itertools import pairwise

import torch
from tiny_model import tiny_model

from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ops.exact.cross_entropy import cross_entropy


def rows(model, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (sum(lengths),), generator=generator)
    return tokens, Batch.packed(lengths)


def test_an_observer_sees_the_stream_from_the_embedding_to_the_last_sublayer_and_changes_no_bit():
    model = tiny_model()
    tokens, batch = rows(model, (70, 3))
    taps = []
    observed = model(tokens, batch, observer=taps.append)
    assert torch.equal(observed, model(tokens, batch))
    assert [tap.index for tap in taps] == list(range(len(model.sublayers)))
    assert [tap.sublayer for tap in taps] == list(model.sublayers)
    assert torch.equal(taps[0].stream_TD, model.embed(tokens))
    for before, after in pairwise(taps):
        assert torch.equal(before.result_TD, after.stream_TD)
    for tap in taps:
        assert torch.equal(tap.normed_TD, tap.sublayer.norm(tap.stream_TD))
        assert torch.equal(tap.result_TD, tap.stream_TD + tap.output_TD)
    assert torch.equal(observed, model.norm(taps[-1].result_TD))


def test_a_scaled_residual_goes_on_with_the_normed_stream():
    model = initialize(Model(family_of("minimax").tiny), 3, std=0.2)
    tokens, batch = rows(model, (9,))
    taps = []
    model(tokens, batch, observer=taps.append)
    for tap in taps:
        alpha, beta = tap.sublayer.residual.alpha, tap.sublayer.residual.beta
        assert (alpha, beta) != (1.0, 1.0)
        assert torch.equal(tap.result_TD, tap.normed_TD * alpha + tap.output_TD * beta)


def test_a_loss_on_one_tap_reaches_the_weights_before_it_and_no_others():
    model = tiny_model()
    tokens, batch = rows(model, (20,))
    taps = []
    model(tokens, batch, observer=taps.append)
    taps[1].output_TD.square().sum().backward()
    reached = [any(p.grad is not None for p in sublayer.parameters()) for sublayer in model.sublayers]
    assert reached == [True, True] + [False] * (len(reached) - 2)


def test_the_loss_of_a_forward_call_is_that_of_its_logits_and_a_wrapper_sees_every_weight_used():
    model = tiny_model()
    tokens, batch = rows(model, (40, 25))
    targets = torch.arange(65) % model.config.vocab_size
    seen = []
    model.register_forward_hook(lambda module, arguments, losses: seen.append(losses))
    loss = model(tokens, batch, targets=Targets(targets, chunk_rows=16)).total
    assert seen[0].total is loss and loss.shape == ()
    expected = cross_entropy(model(tokens, batch), model.head.weight, targets, chunk_rows=16)
    assert torch.equal(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "router_bias" not in name)


def test_a_float64_model_has_a_float64_loss():
    model = tiny_model().double()
    tokens, batch = rows(model, (12,))
    loss = model(tokens, batch, targets=Targets(tokens, chunk_rows=5)).total
    logits = model.head.logits(model(tokens, batch))
    expected = torch.nn.functional.cross_entropy(logits, tokens)
    assert loss.dtype == torch.float64 and abs(loss.item() - expected.item()) < 1e-12
