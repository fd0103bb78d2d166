"""fp32 numbers as a narrower dtype would keep them, still in fp32."""

from __future__ import annotations

import torch

STEPS = {torch.bfloat16: (-126, 7), torch.float16: (-14, 10)}
"""By dtype: the exponent of its smallest normal number, and the bits behind the leading one."""


def rounded(x: torch.Tensor, dtype: torch.dtype, generator: torch.Generator | None = None) -> torch.Tensor:
    """fp32 [..] -> fp32 [..], every number one that bf16 or fp16 has; those that are already stay as they are.

    generator: None: to the nearest, ties to even. Otherwise to one of the two neighbours by chance, the nearer one with
    the greater chance, so that the mean is x. What is larger than the dtype's largest number becomes infinite.
    """
    if generator is None:
        return x.to(dtype).to(torch.float32)
    least, bits = STEPS[dtype]
    # x = m 2^e with 1/2 <= |m| < 1: neighbours of a normal number lie 2^(e - 1 - bits) apart.
    exponent = torch.frexp(x).exponent.clamp_min(least + 1) - 1 - bits
    step = _power_of_two(exponent)
    chance = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    # All of it is exact but for what overflows, which becomes infinite here.
    narrow = (torch.floor(x.double() / step + chance) * step).to(dtype).to(torch.float32)
    return torch.where(x.isfinite(), narrow, x)


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """float64 2^exponent, written bit by bit; of int32, -1022 to 1023."""
    return (exponent.to(torch.int64) + 1023 << 52).view(torch.float64)
