"""The particle shower of M. Kagan and L. Heinrich, arXiv:2308.16680.

A particle of energy 25 starts at the centre of a plane and moves by 0.02 in each step. In a
material that begins at the radius theta, is ten thick and has a pattern in angle and radius,
it may interact: in one mode it splits in two of half of the energy, in the other it loses
an energy of 2 and is deflected. It stops below 0.5, or outside of a radius of 20. The loss
is the squared distance of the mean radius of interactions and stops from 2.
"""

from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.branching import AbstractBranchingSimulator
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.types import Array, Bool, Float, Key, Scalar, Vector
from kythera.testing.published import Uniform
from kythera.testing.textbook import Point, Textbook

ENERGY, LEAST, LOST = 25.0, 0.5, 2.0  # at the start, at which it stops, per interaction
STRIDE, EDGE, DEFLECTION = 0.02, 20.0, 0.05
AIM = 2.0  # of the mean radius
LEVELS = 6  # 25 / 2^6 < 0.5: no particle splits more often
Mode = Literal["split", "loss"]


class Stack(NamedTuple):
    """The particles of an event, padded, and what was counted.

    Args:
        position: shape (slot, 2).
        direction: unit vectors, shape (slot, 2).
        energy: shape (slot,).
        level: splits before it, shape (slot,).
        alive: shape (slot,).
        hits: interactions and stops.
        radii: sum of their radii.
    """

    position: Float[Array, "slot 2"]
    direction: Float[Array, "slot 2"]
    energy: Vector
    level: Array
    alive: Bool[Array, " slot"]
    hits: Array
    radii: Array


