"""The figures of a report, for a page that is watched: in events or seconds, and thin."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from kythera import drawing
from kythera.report import figures
from kythera.runs.result import Number, Result

Axis = Literal["events", "seconds"]
Figure = dict[str, Any]
TITLE = {"events": figures.SPENT, "seconds": "time spent (s)"}
FINE = 2000  # trials of a large figure
COARSE = 500  # of a small one
MOST_METRICS = 40


def live(result: Result, axis: Axis) -> dict[str, Figure]:
    """Loss, terms and constraints of each trial."""
    seen = along(result, axis)
    thin = thinned(seen, COARSE)
    drawn = {
        "loss": figures.loss(seen),
        "terms": figures.terms(thin),
        "slack": figures.slack(thin),
    }
    return {name: titled(fig, axis) for name, fig in drawn.items() if fig}


def paths(result: Result, axis: Axis) -> dict[str, Figure]:
    """Every parameter's way, by group."""
    drawn = figures.paths(thinned(along(result, axis), COARSE))
    return {name: titled(figure, axis) for name, figure in drawn.items()}


def along(result: Result, axis: Axis) -> Result:
    """The same trials against the time that they took, where that is asked for."""
    if axis == "events":
        return result
    spent = np.cumsum(result.trials["seconds"])
    return dataclasses.replace(result, trials=result.trials | {"spent": spent})


def thinned(result: Result, most: int = FINE) -> Result:
    """At most so many of its trials, the first and the last among them."""
    count = len(result.trials["number"])
    if count <= most:
        return result
    kept = figures.thinned(count, most)
    trials = {name: column[kept] for name, column in result.trials.items()}
    return dataclasses.replace(result, trials=trials)


def titled(figure: Figure, axis: Axis) -> Figure:
    """The figure with the title of its axis, without traces that have no number yet."""
    data = [t for t in figure["data"] if any(v is not None for v in t.get("y", [0]))]
    across = figure["layout"].get("xaxis", {}) | {"title": {"text": TITLE[axis]}}
    return figure | {"data": data, "layout": figure["layout"] | {"xaxis": across}}


def front(result: Result, x: str = "", y: str = "") -> Figure | None:
    """Two terms of each trial, and those designs that no other one beats in both.

    Args:
        result: the run.
        x: name of a term; by default the first.
        y: of another; by default the next.

    Returns:
        the figure; None where there are no two terms, or no trial yet.
    """
    names, trials = result.record["terms"], result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if len(names) < 2 or not len(good):
        return None
    x = x if x in names else names[0]
    y = y if y in names and y != x else next(name for name in names if name != x)
    i, j = names.index(x), names.index(y)
    holds = np.all(trials["slack"][good] >= 0, axis=1)
    kept, broken = good[holds], good[~holds]
    a, b = trials["terms"][:, i], trials["terms"][:, j]
    best = kept[_unbeaten(a[kept], b[kept])]
    traces = []
    for rows, name, symbol, size in (
        (kept, "trials", "circle", 5),
        (broken, "breaks a constraint", "x-thin-open", 8),
    ):
        if len(rows):
            rows = rows[figures.thinned(len(rows), FINE)]
            style = {"name": name, "symbol": symbol, "size": size}
            traces += drawing.points(a[rows], b[rows], colour=drawing.GREY, **style)
    errors = trials["terms_stderr"]
    traces += drawing.points(
        a[best],
        b[best],
        stderr=errors[best, j],
        stderr_x=errors[best, i],
        name="Pareto front",
        colour=drawing.BLUE,
        size=8,
    )
    for name, colour in (("start", drawing.START), ("best", drawing.BEST)):
        ends = [
            result.record["soft"]["terms"].get(term, {}).get(name) for term in (x, y)
        ]
        if ends[0] is not None and ends[1] is not None:
            across, up = map(Number.of, ends)
            traces += drawing.points(
                [across.value],
                [up.value],
                stderr=[up.stderr],
                stderr_x=[across.stderr],
                name=f"{name}, on fresh events",
                colour=colour,
                symbol="diamond-open",
                size=12,
            )
    return drawing.figure(
        traces,
        x=x,
        y=y,
        height=420,
        caption=f"{len(best):,} of {len(good):,} designs are beaten by no other one in "
        "both terms. Errors are one standard deviation; the luckiest of many trials look "
        "better than they are.",
    )


def _unbeaten(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Indices of the points that none is below in both, along the first, shape (k,)."""
    order = np.lexsort((b, a))
    lowest = np.minimum.accumulate(b[order])
    before = np.concatenate([[np.inf], lowest[:-1]])
    return order[b[order] < before]


def compared(runs: Mapping[str, Result], axis: Axis) -> Figure | None:
    """Loss of several runs against what they spent.

    Where designs shared their events, the mean of each such batch is drawn.

    Args:
        runs: name -> run.
        axis: what they spent.
    """
    traces = []
    for i, (name, result) in enumerate(runs.items()):
        style: dict[str, Any] = {"name": name, "colour": drawing.colour(i)}
        seen = along(result, axis)
        good = np.flatnonzero(seen.trials["state"] == "complete")
        if not len(good):
            continue
        if figures.is_population(seen):
            traces += drawing.curve(*_batches(seen, good), **style)
            continue
        rows = good[figures.thinned(len(good), FINE // 2)]
        x, y, e = (seen.trials[key][rows] for key in ("spent", "total", "stderr"))
        few = len(rows) < figures.FEW
        traces += drawing.curve(x, y, e, markers=few, **style)
    if not traces:
        return None
    up: dict[str, Any] = {"title": {"text": "loss"}}
    shown = [v for t in traces if t.get("name") for v in t["y"] if v is not None]
    low, high = min(shown), max(shown)
    if low > 0 and high / low > figures.LOGARITHMIC:
        up |= {"type": "log", "tickvals": drawing.log_ticks(low / 2, 2 * high)}
    return drawing.figure(
        traces,
        x=TITLE[axis],
        yaxis=up,
        height=440,
        caption="Loss of each trial, or of each batch of designs that shared their events; "
        "the band is one standard error. Only runs of one problem can be compared.",
    )


def _batches(result: Result, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was spent after each batch, and its mean loss."""
    samples, batch = np.unique(result.trials["sample"][good], return_inverse=True)
    count = np.bincount(batch)
    mean = np.bincount(batch, weights=result.trials["total"][good]) / count
    spent = np.zeros(len(samples))
    np.maximum.at(spent, batch, result.trials["spent"][good])
    order = np.argsort(spent, kind="stable")
    order = order[figures.thinned(len(order), FINE // 2)]
    return spent[order], mean[order]


def metrics(logged: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Figure]:
    """What a run logged, by name, against the number of the trial."""
    drawn = {}
    for name, (steps, values) in list(sorted(logged.items()))[:MOST_METRICS]:
        rows = figures.thinned(len(steps), FINE // 2)
        line = drawing.curve(steps[rows], values[rows], markers=len(rows) < figures.FEW)
        drawn[name] = drawing.figure(line, x="trial", y=name, height=260)
    return drawn


def landscape(result: Result) -> dict[str, Any]:
    """Which designs are as good as the best one, and what one must know of that."""
    from kythera.report.landscape import landscape as find

    found = find(result)
    return {"text": str(found), "figures": {}}
