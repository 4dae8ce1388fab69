"""Pictures of a portal for reports: layout, images, ROC, cost."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from kythera import drawing
from kythera.core.pipeline import Pipeline
from kythera.core.types import Key
from kythera.instruments.muon_portal.design import Panels, Portal, Prices
from kythera.instruments.muon_portal.objectives import roc
from kythera.instruments.muon_portal.scan import Grid

ROWS = 256  # cargoes for the ROC curves
BATCH = 16  # cargoes at a time


def draw(problem: Any, designs: dict[str, Portal], key: Key) -> dict[str, dict]:
    """Figures of several designs, by name: layout, slices, ROC where there is one, cost.

    Args:
        problem: whose hard pipeline is drawn.
        designs: by name, "start" and "best" in their fixed colours.
        key: of the cargoes that are scanned for the pictures.

    Returns:
        plotly figures by name.
    """
    pipeline = problem.hard().pipeline
    grid = pipeline.simulator.grid
    figures = {
        "side": _projection(grid, designs, 0, "Seen from the side (x, z)"),
        "front": _projection(grid, designs, 1, "Seen from the front (y, z)"),
        "layout": _solid(grid, designs),
        "cost": _cost(designs),
    }
    figures |= _slices(pipeline, designs, key)
    if pipeline.source.scans > 1:
        figures["roc"] = _roc(pipeline, designs, key)
    return figures


def _projection(
    grid: Grid, designs: dict[str, Portal], axis: int, title: str
) -> dict[str, Any]:
    """Panels as horizontal lines, the volume as a rectangle."""
    half = grid.size[axis] / 2
    traces = [drawing.rectangle((-half, half), (-grid.top, grid.top), name="volume")]
    for name, portal in designs.items():
        segments = []
        for panels in portal.groups.values():
            if panels.facing != "z":
                continue
            centre = np.asarray((panels.x, panels.y)[axis])
            span = np.asarray((panels.span_1, panels.span_2)[axis])
            for c, s, z in zip(centre, span, np.asarray(panels.z), strict=True):
                segments.append([[c - s / 2, z], [c + s / 2, z]])
        traces.append(
            drawing.lines(segments, name=name, colour=drawing.colour(name), width=3)
        )
    return drawing.figure(
        *traces,
        xaxis={"title": {"text": f"{'xy'[axis]} (m)"}, "scaleanchor": "y"},
        yaxis={"title": {"text": "z (m)"}},
        caption=f"{title}: panels before and after, and the volume that is scanned.",
    )


def _solid(grid: Grid, designs: dict[str, Portal]) -> dict[str, Any]:
    """The portal in three dimensions."""
    traces = [drawing.box((0, 0, 0), grid.size, name="volume", opacity=0.1)]
    for name, portal in designs.items():
        for panels in portal.groups.values():
            traces += _planes(panels, name)
    return drawing.figure(
        *traces,
        scene={"aspectmode": "data"},
        height=560,
        caption="The portal in three dimensions; drag to turn it.",
    )


def _planes(panels: Panels, name: str) -> list:
    side_1, side_2, _ = (np.asarray(a) for a in panels.axes)
    centre = np.asarray(panels.centre)
    found = []
    for i in range(panels.count):
        a = side_1[:, i] * float(panels.span_1[i]) / 2
        b = side_2[:, i] * float(panels.span_2[i]) / 2
        c = centre[:, i]
        edge = [c + a + b, c + a - b, c - a - b, c - a + b, c + a + b]
        found.append(
            drawing.lines(
                [[p.tolist() for p in edge]], colour=drawing.colour(name), width=4
            )
        )
    return found


def _cost(designs: dict[str, Portal]) -> dict[str, Any]:
    prices = Prices()
    traces = []
    for name, portal in designs.items():
        shares = {
            f"{group}": float(prices(Portal(panels, _none(panels))))
            for group, panels in portal.groups.items()
        }
        traces.append(
            drawing.bars(
                list(shares),
                list(shares.values()),
                name=name,
                colour=drawing.colour(name),
            )
        )
    return drawing.figure(
        *traces,
        yaxis={"title": {"text": "cost"}},
        caption="What the panels of each group cost.",
    )


def _none(panels: Panels) -> Panels:
    """A group that costs nothing."""
    return eqx.tree_at(lambda p: p.present, panels, 0 * panels.present)


@eqx.filter_jit
def _scan(pipeline: Pipeline, design: Portal, key: Key) -> tuple[Any, Any, Any]:
    trace = pipeline(design, BATCH, key=key)
    return (
        trace.result.value,
        trace.result.image.density[0, -1],
        (trace.truth.inverse_x0[0, -1]),
    )


def _slices(pipeline: Pipeline, designs: dict[str, Portal], key: Key) -> dict[str, Any]:
    """The slice through the densest voxel of one cargo: true, and as each design sees it."""
    seen = {name: _scan(pipeline, d, key) for name, d in designs.items()}
    true = np.asarray(next(iter(seen.values()))[2])
    y = int(np.unravel_index(true.argmax(), true.shape)[1])
    grid = pipeline.source.scene.grid  # type: ignore[attr-defined]
    nz, _, nx = grid.shape
    dx, _, dz = grid.voxel
    x = (np.arange(nx) + 0.5) * dx - grid.size[0] / 2
    z = (np.arange(nz) + 0.5) * dz - grid.top
    top = float(np.max(true[:, y]))
    maps = {"true": true[:, y]} | {
        name: np.asarray(found[1])[:, y] for name, found in seen.items()
    }
    return {
        f"slice_{name}": drawing.figure(
            drawing.heatmap(np.minimum(values, top), x=x, y=z),
            xaxis={"title": {"text": "x (m)"}, "scaleanchor": "y"},
            yaxis={"title": {"text": "z (m)"}},
            caption=(
                "Scattering density 1/X0 (1/m) in the slice with the densest voxel: "
                + ("the truth." if name == "true" else f"as the {name} portal sees it.")
            ),
        )
        for name, values in maps.items()
    }


def _roc(pipeline: Pipeline, designs: dict[str, Portal], key: Key) -> dict[str, Any]:
    """False negatives over false positives, on the same fresh cargoes."""
    rates = np.linspace(0.01, 0.5, 50)
    traces = []
    for name, design in designs.items():
        values = [
            np.asarray(_scan(pipeline, design, jax.random.fold_in(key, i))[0])
            for i in range(ROWS // BATCH)
        ]
        x, y, error = roc(np.concatenate(values), rates)
        traces.append(
            drawing.curve(x, y, error, name=name, colour=drawing.colour(name))
        )
    return drawing.figure(
        *traces,
        xaxis={"title": {"text": "false positives"}},
        yaxis={"title": {"text": "false negatives"}, "range": [0, 1]},
        caption=f"ROC on {ROWS} fresh cargoes each, panels as built.",
    )
