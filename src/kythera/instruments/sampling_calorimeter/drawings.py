"""Pictures of a stack: its layers along the beam, and where showers leave their energy."""

from typing import Any

import numpy as np

from kythera import drawing
from kythera.instruments.sampling_calorimeter.design import Stack, cost, length
from kythera.instruments.sampling_calorimeter.simulator import (
    Particles,
    RecordedShowers,
)
from kythera.units import cm

SIDE = 60 * cm  # of the picture; the model's layers have no end
EMPTY = 1e-4  # m, below which a layer is not drawn
COLOURS = {
    "lead": drawing.BLACK,
    "iron": drawing.GREY,
    "copper": drawing.ORANGE,
    "tungsten": drawing.PURPLE,
    "lead_tungstate": drawing.BLUE,
    "polystyrene": drawing.SKY,
    "bgo": drawing.GREEN,
    "lead_glass": drawing.YELLOW,
    "caesium_iodide": drawing.RED,
}


def draw(problem: Any, designs: dict[str, Stack], key: Any) -> dict[str, dict]:
    """The stacks, and the mean energy in each layer by kind of particle, for reports.

    Args:
        problem: with the simulator of the showers.
        designs: by name, "start" and "best" in their fixed colours.
        key: of the showers.

    Returns:
        plotly figures by name.
    """
    rows = {f"{name} ({_words(stack)})": stack for name, stack in designs.items()}
    return {
        "layout": _side(rows, "Layers along the beam, which comes from the left."),
        "profile": _profile(problem, designs, key),
    }


def sketch(design: Stack) -> dict[str, dict]:
    """The layers of one design: from the side, and in space.

    Args:
        design: what is drawn.

    Returns:
        plotly figures by name; their axes span the longest stack of the default problem.
    """
    return {
        "side": _side({"": design}, f"The stack from the side: {_words(design)}."),
        "space": _space(design),
    }


def _words(stack: Stack) -> str:
    metres, price = float(length(stack)), float(cost(stack))
    return f"{metres / cm:.1f} cm, cost {price:,.0f}"


def _drawn(stack: Stack) -> list[tuple[float, float, str]]:
    """Begin and end of each layer that is there, m, and its material."""
    ends = np.cumsum(np.asarray(stack.thickness, float))
    begins = np.concatenate([[0.0], ends[:-1]])
    found = zip(begins, ends, stack.chosen(), strict=True)
    return [(a, b, name) for a, b, name in found if b - a > EMPTY]


def _side(designs: dict[str, Stack], caption: str) -> dict[str, Any]:
    """A bar of layers for each design, one above the other."""
    traces, named = [], set()
    for row, stack in enumerate(designs.values()):
        for begin, end, material in _drawn(stack):
            traces.append(
                drawing.rectangle(
                    (begin / cm, end / cm),
                    (row - 0.35, row + 0.35),
                    name="" if material in named else material,
                    colour=COLOURS[material],
                    opacity=0.6,
                )
            )
            named.add(material)
    return drawing.figure(
        *traces,
        xaxis={"title": {"text": "depth (cm)"}, "range": [-5, 205]},
        yaxis={
            "range": [-0.6, len(designs) - 0.4],
            "tickvals": list(range(len(designs))),
            "ticktext": list(designs),
            "showticklabels": len(designs) > 1,
            "automargin": True,
        },
        height=200 + 60 * len(designs),
        caption=caption,
    )


def _space(design: Stack) -> dict[str, Any]:
    """Layers as boxes across the beam."""
    boxes, named = [], set()
    for begin, end, material in _drawn(design):
        boxes.append(
            drawing.box(
                ((begin + end) / 2 / cm, 0, 0),
                ((end - begin) / cm, SIDE / cm, SIDE / cm),
                name="" if material in named else material,
                colour=COLOURS[material],
                opacity=0.4,
            )
        )
        named.add(material)
    beam = drawing.lines(
        [[(-25, 0, 0), (0, 0, 0)]], name="beam", colour=drawing.RED, width=4
    )
    figure = drawing.figure(
        *boxes,
        beam,
        x="depth (cm)",
        y="x (cm)",
        z="y (cm)",
        height=420,
        caption="Faces of 60 cm stand for layers that have no end; drag to turn.",
    )
    scene = figure["layout"]["scene"]
    scene["xaxis"]["range"] = [-30, 205]
    for axis in ("yaxis", "zaxis"):
        scene[axis] |= {"range": [-0.75 * SIDE / cm, 0.75 * SIDE / cm], "nticks": 4}
    scene["camera"] = {"eye": {"x": -0.6, "y": -2.0, "z": 0.8}}
    return figure


def _profile(problem: Any, designs: dict[str, Stack], key: Any) -> dict[str, Any]:
    """Mean part of the energy in each layer, at the layer's middle."""
    truth = problem.pipeline.source(min(1000, problem.events), key=key)
    particles = truth.particles if isinstance(truth, RecordedShowers) else truth
    traces = []
    for name, stack in designs.items():
        deposit = np.asarray(problem.pipeline.simulator(stack, truth, key=key), float)
        ends = np.cumsum(np.asarray(stack.thickness, float))
        middle = (ends - np.asarray(stack.thickness, float) / 2) / cm
        for kind, dash in _kinds(particles):
            here = np.asarray(particles.kind) == kind
            part = deposit[here].sum(0) / np.asarray(particles.energy)[here].sum()
            traces.append(
                drawing.curve(
                    middle,
                    100 * part,
                    name=f"{name}, {dash[0]}",
                    colour=drawing.colour(name),
                    dash=dash[1],
                    markers=True,
                )
            )
    return drawing.figure(
        *traces,
        x="depth of the layer's middle (cm)",
        y="energy deposited (%)",
        caption="Mean energy in each layer, absorbers and active ones in turn.",
    )


def _kinds(particles: Particles) -> list[tuple[int, tuple[str, str]]]:
    """Kinds that are there, with name and dash."""
    styles = {0: ("gamma", "solid"), 1: ("e-", "dash"), 2: ("pi+", "dot")}
    there = np.unique(np.asarray(particles.kind, int))
    return [(int(kind), styles[int(kind)]) for kind in there]
