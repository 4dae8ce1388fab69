"""A network that reads a set of elements: hits, layers, tracks, in any order and number."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.stage import AbstractLearnedStage
from kythera.core.types import Array, Float, Key


class DeepSets(AbstractLearnedStage):
    """A function of a set: y = rho(sum_i w_i phi(x_i)), with two networks phi and rho.

    The order of the elements does not count, and one of weight 0 is not there at all,
    whatever it holds: sets of different sizes are padded with such ones.

    Args:
        elements: (design, signal) -> numbers of order one, shape (event, element, inputs),
            and weights, shape (event, element).
        inputs: numbers for each element.
        outputs: numbers for each event.
        summary: numbers that describe the set between the two networks.
        width: of the hidden layers of both.
        depth: their number in each.
        key: of the weights, `jax.random.key(1)`; by default that of zero.
    """

    references = ("M. Zaheer et al., Deep sets, NeurIPS 30 (2017), arXiv:1703.06114",)
    elements: Callable[
        [Any, Any],
        tuple[Float[Array, "event element inputs"], Float[Array, "event element"]],
    ] = eqx.field(static=True)
    phi: eqx.nn.MLP
    rho: eqx.nn.MLP

    def __init__(
        self,
        elements: Callable[[Any, Any], Any],
        inputs: int,
        outputs: int = 1,
        *,
        summary: int = 16,
        width: int = 32,
        depth: int = 2,
        key: Key | None = None,
    ):
        """See the class."""
        key = jax.random.key(0) if key is None else key
        self.elements = elements
        sizes = inputs, summary, outputs
        self.phi, self.rho = _networks(sizes, width, depth, key)

    def fresh(self, key: Key) -> "DeepSets":
        """New weights."""
        phi, rho = self.phi, self.rho
        sizes = phi.in_size, phi.out_size, rho.out_size
        new = _networks(sizes, phi.width_size, phi.depth, key)
        return eqx.tree_at(lambda s: (s.phi, s.rho), self, new)

    def __call__(self, design: Any, x: Any, *, key: Key) -> Float[Array, "event out"]:
        """Shape (event, outputs)."""
        features, weights = self.elements(design, x)
        weights = jnp.asarray(weights, float)[..., None]
        # Zeros for what is not there, so that neither it nor its derivative can be nan.
        features = jnp.where(weights != 0, jnp.asarray(features, float), 0.0)
        described = jax.vmap(jax.vmap(self.phi))(features)
        return jax.vmap(self.rho)(jnp.sum(weights * described, 1))


def _networks(
    sizes: tuple[Any, Any, Any], width: int, depth: int, key: Key
) -> tuple[eqx.nn.MLP, eqx.nn.MLP]:
    """phi and rho, from inputs over the summary to outputs."""
    inputs, summary, outputs = sizes
    one, other = jax.random.split(key)
    return (
        eqx.nn.MLP(inputs, summary, width, depth, jax.nn.silu, key=one),
        eqx.nn.MLP(summary, outputs, width, depth, jax.nn.silu, key=other),
    )
