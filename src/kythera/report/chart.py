"""Which trials and coordinates a surface can be made of."""

import dataclasses
from typing import Any

import numpy as np

from kythera import text
from kythera.report.surface import Points
from kythera.runs.result import Result

MOST_COORDINATES = 200  # that are looked at, of thousands
STILL = 1e-6  # part of a range below which a parameter did not move
ENOUGH = 10  # trials with a parameter at its bound, for it to be called held


@dataclasses.dataclass(frozen=True)
class Chart:
    """The coordinates of the cube that are looked at, and their native values.

    Args:
        where: their indices, shape (m,).
        names, units: of each.
        lower, upper: bounds, native, shape (m,).
        logarithmic: whether the cube maps to the logarithm, shape (m,).
        whole: whether it is a whole number, whose coordinate is then its hard value's.
    """

    where: np.ndarray
    names: list[str]
    units: list[str]
    lower: np.ndarray
    upper: np.ndarray
    logarithmic: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, record: dict[str, Any], where: np.ndarray) -> "Chart":
        """Of some coordinates of a record."""
        space = record["space"]
        log = np.concatenate([[g["log"]] * g["size"] for g in space["groups"]])
        return cls(
            where=where,
            names=[space["names"][i] for i in where],
            units=[space["units"][i] for i in where],
            lower=np.array(space["lower"], float)[where],
            upper=np.array(space["upper"], float)[where],
            logarithmic=log.astype(bool)[where],
            whole=np.array(space["kinds"])[where] == "integer",
        )

    def points(self, u: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Coordinates of points of the cube with their native values, (..., n) each."""
        u, values = u[..., self.where], values[..., self.where]
        return np.where(
            self.whole, (values - self.lower) / (self.upper - self.lower), u
        )

    def native(self, x: np.ndarray) -> np.ndarray:
        """Native values of coordinates, (..., m)."""
        straight = self.lower + x * (self.upper - self.lower)
        if not np.any(self.logarithmic):
            return straight
        low = np.where(self.logarithmic, self.lower, 1.0)
        high = np.where(self.logarithmic, self.upper, 1.0)
        return np.where(self.logarithmic, low * (high / low) ** x, straight)

    def shown(self, x: np.ndarray, i: int) -> np.ndarray:
        """Coordinate i of points (..., m) in its unit."""
        return text.in_unit(self.native(x)[..., i], self.units[i])


def is_usable(result: Result) -> np.ndarray:
    """Whether a trial gave a loss and breaks no constraint, shape (trials,)."""
    trials = result.trials
    good = (trials["state"] == "complete") & np.isfinite(trials["total"])
    return good & np.all(trials["slack"] >= 0, axis=1)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a surface is fitted to.

    Args:
        chart: the coordinates that are looked at.
        points: in these coordinates.
        rows: of each point among the trials.
        best: the recommended design in these coordinates.
        held: indices of the parameters that stand at a bound, against which the gradient
            pushes them, in all of the points.
        notes: what was left out, in sentences.
    """

    chart: Chart
    points: Points
    rows: np.ndarray
    best: np.ndarray
    held: np.ndarray
    notes: list[str]


def survey(result: Result, gradients: np.ndarray | None) -> Survey:
    """Choose trials and coordinates.

    Args:
        result: whose trials.
        gradients: d total / d u of each trial, shape (trials, n).
    """
    record, trials, notes = result.record, result.trials, []
    u, values = trials["u"], trials["values"]
    best = [np.array(record["best"][of], float) for of in ("cube", "values")]
    good = is_usable(result)
    if not np.all(good):
        failed = int(np.sum(trials["state"] == "failed"))
        broken = len(good) - int(np.sum(good)) - failed
        notes.append(
            f"Left out: {failed:,} failed trials, and {broken:,} that break a constraint."
        )
    is_choice = np.array(record["space"]["kinds"]) == "choice"
    if np.any(is_choice):
        same = _same_choices(record["space"]["groups"], u, best[0])
        notes.append(
            f"Choices are kept: of {int(np.sum(good)):,} trials, the "
            f"{int(np.sum(good & same)):,} with the options of the recommended design."
        )
        good &= same
    known, stderr = _errors(trials["stderr"], good)
    good &= ~np.isnan(stderr)
    held = np.zeros(0, int)
    if gradients is not None:
        gradients = np.asarray(gradients, float)
        held, at_bound = _held(u, gradients, best[0], good, is_choice)
        if np.sum(good) > np.sum(good & at_bound):
            notes.append(
                f"Parameters at their bounds are kept there: of {int(np.sum(good)):,} "
                f"trials, the {int(np.sum(good & at_bound)):,} that have them there."
            )
        good &= at_bound
    rows = np.flatnonzero(good)
    chart = _coordinates(result, rows, gradients, is_choice, notes)
    slope = np.full((len(rows), len(chart.where)), np.nan)
    if gradients is not None:
        slope = gradients[rows][:, chart.where]
    points = Points(
        x=chart.points(u[rows], values[rows]),
        value=trials["total"][rows],
        stderr=stderr[rows],
        sample=trials["sample"][rows],
        gradient=slope,
        known=known,
    )
    return Survey(chart, points, rows, chart.points(*best), held, notes)


def _held(
    u: np.ndarray,
    gradients: np.ndarray,
    best: np.ndarray,
    good: np.ndarray,
    is_choice: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters that the gradient keeps at a bound, and whether a trial has all there."""
    inwards = np.where(best < STILL, 1, -1)
    ends = np.flatnonzero(((best < STILL) | (best > 1 - STILL)) & ~is_choice)
    at = np.abs(u[:, ends] - best[ends]) < STILL
    at &= (good & np.isfinite(gradients).all(1))[:, None]
    pushed = np.where(at, gradients[:, ends] * inwards[ends], 0)
    count = np.maximum(at.sum(0), 1)
    mean = pushed.sum(0) / count
    spread = np.sqrt(np.where(at, (pushed - mean) ** 2, 0).sum(0) / count)
    stay = (count >= ENOUGH) & (mean > 2 * spread / np.sqrt(count))
    together = np.all(at[:, stay], axis=1)
    if not np.any(stay) or np.sum(together) < ENOUGH:
        return np.zeros(0, int), np.ones(len(u), bool)
    return ends[stay], together


def _errors(stderr: np.ndarray, good: np.ndarray) -> tuple[bool, np.ndarray]:
    """Whether errors are known, and those of each trial: all 1 where they are not."""
    real = good & np.isfinite(stderr) & (stderr > 0)
    if not np.any(real):
        return False, np.ones(len(stderr))
    # a single error of zero among others is luck, such as no miss among few cargoes
    least = np.min(stderr[real])
    return True, np.where(np.isfinite(stderr), np.maximum(stderr, least), np.nan)


def _same_choices(
    groups: list[dict[str, Any]], u: np.ndarray, best: np.ndarray
) -> np.ndarray:
    """Whether a trial has the options of the best design, shape (trials,)."""
    same, first = np.ones(len(u), bool), 0
    for group in groups:
        own = slice(first, first + group["size"])
        first += group["size"]
        if group["kind"] != "choice":
            continue
        k = len(group["options"])
        taken = np.argmax(u[:, own].reshape(len(u), -1, k), -1)
        same &= np.all(taken == np.argmax(best[own].reshape(-1, k), -1), axis=1)
    return same


def _coordinates(
    result: Result,
    rows: np.ndarray,
    gradients: np.ndarray | None,
    is_choice: np.ndarray,
    notes: list[str],
) -> Chart:
    """Those that moved, the most sensitive or most moved ones where they are many."""
    every = Chart.of(result.record, np.flatnonzero(~is_choice))
    x = every.points(result.trials["u"][rows], result.trials["values"][rows])
    spread = np.std(x, 0) if len(rows) else np.zeros(len(every.where))
    moved = np.flatnonzero(spread > STILL)
    if len(moved) > MOST_COORDINATES:
        weight, said = spread, "moved most"
        if gradients is not None:
            steep = np.asarray(gradients, float)[rows][:, every.where]
            steep = steep[np.isfinite(steep).all(1)]
            if len(steep):
                weight = spread * np.sqrt(np.mean(steep**2, 0))
                said = "changed the loss most (gradient times spread)"
        kept = np.argsort(-weight, kind="stable")[:MOST_COORDINATES]
        notes.append(
            f"Of {len(moved):,} parameters that moved, the {MOST_COORDINATES} that {said} "
            "are looked at; what the others did is in the errors."
        )
        moved = np.sort(kept)
    return Chart.of(result.record, every.where[moved])
