"""A packed model does what the plain one does: copied, without rows, with ids that it has not, and in float64."""

import copy
import gc

import pytest
import torch
from tiny_model import RECIPE

from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops import native
from hyla.train.tokenizer import END_OF_TEXT_ID

PROMPTS = [[1, 2, 3, 250], [7] * 70]
needs_kernels = pytest.mark.skipif(
    native.why_missing() is not None, reason="copies of the library's layout are not made"
)


def model_of(*, is_tied, vocab_size=257):
    config = RECIPE.model_config_of(vocab_size, END_OF_TEXT_ID).model_copy(update={"tie_embeddings": is_tied})
    return initialize(Model(config), 0)


def logits(model):
    with torch.no_grad():
        return torch.cat(model.logits(PROMPTS))


@needs_kernels
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_copy_reads_its_own_weights(is_tied):
    model = model_of(is_tied=is_tied).pack()
    expected = logits(model)
    copied = copy.deepcopy(model)
    for projection in copied.projections():
        if projection.is_packed and hasattr(projection.weights, "tiles"):
            projection.weights.tiles.zero_()
    assert torch.equal(logits(model), expected)
    assert not logits(copied).any()
    copied = copy.deepcopy(model)
    del model
    gc.collect()
    assert torch.equal(logits(copied), expected)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_tied_embedding_takes_no_ids_and_refuses_those_that_it_has_not(is_packed):
    model = model_of(is_tied=True)
    model = model.pack() if is_packed else model
    assert model.embed(torch.empty(0, dtype=torch.int64)).shape == (0, RECIPE.hidden_dim)
    for token in (-1, 257, 319, 320):
        with pytest.raises(IndexError):
            model.embed(torch.tensor([5, token]))


@needs_kernels
def test_a_tied_embedding_and_its_head_are_one_copy_in_bf16():
    model = cast(model_of(is_tied=True, vocab_size=300), torch.bfloat16).pack()
    stored = model.head.projection.weights
    assert model.embed.weight.is_meta and model.head.weight.is_meta
    assert stored.tiles.dtype == torch.bfloat16 and stored.dtype == torch.float32
    assert stored.nbytes == 320 * RECIPE.hidden_dim * 2  # of 64 rows a tile


@pytest.mark.parametrize("is_tied", [False, True])
def test_packing_leaves_float64_alone(is_tied):
    model = cast(model_of(is_tied=is_tied), torch.float64)
    with torch.no_grad():
        model.head.weight += 1e-12
    weight, expected = model.head.weight.detach().clone(), logits(model)
    assert torch.equal(logits(model.pack()), expected)
    assert torch.equal(model.unpack().head.weight, weight)
