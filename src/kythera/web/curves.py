"""The figures of a report, for a page that is watched: thinned, and those of one view."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kythera import drawing
from kythera.report import figures
from kythera.report.figures import Axis, Figure
from kythera.runs.result import Result

COARSE = (
    500  # trials of a small figure: those that are watched are sent again and again
)
MOST_METRICS = 40


def live(result: Result, axis: Axis) -> dict[str, Figure]:
    """Loss, terms and constraints of each trial."""
    thin = thinned(result, axis)
    drawn = {
        "loss": figures.loss(result, axis),
        "terms": figures.terms(thin, axis),
        "slack": figures.slack(thin, axis),
    }
    return {name: figure for name, figure in drawn.items() if figure}


def paths(result: Result, axis: Axis) -> dict[str, Figure]:
    """Every parameter's way, by group."""
    return figures.paths(thinned(result, axis), axis)


def thinned(result: Result, axis: Axis) -> Result:
    """Few of its trials, the first and the last among them, where they are many.

    What each says that was spent until then is kept, also in seconds.
    """
    count = len(result.trials["number"])
    if count <= COARSE:
        return result
    kept = figures.thinned(count, COARSE)
    trials = {name: column[kept] for name, column in result.trials.items()}
    trials["seconds"] = np.diff(figures.spent(result, "seconds")[kept], prepend=0.0)
    return dataclasses.replace(result, trials=trials)


def metrics(logged: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Figure]:
    """What a run logged, by name, against the number of the trial."""
    drawn = {}
    for name, (steps, values) in sorted(logged.items())[:MOST_METRICS]:
        rows = figures.thinned(len(steps))
        line = drawing.curve(steps[rows], values[rows], markers=len(rows) < figures.FEW)
        drawn[name] = drawing.figure(line, x="trial", y=name, height=260)
    return drawn


def landscape(result: Result) -> dict[str, Any]:
    """Which designs are as good as the best one: as text, and drawn."""
    from kythera.report import landscape_figures  # with SciPy: a second of the start
    from kythera.report.landscape import landscape as find

    found = find(result)
    drawn: dict[str, Figure] = {}
    if found.directions:
        ways, mapped = (
            landscape_figures.directions(found),
            landscape_figures.pair(found),
        )
        if ways:
            drawn["directions"] = ways
        if mapped:
            drawn["two of them"] = landscape_figures.surface(found, *mapped)
        drawn |= landscape_figures.profiles(found)
    return {"text": str(found), "figures": drawn}
