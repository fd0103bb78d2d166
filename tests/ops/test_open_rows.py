"""Operators without a solve keep plain rows of the open chunk: drafts inside it are forgotten by moving the cursor."""

import pytest
import torch
from test_states import OPERATORS, Operator

from hyla.caches import Cache
from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops import gla, lightning, linear, ssd
from hyla.ops.batch import Batch

pytestmark = pytest.mark.usefixtures("each_backend")

SIZES = {"num_heads": 4, "key_dim": 24, "value_dim": 20}
TENSORS = {
    "gla": gla.cache_tensors(**SIZES),
    "lightning": lightning.cache_tensors(**SIZES),
    "ssd": ssd.cache_tensors(num_groups=2, **SIZES),
    "linear": linear.cache_tensors(**SIZES),
}
each = pytest.mark.parametrize("op", [op for op in OPERATORS if op.name in TENSORS], ids=lambda op: op.name)


def pool(op: Operator) -> Cache:
    spec = CacheSpec(slot_tensors=tuple(TensorSpec(*fields) for fields in TENSORS[op.name]))
    return Cache([spec], num_pages=3, num_slots=1)


def write(op, cache, sequence, xs, drafts=0):
    """Rows behind the sequence's cursor, of which the last are drafts."""
    count = len(xs[0])
    batch = cache.batch([(sequence, count)], [count - drafts])
    o = op.call(xs, batch=batch, cache=cache.layers[0])
    cache.commit(sequence, count - drafts)
    return o


@each
def test_a_draft_that_is_rejected_inside_a_chunk_needs_no_backup(op):
    """There is one slot, so a backup would have no place."""
    cache = pool(op)
    sequence = cache.open()
    xs, junk = op.inputs(128), op.inputs(40, seed=1)
    write(op, cache, sequence, [x[:70] for x in xs])
    assert not cache.needs_backup(sequence, 1, 40)
    assert cache.needs_backup(sequence, 1, 64), "a closed chunk cannot be opened again"
    write(op, cache, sequence, [torch.cat([x[70:71], y]) for x, y in zip(xs, junk)], drafts=40)
    assert sequence.length == 71
    after = torch.cat([write(op, cache, sequence, [x[t : t + 1] for x in xs]) for t in range(71, 128)])
    assert torch.equal(after, op.call(xs, batch=Batch.packed([128]))[71:])


@each
@pytest.mark.parametrize("length", [64, 65, 80, 83])
def test_open_rows_go_back_to_any_length_of_their_chunk(op, length):
    cache = pool(op)
    sequence = cache.open()
    xs, others = op.inputs(130), op.inputs(130, seed=1)
    drafts = [torch.cat([x[:length], other[length:]]) for x, other in zip(xs, others)]
    for first, last in ((0, 60), (60, 98), (98, 99)):
        write(op, cache, sequence, [x[first:last] for x in drafts])
    cache.rollback(sequence, length)
    after = torch.cat(
        [write(op, cache, sequence, [x[a:b] for x in xs]) for a, b in ((length, length + 1), (length + 1, 130))]
    )
    assert torch.equal(after, op.call(xs, batch=Batch.packed([130]))[length:])
