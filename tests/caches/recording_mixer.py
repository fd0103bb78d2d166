"""A mixer that only records the tokens it saw, on the same grid and rings as the real ones."""

import torch

from hyla.grid import CHUNK
from hyla.layers.protocol import CacheSpec, TensorSpec
from hyla.ops.short_conv import RING

TAPS = 8

SPEC = CacheSpec(
    page_tensors=(TensorSpec("tokens", (CHUNK,), torch.int64, "kv"),),
    slot_tensors=(
        TensorSpec("closed", (1,), torch.int64, "anchor"),
        TensorSpec("rows", (CHUNK,), torch.int64, "open"),
        TensorSpec("conv", (RING, 1), torch.int64, "conv"),
        TensorSpec("conv_tail", (TAPS - 1, 1), torch.int64, "tail"),
    ),
)


def write(layer, batch, tokens) -> None:
    """What a forward call does: extend pages, open rows and ring; fold closed chunks into a polynomial hash."""
    tokens = torch.tensor(list(tokens))
    for offset, start, end, slot, pages in zip(batch.offsets, batch.starts, batch.ends, batch.slots, batch.pages):
        while start < end:
            stop = min(end, (start // CHUNK + 1) * CHUNK)
            here = slice(start % CHUNK, start % CHUNK + stop - start)
            new = tokens[offset : offset + stop - start]
            layer["tokens"][pages[start // CHUNK], here] = new
            layer["rows"][slot, here] = new
            for position in range(max(start, stop - RING), stop):
                layer["conv"][slot, position % RING] = new[position - start]
            if stop % CHUNK == 0:
                layer["conv_tail"][slot] = layer["conv"][slot, [p % RING for p in range(stop - TAPS + 1, stop)]]
            if stop % CHUNK == 0:
                layer["closed"][slot, 0] = fold(int(layer["closed"][slot, 0]), layer["rows"][slot].tolist())
            offset, start = offset + stop - start, stop


def fold(anchor: int, rows) -> int:
    for token in rows:
        anchor = (anchor * 31 + token) % 1_000_003
    return anchor


def read(layer, sequence, taps: int = TAPS):
    """(tokens of the pages, anchor, open rows, last inputs) as the next forward call would see them."""
    length = sequence.length
    flat = [token for page in sequence.pages for token in layer["tokens"][page].tolist()][:length]
    ring = layer["conv"][sequence.slot, :, 0].tolist()
    last = [ring[position % RING] for position in range(max(length - taps + 1, 0), length)]
    rows = layer["rows"][sequence.slot, : length % CHUNK].tolist()
    return flat, int(layer["closed"][sequence.slot, 0]), rows, last


def expected(tokens, taps: int = TAPS):
    """What `read` must give after these tokens."""
    closed = len(tokens) // CHUNK * CHUNK
    return list(tokens), fold(0, tokens[:closed]), list(tokens[closed:]), list(tokens[max(len(tokens) - taps + 1, 0) :])
