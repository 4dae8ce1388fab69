"""What the trials of a search say about the loss near its optimum.

The optimiser recommends one design; the expert takes the last decision, and has reasons
that no objective knows. What helps is to see how much the loss says. All of it comes from
the trials of the search: no event is simulated.
"""

import dataclasses
from typing import Any

import numpy as np

from kythera import errors
from kythera.report import sources
from kythera.report.chart import Survey, is_usable, survey
from kythera.report.surface import SURE, Surface, fit, needed
from kythera.report.terrain import MOST_NAMED, Direction, Landscape, Near, far
from kythera.runs.result import Number, Result

MOST_AXES = 20  # of a surface


def landscape(
    what: Any, *, gradients: np.ndarray | None = None, delta: float | None = None
) -> Landscape:
    """The loss near the optimum, from the trials of a search alone.

    A quadratic surface is fitted to the trials around the recommended design by weighted
    least squares, to values and, where they are known, gradients, whose errors come from
    their scatter about the surface. The region shrinks until a quadratic surface describes
    it. What trials of one sample have in common, because they saw the same events, is
    estimated and taken into account as one shift of all their values; that it also tilts
    them is not, so that errors of slopes may be half as large again as stated. The points
    are taken as given: that an optimiser chose them after what it had seen is neglected.

    Args:
        what: a `Solution`, a `Result`, the folder of a saved one, or a `Study`. A solution
            and a study know gradients, a result does not.
        gradients: d total / d u of each trial, nan where it is not known, shape (trials, n).
        delta: the increase of the loss that counts as small; by default the standard error
            of the gain, or where that is not known, of one trial.

    Returns:
        the landscape; `print` shows its table.

    Raises:
        StoreError: the result cannot be read.
        InputError: gradients of another shape, or a `delta` that is not > 0.
    """
    result = sources.as_result(what)
    if gradients is None:
        gradients = sources.gradients(what)
    _check(result, gradients, delta)
    found = survey(result, gradients)
    points, notes, lowest = found.points, found.notes, np.zeros(0)
    m, surface = len(found.chart.where), None
    if len(found.rows) and m:
        surface = fit(points, found.best, MOST_AXES)
    if surface is None:
        notes.append(_too_few(len(found.rows), m))
    else:
        a = surface.locate(points.x[surface.used])
        first = a[np.argmin(surface.value(a)[0])]
        lowest = surface.lowest(np.stack([np.zeros_like(first), first]))
        notes += _doubts(surface, points.sample, m)
        surface = dataclasses.replace(surface, used=found.rows[surface.used])
    small, said = _small(result, delta, points.stderr if points.known else np.zeros(0))
    made = Landscape(
        *(result, found.chart, surface, lowest),
        held=_at_bounds(found, surface, gradients, small),
        delta=small,
        delta_is=said,
        notes=tuple(notes),
    )
    return dataclasses.replace(made, notes=(*notes, *_shape(made)))


def _check(result: Result, gradients: np.ndarray | None, delta: float | None) -> None:
    """Refuse gradients of other trials, and an increase that is none."""
    shape = result.trials["u"].shape
    if gradients is not None and np.shape(gradients) != shape:
        raise errors.InputError(
            f"`gradients` must have the shape of the trials' points, {shape}, but has "
            f"{np.shape(gradients)}. Give one row for each trial, of nan where unknown."
        )
    if delta is not None and not 0 < delta < np.inf:
        raise errors.InputError(
            f"`delta` must be > 0 and finite, but is {delta}. Give an increase of the loss."
        )


def _at_bounds(
    found: Survey, surface: Surface | None, gradients: np.ndarray | None, delta: float
) -> tuple[Direction, ...]:
    """The way inwards from each bound that holds a parameter, by the trials' gradients."""
    if gradients is None or not len(found.held):
        return ()
    rows = found.rows if surface is None else surface.used
    steep = np.asarray(gradients, float)[rows]
    steep = steep[np.isfinite(steep).all(1)]
    seen = len(np.unique(found.points.sample[np.isin(found.rows, rows)]))
    nothing, made = Number(np.nan, np.nan), []
    for i in found.held:
        inwards = 1 if np.median(steep[:, i]) > 0 else -1
        slope = float(np.mean(inwards * steep[:, i]))
        error = np.std(steep[:, i]) / np.sqrt(seen) if seen > 1 else np.nan
        vector = np.zeros(steep.shape[1])
        vector[i] = inwards
        ahead = far(slope, 0.0, delta)
        made.append(
            Direction(
                *("bound", vector, nothing, Number(slope, float(error))),
                *((0.0, min(ahead, 1.0)), (False, ahead > 1), False),
            )
        )
    return tuple(made)


