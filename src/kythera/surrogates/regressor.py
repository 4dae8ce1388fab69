"""A network that learns the mean tally of an event from its design and truth."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from kythera.core.types import Array, Float, Key, Vector
from kythera.surrogates.base import (
    AbstractSurrogate,
    Model,
    Samples,
    Scale,
    joined,
    scale_of,
)
from kythera.surrogates.training import Batch, train


class _Fitted(eqx.Module):
    """A straight line and a network beside it, in standardised numbers."""

    line: eqx.nn.Linear
    network: eqx.nn.MLP
    truth: Scale
    target: Scale

    def __call__(
        self, design: Array, truth: Float[Array, "row k"], *, key: Key | None = None
    ) -> Float[Array, "row m"]:
        return self.target.leave(self.standard(design, self.truth.enter(truth)))

    def standard(self, design: Array, truth: Array) -> Array:
        condition = joined(design, truth)
        return jax.vmap(lambda c: self.line(c) + self.network(c))(condition)


class Regressor(AbstractSurrogate):
    """Least squares: E[tally | design, truth] by a straight line plus a multilayer perceptron.

    A squared loss finds the mean tally of each (design, truth), and more is not needed for
    any score. The line and the last layer start at zero, so that directions in which no
    design was simulated get no slope.

    Args:
        width: of the hidden layers.
        depth: their number.
        steps: of Adam, whose rate falls to zero along half a cosine.
        batch: rows in each.
        rate: at which Adam starts.
    """

    width: int = eqx.field(static=True, default=64)
    depth: int = eqx.field(static=True, default=2)
    steps: int = eqx.field(static=True, default=400)
    batch: int = eqx.field(static=True, default=1024)
    rate: float = eqx.field(static=True, default=5e-3)
    models: ClassVar[Literal["tally", "signal"]] = "tally"

    def fit(self, key: Key, samples: Samples) -> tuple[Model, Vector]:
        """See the base class; the course is that of the mean squared error."""
        weights, course = jax.random.split(key)
        truth = scale_of(samples.kept.truth, samples.weight)
        target = scale_of(samples.kept.target, samples.weight)
        columns = samples.design.shape[1] + samples.kept.truth.shape[2]
        out = samples.kept.target.shape[2]
        network = eqx.nn.MLP(
            columns, out, self.width, self.depth, jax.nn.silu, key=weights
        )
        line = eqx.nn.Linear(columns, out, use_bias=False, key=weights)
        line = eqx.tree_at(lambda v: v.weight, line, jnp.zeros_like(line.weight))
        last = network.layers[-1].weight
        network = eqx.tree_at(
            lambda v: v.layers[-1].weight, network, jnp.zeros_like(last)
        )

        def loss(free: tuple, held: tuple, data: Batch, key: Key) -> Array:
            model = _Fitted(free[0], free[1], truth, target)
            told = model.standard(data.design, truth.enter(data.truth))
            return jnp.mean((told - target.enter(data.target)) ** 2)

        rule = optax.adam(optax.cosine_decay_schedule(self.rate, self.steps))
        (line, network), losses = train(
            course, (line, network), loss, samples,
            rule=rule, steps=self.steps, batch=self.batch,
        )  # fmt: skip
        return _Fitted(line, network, truth, target), losses
