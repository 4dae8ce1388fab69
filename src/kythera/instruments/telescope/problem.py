"""Where to put the planes so that the slope is measured best."""

import jax.numpy as jnp

from kythera import errors
from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Pipeline, Trace
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.types import Array, Float
from kythera.instruments.telescope.design import LENGTH, Telescope
from kythera.instruments.telescope.drawings import draw, sketch
from kythera.instruments.telescope.reconstruction import LineFit
from kythera.instruments.telescope.simulator import Beam, Planes
from kythera.units import m, mm


class SlopeError(PerEventLoss):
    """Squared error of the slope, in units of (resolution / length)^2.

    Its mean is length^2 / sum (z - mean z)^2 exactly (variance of a least-squares slope).
    """

    def loss(
        self, design: Telescope, trace: Trace
    ) -> dict[str, Float[Array, " event"]]:
        """The one term, "slope"."""
        error = trace.reco - trace.truth.slope
        return {"slope": (error * LENGTH / design.resolution) ** 2}


def problem(planes: int = 4, events: int = 1000) -> Problem[Telescope]:
    """A telescope whose planes start close together in the middle.

    Args:
        planes: number of planes, at least two.
        events: tracks in one evaluation.

    Returns:
        the problem; the loss is 10 at its start of four planes, and 1 at the best layout,
        half of the planes at each end.

    Raises:
        InputError: fewer than two planes.
    """
    if planes < 2:
        raise errors.InputError(
            f"A slope needs at least two planes, but `planes` is {planes}. Try 4."
        )
    start = Telescope(
        z=jnp.linspace(0.3, 0.7, planes)
        if planes != 4
        else jnp.array([0.3, 0.4, 0.6, 0.7]) * m,
        resolution=jnp.array(1 * mm),
    )
    return Problem(
        space=Space(start, {"z": Real(0 * m, LENGTH, "m")}),
        pipeline=Pipeline(Beam(), Planes(), LineFit()),
        objective=SlopeError(),
        events=events,
        draw=draw,
        sketch=sketch,
        name="telescope",
    )
