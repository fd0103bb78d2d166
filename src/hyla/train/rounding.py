"""Numbers kept in bf16 without drifting: rounded up or down by chance, whose bits are a function of seed and step."""

from __future__ import annotations

import torch

SEED_BITS, STEP_BITS = 31, 22
"""Room in a generator's 63 bits for the run's seed and the step; the rest numbers the tensors."""


def generator_of(seed: int, step: int, number: int) -> torch.Generator:
    """Chance for one tensor in one step, the same on every device: it is drawn on the CPU."""
    key = (seed << 32 | (step & ((1 << STEP_BITS) - 1)) << 10 | (number & 1023)) & ((1 << 63) - 1)
    return torch.Generator().manual_seed(key)


def round_by_chance(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """fp32 [..] -> bf16 [..]: one of its two neighbours, the nearer one with the greater chance, so that the mean is x.

    Numbers that bf16 has stay as they are, and so do infinities and NaN.
    """
    noise = torch.randint(0, 1 << 16, x.shape, generator=generator, dtype=torch.int32).to(x.device)
    bits = x.contiguous().view(torch.int32)
    # Added to the magnitude, whatever the sign: its upper half is what bf16 keeps.
    rounded = ((bits + noise) & -65536).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)
