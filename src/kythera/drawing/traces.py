"""What a picture is made of: each function gives a list of plotly's traces."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Trace = dict[str, Any]

BLACK, ORANGE, SKY, GREEN = "#222222", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#8A8F98"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
START, BEST = RED, BLUE  # before and after, in every picture
COLOUR_OF = {
    **{"start": START, "best": BEST, "true": BLACK, "predicted": BLUE},
    "design": BLUE,  # one alone
}
SEQUENTIAL = "Viridis"

# Corners of a unit box around the origin, its twelve triangles and its twelve edges.
_CORNERS = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
_FACES = [
    (0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1),
    (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3),
]  # fmt: skip
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]


def plain(value: Any, digits: int | None = 6) -> Any:
    """The same as numbers, strings, lists and dicts, for JSON.

    Arrays become lists, what is not finite becomes None.

    Args:
        value: any nesting of arrays, numbers, strings, sequences and mappings.
        digits: that real numbers keep; None for all of them.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(value) if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and JAX
        return plain(value.tolist(), digits)
    if isinstance(value, Iterable):
        return [plain(v, digits) for v in value]
    return str(value)


def colour(name_or_index: str | int) -> str:
    """The colour of a name in `COLOUR_OF` ("start", "best"), or one of the palette."""
    if isinstance(name_or_index, str):
        return COLOUR_OF.get(name_or_index, GREY)
    return PALETTE[name_or_index % len(PALETTE)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, evenly spaced on a logarithmic scale.

    Every power of ten, and over less than three decades its double and its fivefold.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 999 * low else (1,)
    ticks = [float(f"{k}e{d}") for d in decades for k in steps]
    return [t for t in ticks if low <= t <= high]


def faded(colour: str, opacity: float) -> str:
    """A colour "#rrggbb" as one that lets `opacity` of itself be seen."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{opacity:g})"


def curve(
    x: Any,
    y: Any,
    stderr: Any = None,
    *,
    name: str = "",
    colour: str = BLUE,
    dash: str = "solid",
    markers: bool = False,
) -> list[Trace]:
    """A line, with a band of one standard error where `stderr` is given.

    Args:
        x: shape (n,).
        y: shape (n,).
        stderr: shape (n,).
        name: for the legend; none without one.
        colour: "#rrggbb".
        dash: "solid", "dash" or "dot".
        markers: also show the points.
    """
    x, y = plain(x), plain(y)
    traces: list[Trace] = []
    if stderr is not None:
        every = zip(x, y, plain(stderr), strict=True)
        known = [(a, b, e) for a, b, e in every if b is not None and e is not None]
        up = [b + e for _, b, e in known]
        down = [b - e for _, b, e in known]
        traces.append(
            {
                "type": "scatter",
                "x": [a for a, _, _ in known] + [a for a, _, _ in reversed(known)],
                "y": plain(up + down[::-1]),
                "mode": "lines",
                "fill": "toself",
                "fillcolor": faded(colour, 0.18),
                "line": {"width": 0},
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": name,
            }
        )
    traces.append(
        {
            "type": "scatter",
            "x": x,
            "y": y,
            "mode": "lines+markers" if markers else "lines",
            "name": name,
            "legendgroup": name,
            "showlegend": bool(name),
            "line": {"color": colour, "width": 2, "dash": dash},
        }
    )
    return traces


def points(
    x: Any,
    y: Any,
    z: Any = None,
    *,
    stderr: Any = None,
    stderr_x: Any = None,
    name: str = "",
    colour: str = BLUE,
    symbol: str = "circle",
    size: float = 7,
) -> list[Trace]:
    """Markers in two or three dimensions.

    Args:
        x: shape (n,).
        y: shape (n,).
        z: shape (n,), for three dimensions.
        stderr: error bars along y, shape (n,).
        stderr_x: error bars along x, shape (n,).
        name: for the legend; none without one.
        colour: "#rrggbb".
        symbol: plotly's name of the marker.
        size: of the marker in pixels.
    """
    outline = {"color": colour, "width": 2 if "open" in symbol else 0}
    trace: Trace = {
        "type": "scatter" if z is None else "scatter3d",
        "x": plain(x),
        "y": plain(y),
        "mode": "markers",
        "name": name,
        "showlegend": bool(name),
        "marker": {"color": colour, "symbol": symbol, "size": size, "line": outline},
    }
    if z is not None:
        trace["z"] = plain(z)
    for axis, error in (("error_y", stderr), ("error_x", stderr_x)):
        if error is not None:
            trace[axis] = {"array": plain(error), "thickness": 1.2, "width": 3}
    return [trace]


def lines(
    segments: Any, *, name: str = "", colour: str = GREY, width: float = 1.5
) -> list[Trace]:
    """Straight segments or polylines in two or three dimensions, as one trace.

    Args:
        segments: sequences of points, shape (segment, point, 2 or 3); they may differ in
            the number of points.
        name: for the legend; none without one.
        colour: "#rrggbb".
        width: in pixels.
    """
    every = plain(segments)
    dimensions = len(every[0][0]) if every else 2
    axes: list[list[Any]] = [[] for _ in range(dimensions)]
    for segment in every:
        for point in segment:
            for axis, coordinate in zip(axes, point, strict=True):
                axis.append(coordinate)
        for axis in axes:
            axis.append(None)
    return [
        {
            "type": "scatter" if dimensions == 2 else "scatter3d",
            **dict(zip("xyz", axes)),
            "mode": "lines",
            "name": name,
            "showlegend": bool(name),
            "line": {"color": colour, "width": width},
            "hoverinfo": "name" if name else "skip",
        }
    ]


def box(
    centre: Sequence[float],
    size: Sequence[float],
    *,
    rotation: Sequence[Sequence[float]] | None = None,
    name: str = "",
    colour: str = GREY,
    opacity: float = 0.25,
) -> list[Trace]:
    """A solid box in three dimensions, with its edges.

    Args:
        centre: shape (3,).
        size: full lengths along its own axes, shape (3,).
        rotation: its own axes as columns, shape (3, 3); none by default.
        name: for the legend; none without one.
        colour: "#rrggbb".
        opacity: of the faces, 0 to 1; 0 leaves only the edges.
    """
    middle, lengths = plain(centre), plain(size)
    matrix = plain(rotation) if rotation is not None else None
    corners: list[list[float]] = []
    for corner in _CORNERS:
        own = [c * s for c, s in zip(corner, lengths, strict=True)]
        if matrix is not None:
            own = [sum(m * v for m, v in zip(row, own, strict=True)) for row in matrix]
        corners.append([a + b for a, b in zip(middle, own, strict=True)])
    edges = lines([[corners[a], corners[b]] for a, b in _EDGES], colour=colour, width=2)
    edges[0].update(name=name, legendgroup=name, showlegend=bool(name))
    if opacity <= 0:
        return edges
    mesh: Trace = {
        "type": "mesh3d",
        **{axis: [c[k] for c in corners] for k, axis in enumerate("xyz")},
        **{axis: [f[k] for f in _FACES] for k, axis in enumerate("ijk")},
        "color": colour,
        "opacity": opacity,
        "flatshading": True,
        "name": name,
        "legendgroup": name,
        "showlegend": False,
        "hoverinfo": "name" if name else "skip",
    }
    return [mesh, *edges]


def plane(
    centre: Sequence[float],
    span: Sequence[float],
    *,
    tilt: Sequence[float] = (0.0, 0.0),
    name: str = "",
    colour: str = BLUE,
    opacity: float = 0.35,
) -> list[Trace]:
    """A thin rectangle in three dimensions: a detector panel.

    Args:
        centre: shape (3,).
        span: full lengths along x and y before it is tilted, shape (2,).
        tilt: angles about the x axis, then about the y axis, rad, shape (2,).
        name: for the legend; none without one.
        colour: "#rrggbb".
        opacity: of the face, 0 to 1.
    """
    a, b = plain(tilt)
    about_x, about_y = (math.cos(a), math.sin(a)), (math.cos(b), math.sin(b))
    rotation = [
        [about_y[0], about_y[1] * about_x[1], about_y[1] * about_x[0]],
        [0.0, about_x[0], -about_x[1]],
        [-about_y[1], about_y[0] * about_x[1], about_y[0] * about_x[0]],
    ]
    size = [*plain(span), 0.0]
    return box(
        centre, size, rotation=rotation, name=name, colour=colour, opacity=opacity
    )


def rectangle(
    x: Sequence[float],
    y: Sequence[float],
    *,
    name: str = "",
    colour: str = GREY,
    opacity: float = 0.2,
    dash: str = "solid",
) -> list[Trace]:
    """A filled rectangle in two dimensions: one projection of a box.

    Args:
        x: its ends along x, shape (2,).
        y: its ends along y, shape (2,).
        name: for the legend; none without one.
        colour: "#rrggbb".
        opacity: of the filling, 0 to 1.
        dash: of the outline: "solid", "dash" or "dot".
    """
    (a, b), (c, d) = plain(x), plain(y)
    return [
        {
            "type": "scatter",
            "x": [a, b, b, a, a],
            "y": [c, c, d, d, c],
            "mode": "lines",
            "fill": "toself",
            "fillcolor": faded(colour, opacity),
            "line": {"color": colour, "width": 1.5, "dash": dash},
            "name": name,
            "showlegend": bool(name),
            "hoverinfo": "name" if name else "skip",
        }
    ]


def bars(
    names: Sequence[str],
    values: Any,
    stderr: Any = None,
    *,
    name: str = "",
    colour: str = BLUE,
) -> list[Trace]:
    """Bars with names, upright; several calls stand side by side.

    Args:
        names: of the bars, shape (n,).
        values: shape (n,).
        stderr: shape (n,).
        name: for the legend; none without one.
        colour: "#rrggbb".
    """
    trace: Trace = {
        "type": "bar",
        "x": list(names),
        "y": plain(values),
        "name": name,
        "showlegend": bool(name),
        "marker": {"color": colour},
    }
    if stderr is not None:
        trace["error_y"] = {"array": plain(stderr), "thickness": 1.2, "width": 4}
    return [trace]


def heatmap(
    values: Any,
    x: Any = None,
    y: Any = None,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    scale: str | Sequence[Any] = SEQUENTIAL,
    bar: bool = True,
    log: bool = False,
) -> list[Trace]:
    """A map of numbers in two dimensions.

    Maps that are compared need the same `low` and `high`; then one colour bar is enough.

    Args:
        values: shape (row along y, column along x).
        x: centres of the columns.
        y: centres of the rows.
        unit: of the values, above the colour bar.
        low: value of the first colour, which smaller ones have too; by default the
            smallest (the smallest positive one on a logarithmic scale).
        high: value of the last colour, which larger ones have too; by default the largest.
        scale: plotly's name of the colour scale, or pairs (0 to 1, "#rrggbb").
        bar: whether to show the colour bar.
        log: colours go with the logarithm; the bar and the pointer still show the values.
    """
    rows = plain(values)
    trace: Trace = {
        "type": "heatmap",
        "z": rows,
        "colorscale": plain(scale),
        "showscale": bar,
        "colorbar": {"title": {"text": unit}, "thickness": 12, "outlinewidth": 0},
    }
    if log:
        low, high = _logarithmic(trace, rows, unit, low, high)
    for key, value in (("x", x), ("y", y), ("zmin", low), ("zmax", high)):
        if value is not None:
            trace[key] = plain(value)
    return [trace]


def _logarithmic(
    trace: Trace, rows: Any, unit: str, low: float | None, high: float | None
) -> tuple[float, float]:
    """Give a map the logarithms of its values; the ends of its scale, as logarithms."""
    positive = [v for row in rows for v in row if v is not None and v > 0] or [1.0]
    first = min(positive) if low is None else float(low)
    last = max(positive) if high is None else float(high)
    last = max(last, 1.001 * first)
    trace["customdata"] = rows
    trace["hovertemplate"] = f"%{{customdata:.3g}} {unit}<extra></extra>"
    trace["z"] = [
        [None if v is None else plain(math.log10(max(v, first))) for v in row]
        for row in rows
    ]
    ticks = log_ticks(first, last)
    trace["colorbar"] |= {
        "tickvals": plain([math.log10(t) for t in ticks]),
        "ticktext": [f"{t:g}" for t in ticks],
    }
    return math.log10(first), math.log10(last)


def contour(
    values: Any,
    x: Any,
    y: Any,
    level: float,
    *,
    name: str = "",
    colour: str = BLACK,
    dash: str = "solid",
) -> list[Trace]:
    """The line along which a map has one value.

    Args:
        values: shape (row along y, column along x).
        x: centres of the columns.
        y: centres of the rows.
        level: the value.
        name: for the legend; none without one.
        colour: "#rrggbb".
        dash: "solid", "dash" or "dot".
    """
    only = {"start": plain(level), "end": plain(level), "size": 1, "coloring": "none"}
    return [
        {
            "type": "contour",
            **{"x": plain(x), "y": plain(y), "z": plain(values)},
            "contours": only,
            "line": {"color": colour, "width": 2, "dash": dash},
            "name": name,
            "showlegend": bool(name),
            "showscale": False,
            "hoverinfo": "skip",
        }
    ]
