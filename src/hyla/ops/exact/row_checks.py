"""Data on which a library shows whether a row of a product depends on the others, and the comparison itself."""

from __future__ import annotations

import threading

import torch

check_lock = threading.Lock()
"""Held during a check: two threads that need the same one do not both pay for it."""


def check_data(rows: int, inner: int, generator: torch.Generator, sign: float) -> torch.Tensor:
    """[rows, inner] such that the dot product of a row of sign 1 and one of sign -1 is zero but for rounding.

    What is left depends on the order of summation in every bit, so a few rows show what plain random data, rounded to
    bf16, hides in most. The magnitudes differ widely: sums of a few bf16 products of like size are exact in fp32.
    """
    half = torch.randn(rows, inner // 2, generator=generator)
    half *= torch.exp2(3.0 * torch.randn(rows, inner // 2, generator=generator))
    odd = torch.randn(rows, inner % 2, generator=generator) * 1e-4
    shuffle = torch.randperm(inner, generator=torch.Generator().manual_seed(inner))
    return torch.cat([half, half * sign, odd], dim=1)[:, shuffle]


def check_bias(y_RO: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A bias [O], fp32, for products y of check data: as small as they are, so that it hides none of their bits."""
    noise_O = torch.randn(y_RO.shape[1], generator=generator).to(y_RO.device)
    return noise_O * y_RO.abs().amax(0).to(torch.float32)


def adds_bias_once(linear_once, rows: int, out_dim: int, in_dim: int, device: torch.device) -> bool:
    """Whether linear_once(x [rows, D], weight [O, D], bias [O]) in bf16 rounds the sum of product and bias alone.

    17/16 * 17/16 lies halfway between two numbers of bf16: with what the bias adds it goes up, but rounded before it
    goes down. The bias is given in fp32.
    """
    x, weight = torch.zeros(rows, in_dim), torch.zeros(out_dim, in_dim)
    x[:, 0] = weight[:, 0] = 17 / 16
    x, weight = (tensor.to(device=device, dtype=torch.bfloat16) for tensor in (x, weight))
    expected = torch.tensor((17 / 16) ** 2 + 2.0**-12, device=device).to(torch.bfloat16)
    return bool((linear_once(x, weight, torch.full((out_dim,), 2.0**-12, device=device)) == expected).all())


def agreeing_sets(counts: tuple[int, ...], call) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Split row counts into sets that give the same bits; with each set, the result of its largest count.

    call(first, count): the result of rows first to first + count of the data. A smaller count is compared on the last
    rows of the largest one, so that a row's place within a call varies too.
    """
    sets, left = [], list(counts)
    while left:
        expected = call(0, left[-1])
        agreeing = tuple(count for count in left if agrees(call, count, expected))
        if agreeing:
            sets.append((agreeing, expected))
        # A count that does not even repeat itself is never used.
        left = [count for count in left if count not in agreeing and count != left[-1]]
    return sets


def agrees(call, count: int, expected: torch.Tensor, offset: int = 0) -> bool:
    first = max(expected.shape[-2] - count - offset, 0)
    return torch.equal(call(first, count), expected[..., first : first + count, :])
