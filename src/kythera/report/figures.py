"""The pictures of a search, from the numbers of a result, finished or not.

Each has one home: here, or beside the landscape. The report, the page that is watched and
`ky.plot` show these.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from kythera import drawing, errors, text
from kythera.runs.result import Number, Result

MOST_POINTS = 1500  # of a curve: more cannot be seen
MOST_GROUPS = 12  # pictures of parameter paths
MOST_LINES = 8  # paths in one picture
FEW = 60  # points of a curve up to which each is marked
BINS = 60  # points of a curve among several that are compared
SPENT = "events spent (simulated primaries)"
TITLE = {"events": SPENT, "seconds": "time of the trials (s)"}
LOGARITHMIC = 8.0  # ratio of losses beyond which the axis is logarithmic

Figure = dict[str, Any]
Axis = Literal["events", "seconds"]


def thinned(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of at most `most` of `count` points, the first and last among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def spent(result: Result, axis: Axis = "events") -> np.ndarray:
    """What each trial and all before it took, shape (trials,).

    Args:
        result: whose trials.
        axis: "events" simulated, or "seconds" of wall time.

    Raises:
        InputError: another axis.
    """
    if axis not in TITLE:
        raise errors.InputError(
            f"The axis must be 'events' or 'seconds', but is {axis!r}. Choose one."
        )
    trials = result.trials
    return trials["spent"] if axis == "events" else np.cumsum(trials["seconds"])


def moves(result: Result) -> np.ndarray:
    """How far each parameter went, as a part of its range, shape (n,)."""
    cube = [np.array(result.record[k]["cube"], float) for k in ("start", "best")]
    return np.abs(cube[1] - cube[0])


def is_population(result: Result) -> bool:
    """Whether several designs were looked at side by side, on the same events."""
    sample = result.trials["sample"]
    return len(sample) > 2 and len(set(sample.tolist())) not in (1, len(sample))


def loss(result: Result, axis: Axis = "events") -> Figure | None:
    """Loss of each trial against what was spent, with one standard error."""
    trials, along = result.trials, spent(result, axis)
    good = np.flatnonzero(trials["state"] == "complete")
    if not len(good):
        return None
    shown = good[thinned(len(good))]
    x, y, e = along[shown], trials["total"][shown], trials["stderr"][shown]
    traces = []
    if is_population(result):
        traces += drawing.points(
            x, y, stderr=e, name="trials", colour=drawing.GREY, size=4
        )
        traces += drawing.curve(
            *_batch_means(result, along),
            name="mean of each batch",
            colour=drawing.BLACK,
        )
    elif len(x) == 1:  # a band needs two points
        traces += drawing.points(x, y, stderr=e, name="trials", colour=drawing.BLACK)
    else:
        traces += drawing.curve(
            x, y, e, name="trials", colour=drawing.BLACK, markers=len(x) < FEW
        )
    fresh = {k: Number.of(result.record["soft"][k]).value for k in ("start", "best")}
    fresh = {k: v for k, v in fresh.items() if np.isfinite(v)}
    low, high = (float(f([*y, *fresh.values()])) for f in (np.min, np.max))
    for name, value in fresh.items():
        traces += drawing.curve(
            [0.0, float(along[-1])],
            [value] * 2,
            name=f"{name}, on fresh events",
            colour=drawing.colour(name),
            dash="dash",
        )
    failed = np.flatnonzero(trials["state"] == "failed")
    if len(failed):
        failed = failed[thinned(len(failed), 200)]
        traces += drawing.points(
            along[failed],
            [low] * len(failed),
            name="failed",
            colour=drawing.BLACK,
            symbol="x-thin-open",
        )
    dashed = " Dashed: start and best design measured again, as the search saw them."
    some = (
        "" if len(shown) == len(good) else f" {len(shown):,} of {len(good):,} trials."
    )
    return drawing.figure(
        traces,
        x=TITLE[axis],
        yaxis=_loss_axis(low, high, bool(np.all(y > np.nan_to_num(e)))),
        height=400,
        caption="Loss of each trial; the band or bar is one standard error."
        f"{dashed * bool(fresh)}{some}",
    )


def _loss_axis(low: float, high: float, positive: bool = True) -> dict[str, Any]:
    """The axis of losses, logarithmic where they span much."""
    axis: dict[str, Any] = {"title": {"text": "loss"}}
    if low > 0 and high / low > LOGARITHMIC and positive:
        axis |= {"type": "log", "tickvals": drawing.log_ticks(low / 2, 2 * high)}
    return axis


def _batch_means(result: Result, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was spent, and the mean loss, of the trials that shared their events."""
    trials = result.trials
    good = trials["state"] == "complete"
    samples = np.unique(trials["sample"][good])
    samples = samples[thinned(len(samples))]
    pairs = []
    for sample in samples:
        own = good & (trials["sample"] == sample)
        pairs.append((along[own].max(), trials["total"][own].mean()))
    x, y = np.array(pairs, float).T
    return x, y


