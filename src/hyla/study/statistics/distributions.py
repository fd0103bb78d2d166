"""Student's t, central and not central, from numpy alone."""

from __future__ import annotations

from functools import lru_cache
from math import erfc, exp, inf, lgamma, log, log1p, pi, sqrt
from statistics import NormalDist

import numpy as np

CONTINUED_TERMS = 300
"""Most terms of a continued fraction; some 30 are needed."""
NEWTON_STEPS = 200
"""Most steps to a quantile; some six are needed, more for one degree of freedom and a level near 1."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def t_tails(t: float, df: float) -> float:
    """P(|T| > |t|) for Student's t with `df` degrees of freedom (any number above zero): the two-sided p."""
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t)) if t else 1.0


def f_tail(f: float, df: float, other_df: float) -> float:
    """P(F > f) for Fisher's F with `df` (above the line) and `other_df` degrees of freedom."""
    return _incomplete_beta(other_df / 2, df / 2, other_df / (other_df + df * f))


@lru_cache(maxsize=4096)
def t_quantile(level: float, df: float) -> float:
    """The t above zero with P(|T| <= t) = level, 0 <= level < 1: the factor of a two-sided interval.

    Newton's steps from the normal's quantile, which lies below: two-sided tails are convex, so the steps only grow.
    """
    df, wanted = float(df), 1 - level
    t = NormalDist().inv_cdf((1 + level) / 2)
    log_density = lgamma((df + 1) / 2) - lgamma(df / 2) - log(df * pi) / 2
    for _ in range(NEWTON_STEPS):
        step = (t_tails(t, df) - wanted) / (2 * exp(log_density - (df + 1) / 2 * log1p(t * t / df)))
        t += step
        if step <= 1e-12 * t:
            break
    return t


def rejection(shift: float, df: float, alpha: float = 0.05) -> float:
    """P(|T| > t_quantile(1 - alpha, df)) for T = (Z + shift) / sqrt(chi-squared(df) / df), the not central t: the power
    of a two-sided t test whose true value is `shift` standard errors from zero.

    By quadrature over s = sqrt(chi-squared / df), of density 2 (df/2)^(df/2) / Gamma(df/2) s^(df-1) exp(-df s^2/2).
    """
    edge = t_quantile(1 - alpha, df)
    top = 1 + 9 / sqrt(df)
    s = (NODES + 1) / 2 * top
    density = np.exp(log(2) + df / 2 * log(df / 2) - lgamma(df / 2) + (df - 1) * np.log(s) - df * s * s / 2)
    outside = np.array([_above(edge * x - shift) + _above(edge * x + shift) for x in s])
    return float(min(1.0, top / 2 * np.sum(WEIGHTS * density * outside)))


def shift_for(power: float, df: float, alpha: float = 0.05) -> float:
    """The shift in standard errors at which `rejection` is `power`."""
    low, high = 0.0, 4.0
    while rejection(high, df, alpha) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rejection(middle, df, alpha) < power else (low, middle)
    return (low + high) / 2


def _above(z: float) -> float:
    """P(Z > z) of a normal Z."""
    return erfc(z / sqrt(2)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b) (Lentz's continued fraction, Numerical Recipes 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    c, d, before = 1.0, 1 / (1 - (a + b) * x / (a + 1)), inf
    value = d
    for m in range(1, CONTINUED_TERMS):
        even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * x * d)
            c = 1 + term * x / c
            value *= c * d
        if abs(value - before) < 1e-15 * value:
            break
        before = value
    return front * value
