"""Pictures of a portal: panels, cost, images, rates of errors; a sketch of one design."""

import dataclasses
from typing import Any

import jax
import numpy as np

from kythera import drawing
from kythera.core.compilation import jit
from kythera.core.pipeline import Pipeline
from kythera.core.space import Real, Space
from kythera.core.types import Key
from kythera.instruments.muon_portal.design import Portal, Prices, WithinBudget
from kythera.instruments.muon_portal.objectives import roc
from kythera.instruments.muon_portal.scan import Grid

ROWS = 128  # cargoes for the ROC curves
BATCH = 16  # cargoes at a time
SPAN = (
    1000.0  # last over first colour of a slice: from the densest metals to light cargo
)

SPATIAL = ("x", "y", "z", "span_1", "span_2")


def draw(problem: Any, designs: dict[str, Portal], key: Key) -> dict[str, dict]:
    """Figures of several designs, by name: layout, cost, slices, errors where it has them.

    Args:
        problem: whose hard pipeline is drawn.
        designs: by name, "start" and "best" in their fixed colours.
        key: of the cargoes that are scanned for the pictures.

    Returns:
        plotly figures by name.
    """
    pipeline = problem.hard().pipeline
    grid = pipeline.simulator.grid
    outlines = {name: _outlines(portal) for name, portal in designs.items()}
    figures = {
        "panels": _projections(grid.size, outlines, "before and after"),
        "panels_in_space": _solid(grid.size, outlines, "before and after"),
        "cost": _cost(designs, problem.space.project),
    }
    seen = {name: _scan(pipeline, d, key) for name, d in designs.items()}
    value, image, _ = next(iter(seen.values()))
    if image is not None:
        figures["scattering_density"] = _slices(pipeline, seen)
    if value is not None and pipeline.source.scans > 1:
        figures["false_negatives_against_false_positives"] = _roc(
            pipeline, designs, key
        )
    return figures


@dataclasses.dataclass(frozen=True)
class Sketch:
    """The panels of one design, drawn on axes that hold all designs of a space.

    Args:
        size: of the volume along (x, y, z), m.
        reach: half-lengths of the axes (x, y, z), m.
    """

    size: tuple[float, float, float]
    reach: tuple[float, float, float]

    @classmethod
    def of(cls, space: Space[Portal], grid: Grid) -> "Sketch":
        """With axes as far as the bounds of the free parameters let a panel reach.

        Args:
            space: whose bounds count.
            grid: the volume.
        """
        reach = np.asarray(grid.size) / 2
        for group, panels in space.template.groups.items():
            most = {name: np.asarray(getattr(panels, name)) for name in SPATIAL}
            for name in SPATIAL:
                domain = space.free.get(f"{group}.{name}")
                if isinstance(domain, Real):
                    most[name] = np.maximum(np.abs(domain.lower), np.abs(domain.upper))
            # sides lie along the two axes after the one that is faced
            first = ("xyz".index(panels.facing) + 1) % 3
            far = [np.max(np.abs(most[name])) for name in "xyz"]
            far[first] += np.max(most["span_1"]) / 2
            far[(first + 1) % 3] += np.max(most["span_2"]) / 2
            reach = np.maximum(reach, far)
        x, y, z = (float(f"{1.05 * v:.3g}") for v in reach)
        return cls(grid.size, (x, y, z))

    def __call__(self, design: Portal) -> dict[str, dict]:
        """Panels from two sides, and in space.

        Args:
            design: what is drawn.

        Returns:
            plotly figures by name.
        """
        panels = {"design": _outlines(design)}
        return {
            "panels": _projections(self.size, panels, "as built", self.reach),
            "panels_in_space": _solid(self.size, panels, "as built", self.reach),
        }


def _outlines(portal: Portal) -> list[np.ndarray]:
    """Closed outline of each panel that is built, m, shape (5, xyz)."""
    found = []
    for panels in portal.groups.values():
        side_1, side_2, _ = (np.asarray(a) for a in panels.axes)
        centre, present = np.asarray(panels.centre), np.asarray(panels.present)
        half_1, half_2 = np.asarray(panels.span_1) / 2, np.asarray(panels.span_2) / 2
        for i in np.flatnonzero(present > 0.5):
            a, b = side_1[:, i] * half_1[i], side_2[:, i] * half_2[i]
            c = centre[:, i]
            found.append(
                np.stack([c + a + b, c + a - b, c - a - b, c - a + b, c + a + b])
            )
    return found


