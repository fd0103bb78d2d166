"""What a matrix is stored as, and its product with rows: plain, packed for the CPU's library, FP8 that stays FP8.

One contract, `protocol.Weights`; README.md has the layouts. Imported when asked for: `blocks` and `cost` need no
PyTorch.
"""

from hyla.lazy import exports

_HOMES = {
    "Adapted": "hyla.ops.weights.adapted",
    "FP8_BLOCK": "hyla.ops.weights.blocks",
    "BlockLayout": "hyla.ops.weights.blocks",
    "FP8": "hyla.ops.weights.fp8_codes",
    "FP8Tensor": "hyla.ops.weights.fp8_codes",
    "FP8Weights": "hyla.ops.weights.fp8",
    "HeadMatrices": "hyla.ops.weights.heads",
    "HeadTiles": "hyla.ops.weights.heads",
    "LowRank": "hyla.ops.weights.adapted",
    "Packed": "hyla.ops.weights.packed",
    "PackedStack": "hyla.ops.weights.packed",
    "Plain": "hyla.ops.weights.plain",
    "Shard": "hyla.ops.weights.blocks",
    "Tiled": "hyla.ops.weights.tiled",
    "Weights": "hyla.ops.weights.protocol",
    "dequantise": "hyla.ops.weights.fp8_codes",
    "makes_tiles": "hyla.ops.weights.packed",
    "num_blocks": "hyla.ops.weights.blocks",
    "pack": "hyla.ops.weights.packed",
    "pack_heads": "hyla.ops.weights.heads",
    "pack_stack": "hyla.ops.weights.packed",
    "quantise": "hyla.ops.weights.fp8_codes",
    "quantise_with": "hyla.ops.weights.fp8_codes",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
