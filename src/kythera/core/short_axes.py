"""Sums over short axes, and copies along them, in the form that CPUs run fastest.

XLA does not vectorise a sum of products over an axis that is not the last one: adding the
slices is 20 to 40 times faster (10 000 muons on 16 panels: 0.2 ms against 5). Such a sum is
also the derivative of every broadcast along such an axis; written as copies, its derivative
is a sum of slices (weighted line fit with its gradient: 2.3 ms against 27). Use these two
inside of events, for axes of a few entries: projections, panels, layers.
"""

import functools

import jax
import jax.numpy as jnp

from kythera.core.types import Array


def total(x: Array, axis: int) -> Array:
    """Sum over an axis, which stays with length 1.

    Args:
        x: any array.
        axis: a short one; its entries become operations of the program.
    """
    axis = axis % x.ndim
    return functools.reduce(jnp.add, jax.lax.split(x, (1,) * x.shape[axis], axis))


def spread(x: Array, axis: int, count: int) -> Array:
    """Copies along an axis of length 1, as a broadcast makes them.

    Args:
        x: any array.
        axis: of length 1.
        count: copies.
    """
    axis = axis % x.ndim
    return jax.lax.concatenate([x] * count, axis) if count > 1 else x