def _projections(
    size: tuple[float, float, float],
    outlines: dict[str, list[np.ndarray]],
    where: str,
    reach: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """Panels as lines, the volume as a rectangle: from the side and from the front."""

    def view(axis: int) -> dict[str, Any]:
        half, top = size[axis] / 2, size[2] / 2
        volume = drawing.rectangle((-half, half), (-top, top), name="volume")
        shown = [
            drawing.lines(
                [outline[:, [axis, 2]] for outline in panels],
                name=name,
                colour=drawing.colour(name),
                width=3,
            )
            for name, panels in outlines.items()
        ]
        figure = drawing.figure(
            volume, *shown, x=f"{'xy'[axis]} (m)", y="z (m)", equal=True
        )
        if reach is not None:
            for name, far in (("xaxis", reach[axis]), ("yaxis", reach[2])):
                figure["layout"][name]["range"] = [-far, far]
        return figure

    return drawing.side_by_side(
        {"from the side": view(0), "from the front": view(1)},
        caption=f"Panels {where}, and the volume that is scanned.",
    )


def _solid(
    size: tuple[float, float, float],
    outlines: dict[str, list[np.ndarray]],
    where: str,
    reach: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """The portal in three dimensions."""
    shown = [
        drawing.lines(panels, name=name, colour=drawing.colour(name), width=4)
        for name, panels in outlines.items()
    ]
    figure = drawing.figure(
        drawing.box((0, 0, 0), size, name="volume", opacity=0.1),
        *shown,
        x="x (m)",
        y="y (m)",
        z="z (m)",
        height=560,
        caption=f"Panels {where}, around the volume that is scanned; drag to turn.",
    )
    if reach is not None:
        for axis, far in zip("xyz", reach, strict=True):
            figure["layout"]["scene"][f"{axis}axis"]["range"] = [-far, far]
    return figure


def _cost(designs: dict[str, Portal], project: Any) -> dict[str, Any]:
    """Cost by group and kind at the prices of the budget, by default those of `Prices`."""
    budget = project if isinstance(project, WithinBudget) else None
    prices = Prices() if budget is None else budget.prices
    table = {
        name: {
            f"{group}: {kind}": float(part)
            for group, panels in portal.groups.items()
            for kind, part in prices.of(panels).items()
        }
        for name, portal in designs.items()
    }
    # a group without sides, and kinds that are free, are left out
    seen = {label: None for row in table.values() for label, v in row.items() if v > 0}
    traces = [
        drawing.bars(
            list(seen),
            [row.get(label, 0.0) for label in seen],
            name=name,
            colour=drawing.colour(name),
        )
        for name, row in table.items()
    ]
    limit = "" if budget is None else f" The budget is {budget.limit:.4g} in all."
    return drawing.figure(
        *traces,
        x="panels",
        y="cost (currency of the prices)",
        caption="What the panels of each group cost, by kind: area at "
        f"{prices.area:g} for each m\u00b2, channels at {prices.channel:g} and frames at "
        f"{prices.panel:g} each.{limit}",
    )


@jit
def _scan(pipeline: Pipeline, design: Portal, key: Key) -> tuple[Any, Any, Any]:
    """Statistics, and the last variant of one cargo: as seen, and true.

    An inference that keeps no statistic or no image gives None for it.
    """
    trace = pipeline(design, BATCH, key=key)
    image = getattr(trace.result, "image", None)
    return (
        getattr(trace.result, "value", None),
        None if image is None else image.density[0, -1],
        trace.truth.inverse_x0[0, -1],
    )


def _slices(
    pipeline: Pipeline, seen: dict[str, tuple[Any, Any, Any]]
) -> dict[str, Any]:
    """The slice through the densest voxel of one cargo: true, and as each design sees it."""
    true = np.asarray(next(iter(seen.values()))[2])
    y = int(np.unravel_index(true.argmax(), true.shape)[1])
    grid = pipeline.source.scene.grid  # type: ignore[attr-defined]
    nz, _, nx = grid.shape
    dx, dy, dz = grid.voxel
    x = (np.arange(nx) + 0.5) * dx - grid.size[0] / 2
    z = (np.arange(nz) + 0.5) * dz - grid.top
    maps = {"true": true[:, y]} | {
        f"seen by {name}": np.asarray(found[1])[:, y] for name, found in seen.items()
    }
    high = max(float(np.max(values)) for values in maps.values())
    low = high / SPAN
    panels = {
        name: drawing.figure(
            drawing.heatmap(
                values,
                x=x,
                y=z,
                unit="1/X0 (1/m)",
                low=low,
                high=high,
                log=True,
                bar=i == len(maps) - 1,
            ),
            x="x (m)",
            y="z (m)",
            equal=True,
        )
        for i, (name, values) in enumerate(maps.items())
    }
    where = (y + 0.5) * dy - grid.size[1] / 2
    return drawing.side_by_side(
        panels,
        columns=len(panels),
        caption="Scattering density 1/X0 (inverse radiation length) of one cargo, in the "
        f"slice with its densest voxel, at y = {where:.2f} m. All share one "
        f"logarithmic scale of colours; what is below {low:.2g}/m, such as air, has its "
        "first colour.",
    )


def _roc(pipeline: Pipeline, designs: dict[str, Portal], key: Key) -> dict[str, Any]:
    """False negatives over false positives, on the same fresh cargoes."""
    rates = np.linspace(0.02, 0.5, 49)  # below, a threshold rests on two cargoes
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
        x="false-positive rate (harmless cargoes that raise an alarm)",
        yaxis={
            "title": {"text": "false-negative rate (sources missed)"},
            "range": [0, 1],
        },
        caption="The portal's ROC curve (receiver operating characteristic): lower is "
        f"better. Panels as built, the same {ROWS} fresh cargoes for each; the band is one "
        "standard error.",
    )
