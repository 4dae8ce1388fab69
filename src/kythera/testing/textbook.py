"""Problems with known optima and gradients, made of tiny stages.

The detector reads n coordinates x of a design with Gaussian errors, y = x + sigma eps, and
the loss is a textbook function of y, so that every engine can be tried: the mean of the
sphere's loss is |x - c|^2 + n sigma^2, of which the second part is subtracted.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Pipeline, Trace
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.stage import (
    AbstractPathwiseSimulator,
    AbstractSource,
    AbstractTractableSimulator,
)
from kythera.core.types import Array, Float, Key, Scalar, Vector

CENTRE = 0.3  # the sphere's, in each coordinate
EDGE = 2.0  # coordinates are in [-EDGE, EDGE]


class Point(eqx.Module):
    """A design that is nothing but n numbers.

    Args:
        x: shape (n,).
    """

    x: Float[Array, " n"]


class Nothing(AbstractSource[Float[Array, " event"]]):
    """Events that hold nothing."""

    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Float[Array, " event"]:
        """Zeros, shape (event,)."""
        return jnp.zeros(events)


class Readout(
    AbstractPathwiseSimulator[Point, Array, Array],
    AbstractTractableSimulator[Point, Array, Array],
):
    """y = x + sigma eps for each event.

    Args:
        sigma: standard deviation; a density needs it to be positive.
    """

    sigma: float = 0.0

    def __call__(self, design: Point, x: Array, *, key: Key) -> Float[Array, "event n"]:
        """Shape (event, n)."""
        shape = (x.shape[0], design.x.size)
        return design.x + self.sigma * jax.random.normal(key, shape)

    def log_prob(self, design: Point, x: Array, y: Array) -> Float[Array, " event"]:
        """Normal density, without the constant."""
        return jnp.sum(-(((y - design.x) / self.sigma) ** 2) / 2, -1)


class Textbook(PerEventLoss):
    """A function of the signal, minus a constant.

    Args:
        function: vector of n numbers -> number.
        offset: what is subtracted.
    """

    function: Callable[[Vector], Scalar] = eqx.field(static=True)
    offset: float = 0.0

    def loss(self, design: Point, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The one term, "loss"."""
        return {"loss": jax.vmap(self.function)(trace.signal) - self.offset}


def _sphere(x: Vector) -> Scalar:
    return jnp.sum((x - CENTRE) ** 2)


def _rosenbrock(x: Vector) -> Scalar:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _problem(
    name: str, n: int, function: Callable, sigma: float, offset: float, events: int
) -> Problem[Point]:
    return Problem(
        space=Space(Point(-jnp.ones(n)), {"x": Real(-EDGE, EDGE)}),
        pipeline=Pipeline(Nothing(), Readout(sigma)),
        objective=Textbook(function, offset),
        events=events,
        name=name,
    )


@functools.cache
def sphere(n: int = 4) -> Problem[Point]:
    """|x - 0.3|^2 without noise on [-2, 2]^n, from -1: the loss is 1.69 n there."""
    return _problem("sphere", n, _sphere, 0.0, 0.0, 2)


@functools.cache
def rosenbrock(n: int = 4) -> Problem[Point]:
    """Rosenbrock's banana valley on [-2, 2]^n, from -1, where the loss is 404 (n - 1).

    Its smallest value is 0 at x = 1. H. H. Rosenbrock, Comput. J. 3 (1960) 175.
    """
    return _problem("rosenbrock", n, _rosenbrock, 0.0, 0.0, 2)


@functools.cache
def noisy_sphere(n: int = 4, sigma: float = 0.5, events: int = 16) -> Problem[Point]:
    """The sphere's loss at a blurred point.

    At the start the standard error of one evaluation is about 6% of the loss; near the
    optimum it is sigma^2 sqrt(2 n / events), 0.18 for the defaults.

    Args:
        n: number of coordinates.
        sigma: blur of each.
        events: of one evaluation.
    """
    offset = n * sigma**2
    return _problem("noisy sphere", n, _sphere, sigma, offset, events)


def exact_loss(problem: Problem[Point], u: np.ndarray) -> float:
    """The loss of a textbook problem at a point of the cube, without noise."""
    design = problem.space.decode(jnp.asarray(u, float))
    return float(problem.objective.function(design.x))  # type: ignore[attr-defined]


def exact_gradient(problem: Problem[Point], u: np.ndarray) -> np.ndarray:
    """Its gradient with respect to the point of the cube, shape (n,)."""

    def loss(v: Vector) -> Scalar:
        return problem.objective.function(problem.space.decode(v).x)  # type: ignore

    return np.asarray(jax.grad(loss)(jnp.asarray(u, float)))
