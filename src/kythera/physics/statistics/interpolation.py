"""How a yield moves with a nuisance parameter that was simulated at three values only.

The templates stand for alpha = -1, 0, 1. CERN-OPEN-2012-016 (HistFactory), section 4.1; the
codes' numbers are those that HistFactory and pyhf use.
"""

import jax.numpy as jnp

from kythera.core.types import Array, Float

Real = Float[Array, "*batch"] | float


def shift(alpha: Real, low: Real, nominal: Real, high: Real) -> Array:
    """What is added to a yield: linear outside, a polynomial between (code 4p).

    alpha (high - nominal) for alpha > 1, alpha (nominal - low) for alpha < -1, and between
    alpha S + alpha^2 A (15 - 10 alpha^2 + 3 alpha^4), S = (high - low) / 2 and
    A = (high + low - 2 nominal) / 16, which continues both with two derivatives.

    Args:
        alpha: the parameter, in its standard deviations.
        low: yield at alpha = -1, counts.
        nominal: yield at 0, counts.
        high: yield at 1, counts.

    Returns:
        the shift, counts.
    """
    up, down = high - nominal, nominal - low
    inside = jnp.clip(alpha, -1.0, 1.0)
    square = inside**2
    curved = square * (15 + square * (-10 + 3 * square)) * (up - down) / 16
    between = inside * (up + down) / 2 + curved
    return jnp.where(
        alpha > 1, alpha * up, jnp.where(alpha < -1, alpha * down, between)
    )


def factor(alpha: Real, low: Real, high: Real) -> Array:
    """By what a yield is multiplied: exponential outside, a polynomial between (code 4).

    high^alpha for alpha >= 1, low^-alpha for alpha <= -1, and between the polynomial
    1 + sum_i a_i alpha^i of sixth order that continues both with two derivatives.

    Args:
        alpha: the parameter, in its standard deviations.
        low: factor at alpha = -1, > 0.
        high: factor at 1, > 0.

    Returns:
        the factor.
    """
    inside = jnp.clip(alpha, -1.0, 1.0)
    log_up, log_down = jnp.log(high), jnp.log(low)
    # Value, slope and curvature at +1 and -1; odd and even parts separate.
    value = (high - 1) / 2, (low - 1) / 2
    slope = high * log_up / 2, -low * log_down / 2
    curvature = high * log_up**2 / 2, low * log_down**2 / 2
    odd = value[0] - value[1], slope[0] + slope[1], curvature[0] - curvature[1]
    even = value[0] + value[1], slope[0] - slope[1], curvature[0] + curvature[1]
    square = inside**2
    # Solutions of c1 + c3 + c5 = v, c1 + 3 c3 + 5 c5 = s, 6 c3 + 20 c5 = k; and of
    # c2 + c4 + c6 = v, 2 c2 + 4 c4 + 6 c6 = s, 2 c2 + 12 c4 + 30 c6 = k.
    v, s, k = odd
    c1, c3 = (15 * v - 7 * s + k) / 8, (-5 * v + 5 * s - k) / 4
    c5 = v - c1 - c3
    polynomial = 1 + inside * (c1 + square * (c3 + square * c5))
    v, s, k = even
    c2, c4 = 3 * v - (9 * s - k) / 8, -3 * v + (7 * s - k) / 4
    c6 = v - c2 - c4
    polynomial += square * (c2 + square * (c4 + square * c6))
    outside = jnp.exp(jnp.abs(alpha) * jnp.where(alpha > 0, log_up, log_down))
    return jnp.where(jnp.abs(alpha) >= 1, outside, polynomial)
