"""The summary of an event: a small network, and what is not known about the background."""

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.types import Array, Float, Key

LIMIT = 5.0  # of weights and biases either way; trained ones stay below 4


class Layer(eqx.Module):
    """An affine map x -> x W + b.

    Args:
        weight: W, shape (inputs, outputs).
        bias: b, shape (outputs,).
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __call__(
        self, x: Float[Array, "event inputs"]
    ) -> Float[Array, "event outputs"]:
        """Shape (event, outputs)."""
        return x @ self.weight + self.bias


class Analysis(eqx.Module):
    """A network that summarises events, and the nuisance parameters where it is used.

    Args:
        layers: from the features to logits, with rectifiers in between.
        shift: r, by which the background is shifted in the first feature.
        rate: lambda, of the background's exponential in the third one.
    """

    layers: tuple[Layer, ...]
    shift: Float[Array, ""]
    rate: Float[Array, ""]

    def logits(self, x: Float[Array, "event 3"]) -> Float[Array, "event out"]:
        """Outputs of the last layer, shape (event, outputs)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        return last(x)


def fresh(sizes: tuple[int, ...], key: Key) -> Analysis:
    """Random weights as in the paper's code, and the nominal nuisance parameters.

    Normal with variance 2 / inputs (K. He et al., arXiv:1502.01852), the last layer uniform
    with variance 2 / (inputs + outputs) (X. Glorot, Y. Bengio, 2010); biases of zero.

    Args:
        sizes: numbers before, between and behind the layers.
        key: of the weights.
    """
    keys = jax.random.split(key, len(sizes) - 1)
    layers = []
    for i, (k, n, m) in enumerate(zip(keys, sizes, sizes[1:])):
        if i == len(sizes) - 2:
            end = jnp.sqrt(6 / (n + m))
            weight = jax.random.uniform(k, (n, m), float, -end, end)
        else:
            weight = jnp.sqrt(2 / n) * jax.random.normal(k, (n, m), float)
        layers.append(Layer(jnp.clip(weight, -LIMIT, LIMIT), jnp.zeros(m)))
    return Analysis(tuple(layers), jnp.array(0.0), jnp.array(3.0))
