"""Traces put into one picture, and several pictures into one."""

from collections.abc import Mapping
from typing import Any

from kythera.drawing.traces import Trace, plain

Figure = dict[str, Any]


def figure(
    *traces: list[Trace],
    x: str = "",
    y: str = "",
    z: str = "",
    caption: str = "",
    equal: bool = False,
    height: int | None = None,
    **layout: Any,
) -> Figure:
    """Put traces into one picture.

    Args:
        traces: what the other functions gave.
        x: title of the x axis, with the unit.
        y: of the y axis.
        z: of the z axis, for three dimensions.
        caption: a sentence below the picture.
        equal: one metre is as long along x as along y.
        height: in pixels.
        layout: anything else of plotly's layout.
    """
    data = [trace for group in traces for trace in group]
    titles = {"x": x, "y": y, "z": z}
    axes = {f"{k}axis": {"title": {"text": v}} for k, v in titles.items() if v}
    found: dict[str, Any] = {}
    if any(t["type"] in ("scatter3d", "mesh3d", "isosurface") for t in data):
        found["scene"] = {**axes, "aspectmode": "data"}
        found["margin"] = {"l": 0, "r": 0, "b": 0, "t": 30}
    else:
        axes.pop("zaxis", None)
        found.update(axes)
        if equal:
            found.setdefault("yaxis", {}).update(scaleanchor="x", constrain="domain")
            found.setdefault("xaxis", {}).update(constrain="domain")
    if height is not None:
        found["height"] = height
    found.update(layout)
    return {"data": data, "layout": plain(found), "caption": caption}


def side_by_side(
    figures: Mapping[str, Figure], *, columns: int = 2, caption: str = ""
) -> Figure:
    """Several flat figures as the panels of one, each below its name.

    Args:
        figures: title -> figure without a third dimension.
        columns: panels in a row.
        caption: a sentence below the picture; by default that of the first.
    """
    data: list[Trace] = []
    layout: dict[str, Any] = {"annotations": []}
    rows = -(-len(figures) // columns)
    gap_x, gap_y = 0.28 / columns, 0.3 / max(rows, 1)
    width = (1 - gap_x * (columns - 1)) / columns
    height = (1 - gap_y * (rows - 1)) / max(rows, 1)
    named: set[str] = set()
    for i, (title, one) in enumerate(figures.items()):
        row, column = divmod(i, columns)
        left, top = column * (width + gap_x), 1 - row * (height + gap_y)
        _add_panel(data, layout, one, i, (left, left + width, top - height, top), named)
        layout["annotations"].append(
            {
                "text": title,
                "showarrow": False,
                **{"xref": "paper", "x": plain(left + width / 2), "xanchor": "center"},
                **{"yref": "paper", "y": plain(top), "yanchor": "bottom"},
            }
        )
    layout["height"] = 130 + round(min(300, 700 / columns) * rows)
    layout["margin"] = {"t": 64}
    layout["legend"] = {"yref": "container", "y": 1, "yanchor": "top"}
    first = next(iter(figures.values()), {})
    return {
        "data": data,
        "layout": layout,
        "caption": caption or first.get("caption", ""),
    }


def _add_panel(
    data: list[Trace],
    layout: dict[str, Any],
    one: Figure,
    index: int,
    where: tuple[float, float, float, float],
    named: set[str],
) -> None:
    """Put a figure into the part (left, right, bottom, top) of another, 0 to 1."""
    number = "" if index == 0 else str(index + 1)
    left, right, bottom, top = where
    for trace in one["data"]:
        trace = {**trace, "xaxis": f"x{number}", "yaxis": f"y{number}"}
        if trace.get("name") in named:  # one entry of the legend is enough
            trace["showlegend"] = False
        elif trace.get("showlegend"):
            named.add(trace["name"])
        if "colorbar" in trace:
            size = {"len": top - bottom, "y": top, "x": right, "xpad": 8}
            trace["colorbar"] = trace["colorbar"] | plain(size) | {"yanchor": "top"}
        data.append(trace)
    old = one.get("layout", {})
    across = {"domain": plain([left, right]), "anchor": f"y{number}"}
    upright = {"domain": plain([bottom, top]), "anchor": f"x{number}"}
    if "scaleanchor" in old.get("yaxis", {}):
        upright |= {"scaleanchor": f"x{number}", "constraintoward": "top"}
    layout[f"xaxis{number}"] = {**old.get("xaxis", {}), **across}
    layout[f"yaxis{number}"] = {**old.get("yaxis", {}), **upright}
