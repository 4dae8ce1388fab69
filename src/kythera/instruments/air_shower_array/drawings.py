"""Pictures of an array: its units on the ground, and where the utility pulls them."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from kythera import drawing
from kythera.core import measure
from kythera.instruments.air_shower_array.design import Layout
from kythera.instruments.air_shower_array.simulator import CountingArray, SmoothArray
from kythera.units import km

ARROW = 0.25 * km  # length of the longest ones
SAMPLES = 8  # of showers, over which the arrows are the mean


def draw(problem: Any, designs: dict[str, Layout], key: Any) -> dict[str, dict]:
    """The units of each design, and how the loss wants to move them, for reports.

    Args:
        problem: whose loss that is.
        designs: by name, "start" and "best" in their fixed colours.
        key: of the showers of the gradient.

    Returns:
        plotly figures by name.
    """
    panels = {
        name: _field(problem, name, layout, key) for name, layout in designs.items()
    }
    caption = (
        "Units on the ground; arrows of the direction in which each unit's step lowers the "
        "loss, mean of some samples of showers; those of the longest tenth are 250 m long."
    )
    return {"layout": drawing.side_by_side(panels, caption=caption)}


def sketch(design: Layout) -> dict[str, dict]:
    """The units of one design.

    Args:
        design: what is drawn.

    Returns:
        plotly figures by name, with axes of 6 km.
    """
    return {"layout": _ground([_units(design, "units", drawing.BLUE)], "The units.")}


def _units(layout: Layout, name: str, colour: str) -> list[dict]:
    x, y = (np.asarray(v, float) / km for v in layout.positions)
    return drawing.points(x, y, name=name, colour=colour, size=5)


def _field(problem: Any, name: str, layout: Layout, key: Any) -> dict[str, Any]:
    """Units with an arrow each."""
    pull = _pull(problem, layout, key)
    x, y = (np.asarray(v, float) / km for v in (layout.x, layout.y))
    length = np.hypot(*pull)
    most = np.quantile(length, 0.9) or 1.0
    dx, dy = ARROW / km * pull / np.maximum(length, most)
    arrows = [
        [(a, b), (a + da, b + db)] for a, b, da, db in zip(x, y, dx, dy, strict=True)
    ]
    shafts = drawing.lines(arrows, name="gradient", colour=drawing.ORANGE, width=2)
    return _ground([shafts, _units(layout, name, drawing.colour(name))], "")


def _pull(problem: Any, layout: Layout, key: Any) -> np.ndarray:
    """Minus the gradient of the loss by the position of each free unit, shape (2, unit)."""
    if isinstance(problem.pipeline.simulator, CountingArray):  # it has no derivative
        smooth = eqx.tree_at(lambda p: p.simulator, problem.pipeline, SmoothArray())
        problem = problem.replace(pipeline=smooth)
    u = np.asarray(problem.space.encode(layout), float)
    slopes = []
    for one in jax.random.split(key, SAMPLES):
        [found] = measure.evaluate(problem, "pathwise", (u[None], one[None]))
        if not found.cause and found.total.gradient is not None:
            slopes.append(np.asarray(found.total.gradient, float))
    if not slopes:
        return np.zeros((2, layout.x.size))
    return -np.mean(slopes, 0).reshape(2, -1)


def _ground(traces: list, caption: str) -> dict[str, Any]:
    """Seen from above, 6 km wide."""
    figure = drawing.figure(
        *traces, x="x (km)", y="y (km)", equal=True, height=520, caption=caption
    )
    for axis in ("xaxis", "yaxis"):
        figure["layout"][axis]["range"] = [-3.1, 3.1]
    return figure
