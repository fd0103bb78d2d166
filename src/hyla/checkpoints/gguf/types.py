"""How tensors are stored in GGUF: ids, names, and sizes of blocks. Needs no PyTorch."""

from __future__ import annotations

from typing import NamedTuple


class StoredType(NamedTuple):
    """One way to store numbers: `block` of them in `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int


TYPES = {
    0: StoredType("F32", 1, 4),
    1: StoredType("F16", 1, 2),
    2: StoredType("Q4_0", 32, 18),
    3: StoredType("Q4_1", 32, 20),
    6: StoredType("Q5_0", 32, 22),
    7: StoredType("Q5_1", 32, 24),
    8: StoredType("Q8_0", 32, 34),
    10: StoredType("Q2_K", 256, 84),
    11: StoredType("Q3_K", 256, 110),
    12: StoredType("Q4_K", 256, 144),
    13: StoredType("Q5_K", 256, 176),
    14: StoredType("Q6_K", 256, 210),
    16: StoredType("IQ2_XXS", 256, 66),
    17: StoredType("IQ2_XS", 256, 74),
    18: StoredType("IQ3_XXS", 256, 98),
    19: StoredType("IQ1_S", 256, 50),
    20: StoredType("IQ4_NL", 32, 18),
    21: StoredType("IQ3_S", 256, 110),
    22: StoredType("IQ2_S", 256, 82),
    23: StoredType("IQ4_XS", 256, 136),
    28: StoredType("F64", 1, 8),
    29: StoredType("IQ1_M", 256, 56),
    30: StoredType("BF16", 1, 2),
    34: StoredType("TQ1_0", 256, 54),
    35: StoredType("TQ2_0", 256, 66),
    39: StoredType("MXFP4", 32, 17),
    40: StoredType("NVFP4", 64, 36),
}
"""What is read, by ggml's id."""

REFUSED = {
    4: "Q4_2, which was removed from the format",
    5: "Q4_3, which was removed from the format",
    9: "Q8_1, which holds activations",
    15: "Q8_K, which holds activations",
    24: "I8, integers",
    25: "I16, integers",
    26: "I32, integers",
    27: "I64, integers",
    31: "Q4_0_4_4, which was removed from the format",
    32: "Q4_0_4_8, which was removed from the format",
    33: "Q4_0_8_8, which was removed from the format",
    36: "IQ4_NL_4_4, which was removed from the format",
    37: "IQ4_NL_4_8, which was removed from the format",
    38: "IQ4_NL_8_8, which was removed from the format",
    41: "Q1_0, which the gguf library cannot turn into numbers",
    42: "Q2_0, which the gguf library cannot turn into numbers",
}
"""Ids that the format has or had, and why they are not read."""
