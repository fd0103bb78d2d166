"""How much memory a step takes beside weights and caches: what a device of its own must keep free."""

from __future__ import annotations

from dataclasses import dataclass

from hyla.cost.inventory import inventory
from hyla.grid import CHUNK
from hyla.models.config import ModelConfig, SublayerConfig
from hyla.models.kinds import Attention, Recurrence, kind_of
from hyla.ops.attention.plan import SCORE_BYTES, STEP_BYTES
from hyla.ops.exact.portable import BATCH, BATCH_ROWS

SIZE = 4
"""Bytes of an element: operators compute in fp32 whatever the weights' dtype."""

COPIES = 3
"""Of a sublayer's rows and chunks that live at once: as computed, padded or reordered, and as the next part reads them.
Measured (tests/engine/test_activations.py)."""


@dataclass(frozen=True)
class LargestStep:
    """The most that an engine puts into one step."""

    num_rows: int
    num_sequences: int
    num_logit_rows: int
    """Rows whose logits are computed at once."""
    context_len: int


def activation_bytes(config: ModelConfig, step: LargestStep) -> int:
    """Bytes of temporaries of the largest step: the residual stream, and the widest sublayer or the logits.

    Between 1 and 5 times what the portable arithmetic was measured to hold at once on the CPU, for a prompt and for a
    batch of short ones; up to 40 times for a step of single rows, where no sequence fills a chunk of 64 rows.
    """
    stream = SIZE * 4 * step.num_rows * config.hidden_dim
    sublayers = [*config.sublayers, *(sublayer for module in config.mtp for sublayer in module.sublayers)]
    widest = max(_sublayer_bytes(sublayer, config.hidden_dim, step) for sublayer in sublayers)
    logits = COPIES * SIZE * step.num_logit_rows * config.vocab_size
    return stream + max(widest, logits)


def _sublayer_bytes(sublayer: SublayerConfig, hidden_dim: int, step: LargestStep) -> int:
    held = inventory(sublayer, hidden_dim)
    channels = hidden_dim + sum(matrix.count * (matrix.in_dim + matrix.out_dim) for matrix in held.matrices)
    if held.experts is not None:
        experts = held.experts
        channels += experts.visited * (2 * experts.row_dim + experts.num_matrices * experts.expert_dim)
    rows, scores = step.num_rows * channels, 0
    kind = kind_of(sublayer.module)
    found = kind.work(sublayer.module) if kind.work is not None else None
    if isinstance(found, Recurrence):
        rows += _chunk_elements(found, step)
    elif isinstance(found, Attention):
        rows += step.num_rows * found.num_heads * (found.key_dim + 2 * found.value_dim)
        scores = _score_bytes(found, step)
    return COPIES * SIZE * rows + scores + COPIES * SIZE * BATCH * BATCH_ROWS * CHUNK


def _chunk_elements(found: Recurrence, step: LargestStep) -> int:
    """Products among a chunk's rows, its keys three times, its values and outputs. Every sequence may open a chunk."""
    key_dim, value_dim = found.dims.get("key_dim", found.dims.get("state_dim", 0)), found.dims.get("value_dim", 0)
    chunks = -(-step.num_rows // CHUNK) + min(step.num_sequences, step.num_rows)
    return chunks * found.num_heads * CHUNK * (3 * CHUNK + 4 * key_dim + 3 * value_dim)


def _score_bytes(found: Attention, step: LargestStep) -> int:
    """Scores of a group of tiles, their exponentials, and the keys of one product; an indexer's scores of all keys."""
    pages = -(-step.context_len // CHUNK) * CHUNK
    scores = min(COPIES * SCORE_BYTES, 2 * SIZE * step.num_rows * found.num_heads * pages)
    keys = step.num_sequences * pages * found.num_kv_heads * (found.key_dim + found.value_dim)
    scores += min(STEP_BYTES, SIZE * keys)
    if found.indexer is not None:
        scores += 2 * SIZE * step.num_rows * pages
    return scores
