"""The observable of an analysis: a small network from the plane to a number in [0, 1]."""

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core import random
from kythera.core.types import Array, Float, Key

LIMIT = 8.0  # of weights and biases either way


class Observable(eqx.Module):
    """s = sigmoid(v . tanh(W x + b) + c).

    Args:
        weight: W, shape (unit, 2).
        bias: b, shape (unit,).
        out: v, shape (unit,).
        offset: c.
    """

    weight: Float[Array, "unit 2"]
    bias: Float[Array, " unit"]
    out: Float[Array, " unit"]
    offset: Float[Array, ""]

    def __call__(self, x: Float[Array, "event 2"]) -> Float[Array, " event"]:
        """The observable of each event, shape (event,)."""
        hidden = jnp.tanh(x @ self.weight.T + self.bias)
        return jax.nn.sigmoid(hidden @ self.out + self.offset)


def fresh(units: int, key: Key) -> Observable:
    """Random weights: normal, with variance 1 / inputs, and biases of zero.

    Args:
        units: of the hidden layer.
        key: of the weights.
    """
    numbers = jnp.clip(random.normal(key, (3, units)), -LIMIT / 2, LIMIT / 2)
    weight, out = numbers[:2].T / 2**0.5, numbers[2] / units**0.5
    return Observable(weight, jnp.zeros(units), out, jnp.array(0.0))