def terms(result: Result, axis: Axis = "events") -> Figure | None:
    """Each named term of the loss against what was spent, where there are several."""
    names, trials = result.record["terms"], result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if len(names) < 2 or not len(good):
        return None
    return _named(result, axis, good, "terms", "term (unweighted)")


def slack(result: Result, axis: Axis = "events") -> Figure | None:
    """Each constraint against what was spent; it holds where it is not below zero."""
    names, trials = result.record["slack"], result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if not names or not len(good):
        return None
    figure = _named(result, axis, good, "slack", "slack")
    figure["layout"].setdefault("shapes", []).append(
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 0,
            "y1": 0,
            "line": {"color": drawing.BLACK, "width": 1, "dash": "dot"},
        }
    )
    figure["caption"] = (
        "A constraint holds where its slack is not below the dotted line."
    )
    return figure


def _named(
    result: Result, axis: Axis, good: np.ndarray, key: str, title: str
) -> Figure:
    trials, names, along = result.trials, result.record[key], spent(result, axis)
    shown = good[thinned(len(good))]
    traces = []
    for i, name in enumerate(names[:MOST_LINES]):
        traces += drawing.curve(
            along[shown],
            trials[key][shown, i],
            trials[f"{key}_stderr"][shown, i],
            name=name,
            colour=drawing.colour(i),
            markers=len(shown) < FEW,
        )
    more = (
        f" The first {MOST_LINES} of {len(names)}." if len(names) > MOST_LINES else ""
    )
    return drawing.figure(
        traces, x=TITLE[axis], y=title, height=340, caption=more.strip()
    )


def paths(result: Result, axis: Axis = "events", only: str = "") -> dict[str, Figure]:
    """Every parameter's way through the search, by group, or those that moved most.

    Args:
        result: whose trials.
        axis: what they are drawn against.
        only: path of a group, where that one alone is wanted.
    """
    moved, found, first = moves(result), {}, 0
    groups = []
    for group in result.record["space"]["groups"]:
        own = np.arange(first, first + group["size"])
        if only in ("", group["path"]):
            groups.append((float(moved[own].max(initial=0)), group, own))
        first += group["size"]
    order = range(len(groups))
    if len(groups) > MOST_GROUPS:
        order = sorted(order, key=lambda i: -groups[i][0])[:MOST_GROUPS]
    for i in sorted(order):
        _, group, own = groups[i]
        found[group["path"]] = _path(result, group, own, moved, axis)
    return found


def _path(
    result: Result,
    group: dict[str, Any],
    own: np.ndarray,
    moved: np.ndarray,
    along: Axis,
) -> Figure:
    lines = own
    if len(own) > MOST_LINES:
        lines = np.sort(own[np.argsort(-moved[own], kind="stable")[:MOST_LINES]])
    trials = result.trials
    shown = thinned(len(trials["number"]))
    x, population = spent(result, along)[shown], is_population(result)
    space, unit = result.record["space"], group["unit"]
    traces = []
    for k, i in enumerate(lines):
        name = space["names"][i].removeprefix(group["path"]).removeprefix("=")
        y = text.in_unit(trials["values"][shown, i], unit)
        style = {"name": name, "colour": drawing.colour(k)}
        if population:
            traces += drawing.points(x, y, size=3, **style)
        else:
            traces += drawing.curve(x, y, markers=len(x) < FEW, **style)
    for trace in traces:
        trace["showlegend"] = len(lines) > 1
    low = float(text.in_unit(min(space["lower"][i] for i in lines), unit))
    high = float(text.in_unit(max(space["upper"][i] for i in lines), unit))
    axis: dict[str, Any] = {"title": {"text": f"{group['path']} ({unit})"}}
    if group["kind"] == "choice":
        axis["title"] = {"text": "weight"}
    if not unit and group["kind"] != "choice":
        axis["title"] = {"text": group["path"]}
    if group["log"]:
        axis |= {
            "type": "log",
            "range": [np.log10(low), np.log10(high)],
            "tickvals": drawing.log_ticks(low, high),
        }
    else:
        margin = 0.03 * (high - low)
        axis["range"] = [low - margin, high + margin]
    some = f"{len(lines)} of {len(own):,}, those that moved most."
    return drawing.figure(
        traces,
        x=TITLE[along],
        yaxis=axis,
        height=300,
        caption=some if len(lines) < len(own) else "",
    )