class Shower(AbstractBranchingSimulator[Point, Array, Array]):
    """A shower in a plane; theta is the design's only number.

    A particle's slot is its history in binary digits: of two children, the first keeps the
    slot, the second takes the one that the next digit tells.

    Args:
        mode: "split" or "loss".
    """

    mode: Mode = eqx.field(static=True, default="split")
    steps: int = eqx.field(static=True, default=1500)
    references: ClassVar[tuple[str, ...]] = (
        "M. Kagan, L. Heinrich, Branches of a tree: taking derivatives of programs with "
        "discrete and branching randomness in high energy physics, arXiv:2308.16680",
    )

    def __check_init__(self):
        """Refuse what is no mode."""
        if self.mode not in ("split", "loss"):
            raise errors.InputError(
                f"There is no mode {self.mode!r}. "
                f"{errors.nearest(str(self.mode), ('split', 'loss'))}"
            )

    def begin(self, design: Point, x: Array) -> Stack:
        """One particle; x is its angle."""
        slots = 2**LEVELS if self.mode == "split" else 1
        first = jnp.arange(slots) == 0
        ahead = jnp.stack([jnp.cos(x[0]), jnp.sin(x[0])])
        return Stack(
            position=jnp.zeros((slots, 2)),
            direction=jnp.where(first[:, None], ahead, jnp.array([1.0, 0.0])),
            energy=jnp.where(first, ENERGY, 0.0),
            level=jnp.zeros(slots, jnp.int32),
            alive=first,
            hits=jnp.asarray(0.0),
            radii=jnp.asarray(0.0),
        )

    def active(self, state: Stack) -> Bool[Array, ""]:
        """Until all have stopped."""
        return jnp.any(state.alive)

    def probability(self, design: Point, state: Stack) -> Vector:
        """p = s1 s2 st en / 2 where a particle goes on, after its move."""
        place, going = self._moved(state)
        r = _length(place)
        angle = jnp.arctan2(place[:, 0], place[:, 1])  # from the y axis, as published
        pattern = jax.nn.sigmoid(-10 * jnp.sin(10 * (angle + 2 * r)))
        pattern = pattern * jax.nn.sigmoid(-10 * jnp.cos(10 * (r - 2)))
        theta = design.x[0]
        inside = jax.nn.sigmoid(10 * (r - theta)) * jax.nn.sigmoid(
            -10 * (r - theta - 10)
        )
        return jnp.where(going, pattern * inside / 2, 0.0)

    def advance(
        self, design: Point, state: Stack, yes: Bool[Array, " slot"], *, key: Key
    ) -> Stack:
        """Move, count what stops or interacts where it came from, interact."""
        place, going = self._moved(state)
        counts = state.alive & (yes | ~going)
        came_from = _length(state.position)
        moved = state._replace(
            position=jnp.where(state.alive[:, None], place, state.position),
            alive=state.alive & going,
            hits=state.hits + jnp.sum(counts),
            radii=state.radii + jnp.sum(jnp.where(counts, came_from, 0.0)),
        )
        yes = yes & moved.alive
        return (
            self._split(moved, yes) if self.mode == "split" else _lose(moved, yes, key)
        )

    def finish(self, design: Point, state: Stack) -> Float[Array, " one"]:
        """Mean radius of interactions and stops."""
        return (state.radii / jnp.maximum(state.hits, 1.0))[None]

    def _moved(self, state: Stack) -> tuple[Array, Array]:
        """Where each particle gets to, and whether it goes on from there."""
        place = state.position + STRIDE * state.direction
        stops = (state.energy < LEAST) | (_length(place) > EDGE)
        return place, state.alive & ~stops

    def _split(self, state: Stack, yes: Bool[Array, " slot"]) -> Stack:
        """Two children: p + (d, d) stays, p - (d, d) goes to an empty slot."""
        slots = jnp.arange(yes.size)
        away = (2 ** (LEVELS - 1)) >> state.level  # where the next digit is one
        # An empty slot is filled from its parent: itself without its last digit.
        lowest = slots & -slots
        parent = slots - lowest
        born = (slots > 0) & yes[parent] & (away[parent] == lowest)
        one = _unit(state.direction + DEFLECTION)
        two = _unit(state.direction - DEFLECTION)
        half, level = state.energy / 2, state.level + 1

        def children(old: Array, first: Array, second: Array) -> Array:
            wide = (slice(None), *[None] * (old.ndim - 1))
            old = jnp.where(yes[wide], first, old)
            return jnp.where(born[wide], second[parent], old)

        return state._replace(
            position=children(state.position, state.position, state.position),
            direction=children(state.direction, one, two),
            energy=children(state.energy, half, half),
            level=children(state.level, level, level),
            alive=state.alive | born,
        )


def _lose(state: Stack, yes: Bool[Array, " slot"], key: Key) -> Stack:
    """Less energy, and a deflection of random signs."""
    up = jax.random.bernoulli(key, 0.5, state.direction.shape)
    turned = _unit(state.direction + jnp.where(up, DEFLECTION, -DEFLECTION))
    return state._replace(
        direction=jnp.where(yes[:, None], turned, state.direction),
        energy=jnp.where(yes, state.energy - LOST, state.energy),
    )


def _length(v: Float[Array, "slot 2"]) -> Vector:
    square = v[:, 0] ** 2 + v[:, 1] ** 2
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _unit(v: Float[Array, "slot 2"]) -> Array:
    return v / jnp.maximum(_length(v), 1e-9)[:, None]


def _distance(y: Vector) -> Scalar:
    return (y[0] - AIM) ** 2


def shower(
    mode: Mode = "split", start: float = 3.0, events: int = 100
) -> Problem[Point]:
    """Where the material begins, so that the mean radius becomes 2; theta in [0, 5].

    Args:
        mode: "split" (smallest loss about 0.04 near 1.2) or "loss" (0.085 near 0.85).
        start: theta at the start.
        events: showers of one evaluation.
    """
    return Problem(
        space=Space(Point(jnp.array([start])), {"x": Real(0.0, 5.0)}),
        pipeline=Pipeline(Uniform((-jnp.pi,), (jnp.pi,)), Shower(mode)),
        objective=Textbook(_distance),
        events=events,
        name=f"shower, {mode}",
    )
