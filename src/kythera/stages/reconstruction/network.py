"""A network as a reconstruction."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.stage import AbstractLearnedStage
from kythera.core.types import Array, Float, Key


class Network(AbstractLearnedStage):
    """A multilayer perceptron from features of a signal to what is to be known.

    Args:
        features: (design, signal) -> numbers of order one, shape (event, inputs).
        inputs: their number.
        outputs: numbers for each event.
        width: of the hidden layers.
        depth: their number.
        key: of the weights, `jax.random.key(1)`; by default that of zero.
    """

    features: Callable[[Any, Any], Float[Array, "event inputs"]] = eqx.field(
        static=True
    )
    network: eqx.nn.MLP

    def __init__(
        self,
        features: Callable[[Any, Any], Any],
        inputs: int,
        outputs: int = 1,
        *,
        width: int = 32,
        depth: int = 2,
        key: Key | None = None,
    ):
        """See the class."""
        key = jax.random.key(0) if key is None else key
        self.features = features
        self.network = eqx.nn.MLP(inputs, outputs, width, depth, jax.nn.silu, key=key)

    def fresh(self, key: Key) -> "Network":
        """New weights."""
        old = self.network
        new = eqx.nn.MLP(
            old.in_size, old.out_size, old.width_size, old.depth, jax.nn.silu, key=key
        )
        return eqx.tree_at(lambda s: s.network, self, new)

    def __call__(self, design: Any, x: Any, *, key: Key) -> Float[Array, "event out"]:
        """Shape (event, outputs)."""
        return jax.vmap(self.network)(jnp.asarray(self.features(design, x), float))
