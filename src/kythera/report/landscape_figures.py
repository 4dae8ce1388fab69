"""The pictures of a landscape: profiles, a map, directions."""

from typing import Any

import numpy as np

from kythera import drawing, errors, text
from kythera.report.terrain import AXIS, Landscape, Profile

MOST_PROFILES = 6
MOST_ROWS, MOST_COLUMNS = 8, 16  # directions, and parameters in them
WRITTEN = 8  # columns up to which each cell has its number
LEVELS = ((1, "solid"), (4, "dash"), (16, "dot"))  # lines of a map, in small increases
DIVERGING = [[0, drawing.RED], [0.5, "#f7f7f7"], [1, drawing.BLUE]]
ABOVE = "loss above the lowest"

Figure = dict[str, Any]


def profiles(found: Landscape, most: int = MOST_PROFILES) -> dict[str, Figure]:
    """The loss along each axis, the others being wherever it is lowest.

    Args:
        found: the landscape.
        most: how many, those that the trials varied most.
    """
    return {name: profile(found, name) for name in found.axes[:most]}


def profile(found: Landscape, name: str) -> Figure:
    """The loss along one axis, with one standard error.

    Args:
        found: the landscape.
        name: one of its `axes`.

    Raises:
        InputError: no such axis, or no surface.
    """
    one = found.profile(name)
    x, y = _shown(one, 0), one.excess
    ends = [float(x[0]), float(x[-1])]
    traces = drawing.curve(x, y, one.stderr, colour=drawing.BLUE)
    traces += drawing.curve(
        ends,
        [found.delta] * 2,
        colour=drawing.BLACK,
        dash="dot",
    )
    traces += drawing.points(
        [_in_unit(one.best[0], one, 0)], [0.0], colour=drawing.BLUE, size=8
    )
    at = _recommended(found, name)
    if at is not None and ends[0] <= at <= ends[1]:
        traces += drawing.points(
            *([at], [0.0]), colour=drawing.RED, symbol="diamond-open", size=11
        )
    reach = one.within(found.delta)
    return drawing.figure(
        traces,
        xaxis=_axis(one, 0),
        y=ABOVE,
        height=280,
        caption=_tolerance(one, reach),
    )


def _tolerance(one: Profile, reach: tuple[float, float]) -> str:
    """Between which values the loss is below the dotted line."""
    known = [np.isfinite(v) for v in reach]
    low, high = (_in_unit(v, one, 0) for v in reach)
    unit = f" {one.units[0]}".rstrip()
    if all(known):
        return f"Below the dotted line from {low:.4g} to {high:.4g}{unit}."
    if not any(known):
        return "Below the dotted line wherever it was tried."
    if known[0]:
        return f"Below the dotted line from {low:.4g}{unit} on, as far as was tried."
    return f"Below the dotted line up to {high:.4g}{unit}, from where it was tried."


def pair(found: Landscape) -> tuple[str, str] | None:
    """The two axes of the map: those that the loosest curved direction mixes most."""
    if len(found.axes) < 2:
        return None
    if found.kind == "low-rank":
        return found.axes[0], found.axes[1]
    curved = [d for d in found.directions if d.kind == "curved"]
    if not curved:
        return found.axes[0], found.axes[1]
    moved = np.abs(curved[-1].vector[found.chart.where])
    first, second = np.argsort(-moved, kind="stable")[:2]
    return found.chart.names[first], found.chart.names[second]


