"""Pictures of a telescope: its planes along the beam."""

from typing import Any

import numpy as np

from kythera import drawing
from kythera.instruments.telescope.design import LENGTH, Telescope
from kythera.units import cm, mm

# The model's planes have no end and no thickness: so large are those of the picture.
SIDE, THICKNESS = 20 * cm, 4 * mm


def draw(problem: Any, designs: dict[str, Telescope], key: Any) -> dict[str, dict]:
    """The planes of each design along the beam, for reports.

    Args:
        problem: not looked at.
        designs: by name, "start" and "best" in their fixed colours.
        key: not looked at.

    Returns:
        plotly figures by name.
    """
    return {"layout": _side(designs, "Positions of the planes along the beam.")}


def sketch(design: Telescope) -> dict[str, dict]:
    """The planes of one design: from the side, and in space.

    Args:
        design: what is drawn.

    Returns:
        plotly figures by name; their axes span all positions that the planes may have.
    """
    return {
        "side": _side({"design": design}, "The planes from the side."),
        "space": _space(design),
    }


def _side(designs: dict[str, Telescope], caption: str) -> dict[str, Any]:
    """Planes as strokes, one row for each design."""
    traces = [
        drawing.points(
            design.z,
            [name] * len(design.z),
            name=name,
            colour=drawing.colour(name),
            symbol="line-ns-open",
            size=40,
        )
        for name, design in designs.items()
    ]
    margin = 0.05 * LENGTH
    return drawing.figure(
        *traces,
        xaxis={"title": {"text": "z (m)"}, "range": [-margin, LENGTH + margin]},
        yaxis={
            "range": [-0.6, len(designs) - 0.4],
            "showticklabels": len(designs) > 1,
        },
        showlegend=False,
        height=200 + 20 * len(designs),
        caption=caption,
    )


def _space(design: Telescope) -> dict[str, Any]:
    """Planes as plates across the beam."""
    plates = [
        drawing.box((z, 0, 0), (THICKNESS, SIDE, SIDE), colour=drawing.BLUE)
        for z in np.asarray(design.z, float)
    ]
    beam = drawing.lines(
        [[(-0.1 * LENGTH, 0, 0), (1.1 * LENGTH, 0, 0)]],
        name="beam",
        colour=drawing.BLACK,
        width=3,
    )
    figure = drawing.figure(
        *plates,
        beam,
        x="z (m)",
        y="x (m)",
        z="y (m)",
        height=420,
        caption="Plates of 20 cm stand for planes that have no end; drag to turn.",
    )
    scene = figure["layout"]["scene"]
    scene["xaxis"]["range"] = [-0.1 * LENGTH, 1.1 * LENGTH]
    for axis in ("yaxis", "zaxis"):
        scene[axis] |= {"range": [-0.75 * SIDE, 0.75 * SIDE], "nticks": 4}
    scene["camera"] = {"eye": {"x": -0.3, "y": -2.2, "z": 0.8}}
    return figure
