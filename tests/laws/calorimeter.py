"""Small calorimeters, and deposits drawn from known distributions, for the laws."""

import jax
import jax.numpy as jnp

from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.stage import AbstractSimulator, AbstractStage
from kythera.core.types import Array, Key
from kythera.instruments.sampling_calorimeter import Stack
from kythera.instruments.sampling_calorimeter.reconstruction import (
    CalibratedError,
    PredictedError,
)
from kythera.instruments.sampling_calorimeter.simulator import (
    ParticleBeam,
    Particles,
    Recorded,
    RecordedShowers,
)
from kythera.testing import Point
from kythera.units import cm


def stacks() -> tuple[Stack, ...]:
    """Two pairs with half-chosen materials; equal layers, the last pair cut off."""
    thickness = jnp.array([1.0, 4.0]) * cm
    half = jnp.array([[0.3, 0.7], [0.5, 0.5]])
    names = ("lead", "iron"), ("lead_tungstate", "polystyrene")
    first = Stack(thickness, 3 * thickness, half, half, jnp.array(2.0), *names)
    equal = jnp.full(2, 2.0 * cm)
    one = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    second = Stack(equal, equal, one, one, jnp.array(1.6), *names)
    return first, second


def beam() -> ParticleBeam:
    """All kinds of particles."""
    return ParticleBeam(("gamma", "e-", "pi+"))


def particles(events: int, key: Key) -> Particles:
    """Drawn from it."""
    return beam()(events, key=key)


def photons(events: int, key: Key) -> Particles:
    """Photons and electrons of little energy, for Geant4."""
    return ParticleBeam(("gamma", "e-"), 0.5, 1.0)(events, key=key)


def deposits(events: int, key: Key) -> Array:
    """In four layers, GeV."""
    return jax.random.exponential(key, (events, 4))


def recorded() -> Recorded:
    """Twenty showers in a block of 30 slices."""
    key = jax.random.key(3)
    truth = particles(20, key)
    slices = jax.random.exponential(key, (20, 30))
    return Recorded(truth.energy, truth.kind, slices)


def block(events: int, key: Key) -> RecordedShowers:
    """Drawn from them."""
    return recorded()(events, key=key)


class Shower(AbstractSimulator[Point, Particles, Array]):
    """Two layers that share the energy, each with a share that fluctuates."""

    def __call__(self, design: Point, x: Particles, *, key: Key) -> Array:
        """Shape (event, 2)."""
        share = jnp.array([0.3, 0.6]) + 0.05 * design.x
        normal = jax.random.normal(key, (x.energy.size, 2))
        return x.energy[:, None] * share + 0.2 * jnp.sqrt(x.energy)[:, None] * normal


class Total(AbstractStage[Point, Array, Array]):
    """The sum of all layers."""

    def __call__(self, design: Point, x: Array, *, key: Key) -> Array:
        """Shape (event,)."""
        return jnp.sum(x, -1)


def calibrated() -> Problem:
    """Their calibration."""
    return Problem(
        space=Space(Point(jnp.array([1.0, 1.0])), {"x": Real(0, 3)}),
        pipeline=Pipeline(ParticleBeam(("gamma", "pi+")), Shower()),
        objective=CalibratedError(),
        events=4000,
    )


def predicted() -> Problem:
    """The same with the plain sum as the energy."""
    problem = calibrated()
    line = problem.pipeline
    return problem.replace(
        pipeline=Pipeline(line.source, line.simulator, Total()),
        objective=PredictedError(relative=True),
    )
