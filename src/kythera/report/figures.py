"""The report's own pictures, from the numbers of a result."""

from typing import Any

import numpy as np

from kythera import drawing, text
from kythera.runs.result import Number, Result

MOST_POINTS = 1500  # of a curve: more cannot be seen
MOST_GROUPS = 12  # pictures of parameter paths
MOST_LINES = 8  # paths in one picture
FEW = 60  # points of a curve up to which each is marked
SPENT = "events spent (simulated primaries)"
LOGARITHMIC = 8.0  # ratio of losses beyond which the axis is logarithmic

Figure = dict[str, Any]


def thinned(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of at most `most` of `count` points, the first and last among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def moves(result: Result) -> np.ndarray:
    """How far each parameter went, as a part of its range, shape (n,)."""
    cube = [np.array(result.record[k]["cube"], float) for k in ("start", "best")]
    return np.abs(cube[1] - cube[0])


def is_population(result: Result) -> bool:
    """Whether several designs were looked at side by side, on the same events."""
    sample = result.trials["sample"]
    return len(sample) > 2 and len(set(sample.tolist())) not in (1, len(sample))


def loss(result: Result) -> Figure | None:
    """Loss of each trial against the events spent, with one standard error."""
    trials = result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if not len(good):
        return None
    shown = good[thinned(len(good))]
    x, y, e = (trials[k][shown] for k in ("spent", "total", "stderr"))
    traces = []
    if is_population(result):
        traces += drawing.points(
            x, y, stderr=e, name="trials", colour=drawing.GREY, size=4
        )
        traces += drawing.curve(
            *_batch_means(result), name="mean of each batch", colour=drawing.BLACK
        )
    elif len(x) == 1:  # a band needs two points
        traces += drawing.points(x, y, stderr=e, name="trials", colour=drawing.BLACK)
    else:
        traces += drawing.curve(
            x, y, e, name="trials", colour=drawing.BLACK, markers=len(x) < FEW
        )
    low, high = float(np.min(y)), float(np.max(y))
    ends = [0.0, float(trials["spent"][-1])]
    for name, colour in (("start", drawing.START), ("best", drawing.BEST)):
        value = Number.of(result.record["soft"][name])
        low, high = min(low, value.value), max(high, value.value)
        traces += drawing.curve(
            ends,
            [value.value] * 2,
            name=f"{name}, on fresh events",
            colour=colour,
            dash="dash",
        )
    failed = np.flatnonzero(trials["state"] == "failed")
    if len(failed):
        failed = failed[thinned(len(failed), 200)]
        traces += drawing.points(
            trials["spent"][failed],
            [low] * len(failed),
            name="failed",
            colour=drawing.BLACK,
            symbol="x-thin-open",
        )
    axis: dict[str, Any] = {"title": {"text": "loss"}}
    if low > 0 and high / low > LOGARITHMIC and np.all(y > np.nan_to_num(e)):
        axis |= {"type": "log", "tickvals": drawing.log_ticks(low / 2, 2 * high)}
    some = (
        "" if len(shown) == len(good) else f" {len(shown):,} of {len(good):,} trials."
    )
    return drawing.figure(
        traces,
        x=SPENT,
        yaxis=axis,
        height=400,
        caption="Loss of each trial; the band or bar is one standard error. Dashed: start "
        f"and best design measured again, as the search saw them.{some}",
    )


def _batch_means(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Events and mean loss of the trials that shared their events."""
    trials = result.trials
    good = trials["state"] == "complete"
    samples = np.unique(trials["sample"][good])
    samples = samples[thinned(len(samples))]
    pairs = []
    for sample in samples:
        own = good & (trials["sample"] == sample)
        pairs.append((trials["spent"][own].max(), trials["total"][own].mean()))
    x, y = np.array(pairs, float).T
    return x, y


def terms(result: Result) -> Figure | None:
    """Each named term of the loss against events, where there are several."""
    names, trials = result.record["terms"], result.trials
    if len(names) < 2:
        return None
    good = np.flatnonzero(trials["state"] == "complete")
    return _named(result, names, good, "terms", "term (unweighted)")


def slack(result: Result) -> Figure | None:
    """Each constraint against events; it holds where the curve is not below zero."""
    names, trials = result.record["slack"], result.trials
    good = np.flatnonzero(trials["state"] == "complete")
    if not names or not len(good):
        return None
    figure = _named(result, names, good, "slack", "slack")
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
    result: Result, names: list[str], good: np.ndarray, key: str, title: str
) -> Figure:
    trials = result.trials
    shown = good[thinned(len(good))]
    traces = []
    for i, name in enumerate(names[:MOST_LINES]):
        traces += drawing.curve(
            trials["spent"][shown],
            trials[key][shown, i],
            trials[f"{key}_stderr"][shown, i],
            name=name,
            colour=drawing.colour(i),
            markers=len(shown) < FEW,
        )
    more = (
        f" The first {MOST_LINES} of {len(names)}." if len(names) > MOST_LINES else ""
    )
    return drawing.figure(traces, x=SPENT, y=title, height=340, caption=more.strip())


def paths(result: Result) -> dict[str, Figure]:
    """Every parameter's way through the search, by group, the largest moves first."""
    moved, found, first = moves(result), {}, 0
    groups = []
    for group in result.record["space"]["groups"]:
        own = np.arange(first, first + group["size"])
        groups.append((float(moved[own].max(initial=0)), group, own))
        first += group["size"]
    order = range(len(groups))
    if len(groups) > MOST_GROUPS:
        order = sorted(order, key=lambda i: -groups[i][0])[:MOST_GROUPS]
    for i in sorted(order):
        _, group, own = groups[i]
        found[group["path"]] = _path(result, group, own, moved)
    return found


def _path(
    result: Result, group: dict[str, Any], own: np.ndarray, moved: np.ndarray
) -> Figure:
    lines = own
    if len(own) > MOST_LINES:
        lines = np.sort(own[np.argsort(-moved[own], kind="stable")[:MOST_LINES]])
    trials = result.trials
    shown = thinned(len(trials["number"]))
    x, population = trials["spent"][shown], is_population(result)
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
        x=SPENT,
        yaxis=axis,
        height=300,
        caption=some if len(lines) < len(own) else "",
    )
