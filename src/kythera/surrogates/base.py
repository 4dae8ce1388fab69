"""What every surrogate is given, and what it gives back."""

import abc
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from kythera.core.types import AbstractClassVar, Array, Float, Key, PyTree, Vector

# (design (n,), truth (row, k), key) -> target (row, m), differentiable in the design
Model = Callable[..., Float[Array, "row m"]]


class Samples(NamedTuple):
    """What was simulated at some designs; all arrays keep their shapes from fit to fit.

    Args:
        design: relative to the present one, in radii of the region, shape (design, n).
        kept: what `AbstractSurrogate.keep` made of each design's rows, with a leading axis
            `design`.
        weight: 1 where a design counts, 0 where it is padding or too far, shape (design,).
    """

    design: Float[Array, "design n"]
    kept: PyTree
    weight: Float[Array, " design"]


class AbstractSurrogate(eqx.Module):
    """The settings of a model, and how it is trained.

    `models` says what it learns: "tally", the mean rows of the objective, of which nothing
    more is needed for any score; or "signal", the distribution of the simulator's output,
    of `longest` numbers an event at most.
    """

    references: ClassVar[tuple[str, ...]] = ()
    models: AbstractClassVar[Literal["tally", "signal"]]
    longest: ClassVar[float] = float("inf")

    def keep(
        self, truth: Float[Array, "row k"], target: Float[Array, "row m"]
    ) -> PyTree:
        """What is remembered of the rows of one design: by default all of them."""
        return Rows(truth, target)

    @abc.abstractmethod
    def fit(self, key: Key, samples: Samples) -> tuple[Model, Float[Array, " step"]]:
        """Train a model from scratch; pure, and compiled once for each set of shapes.

        Args:
            key: of initial weights and batches.
            samples: what was simulated.

        Returns:
            the model, and the course of its loss, of which a value that is not finite
            tells that training has diverged.
        """


class Rows(NamedTuple):
    """Rows of one design, or of several with a leading axis `design`.

    Args:
        truth: shape (row, k).
        target: shape (row, m).
    """

    truth: Float[Array, "*design row k"]
    target: Float[Array, "*design row m"]


class Scale(NamedTuple):
    """Mean and standard deviation of the columns of an array, each shape (column,)."""

    mean: Vector
    spread: Vector

    def enter(self, x: Array) -> Array:
        """To mean zero and spread one."""
        return (x - self.mean) / self.spread

    def leave(self, z: Array) -> Array:
        """Back to native values."""
        return self.mean + self.spread * z


def scale_of(x: Float[Array, "design *row column"], weight: Vector) -> Scale:
    """The scale of the designs that count; a column that is constant keeps its unit."""
    w = weight / jnp.maximum(jnp.sum(weight), 1e-9)
    w = w.reshape(-1, *[1] * (x.ndim - 1)) / (x.shape[1] if x.ndim == 3 else 1)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.sum(w * x, axes)
    spread = jnp.sqrt(jnp.sum(w * (x - mean) ** 2, axes))
    return Scale(mean, jnp.where(spread > 1e-6 * jnp.abs(mean) + 1e-30, spread, 1.0))


def joined(design: Array, truth: Float[Array, "row k"]) -> Float[Array, "row c"]:
    """The design (one, or one for each row) beside the truth: a network's condition."""
    tiled = jnp.broadcast_to(design, (truth.shape[0], design.shape[-1]))
    return jnp.concatenate([tiled, truth], -1)