def near(what: Any, k: float = 2.0) -> Near:
    """Trials whose loss is within k standard errors of the lowest; see `Landscape.near`.

    Args:
        what: as for `landscape`.
        k: standard errors.
    """
    return landscape(what).near(k)


def _small(
    result: Result, delta: float | None, stderr: np.ndarray
) -> tuple[float, str]:
    """The increase of the loss that counts as small, and what it is."""
    if delta is not None:
        return float(delta), "as asked for"
    gain = Number.of(result.record["gain"])
    if np.isfinite(gain.stderr) and gain.stderr > 0:
        return gain.stderr, "one standard error of the gain"
    if len(stderr):
        return float(np.median(stderr)), "the standard error of one trial"
    spread = result.trials["total"][is_usable(result)]
    part = 0.01 * float(np.ptp(spread)) if len(spread) else 0.0
    return part or 1.0, "a hundredth of the spread of the trials" if part else "one"


def _too_few(count: int, size: int) -> str:
    asked = needed(min(size, MOST_AXES)) if size else 0
    return (
        f"No surface: {count} usable trials near the best design do not determine one"
        + (f" (all of it takes about {asked} in {size} parameters)." if size else ".")
    )


def _doubts(surface: Surface, sample: np.ndarray, size: int) -> list[str]:
    """What is to be said of a surface: its rank, its errors, its events."""
    r, notes = len(surface.size), []
    among = (
        f"A quadratic surface through {len(surface.used):,} trials, the nearest to the "
        "recommended design"
    )
    if r < size:
        notes.append(
            f"{among}, along the {r} directions in which they spread most: they do not "
            f"determine one in all {size} parameters."
        )
    else:
        notes.append(f"{among}, in {r} parameters.")
    if not surface.fits:
        notes.append(
            "The trials scatter about it by more than their errors: it is no quadratic "
            f"surface. The errors are enlarged by {surface.scale:.2g}."
            if surface.scale > 1
            else "It misses the trials: the loss is no quadratic surface there."
        )
    if len(surface.used) > 1 and len(set(sample[surface.used].tolist())) == 1:
        notes.append(
            "All of them saw the same events: what other events would change is not in the "
            "errors."
        )
    return notes


def _shape(found: Landscape) -> list[str]:
    """What the surface looks like where it is no bowl with its bottom inside."""
    notes, s = [], found.surface
    if s is None:
        return notes
    for direction in found.directions:
        down = direction.curvature.value < -SURE * direction.curvature.stderr
        if direction.kind == "curved" and down:
            notes.append(
                "A saddle: the loss falls along a direction, so that the search was not "
                "at an optimum."
            )
            break
    open_ends = [d for d in found.directions if d.kind == "edge"]
    if any(d.slope.value > SURE * d.slope.stderr for d in open_ends):
        names = [
            found.result.names[int(np.argmax(np.abs(d.vector)))] for d in open_ends
        ]
        led = "directions led by " if found.kind == "low-rank" else ""
        notes.append(
            f"The loss still falls where the trials end ({led}"
            f"{', '.join(names[:MOST_NAMED])}): a better design may lie beyond."
        )
    return notes + _constraints(found)


def _constraints(found: Landscape) -> list[str]:
    """Constraints that cut through the region, which the surface does not know."""
    s, trials, notes = found.surface, found.result.trials, []
    assert s is not None
    good = np.flatnonzero(trials["state"] == "complete")
    a = s.locate(found.chart.points(trials["u"][good], trials["values"][good]))
    inside = good[np.all((a >= s.low) & (a <= s.high), -1)]
    for i, name in enumerate(found.result.record["slack"]):
        broken = int(np.sum(trials["slack"][inside, i] < 0))
        if broken:
            notes.append(
                f"The constraint '{name}' cuts through: {broken} of {len(inside)} trials of "
                "the region break it. Profiles and directions do not know of it."
            )
    return notes
