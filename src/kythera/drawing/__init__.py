"""Pictures of instruments as plain dicts in plotly's JSON format; nothing is imported.

An instrument's `draw(problem, designs, key)` returns `{name: figure}`, where a figure is
what `figure` makes: `{"data": [...], "layout": {...}, "caption": "..."}`. The traces come
from the other functions, each of which gives a list of them:

    figure(
        plane((0, 0, z), (1, 1), colour=BEST),
        box((0, 0, 0), (2, 1, 1), name="lorry"),
        x="x (m)", y="y (m)", z="z (m)", caption="The portal as built.",
    )

Lengths are in whatever unit the axes say. Colours can be told apart by the colour-blind and
in grey print (M. Okabe, K. Ito, Color Universal Design, 2008).
"""

from kythera.drawing.layouts import Figure, figure, side_by_side
from kythera.drawing.traces import (
    BEST,
    BLACK,
    BLUE,
    COLOUR_OF,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PURPLE,
    RED,
    SEQUENTIAL,
    SKY,
    START,
    YELLOW,
    Trace,
    bars,
    box,
    colour,
    contour,
    curve,
    faded,
    heatmap,
    lines,
    log_ticks,
    plain,
    plane,
    points,
    rectangle,
)

__all__ = [
    "BEST",
    "BLACK",
    "BLUE",
    "COLOUR_OF",
    "Figure",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "RED",
    "SEQUENTIAL",
    "SKY",
    "START",
    "Trace",
    "YELLOW",
    "bars",
    "box",
    "colour",
    "contour",
    "curve",
    "faded",
    "figure",
    "heatmap",
    "lines",
    "log_ticks",
    "plain",
    "plane",
    "points",
    "rectangle",
    "side_by_side",
]
