"""How fast the heads of lightning attention forget: the published formulas, and two for ablations. No PyTorch."""

from __future__ import annotations

import math

DEPTH_FACTORS = {
    "minimax": lambda layer, count: 1 - layer / (count - 1 + 1e-5) + 1e-5,
    "bailing": lambda layer, count: 1 - (layer - 1) / (count - 1) + 1e-5,
    "bailing_engines": lambda layer, count: 1 - layer / (count - 1) + 1e-5,
    "bailing_clamped": lambda layer, count: 1 - max(layer - 1, 0) / (count - 1) + 1e-5,
    "fla": lambda layer, count: 1 - layer / count,
    "none": lambda layer, count: 1.0,
}
"""Factor on every head's slope by layer (counted from 0 over all layers) and number of layers.

"minimax": MiniMax-Text-01. For Ring-linear and Ling 2.5 sources disagree: "bailing" is the publishers' own code;
"bailing_engines" and "bailing_clamped" are what serving engines compute for the same checkpoints. "fla" is what
flash-linear-attention computes for lightning attention: a straight line over heads and over layers. Ring-linear's
report compares its power law with a linear decay (arXiv 2510.19338, section 2.2.3); that it is this line is our guess.
"none": no decay at all.
"""


def head_slopes(num_heads: int, schedule: str) -> list[float]:
    """Slope of each head before the layer's factor: 2^(-8 (h + 1) / H).

    For a number of heads that is no power of two, the Bailing schedules take ALiBi's rule (arXiv 2108.12409): the
    slopes of the power of two below, then every second one of the power of two above. "fla": 8 h / H, so that the
    first head forgets nothing. "none": zeros.
    """
    if schedule == "fla":
        return [8 * head / num_heads for head in range(num_heads)]
    if schedule == "none":
        return [0.0] * num_heads
    power = num_heads if schedule == "minimax" else 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    if power < num_heads:
        slopes += [2.0 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)][: num_heads - power]
    return slopes


def slopes(num_heads: int, *, schedule: str, layer: int, num_layers: int) -> tuple[float, ...]:
    """Slope s >= 0 of each head of one layer; its state decays by exp(-s) at every token."""
    factor = DEPTH_FACTORS[schedule](layer, num_layers)
    return tuple(slope * factor for slope in head_slopes(num_heads, schedule))
