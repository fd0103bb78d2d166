"""Sequences with open chunks beside ones that begin a chunk, in one call."""

import pytest
import torch
from matrix.mixers import MIXERS, VOCAB, model_of

from hyla.caches import Cache

pytestmark = pytest.mark.usefixtures("each_backend")

STARTS = (70, 64, 67, 128, 5)
"""The second and the fourth begin a chunk, so those with open chunks are no range."""


@pytest.mark.parametrize("mixer", MIXERS)
@torch.inference_mode()
def test_a_chunk_that_begins_between_open_ones_changes_none_of_them(mixer):
    model = model_of(mixer, "float32")
    generator = torch.Generator().manual_seed(4)
    ids = [torch.randint(VOCAB, (start + 3,), generator=generator).tolist() for start in STARTS]
    expected = [rows[-3:] for rows in model.logits(ids)]
    cache = Cache(model.cache_specs(), num_pages=16, num_slots=len(ids))
    sequences = [cache.open() for _ in ids]
    for pieces in ([one[:-3] for one in ids], [one[-3:] for one in ids]):
        batch = cache.batch([(sequence, len(piece)) for sequence, piece in zip(sequences, pieces)])
        hidden = model(torch.tensor([token for piece in pieces for token in piece]), batch, cache.layers)
        for sequence, piece in zip(sequences, pieces):
            cache.commit(sequence, len(piece))
    assert torch.equal(model.head_logits(hidden), torch.cat(expected))