def surface(found: Landscape, first: str = "", second: str = "") -> Figure:
    """The loss over two axes, the others being wherever it is lowest.

    Args:
        found: the landscape.
        first: name of the axis along x; by default the loosest pair.
        second: along y.

    Raises:
        InputError: no such axes, or no surface.
    """
    chosen = (first, second) if first or second else pair(found)
    if chosen is None:
        raise errors.InputError(
            "A map needs a surface in at least two axes, but there are "
            f"{len(found.axes)}. {' '.join(found.notes)}"
        )
    one = found.profile(*chosen)
    x, y = _shown(one, 0), _shown(one, 1)
    excess = np.maximum(one.excess, 0)
    high = float(np.max(excess))
    traces = drawing.heatmap(
        excess, x, y, unit=ABOVE, low=0.0, high=min(high, 40 * found.delta)
    )
    for factor, dash in LEVELS:
        if factor * found.delta < high:
            traces += drawing.contour(
                *(excess, x, y, factor * found.delta),
                name=f"+{factor * found.delta:.2g}",
                colour="#ffffff",
                dash=dash,
            )
    traces += drawing.points(
        [_in_unit(one.best[0], one, 0)],
        [_in_unit(one.best[1], one, 1)],
        colour="#ffffff",
        symbol="cross",
        size=9,
    )
    return drawing.figure(
        traces,
        xaxis=_axis(one, 0),
        yaxis=_axis(one, 1),
        height=430,
        showlegend=False,
        caption="The loss over two of them, the others being wherever it is lowest. White "
        f"lines: an increase by {found.delta:.2g} (solid), four times (dashed) and sixteen "
        "times as much (dotted); cross: the lowest point.",
    )


def directions(found: Landscape) -> Figure | None:
    """What each direction mixes: signed parts of the parameters, stiffest on top.

    Args:
        found: the landscape.

    Returns:
        the figure; None where no direction is known.
    """
    every, half = found.directions, MOST_ROWS // 2
    if not every:
        return None
    more = len(every) > MOST_ROWS
    rows = [*range(half), *range(len(every) - half, len(every))]  # the ends count
    rows = rows if more else list(range(len(every)))
    matrix = np.stack([every[k].vector for k in rows])
    order = np.argsort(-np.max(np.abs(matrix), 0), kind="stable")[:MOST_COLUMNS]
    order = np.sort(order[np.max(np.abs(matrix[:, order]), 0) > 1e-3])
    names = [found.result.names[i] for i in order]
    # numbered, because two labels of an axis must not read alike
    labels = [f"{k + 1}. {_label(found, every[k])}" for k in rows]
    traces = drawing.heatmap(
        matrix[::-1, order],
        names,
        labels[::-1],
        unit="part",
        low=-1.0,
        high=1.0,
        scale=DIVERGING,
    )
    if len(names) <= WRITTEN:
        traces[0]["texttemplate"] = "%{z:.2f}"
    return drawing.figure(
        traces,
        xaxis={"type": "category", "tickangle": -40 if len(names) > WRITTEN else 0},
        yaxis={"type": "category"},
        height=130 + 34 * len(rows),
        caption="Ways to leave the lowest point, the stiffest on top, as combinations of "
        "parameters in units of their ranges."
        + f" The {half} stiffest and the {half} loosest of {len(every)}."
        * more,
    )


def _label(found: Landscape, direction: Any) -> str:
    said = found.said(direction).replace(", at least", "").replace("+-", "\u00b1")
    return said.replace("loose (no curvature seen)", "loose").replace("-", "\u2212")


def _in_unit(value: float, one: Profile, k: int) -> float:
    return float(text.in_unit(value, one.units[k]))


def _shown(one: Profile, k: int) -> np.ndarray:
    return text.in_unit(one.at[k], one.units[k])


def _axis(one: Profile, k: int) -> dict[str, Any]:
    """The axis of a parameter in its unit, or of a direction."""
    unit = f" ({one.units[k]})" if one.units[k] else ""
    if one.axes[k].startswith(AXIS):
        unit = " of the trials (parts of the ranges)"
    axis: dict[str, Any] = {"title": {"text": f"{one.axes[k]}{unit}"}}
    if one.logarithmic[k]:
        shown = _shown(one, k)
        low, high = float(shown[0]), float(shown[-1])
        axis |= {"type": "log", "tickvals": drawing.log_ticks(low, high) or [low, high]}
    return axis


def _recommended(found: Landscape, name: str) -> float | None:
    """The recommended design's value on an axis, in its unit; None for a direction."""
    if name not in found.result.names:
        return None
    i = found.result.names.index(name)
    return float(text.in_unit(found.result.best[i], found.result.units[i]))
