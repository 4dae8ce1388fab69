"""Problems on which local surrogates were first shown, as their public code has them.

S. Shirobokov, V. Belavin, M. Kagan, A. Ustyuzhanin, A. G. Baydin, Black-box optimization
with local generative surrogates, NeurIPS 2020, arXiv:2002.04632. Where the paper and its
code disagree, the numbers are those of the code: the three hump problem draws
x1 ~ U(-2, 2) and x2 ~ U(0, 5), and Rosenbrock's valley has no factor 100.
"""

import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core import random
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.stage import (
    AbstractPathwiseSimulator,
    AbstractSource,
    AbstractTractableSimulator,
)
from kythera.core.types import Array, Float, Key, Scalar, Vector
from kythera.testing.textbook import Point, Textbook

EDGE = 5.0  # parameters are in [-EDGE, EDGE]
ROWS = 3000  # of one evaluation, a "call" of the paper
REFERENCE = (
    "S. Shirobokov, V. Belavin, M. Kagan, A. Ustyuzhanin, A. G. Baydin, Black-box "
    "optimization with local generative surrogates, NeurIPS 2020, arXiv:2002.04632"
)


class Uniform(AbstractSource[Float[Array, "event k"]]):
    """Rows of k numbers, uniform between two corners.

    Args:
        lower: corner, shape (k,).
        upper: the opposite one.
    """

    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)
    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Float[Array, "event k"]:
        """Shape (event, k)."""
        low, up = jnp.asarray(self.lower), jnp.asarray(self.upper)
        return low + (up - low) * random.uniform(key, (events, low.size))


class Valley(AbstractPathwiseSimulator[Point, Array, Array]):
    """y ~ N(x' + g(psi), 0.1 + |x'| / 2) with x' ~ N(x, 1): noise of 6.6 on g.

    g = sum_i (a_(i+1) - a_i^2)^2 + (1 - a_i)^2 with a = psi, or psi @ mix.

    Args:
        mix: columns that span the subspace on which g depends, shape (n, 10).
    """

    mix: Float[Array, "n k"] | None = None
    references: ClassVar[tuple[str, ...]] = (REFERENCE,)

    def __call__(self, design: Point, x: Array, *, key: Key) -> Float[Array, "event 1"]:
        """Shape (event, 1)."""
        noise = random.normal(key, (2, x.shape[0]))
        a = design.x if self.mix is None else design.x @ self.mix
        valley = jnp.sum((a[1:] - a[:-1] ** 2) ** 2 + (1 - a[:-1]) ** 2)
        moved = x[:, 0] + noise[0]
        return (moved + valley + (0.1 + jnp.abs(moved) / 2) * noise[1])[:, None]


class ThreeHump(AbstractTractableSimulator[Point, Array, Array]):
    """y ~ N(x_i h(a), 2) (variance), where i = 1, 2 has probabilities |a_i| / (|a_1| + |a_2|).

    h is the three hump camel function, 2 a1^2 - 1.05 a1^4 + a1^6 / 6 + a1 a2 + a2^2, of
    a = psi, or W2 tanh(W1 psi).

    Args:
        layers: W1 (k, n) and W2 (2, k).
    """

    layers: tuple[Array, Array] | None = None
    references: ClassVar[tuple[str, ...]] = (REFERENCE,)

    def _means(self, design: Point, x: Array) -> tuple[Array, Array]:
        """Means for each i, shape (event, 2), and their probabilities, shape (2,)."""
        a = design.x
        if self.layers is not None:
            a = self.layers[1] @ jnp.tanh(self.layers[0] @ a)
        height = (
            2 * a[0] ** 2 - 1.05 * a[0] ** 4 + a[0] ** 6 / 6 + a[0] * a[1] + a[1] ** 2
        )
        return x * height, jnp.abs(a) / jnp.sum(jnp.abs(a))

    def __call__(self, design: Point, x: Array, *, key: Key) -> Float[Array, "event 1"]:
        """Shape (event, 1)."""
        which, noise = jax.random.split(key)
        means, parts = self._means(design, x)
        first = random.uniform(which, (x.shape[0],)) < parts[0]
        mean = jnp.where(first, means[:, 0], means[:, 1])
        return (mean + jnp.sqrt(2.0) * random.normal(noise, mean.shape))[:, None]

    def log_prob(self, design: Point, x: Array, y: Array) -> Float[Array, " event"]:
        """Of the mixture, without the constant."""
        means, parts = self._means(design, x)
        each = -((y - means) ** 2) / 4 + jnp.log(jnp.maximum(parts, 1e-12))
        return jax.nn.logsumexp(each, -1)


def _value(y: Vector) -> Scalar:
    return y[0]


def _window(y: Vector) -> Scalar:
    """sigmoid(y - 10) - sigmoid(y): near -1 where 0 < y < 10."""
    return jax.nn.sigmoid(y[0] - 10) - jax.nn.sigmoid(y[0])


def _problem(
    name: str, start: Array, source: Uniform, simulator, loss
) -> Problem[Point]:
    return Problem(
        space=Space(Point(start), {"x": Real(-EDGE, EDGE)}),
        pipeline=Pipeline(source, simulator),
        objective=Textbook(loss),
        events=ROWS,
        name=name,
    )


@functools.cache
def valley(n: int = 10) -> Problem[Point]:
    """Rosenbrock's valley under heavy noise, from psi = 2, where the loss is 5 (n - 1)."""
    source = Uniform((-10.0,), (10.0,))
    return _problem("valley", jnp.full(n, 2.0), source, Valley(), _value)


@functools.cache
def hidden_valley(n: int = 100) -> Problem[Point]:
    """The valley of ten parameters on a linear subspace of n, from 0, where the loss is 9."""
    columns = np.random.RandomState(1337).randn(n, 10)
    mix = jnp.asarray(np.linalg.qr(columns)[0], float)
    source = Uniform((-10.0,), (10.0,))
    return _problem("hidden valley", jnp.zeros(n), source, Valley(mix), _value)


_HUMP = Uniform((-2.0, 0.0), (2.0, 5.0))


@functools.cache
def three_hump() -> Problem[Point]:
    """The three hump problem, from (2, 0), where the loss is -0.499; the best is -0.8582."""
    return _problem("three hump", jnp.array([2.0, 0.0]), _HUMP, ThreeHump(), _window)


@functools.cache
def hidden_hump(n: int = 40) -> Problem[Point]:
    """The three hump problem on a curved submanifold of n parameters, from (2, 0, ..., 0).

    The rows of W1 (16, n) and W2 (2, 16) are orthonormal, of seeds of our own.
    """
    draw = np.random.RandomState(1337)
    layers = [np.linalg.qr(draw.randn(k, r))[0].T for r, k in ((16, n), (2, 16))]
    start = jnp.zeros(n).at[0].set(2.0)
    simulator = ThreeHump(
        (jnp.asarray(layers[0], float), jnp.asarray(layers[1], float))
    )
    return _problem("hidden hump", start, _HUMP, simulator, _window)
