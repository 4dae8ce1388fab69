"""The loss near the optimum: which designs are as good, which directions are loose."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from kythera import errors, text
from kythera.report.chart import Chart, is_usable
from kythera.report.surface import SURE, Surface
from kythera.runs.result import Number, Result

STEPS = 25  # points of a profile
STEPS_2 = 21  # points of a map along each axis
AXIS = "spread "  # name of an axis that is no parameter, before its number
AT_END = 0.01  # part of a range within which a parameter stands at its bound
SMALL = (
    0.15  # part of the largest step below which a parameter is left out of a direction
)
MOST_NAMED = 6  # parameters of a direction


class Near(NamedTuple):
    """Designs that the trials cannot tell from the best one.

    Args:
        number: of the trials, the lowest excess first.
        excess: loss above that of the best design, shape (near,).
        stderr: of the excess, shape (near,).
        fitted: whether the excess is the surface's; else it is as measured, with its luck.
    """

    number: np.ndarray
    excess: np.ndarray
    stderr: np.ndarray
    fitted: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Direction:
    """A way to leave the best design.

    Args:
        kind: "curved" (an eigenvector of the Hessian), "bound" (from a parameter's bound
            inwards), or "edge" (from where the search tried nothing further on).
        vector: unit vector in the cube, shape (n,).
        curvature: second derivative along it in the cube: the eigenvalue; nan where it is
            not known, the reach being to first order.
        slope: first derivative along it in the cube; zero where it is curved.
        reach: how far one may go, backwards and forwards, for an increase of the loss by
            the landscape's `delta`; in the cube, (2,).
        cut: whether the trials end before, backwards and forwards, so that `reach` is only
            where they do, (2,).
        is_flat: whether no curvature is seen within `SURE` standard errors; the reach is
            then that of the largest curvature which the errors allow.
    """

    kind: str
    vector: np.ndarray
    curvature: Number
    slope: Number
    reach: tuple[float, float]
    cut: tuple[bool, bool]
    is_flat: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """The loss along one or two axes, the others being wherever it is lowest.

    Args:
        axes: names, one or two of them.
        units: of the axes.
        at: native values along each axis (in the cube for a direction), of shape (k,).
        excess: loss above the lowest, shape (k,), or (k of the second, k of the first).
        stderr: of the excess, the same shape.
        best: where it is lowest, on each axis.
        logarithmic: whether an axis is.
    """

    axes: tuple[str, ...]
    units: tuple[str, ...]
    at: tuple[np.ndarray, ...]
    excess: np.ndarray
    stderr: np.ndarray
    best: tuple[float, ...]
    logarithmic: tuple[bool, ...]

    def within(self, delta: float) -> tuple[float, float]:
        """Ends of the part around the best where the excess is at most `delta`.

        An end is infinite where the trials end before.

        Args:
            delta: of the loss.
        """
        at, low, high = self.at[0], -np.inf, np.inf
        middle = int(np.argmin(self.excess))
        above = np.flatnonzero(self.excess > delta)
        for i in above[above < middle][-1:]:
            low = _crossing(at[i : i + 2], self.excess[i : i + 2], delta)
        for i in above[above > middle][:1]:
            high = _crossing(at[i - 1 : i + 1], self.excess[i - 1 : i + 1], delta)
        return low, high


def _crossing(at: np.ndarray, excess: np.ndarray, delta: float) -> float:
    """Where a line through two points is at `delta`."""
    return float(
        at[0] + (at[1] - at[0]) * (delta - excess[0]) / (excess[1] - excess[0])
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
    """The loss near the optimum, as the trials of a search determine it.

    Args:
        result: whose trials.
        chart: the coordinates that are looked at.
        surface: through the trials near the optimum; None where they are too few.
        lowest: the surface's lowest point within the region of its trials, by its axes; where
            the trials do not tell it, the nearest to the recommended design of those that are
            as low within one standard error.
        held: the ways inwards of parameters that stand at a bound in all of the trials.
        delta: the increase of the loss that counts as small.
        delta_is: what it is, in words.
        notes: what one must know, in sentences.
    """

    result: Result
    chart: Chart
    surface: Surface | None
    lowest: np.ndarray
    held: tuple[Direction, ...]
    delta: float
    delta_is: str
    notes: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Either "full", "low-rank" (along the directions that were tried) or "none"."""
        if self.surface is None:
            return "none"
        return "full" if len(self.surface.size) == len(self.chart.where) else "low-rank"

    @property
    def loss(self) -> Number:
        """The lowest loss of the surface; of the fresh measurement where there is none."""
        if self.surface is None:
            return Number.of(self.result.record["soft"]["best"])
        return Number(*map(float, self.surface.value(self.lowest)))

    @property
    def best(self) -> dict[str, float]:
        """Name -> native value at the lowest point."""
        if self.surface is None:
            return {}
        values = self.chart.native(self.surface.place(self.lowest))
        return dict(zip(self.chart.names, map(float, values), strict=True))

    @property
    def axes(self) -> list[str]:
        """Names of what profiles can be drawn of, those that the trials varied most first.

        Parameters, or for a surface of low rank the directions in which the trials spread.
        """
        if self.surface is None:
            return []
        if self.kind == "low-rank":
            return [f"{AXIS}{k + 1}" for k in range(len(self.surface.size))]
        spread = (self.surface.high - self.surface.low) * self.surface.size
        return [self.chart.names[i] for i in np.argsort(-spread, kind="stable")]

    def near(self, k: float = 2.0) -> Near:
        """Designs that were tried whose loss is within k standard errors of the lowest.

        The lowest of many noisy losses is low by luck as well, so that no trial is compared
        with it. The reference is the lowest point of the surface, whose error is small
        because all trials near it enter; where there is no surface, the measurement of the
        recommended design on fresh events. A trial of the region in which the surface was
        fitted counts with its value on the surface, and the error of the difference knows
        that both come from the same trials; any other counts as it was measured, with the
        errors of both. Failed trials, and those that break a constraint, are left out.

        Args:
            k: standard errors of the difference.

        Returns:
            the trials; none where there is nothing to compare with.
        """
        rows = np.flatnonzero(is_usable(self.result))
        trials = self.result.trials
        value, error, fitted = (np.zeros(len(rows)) for _ in range(3))
        value[:] = trials["total"][rows] - self.loss.value
        error[:] = np.hypot(np.nan_to_num(trials["stderr"][rows]), self.loss.stderr)
        if self.surface is not None:
            x = self.chart.points(trials["u"][rows], trials["values"][rows])
            inside = np.isin(rows, self.surface.used)
            a = self.surface.locate(x[inside])
            value[inside], error[inside] = self.surface.above(a, self.lowest)
            fitted[inside] = 1
        good = np.flatnonzero(value <= k * error)  # nothing is near what is not known
        good = good[np.argsort(value[good], kind="stable")]
        numbers = trials["number"][rows[good]]
        return Near(numbers, value[good], error[good], fitted[good].astype(bool))

    @functools.cached_property
    def directions(self) -> tuple[Direction, ...]:
        """Ways to leave the lowest point, the stiffest first.

        The eigenvectors of the Hessian in the cube, in which each range is one, within the
        parameters that can move both ways; and, one by one, the parameters that stand at an
        end of their range, or of what was tried, against which the loss pushes them.
        Errors of eigenvalues are to first order: where two agree within their errors, the
        data tell their sum, not the two directions.
        """
        found = list(self.held)
        return tuple(sorted(found + self._curved(), key=self._loose))

    def _loose(self, direction: Direction) -> tuple[bool, float]:
        """What directions are sorted by: whether it is flat, and how far it would go."""
        bend = np.nan_to_num(direction.curvature.value)
        return direction.is_flat, far(direction.slope.value, bend, self.delta)

    def _curved(self) -> list[Direction]:
        """Those of the surface."""
        if self.surface is None:
            return []
        s, found = self.surface, []
        held = s.held(self.lowest)
        free = np.flatnonzero(held == 0)
        stiff = s.hessian / np.outer(s.size, s.size)
        for vector in np.linalg.eigh(stiff[np.ix_(free, free)])[1].T[::-1]:
            along = np.zeros(len(s.size))
            along[free] = vector * np.sign(vector[np.argmax(np.abs(vector))])
            found.append(self._direction("curved", along))
        for axis in np.flatnonzero(held):
            along = np.zeros(len(s.size))
            along[axis] = held[axis]
            found.append(self._direction(self._end(int(axis)), along))
        return found

    def _end(self, axis: int) -> str:
        """Whether an axis is held by a bound, or by the end of what was tried."""
        assert self.surface is not None
        if self.kind == "low-rank":
            return "edge"
        x = float(self.surface.place(self.lowest)[axis])
        return "bound" if min(x, 1 - x) < AT_END else "edge"

    def _direction(self, kind: str, along: np.ndarray) -> Direction:
        """A direction by its unit vector in the cube, over the axes."""
        s, a = self.surface, self.lowest
        assert s is not None
        step = along / s.size
        curvature = Number(*s.curvature(step))
        slope = Number(*s.slope(a, step)) if kind != "curved" else Number(0.0, 0.0)
        flat = kind == "curved" and curvature.value < SURE * curvature.stderr
        bend = curvature.value + SURE * curvature.stderr * flat
        reach, cut = [], []
        for sign in (-1, 1):
            with np.errstate(divide="ignore", invalid="ignore"):
                ends = np.where(sign * step > 0, s.high - a, s.low - a) / (sign * step)
            end = max(0.0, float(np.min(ends[np.abs(step) > 1e-12])))
            ahead = far(sign * slope.value, bend, self.delta)
            reach.append(min(ahead, end))
            cut.append(ahead > end and (sign > 0 or kind == "curved"))
        vector = np.zeros(len(self.result.names))
        vector[self.chart.where] = s.basis @ along
        return Direction(
            kind, vector, curvature, slope, (reach[0], reach[1]), (cut[0], cut[1]), flat
        )

    @functools.cached_property
    def _every(self) -> tuple[Chart, np.ndarray]:
        """All coordinates, and the lowest point in them."""
        record = self.result.record
        chart = Chart.of(record, np.arange(len(self.result.names)))
        best = [np.array(record["best"][of], float) for of in ("cube", "values")]
        x = chart.points(*best)
        if self.surface is not None:
            x[self.chart.where] = self.surface.place(self.lowest)
        return chart, x

    def steps(self, direction: Direction) -> list[tuple[str, float, float, str]]:
        """Name, both ends in its unit, and unit of the parameters that a direction moves.

        The ends are where the reach of the direction takes them, backwards and forwards;
        those that move least are left out.
        """
        chart, x = self._every
        moved = np.abs(direction.vector)
        order = np.argsort(-moved, kind="stable")[:MOST_NAMED]
        back, forth = (-direction.reach[0], direction.reach[1])
        ends = [np.clip(x + t * direction.vector, 0, 1) for t in (back, forth)]
        return [
            (
                chart.names[i],
                float(chart.shown(ends[0], i)),
                float(chart.shown(ends[1], i)),
                chart.units[i],
            )
            for i in order
            if moved[i] > SMALL * moved[order[0]]
        ]

    def profile(self, *axes: str) -> Profile:
        """The loss along one or two axes, minimised over the others, with errors.

        It is minimised on the surface, within the region that the trials span (the others
        are not left where the best design has them). The error is that of the difference to
        the lowest loss, to first order in the errors of the surface.

        Args:
            axes: one or two names of `axes`.

        Raises:
            InputError: another number of axes, no such axis, or no surface.
        """
        if len(axes) not in (1, 2) or len(set(axes)) < len(axes):
            raise errors.InputError(
                f"A profile has one axis, or two different ones, but {axes} were given. "
                f"Choose of {', '.join(self.axes) or 'none'}."
            )
        where = [self._axis(name) for name in axes]
        s = self.surface
        assert s is not None
        count = STEPS if len(axes) == 1 else STEPS_2
        grids = [
            np.unique(
                np.append(np.linspace(s.low[k], s.high[k], count), self.lowest[k])
            )
            for k in where
        ]
        shape = tuple(len(grid) for grid in reversed(grids))
        excess, stderr = np.zeros(shape), np.zeros(shape)
        starts = self.lowest[None]
        for index in np.ndindex(*shape):
            fixed = {
                k: float(grid[i]) for k, grid, i in zip(where, grids, reversed(index))
            }
            point = s.minimum(starts, fixed)
            excess[index], stderr[index] = s.above(point, self.lowest)
        return self._profile(where, grids, excess, stderr)

    def _profile(
        self,
        where: list[int],
        grids: list[np.ndarray],
        excess: np.ndarray,
        stderr: np.ndarray,
    ) -> Profile:
        """A profile by native values, or by the distance along a direction."""
        s, full = self.surface, self.kind == "full"
        assert s is not None
        at, best = [], []
        for k, grid in zip(where, grids, strict=True):
            if not full:
                at.append((grid - self.lowest[k]) * s.size[k])
                best.append(0.0)
                continue
            x = np.tile(s.place(self.lowest), (len(grid), 1))
            x[:, k] = s.centre[k] + grid * s.size[k]
            at.append(self.chart.native(x)[:, k])
            best.append(float(self.chart.native(s.place(self.lowest))[k]))
        return Profile(
            tuple(self.chart.names[k] if full else f"{AXIS}{k + 1}" for k in where),
            tuple(self.chart.units[k] if full else "" for k in where),
            tuple(at),
            excess,
            stderr,
            tuple(best),
            tuple(bool(full and self.chart.logarithmic[k]) for k in where),
        )

    def _axis(self, name: str) -> int:
        """The axis of that name."""
        if self.surface is None:
            raise errors.InputError(
                f"A profile needs a surface, but there is none. {' '.join(self.notes)}"
            )
        if name not in self.axes:
            raise errors.InputError(
                f"There is no axis {name!r}. {errors.nearest(name, self.axes)}"
            )
        if self.kind == "low-rank":
            return self.axes.index(name)
        return self.chart.names.index(name)

    def table(self, rows: int = 10) -> str:
        """What is known near the optimum as text: directions, tolerances, designs as good.

        Args:
            rows: the most lines of each part.
        """
        lines = list(self.notes)
        if not self.directions:
            return "\n".join(lines)
        lines += [
            f"lowest loss {self.loss}; a small increase is {self.delta:.3g}, {self.delta_is}",
            "",
            "ways to leave it, the stiffest first: a small increase is reached at",
        ]
        for direction in self.directions[:rows]:
            steps = ", ".join(
                f"{name} {low:.4g} ... {high:.4g} {unit}".rstrip()
                for name, low, high, unit in self.steps(direction)
            )
            lines.append(f"  {self.said(direction)}: {steps}")
        found = self.near()
        shown = ", ".join(
            f"{number} ({text.format_measured(excess, error)})"
            for number, excess, error in list(zip(*found[:3]))[:rows]
        )
        more = f" and {len(found.number) - rows:,} more" * (len(found.number) > rows)
        lines += ["", f"trials within 2 standard errors of it: {shown or 'none'}{more}"]
        return "\n".join(lines)

    def said(self, direction: Direction) -> str:
        """What kind of direction it is, in a few words."""
        least = ", at least" if any(direction.cut) or direction.is_flat else ""
        if direction.kind == "curved":
            falls = direction.curvature.value < -SURE * direction.curvature.stderr
            if falls:
                return f"a saddle, curvature {direction.curvature}{least}"
            seen = f"curvature {direction.curvature}"
            return ("loose (no curvature seen)" if direction.is_flat else seen) + least
        end = (
            "at its bound" if direction.kind == "bound" else "at the end of the trials"
        )
        return f"{end}, slope {direction.slope}{least}"

    def __str__(self) -> str:
        """The table."""
        return self.table()


def far(slope: float, curvature: float, delta: float) -> float:
    """The smallest t > 0 where slope t + curvature t^2 / 2 = delta; infinite without one."""
    inside = slope**2 + 2 * curvature * delta
    if inside < 0 or slope + np.sqrt(inside) <= 0:
        return float("inf")
    return float(2 * delta / (slope + np.sqrt(inside)))
