"""A document learns from itself alone: what it was packed with shows in no bit of its logits and gradients."""

import pytest
import torch
from matrix.mixers import MIXERS, model_of

from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.recipe import HybridRecipe

pytestmark = pytest.mark.usefixtures("each_backend")

FAMILIES = tuple(sorted(family.name for family in families()))
DTYPES = (torch.float32, torch.bfloat16)
LENGTH = 83
NEIGHBOURS = (((1,), ()), ((37,), (90,)), ((101,), (3,)), ((1, 64, 2), (1,)), ((130, 70), (65, 128, 1)))
"""Lengths of the documents before and behind the one that is looked at: other offsets, other numbers of rows."""


def document(length: int, seed: int, vocab: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (length + 1,), generator=generator)


def packed(vocab: int, before: tuple[int, ...], behind: tuple[int, ...], seed: int):
    """(tokens, targets, batch, rows of the document) with neighbours of these lengths."""
    lengths = (*before, LENGTH, *behind)
    seeds = [seed + n for n in range(len(lengths))]
    seeds[len(before)] = 1
    texts = [document(length, own, vocab) for length, own in zip(lengths, seeds)]
    first = sum(before)
    tokens_T, targets_T = torch.cat([text[:-1] for text in texts]), torch.cat([text[1:] for text in texts])
    return tokens_T, targets_T, Batch.packed(list(lengths)), slice(first, first + LENGTH)


def learn(model: Model, place, *, learns_all: bool, chunk_rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """The document's logits, and the gradient of summed losses with respect to its embedded inputs.

    learns_all: of all documents, of which only its own depends on them; else of its own alone.
    """
    tokens_T, targets_T, batch, rows = place
    found = []

    def keep(module, inputs, embedded_TD):
        embedded_TD.retain_grad()
        found.append(embedded_TD)

    handle = model.embed.register_forward_hook(keep)
    try:
        hidden_TD = model(tokens_T, batch)
        logits_TV = model.head_logits(hidden_TD[rows].detach())
        is_learnt_T = torch.zeros(len(tokens_T), dtype=torch.bool)
        is_learnt_T[rows] = True
        targets = Targets(targets_T, chunk_rows, None if learns_all else is_learnt_T, denominator=1)
        found.clear()
        model(tokens_T, batch, targets=targets).total.backward()
    finally:
        handle.remove()
    model.zero_grad(set_to_none=True)
    gradient_TD = found[0].grad
    if not learns_all:
        assert not gradient_TD[~is_learnt_T].any(), "a document's loss must not reach another document"
    return logits_TV, gradient_TD[rows].clone()


def check_that_neighbours_change_no_bit(model: Model) -> None:
    vocab = model.config.vocab_size
    expected_logits, expected = learn(model, packed(vocab, (), (), 2), learns_all=True)
    assert expected.isfinite().all() and expected.any(dim=-1).all()
    for n, (before, behind) in enumerate(NEIGHBOURS):
        place = packed(vocab, before, behind, 100 * (n + 1))
        for learns_all in (True, False):
            logits, gradient = learn(model, place, learns_all=learns_all, chunk_rows=(32, 50)[n % 2])
            assert torch.equal(logits, expected_logits), f"logits beside {before} and {behind}"
            differ = (gradient != expected).any(dim=-1).sum()
            assert torch.equal(gradient, expected), f"{differ} rows' gradients beside {before} and {behind}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mixer", MIXERS)
def test_neighbours_change_no_bit_of_a_document_s_gradient(mixer, dtype):
    check_that_neighbours_change_no_bit(model_of(mixer, str(dtype).removeprefix("torch.")))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_change_no_bit_in_any_family(family, dtype):
    check_that_neighbours_change_no_bit(cast(initialize(Model(family_of(family).tiny), 5, std=0.2), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neighbours_change_no_bit_in_a_model_of_the_quickstart_s_widths(dtype):
    recipe = HybridRecipe(pattern="KM", vocab_size=300)
    check_that_neighbours_change_no_bit(cast(initialize(Model(recipe.model_config_of(300, 0)), 3), dtype))


MICRO_BATCHES = ((40, 24), (64,), (1, 63), (30, 30, 4))
"""Documents of each micro-batch of a step: 64 rows in all of them."""


def micro_batches(model: Model) -> list[tuple[torch.Tensor, torch.Tensor, Batch]]:
    found = []
    for n, lengths in enumerate(MICRO_BATCHES):
        texts = [document(length, 10 * n + m, model.config.vocab_size) for m, length in enumerate(lengths)]
        tokens_T, targets_T = torch.cat([text[:-1] for text in texts]), torch.cat([text[1:] for text in texts])
        found.append((tokens_T, targets_T, Batch.packed(list(lengths))))
    return found


def step_gradients(model: Model, parts, *, is_grouped: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and the gradients of a step's mean, from the sums of these micro-batches in turn.

    is_grouped: gradients of each are taken by themselves and added afterwards, as whoever shares out the work does.
    """
    num_rows = sum(len(tokens_T) for tokens_T, _, _ in micro_batches(model))
    loss, sums = torch.zeros((), dtype=torch.float64), {}
    for tokens_T, targets_T, batch in parts:
        own = model(tokens_T, batch, targets=Targets(targets_T, 50, denominator=num_rows)).total
        own.backward()
        loss += own.detach()
        if is_grouped:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] = parameter.grad if name not in sums else sums[name] + parameter.grad
            model.zero_grad(set_to_none=True)
    if not is_grouped:
        sums = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        model.zero_grad(set_to_none=True)
    return loss, sums


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_step_is_the_ordered_sum_over_its_micro_batches(mixer):
    """However they are grouped; one forward call with all their documents is as close as sums in fp32 are."""
    model = model_of(mixer, "float32")
    parts = micro_batches(model)
    loss, expected = step_gradients(model, parts)
    other_loss, shared_out = step_gradients(model, parts, is_grouped=True)
    assert torch.equal(other_loss, loss) and shared_out.keys() == expected.keys()
    assert all(torch.equal(shared_out[name], grad) for name, grad in expected.items())
    tokens, targets = (torch.cat([part[n] for part in parts]) for n in (0, 1))
    packed_batch = Batch.packed([length for lengths in MICRO_BATCHES for length in lengths])
    packed_loss, together = step_gradients(model, [(tokens, targets, packed_batch)])
    assert abs(packed_loss - loss) <= 1e-6 * loss
    whole = torch.cat([grad.flatten() for grad in expected.values()])
    difference = torch.cat([(together[name] - grad).flatten() for name, grad in expected.items()])
    assert difference.norm() <= 1e-6 * whole.norm()