def pareto(result: Result, x: str = "", y: str = "") -> Figure | None:
    """Two terms of each trial, and the designs that no other one beats in both.

    Args:
        result: whose trials.
        x: name of a term; by default the first.
        y: of another; by default the next.

    Returns:
        the figure; None where there are no two terms, or no trial yet.

    Raises:
        InputError: no such term, or the same one twice.
    """
    names, trials = result.record["terms"], result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if len(names) < 2 or not len(good):
        return None
    x = x or next(name for name in names if name != y)
    y = y or next(name for name in names if name != x)
    for name in (x, y):
        if name not in names or x == y:
            raise errors.InputError(
                f"A front needs two different terms, but {x!r} and {y!r} were given. "
                f"{errors.nearest(name, names)}"
            )
    i, j = names.index(x), names.index(y)
    holds = np.all(trials["slack"][good] >= 0, axis=1)
    a, b = trials["terms"][:, i], trials["terms"][:, j]
    best = result.pareto(x, y)
    best = best[np.argsort(a[best], kind="stable")]
    traces = []
    for rows, name, symbol, size in (
        (np.setdiff1d(good[holds], best), "trials", "circle", 5),
        (good[~holds], "breaks a constraint", "x-thin-open", 7),
    ):
        if len(rows):
            rows = rows[thinned(len(rows))]
            style = {"name": name, "symbol": symbol, "size": size}
            traces += drawing.points(a[rows], b[rows], colour=drawing.GREY, **style)
    error = trials["terms_stderr"][best]
    style = {"name": "beaten by none", "colour": drawing.GREEN, "size": 8}
    traces += drawing.points(
        a[best], b[best], stderr=error[:, j], stderr_x=error[:, i], **style
    )
    return drawing.figure(
        traces + _fresh_terms(result, x, y),
        x=x,
        y=y,
        height=420,
        caption=f"{len(best):,} of {len(good):,} designs are beaten by no other one in both "
        "terms. Bars are one standard error. Noise makes a front look better than it is: "
        "the luckiest designs stand on it.",
    )


def _fresh_terms(result: Result, x: str, y: str) -> list[dict[str, Any]]:
    """Start and best in two terms, as measured on fresh events, where they were."""
    traces, fresh = [], result.record["soft"]["terms"]
    for name in ("start", "best"):
        if x not in fresh or y not in fresh:
            continue
        across, up = (Number.of(fresh[term][name]) for term in (x, y))
        traces += drawing.points(
            [across.value],
            [up.value],
            stderr=[up.stderr],
            stderr_x=[across.stderr],
            name=f"{name}, on fresh events",
            colour=drawing.colour(name),
            symbol="diamond-open",
            size=11,
        )
    return traces


def compare(runs: Mapping[str, Result], axis: Axis = "events") -> Figure | None:
    """Loss of several searches of one problem against what they spent.

    Each curve starts with the loss of its start, measured on fresh events, and ends at a
    diamond, that of the best design; between them are means over consecutive trials.

    Args:
        runs: name -> result.
        axis: what they spent.

    Returns:
        the figure; None where no run has a trial.

    Raises:
        InputError: results of different instruments.
    """
    instruments = sorted({result.instrument for result in runs.values()})
    if len(instruments) > 1:
        raise errors.InputError(
            "Losses can be compared for one instrument only, but the results are of "
            f"{', '.join(instruments)}. Compare those of one."
        )
    traces, seen = [], []
    for i, (name, result) in enumerate(runs.items()):
        made = _binned(result, spent(result, axis))
        if made is None:
            continue
        x, y, e = made
        fresh = [Number.of(result.record["soft"][k]) for k in ("start", "best")]
        if np.isfinite(fresh[0].value):  # all begin at nothing spent
            x = np.concatenate([[0.0], x])
            y, e = (np.concatenate([[v], w]) for v, w in zip(fresh[0], (y, e)))
        style: dict[str, Any] = {"colour": drawing.colour(i)}
        traces += drawing.curve(x, y, e, name=name, markers=len(x) < 2, **style)
        seen += y.tolist()
        if np.isfinite(fresh[1].value):
            traces += drawing.points(
                *([x[-1]], [fresh[1].value]),
                stderr=[fresh[1].stderr],
                symbol="diamond",
                size=10,
                **style,
            )
            traces[-1]["hovertext"] = f"{name}: best, on fresh events"
            seen.append(fresh[1].value)
    if not seen:
        return None
    starts = {tuple(result.record["start"]["cube"]) for result in runs.values()}
    return drawing.figure(
        traces,
        x=TITLE[axis],
        yaxis=_loss_axis(min(seen), max(seen)),
        height=420,
        caption="Mean loss of consecutive trials, from the start's; the band is one "
        "standard error. Diamonds: the best designs, measured again on fresh events."
        + " The searches began at different designs."
        * (len(starts) > 1),
    )


def _binned(
    result: Result, along: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What was spent, mean loss and its error in at most `BINS` bins of trials.

    Designs that saw the same events stay in one bin, and share their error.
    """
    trials = result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if not len(good):
        return None
    group = trials["sample" if is_population(result) else "number"][good]
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    members = np.split(good[order], ends)
    rows = []
    for part in np.array_split(np.arange(len(members)), min(BINS, len(members))):
        own = np.concatenate([members[k] for k in part])
        errors_of = [float(np.sum(trials["stderr"][members[k]])) for k in part]
        rows.append(
            (
                float(np.max(along[own])),
                float(np.mean(trials["total"][own])),
                float(np.sqrt(np.sum(np.square(errors_of))) / len(own)),
            )
        )
    x, y, e = np.array(rows).T
    return x, y, e
