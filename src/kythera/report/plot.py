"""Figures for a notebook: `ky.plot.history(solution)`, and the like.

Each function takes a `Solution`, a `Result`, the folder of a saved one, or a `Study`, whose
search may still go on, and gives a `plotly.graph_objects.Figure`. They are the figures of
the report.
"""

import html
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kythera import errors
from kythera.report import figures, landscape_figures, page, sources
from kythera.report.figures import Axis
from kythera.report.landscape import landscape
from kythera.report.terrain import Landscape
from kythera.runs.result import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

# `ky.plot` is this module: the front door asks a module for the name that it opens.
plot = sys.modules[__name__]

WIDTH = 110  # letters of a caption's line
LINE = 17  # pixels of one


def history(what: Any, x: Axis = "events") -> "go.Figure":
    """Loss of each trial with its error, against what was spent.

    Args:
        what: a solution, a result, its folder, or a study.
        x: "events" simulated, or "seconds" of wall time.

    Raises:
        InputError: there is no trial yet, or another axis.
    """
    return _shown(figures.loss(sources.as_result(what), x), "a trial that gave a loss")


def terms(what: Any, x: Axis = "events") -> "go.Figure":
    """Each named term of the loss.

    Args:
        what: as for `history`.
        x: "events" or "seconds".

    Raises:
        InputError: there are no two terms.
    """
    return _shown(figures.terms(sources.as_result(what), x), "a loss of several terms")


def slack(what: Any, x: Axis = "events") -> "go.Figure":
    """Each constraint, which holds where its slack is not below zero.

    Args:
        what: as for `history`.
        x: "events" or "seconds".

    Raises:
        InputError: there are no constraints.
    """
    return _shown(figures.slack(sources.as_result(what), x), "constraints")


def parameters(what: Any, path: str = "", x: Axis = "events") -> "go.Figure":
    """The way of one group of parameters through the search, in its unit.

    Args:
        what: as for `history`.
        path: of the group, "upper.z"; by default the one that moved most.
        x: "events" or "seconds".

    Raises:
        InputError: no such group.
    """
    result = sources.as_result(what)
    groups = result.record["space"]["groups"]
    known = [group["path"] for group in groups]
    if path and path not in known:
        raise errors.InputError(
            f"There is no group of parameters {path!r}. {errors.nearest(path, known)}"
        )
    if not path:
        most = int(np.argmax(figures.moves(result)))
        ends = np.cumsum([group["size"] for group in groups])
        path = known[int(np.searchsorted(ends, most, side="right"))]
    return _shown(figures.paths(result, x, path)[path], "parameters")


def pareto(what: Any, first: str = "", second: str = "") -> "go.Figure":
    """Two terms of each trial, and the designs that no other one beats in both.

    Args:
        what: as for `history`.
        first: name of the term along x; by default the first.
        second: along y; by default the next.

    Raises:
        InputError: there are no two terms, or none of these names.
    """
    drawn = figures.pareto(sources.as_result(what), first, second)
    return _shown(drawn, "a loss of several terms")


def compare(
    whats: Mapping[str, Any] | Sequence[Any], x: Axis = "events"
) -> "go.Figure":
    """Loss of several searches against what they spent, from a common start.

    Args:
        whats: name -> solution, result, folder or study; or a sequence of them, which are
            then named by their engines.
        x: "events" or "seconds".

    Raises:
        InputError: nothing to compare, or results of different instruments.
    """
    if isinstance(whats, Mapping):
        runs = {str(name): sources.as_result(what) for name, what in whats.items()}
    else:
        runs = _named([sources.as_result(what) for what in whats])
    return _shown(figures.compare(runs, x), "a search with a trial")


def _named(results: list[Result]) -> dict[str, Result]:
    """By optimiser and gradient engine; numbered where two are the same."""
    runs: dict[str, Result] = {}
    for result in results:
        parts = [result.record[k] for k in ("optimiser", "estimator")]
        name = ", ".join(part["option"] or part["name"] for part in parts)
        same = sum(1 for other in runs if other.split(" #")[0] == name)
        runs[f"{name} #{same + 1}" if same else name] = result
    return runs


def profile(what: Any, *axes: str) -> "go.Figure":
    """The loss along one parameter, or over two, wherever the others are best.

    Args:
        what: as for `history`, or a `Landscape`.
        axes: one or two names; by default the two that the loosest direction mixes.

    Raises:
        InputError: the trials are too few for a surface, or there is no such parameter.
    """
    found = what if isinstance(what, Landscape) else landscape(what)
    if len(axes) == 1:
        return _shown(landscape_figures.profile(found, *axes), "a surface")
    return _shown(landscape_figures.surface(found, *axes), "a surface")


def directions(what: Any) -> "go.Figure":
    """Stiff and loose directions near the optimum, as combinations of parameters.

    Args:
        what: as for `history`, or a `Landscape`.

    Raises:
        InputError: the trials are too few.
    """
    found = what if isinstance(what, Landscape) else landscape(what)
    said = f"a surface near the optimum. {' '.join(found.notes)}"
    return _shown(landscape_figures.directions(found), said)


def drawing(what: Any, name: str = "", trial: int | None = None) -> "go.Figure":
    """The instrument, before and after, or as it was in one trial.

    Args:
        what: as for `history`; a trial can be drawn of a solution or a study.
        name: of the drawing; by default the first.
        trial: its number; by default start and best as the report shows them.

    Raises:
        InputError: there is no such drawing.
    """
    if trial is None:
        drawn = sources.as_result(what, drawings=True).figures
    else:
        drawn = sources.sketch(what, trial)
    if name and name not in drawn:
        raise errors.InputError(
            f"There is no drawing {name!r}. "
            + (errors.nearest(name, list(drawn)) if drawn else "The run has none.")
        )
    return _shown(drawn.get(name or next(iter(drawn), "")), "a drawing")


def _shown(figure: dict[str, Any] | None, asked: str) -> "go.Figure":
    """As plotly's own, with the look of the report and the caption below the title."""
    if figure is None:
        raise errors.InputError(f"The figure needs {asked}, but there is none.")
    import plotly.graph_objects as go

    template = json.loads(page._asset("template.json"))
    layout, lines = (
        dict(figure["layout"]),
        textwrap.wrap(figure.get("caption") or "", WIDTH),
    )
    if lines:
        room = 12 + LINE * len(lines)
        margin = layout.get("margin", {})
        layout["height"] = layout.get("height", 380) + room
        layout["margin"] = margin | {"t": margin.get("t", 34) + room}
        layout["title"] = {
            **{"text": "<br>".join(map(html.escape, lines)), "xref": "paper", "x": 0},
            **{"yref": "container", "y": 0.98, "yanchor": "top"},
            "font": {"size": 12, "color": "#5b6470"},
        }
    return go.Figure(figure["data"], {**layout, "template": template})
