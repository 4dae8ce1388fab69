"""Programs with discrete randomness whose mean and derivative are known exactly.

A crazy program and a random walk of the documentation of StochasticAD.jl (arXiv:2210.08572),
and a Poisson number, as decisions that follow each other.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.branching import AbstractBranchingSimulator
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.types import Array, Bool, Float, Key, Scalar, Vector
from kythera.testing.textbook import Nothing, Point, Textbook


class Count(NamedTuple):
    """How far a program is.

    Args:
        step: decisions so far.
        value: what they have made.
        noise: standard normal, drawn beside the decisions.
    """

    step: Array
    value: Array
    noise: Array


class _Counting(AbstractBranchingSimulator[Point, Array, Array]):
    """One decision in each step; the signal is a row of one number, shape (event, 1)."""

    def begin(self, design: Point, x: Array) -> Count:
        """Nothing yet."""
        return Count(jnp.asarray(0), jnp.asarray(0.0), jnp.asarray(0.0))

    def active(self, state: Count) -> Bool[Array, ""]:
        """Until all decisions are made."""
        return state.step < self.steps

    def finish(self, design: Point, state: Count) -> Float[Array, " one"]:
        """The value."""
        return state.value[None]


class Crazy(_Counting):
    """X = a c N(b, a), a = p (1 - p), b ~ Bin(10, p), c = 2 b + 3 Bern(p).

    E[X] = 20 p^2 + 190 p^3 - 210 p^4.
    """

    steps: int = eqx.field(static=True, default=11)

    def probability(self, design: Point, state: Count) -> Vector:
        """All decisions are p's."""
        return jnp.where(self.active(state), design.x, 0.0)

    def advance(
        self, design: Point, state: Count, yes: Bool[Array, " slot"], *, key: Key
    ) -> Count:
        """Ten for b, whose number is `value`; the last makes X."""
        p, b = design.x[0], state.value
        last = state.step == self.steps - 1
        a, noise = p * (1 - p), jax.random.normal(key)
        made = a * (2 * b + 3 * yes[0]) * (b + a * noise)
        value = jnp.where(last, made, b + yes[0])
        value = jnp.where(self.active(state), value, b)
        return Count(state.step + 1, value, noise)


class Walk(_Counting):
    """From 0 a step up with probability exp(-x / p), down else; 100 times."""

    steps: int = eqx.field(static=True, default=100)

    def probability(self, design: Point, state: Count) -> Vector:
        """Of a step up."""
        up = jnp.exp(-state.value / design.x)
        return jnp.where(self.active(state), up, 0.0)

    def advance(
        self, design: Point, state: Count, yes: Bool[Array, " slot"], *, key: Key
    ) -> Count:
        """One up or down."""
        change = jnp.where(yes[0], 1.0, -1.0) * self.active(state)
        return Count(state.step + 1, state.value + change, state.noise)


class Poisson(_Counting):
    """N ~ Poisson(x): "more than k?" is asked for k = 0, 1, ... until the answer is no.

    The probability of a yes is P(N > k) / P(N >= k); what lies beyond `steps` is cut off.
    """

    steps: int = eqx.field(static=True, default=60)

    def active(self, state: Count) -> Bool[Array, ""]:
        """Until the first no, which sets the step past the end."""
        return state.step < self.steps

    def probability(self, design: Point, state: Count) -> Vector:
        """Of another one."""
        k, rate = state.step, design.x
        # P(N > k) is the regularised lower incomplete gamma function at k + 1.
        beyond = jax.scipy.special.gammainc(k + 1.0, rate)
        least = jnp.where(
            k > 0, jax.scipy.special.gammainc(jnp.maximum(k, 1.0), rate), 1.0
        )
        p = jnp.where(least > 1e-30, beyond / jnp.maximum(least, 1e-30), 0.0)
        return jnp.where(self.active(state), jnp.clip(p, 0.0, 1.0), 0.0)

    def advance(
        self, design: Point, state: Count, yes: Bool[Array, " slot"], *, key: Key
    ) -> Count:
        """One more, or the end."""
        go_on = yes[0] & self.active(state)
        step = jnp.where(go_on, state.step + 1, self.steps)
        return Count(step, state.value + go_on, state.noise)


def _value(y: Vector) -> Scalar:
    return y[0]


def _square(y: Vector) -> Scalar:
    return y[0] ** 2


def _problem(
    simulator: _Counting,
    start: float,
    low: float,
    up: float,
    loss: Callable,
    events: int,
) -> Problem[Point]:
    return Problem(
        space=Space(Point(jnp.array([start])), {"x": Real(low, up)}),
        pipeline=Pipeline(Nothing(), simulator),
        objective=Textbook(loss),
        events=events,
        name=type(simulator).__name__.lower(),
    )


@functools.cache
def crazy(events: int = 200) -> Problem[Point]:
    """At p = 0.6: mean 21.024, slope 47.76 (of p, whose range is 1)."""
    return _problem(Crazy(), 0.6, 0.0, 1.0, _value, events)


@functools.cache
def walk(events: int = 200, *, squared: bool = False) -> Problem[Point]:
    """At p = 50, of a range of 100: mean 31.403421330525, slope 0.477808726868 (of p).

    Of the square: 1007.7989352662 and 30.2949888198 (exact Markov chain).
    """
    loss = _square if squared else _value
    return _problem(Walk(), 50.0, 1.0, 101.0, loss, events)


@functools.cache
def poisson(events: int = 200) -> Problem[Point]:
    """Of the square at a rate of 4, of a range of 10: mean 20, slope 9 = E[2 N + 1]."""
    return _problem(Poisson(), 4.0, 1.0, 11.0, _square, events)
