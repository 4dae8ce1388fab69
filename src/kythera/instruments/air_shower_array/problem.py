"""Where to put the units of an array, so that it is worth most."""

import math

import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.instruments.air_shower_array.design import (
    LandAndCable,
    Layout,
    Site,
    check_layout,
    rings,
    spiral,
)
from kythera.instruments.air_shower_array.drawings import draw, sketch
from kythera.instruments.air_shower_array.objectives import ArrayUtility
from kythera.instruments.air_shower_array.public import (
    Averages,
    PublicUtility,
    ShowerNetwork,
)
from kythera.instruments.air_shower_array.reconstruction import LikelihoodFit
from kythera.instruments.air_shower_array.simulator import (
    CountingArray,
    PublicArray,
    Sky,
    SmoothArray,
)
from kythera.units import km, m

UTILITIES = ("full", "public")
RECONSTRUCTIONS = ("network", "averages")


def problem(
    utility: str = "full",
    reconstruction: str = "network",
    units: int = 90,
    tanks: int = 19,
    symmetry: int = 1,
    radius: float = 1 * km,
    half: float = 3 * km,
    events: int = 500,
    rounds: int = 12,
    costs: float = 0.0,
    corners: str = "",
    layout: str = "",
) -> Problem[Layout]:
    """SWGOLO's array: units of tanks on a square, over which showers come down.

    Args:
        utility: "full", with fits of gamma rays and protons by likelihood; or "public", that
            of SWGOLO's PyTorch code.
        reconstruction: for the latter, "network", which is trained under `Retrain`; or
            "averages", the same energy and angle for all showers.
        units: in all; 90 of them start on the code's rings, others on a sunflower.
        tanks: in each unit.
        symmetry: copies of each free unit, turned about the middle.
        radius: of the sunflower, m.
        half: half of the side of the square for units and cores, m.
        events: showers in one evaluation.
        rounds: of each fit.
        costs: of land and cable, in units of SWGOLO's prices (1 is theirs).
        corners: of a convex site, "x y, x y, ..." in m, counter-clockwise; empty for none.
        layout: a text file with x and y of each unit, m, to start from.

    Raises:
        InputError: another word, a negative price, a layout that overlaps or lies outside
            of the site.
    """
    if utility not in UTILITIES:
        raise errors.InputError(
            f"`utility` is one of {UTILITIES}, but got {utility!r}. "
            f"{errors.nearest(utility, UTILITIES)}"
        )
    if reconstruction not in RECONSTRUCTIONS:
        raise errors.InputError(
            f"`reconstruction` is one of {RECONSTRUCTIONS}, but got {reconstruction!r}. "
            f"{errors.nearest(reconstruction, RECONSTRUCTIONS)}"
        )
    if not 0 <= costs < math.inf:
        raise errors.InputError(
            f"`costs` must be >= 0 and finite, but is {costs}. Give 1.0 for SWGOLO's prices."
        )
    site = Site(_corners(corners))
    start = _start(units, tanks, symmetry, radius, layout)
    check_layout(start, site)
    box = Real(-half * m, half * m, "m")
    space = Space(start, {"x": box, "y": box}, site)
    common = {"events": events, "draw": draw, "sketch": sketch}
    if utility == "public":
        sky = Sky(gammas=1.0, flat_in="theta", half=half)
        learnt = reconstruction == "network"
        stage = ShowerNetwork() if learnt else Averages()
        return Problem(
            space,
            Pipeline(sky, PublicArray(), inference=stage),
            PublicUtility(sky.area, training=0.02 if learnt else 0.0),
            hard_objective=PublicUtility(sky.area),
            name="air_shower_array_public",
            **common,
        )
    sky, stage = Sky(half=half), LikelihoodFit(rounds)
    objective = ArrayUtility(sky.area, sky.gammas)
    if costs:
        # U is about 1000 and the loss about 1: a part in a thousand of each price.
        price = 200e-3 * costs, 100e-3 * costs
        objective = objective + LandAndCable(price)
    many = start.positions[0].size
    return Problem(
        space,
        Pipeline(sky, SmoothArray(), inference=stage),
        objective,
        hard_pipeline=Pipeline(sky, CountingArray(), inference=stage),
        chunk=max(1, min(events, 3_000_000 // many)),
        name="air_shower_array",
        **common,
    )


def _corners(text: str) -> tuple[tuple[float, float], ...] | None:
    """Points of "x y, x y, ..."."""
    if not text.strip():
        return None
    try:
        points = np.array([[float(v) for v in p.split()] for p in text.split(",")])
        turns = np.roll(points, -1, 0) - points
        ahead = np.roll(turns, -1, 0)
        left = turns[:, 0] * ahead[:, 1] - turns[:, 1] * ahead[:, 0]
        good = len(points) >= 3 and bool(np.all(left > 0))
    except (ValueError, IndexError):
        good = False
    if not good:
        raise errors.InputError(
            "`corners` are the points of a convex polygon, counter-clockwise, "
            f"'-500 -500, 500 -500, 0 800', but got {text!r}. Mend them."
        )
    return tuple((float(x), float(y)) for x, y in points)


def _start(units: int, tanks: int, symmetry: int, radius: float, layout: str) -> Layout:
    """What the search starts from."""
    if layout:
        try:
            x, y = np.loadtxt(layout, ndmin=2).T[:2]
        except (OSError, ValueError) as error:
            raise errors.InputError(
                f"'{layout}' holds no layout: {error}. Give x and y in m, a line for each "
                "unit."
            ) from error
        return Layout(jnp.asarray(x, float), jnp.asarray(y, float), tanks, symmetry)
    if units == 90 and symmetry == 1:
        return rings(tanks)
    return spiral(units, radius, tanks, symmetry)
