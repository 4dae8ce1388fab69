"""Where to put the panels of a portal, and how large to make them, at a given cost."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from kythera import errors
from kythera.core.objective import AbstractObjective
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.stage import AbstractStage, Chain
from kythera.instruments.muon_portal import scenes
from kythera.instruments.muon_portal.design import (
    Panels,
    Portal,
    Prices,
    WithinBudget,
)
from kythera.instruments.muon_portal.drawings import Sketch, draw
from kythera.instruments.muon_portal.imaging import LikelihoodImage, PocaImage
from kythera.instruments.muon_portal.inference import DenseStatistic, FillLevel
from kythera.instruments.muon_portal.objectives import (
    BinormalFalseNegatives,
    CalibratedError,
    FalseNegatives,
)
from kythera.instruments.muon_portal.reconstruction import TrackFits
from kythera.instruments.muon_portal.simulator import HardPortal, SoftPortal
from kythera.instruments.muon_portal.x0_map import VoxelX0Error, X0Map
from kythera.physics.muon_flux import guan, shukla
from kythera.stages.sources.muons import BoxMuons, FileMuons
from kythera.units import GeV, cm, deg, m, mm

SCENES: dict[str, Callable[[], scenes.AbstractScene]] = {
    "lorry": lambda: scenes.Lorry(scenes.default_grid()),
    "soil": lambda: scenes.SoilWalls(scenes.default_grid()),
    "ladle": lambda: scenes.LadleFurnace(scenes.Grid((10, 10, 10), (1.0, 1.0, 1.0))),
    "block": lambda: scenes.BlockInBox(scenes.Grid((10, 10, 10), (1.0, 1.0, 1.0))),
}
IMAGES = {"likelihood": LikelihoodImage, "poca": PocaImage}
# the models, and the zenith angles up to which they hold
FLUXES = {"guan": (guan, 70 * deg), "shukla": (shukla, 65 * deg)}


def start(grid: scenes.Grid) -> Portal:
    """Four panels above and four below, stacked 5 cm apart, as large as the volume's face.

    Args:
        grid: the volume.
    """
    length, breadth, height = grid.size
    z = height / 2 + jnp.array([0.50, 0.45, 0.40, 0.35]) * m
    upper, lower = (
        Panels(height, span_1=length, span_2=breadth, resolution=1 * mm)
        for height in (z, -z)
    )
    return Portal(upper, lower)


def space(portal: Portal, grid: scenes.Grid, project: WithinBudget | None) -> Space:
    """x, y, z and both spans of every panel above and below.

    Args:
        portal: the start.
        grid: the volume, which the panels stay clear of by 10 cm.
        project: keeps the budget.
    """
    length, breadth, height = grid.size
    clear = height / 2 + 10 * cm
    free = {}
    for arm, low, high in (
        ("upper", clear, clear + 1.2 * m),
        ("lower", -clear - 1.2 * m, -clear),
    ):
        free |= {
            f"{arm}.x": Real(-length / 4, length / 4, "m"),
            f"{arm}.y": Real(-breadth / 4, breadth / 4, "m"),
            f"{arm}.z": Real(low, high, "m"),
            f"{arm}.span_1": Real(0.2 * m, 2.5 * length, "m"),
            f"{arm}.span_2": Real(0.2 * m, 2.5 * breadth, "m"),
        }
    return Space(portal, free, project)


def problem(
    budget: float | None = None,
    scene: str = "lorry",
    muons: int = 5000,
    events: int = 16,
    image: str = "likelihood",
    rate: float = 0.01,
    flux: str = "guan",
    muon_file: str | None = None,
) -> Problem[Portal]:
    """The muon portal on one of its scenes, or on a scene and muons of your own.

    Args:
        budget: what the portal may cost, in the currency of `Prices` (one unit for a square
            metre of panel); by default what the start costs.
        scene: "lorry" (a dense block hides in mixed cargo; the loss is the false-negative
            rate), "soil" (a wall in soil), "ladle" (fill level of molten steel), "block"
            (lead in beryllium; the loss is the mean squared error of a map of radiation
            lengths), or the path of an npz file (`FileScene`): with two scans the loss is
            the false-negative rate, with one the error of the map (in which light
            materials, of long radiation lengths, count most).
        muons: in one scan.
        events: cargoes in one evaluation.
        image: "likelihood", or the simpler and biased "poca"; a map of radiation lengths
            needs none.
        rate: false-positive rate at which false negatives count, in (0, 1).
        flux: "guan", or "shukla" (to 65 degrees): cosmic muons.
        muon_file: muons of your own instead, the path of a file (`FileMuons`).

    Returns:
        40 parameters; search with soft panels, report with hard ones.

    Raises:
        InputError: unknown scene, image or flux, a file that does not fit, a rate outside
            (0, 1), or a budget <= 0.
    """
    cargo = _cargo(str(scene))
    _one_of(image, IMAGES)
    _one_of(flux, FLUXES)
    grid = cargo.grid
    portal = start(grid)
    prices = Prices()
    limit = float(prices(portal)) if budget is None else float(budget)
    if not limit > 0:
        raise errors.InputError(
            f"`budget` must be > 0, but is {budget}. The start costs "
            f"{float(prices(portal)):.3g}."
        )
    soft: AbstractObjective = BinormalFalseNegatives(rate)
    hard: AbstractObjective | None = FalseNegatives(rate)
    reconstruction: AbstractStage = Chain(TrackFits(grid), IMAGES[image](grid))
    inference: AbstractStage = DenseStatistic()
    if scene == "ladle":
        inference, soft, hard = FillLevel(grid), CalibratedError("level"), None
    elif cargo.scans == 1:  # nothing is compared: the map itself counts
        reconstruction, inference = TrackFits(grid), X0Map(grid)
        soft, hard = VoxelX0Error(), None
    if muon_file is None:
        model, widest = FLUXES[flux]
        drawn = BoxMuons(grid.size, model, theta_max=widest)
    else:
        drawn = FileMuons(muon_file, grid.size)
    source = scenes.Scanned(cargo, drawn, muons)
    measured = {"momentum_resolution": 0.3, "momentum": 3 * GeV}

    def pipeline(simulator: SoftPortal | HardPortal) -> Pipeline:
        return Pipeline(source, simulator, reconstruction, inference)

    where = space(portal, grid, WithinBudget(prices, limit))
    return Problem(
        space=where,
        pipeline=pipeline(SoftPortal(grid, **measured)),
        objective=soft,
        events=events,
        hard_pipeline=pipeline(HardPortal(grid, **measured)),
        hard_objective=hard,
        draw=draw,
        sketch=Sketch.of(where, grid),
        name="muon_portal",
    )


def _one_of(word: str, known: Mapping[str, Any]) -> None:
    """Refuse words that are not known."""
    if word not in known:
        raise errors.InputError(f"{word!r} is not known. {errors.nearest(word, known)}")


def _cargo(word: str) -> scenes.AbstractScene:
    """A scene by its name, or from a file."""
    if word.endswith(".npz") or "/" in word:
        cargo = scenes.FileScene(word)
        if cargo.scans > 2:
            raise errors.InputError(
                "A scene has one scan, or two (without and with what is hidden), but "
                f"'{word}' holds {cargo.scans}. Keep one or two."
            )
        return cargo
    if word not in SCENES:
        raise errors.InputError(
            f"The scene {word!r} is not known. {errors.nearest(word, SCENES)} A scene of "
            "your own is the path of an npz file."
        )
    return SCENES[word]()
