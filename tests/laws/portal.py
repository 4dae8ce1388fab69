"""Small portals, and statistics drawn from known distributions, for the laws."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.stage import AbstractSimulator, AbstractSource, AbstractStage
from kythera.core.types import Array, Key
from kythera.instruments.muon_portal import (
    Panels,
    Portal,
    imaging,
    inference,
    scenes,
    simulator,
    x0_map,
)
from kythera.instruments.muon_portal import objectives as goals
from kythera.instruments.muon_portal.reconstruction import TrackFits
from kythera.instruments.muon_portal.scan import Grid
from kythera.stages.sources.muons import BoxMuons
from kythera.testing import Point

GRID = Grid((3, 4, 5), (1.0, 0.8, 0.6))
MUONS = 40


def source(fastest: float = 500.0) -> scenes.Scanned:
    """A box with a small lorry's load, two scans a row; muons up to `fastest` GeV."""
    lorry = scenes.Lorry(GRID, lightest=5.0, heaviest=20.0, boxes=2)
    return scenes.Scanned(lorry, BoxMuons(GRID.size, energy_max=fastest), MUONS)


def portals() -> tuple[Portal, ...]:
    """Panels above and below; the same with tilts, equal heights and sides."""
    z = jnp.array([0.8, 0.6, 0.45])
    plain = Portal(
        Panels(z, span_1=1.5, span_2=1.2), Panels(-z, span_1=1.5, span_2=1.2)
    )
    twice = jnp.array([0.8, 0.6, 0.6])
    tilted = Panels(twice, span_1=1.5, span_2=1.5, tilt_1=0.1, tilt_2=-0.2)
    sides = Panels(
        jnp.zeros(2), x=jnp.array([0.7, -0.7]), span_1=1.2, span_2=1.0, facing="x"
    )
    return plain, dataclasses.replace(plain, upper=tilted, sides=sides)


def hits(events: int, key: Key) -> Any:
    """What the first portal records of slow muons, whose deflections are well known.

    (The closest approach of two tracks with hardly any angle between them is ill
    conditioned: single precision gives three digits of its error.)
    """
    to_truth, to_hits = jax.random.split(key)
    truth = source(fastest=1.0)(events, key=to_truth)
    return simulator.SoftPortal(GRID)(portals()[0], truth, key=to_hits)


def scatters(events: int, key: Key) -> Any:
    """What is reconstructed of them."""
    return TrackFits(GRID)(portals()[0], hits(events, key), key=key)


def image(events: int, key: Key) -> imaging.Image:
    """A map of some density."""
    density = jnp.exp(jax.random.normal(key, (events, 2, *GRID.shape)))
    return imaging.Image(density, jnp.ones_like(density))


class Drawn(eqx.Module):
    """Truth for the goals: what was hidden, and normal numbers."""

    normal: Array
    target: dict[str, Array]
    inverse_x0: Array


class Draws(AbstractSource[Drawn]):
    """Normal numbers for two statistics, masses and materials."""

    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Drawn:
        """Rows."""
        normal = jax.random.normal(key, (events, 2))
        u = jax.random.uniform(jax.random.fold_in(key, 1), (3, events))
        target = {
            "mass": 50 * 3 ** u[0],
            "material": jnp.floor(2 * u[1]),
            "level": u[2],
        }
        return Drawn(normal, target, jnp.ones((events, 2, 2, 2, 2)))


class Shifted(AbstractSimulator[Point, Drawn, Array]):
    """Statistics: the second is moved by the design and by the mass."""

    def __call__(self, design: Point, x: Drawn, *, key: Key) -> Array:
        """Shape (event, 2)."""
        move = design.x[0] + (x.target["mass"] / 100 - 1)
        return x.normal + jnp.stack([jnp.zeros_like(move), move], -1)


class Answered(AbstractStage[Point, Array, Any]):
    """The statistics as an answer, or as a map of X0."""

    as_map: bool = eqx.field(static=True, default=False)

    def __call__(self, design: Point, x: Array, *, key: Key) -> Any:
        """See the class."""
        if self.as_map:
            return x[:, :, None, None, None] * jnp.ones((2, 2, 2))
        return inference.Answer(x, None)  # type: ignore[arg-type]


def goal(objective: Any, events: int = 4000) -> Problem:
    """A problem whose statistics are normal, one apart at the start."""
    as_map = isinstance(objective, x0_map.VoxelX0Error)
    return Problem(
        space=Space(Point(jnp.array([1.0])), {"x": Real(0, 3)}),
        pipeline=Pipeline(Draws(), Shifted(), inference=Answered(as_map)),
        objective=objective,
        events=events,
    )


GOALS = {
    goals.BinormalFalseNegatives: lambda: goal(goals.BinormalFalseNegatives(0.05)),
    # few rows would leave the quantile's density unknown: a rate that has many
    goals.FalseNegatives: lambda: goal(goals.FalseNegatives(0.2), 16000),
    goals.HalfPowerMass: lambda: goal(goals.HalfPowerMass((0.5, 1.0), rate=0.2), 16000),
    goals.Classification: lambda: goal(goals.Classification()),
    goals.CalibratedError: lambda: goal(goals.CalibratedError("level")),
    x0_map.VoxelX0Error: lambda: goal(x0_map.VoxelX0Error()),
}
