"""Training of networks on what was simulated: one compiled loop for all of them."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from kythera.core.types import Array, Float, Key, PyTree, Vector
from kythera.surrogates.base import Samples


class Batch(NamedTuple):
    """Rows of several designs.

    Args:
        design: of each row, in radii of the region, shape (row, n).
        truth: shape (row, k).
        target: shape (row, m).
    """

    design: Float[Array, "row n"]
    truth: Float[Array, "row k"]
    target: Float[Array, "row m"]


def draw(key: Key, samples: Samples, size: int) -> Batch:
    """Rows with replacement, each design that counts as often as any other."""
    which, row = jax.random.split(key)
    ends = jnp.cumsum(samples.weight)
    at = jax.random.uniform(which, (size,)) * ends[-1]
    i = jnp.minimum(jnp.searchsorted(ends, at, side="right"), ends.size - 1)
    r = jax.random.randint(row, (size,), 0, samples.kept.target.shape[1])
    return Batch(samples.design[i], samples.kept.truth[i, r], samples.kept.target[i, r])


def train(
    key: Key,
    networks: PyTree,
    losses: Callable[[PyTree, PyTree, Batch, Key], Array],
    samples: Samples,
    *,
    rule: optax.GradientTransformation,
    steps: int,
    batch: int,
    is_leaf: Callable | None = None,
    count: Array | None = None,
) -> tuple[PyTree, Vector]:
    """Some steps of stochastic descent, in one `scan`.

    Args:
        key: of the batches.
        networks: what is trained.
        losses: (networks, the same held fixed, batch, key) -> the loss; where several
            networks play against each other it is the sum of their losses, each with the
            other networks taken from the second argument.
        samples: what was simulated; `kept` are `Rows`.
        rule: of Optax.
        steps: of descent.
        batch: rows in each.
        is_leaf: which parts of the networks are not trained.
        count: how many of the steps are taken, where compiled code shall serve any number.

    Returns:
        the trained networks, and the loss at each step, zero where none was taken.
    """
    free, fixed = eqx.partition(networks, eqx.is_inexact_array, is_leaf=is_leaf)

    def loss(free: PyTree, data: Batch, key: Key) -> Array:
        held = jax.lax.stop_gradient(free)
        return losses(eqx.combine(free, fixed), eqx.combine(held, fixed), data, key)

    def step(carry: tuple, key: Key) -> tuple[tuple, Array]:
        free, state = carry
        batch_key, loss_key = jax.random.split(key)
        data = draw(batch_key, samples, batch)
        value, slope = jax.value_and_grad(loss)(free, data, loss_key)
        update, state = rule.update(slope, state, free)
        return (eqx.apply_updates(free, update), state), value

    def step_if(carry: tuple, item: tuple) -> tuple[tuple, Array]:
        taken, key = item
        return jax.lax.cond(
            taken, step, lambda carry, key: (carry, jnp.zeros(())), carry, key
        )

    first, keys = (free, rule.init(free)), jax.random.split(key, steps)
    if count is None:
        (free, _), course = jax.lax.scan(step, first, keys)
    else:
        items = (jnp.arange(steps) < count, keys)
        (free, _), course = jax.lax.scan(step_if, first, items)
    return eqx.combine(free, fixed), course
