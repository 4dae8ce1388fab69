"""Small air-shower arrays, and problems with them, for the laws."""

import jax.numpy as jnp

from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.types import Key
from kythera.instruments.air_shower_array.design import (
    LandAndCable,
    Layout,
    Site,
    spiral,
)
from kythera.instruments.air_shower_array.objectives import ArrayUtility
from kythera.instruments.air_shower_array.public import PublicUtility, ShowerNetwork
from kythera.instruments.air_shower_array.reconstruction import LikelihoodFit
from kythera.instruments.air_shower_array.simulator import (
    Hits,
    Showers,
    Sky,
    SmoothArray,
)
from kythera.units import km

SKY = Sky(half=0.3 * km)


def layouts() -> tuple[Layout, ...]:
    """Nine units; three copies of two, one of which is in the middle of the cores."""
    return spiral(9, 200.0), Layout(
        jnp.array([20.0, 150.0]), jnp.array([0.0, 0.0]), symmetry=3
    )


def showers(events: int, key: Key) -> Showers:
    """Over the array."""
    return SKY(events, key=key)


def hits(events: int, key: Key) -> Hits:
    """In nine units."""
    return SmoothArray()(layouts()[0], SKY(events, key=key), key=key)


def _problem(objective, inference=None) -> Problem:
    box = Real(-0.3 * km, 0.3 * km, "m")
    line = Pipeline(SKY, SmoothArray())
    if inference is not None:
        line = Pipeline(SKY, SmoothArray(), inference=inference)
    return Problem(
        Space(layouts()[0], {"x": box, "y": box}, Site()), line, objective, events=500
    )


def public() -> Problem:
    """The public utility, with the term of the training."""
    return _problem(PublicUtility(SKY.area, 0.02), ShowerNetwork(width=8, public=False))


def full() -> Problem:
    """All four utilities after a fit that is cut short."""
    return _problem(ArrayUtility(SKY.area), LikelihoodFit(2))


def costs() -> Problem:
    """Land and cable beside the public utility."""
    cheap = LandAndCable((0.2, 0.1), area=1e5, length=100.0)
    whole = public()
    return whole.replace(objective=whole.objective + cheap)
