"""The report: one self-contained HTML page that needs no network."""

import html
import importlib.resources
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kythera import __version__, errors, text
from kythera.report import figures, landscape_figures, sources
from kythera.report.landscape import landscape
from kythera.report.terrain import Direction, Landscape
from kythera.runs import folder
from kythera.runs.result import Number, Result

if TYPE_CHECKING:
    from kythera.runs.study import Study
    from kythera.solution import Solution

MOST_ROWS = 40  # of the table of parameters
MOST_CAUSES = 20
MOST_DIRECTIONS, MOST_NEAR = 12, 10
MARK = f'<meta name="generator" content="kythera {__version__}">'
SIGN = b'<meta name="generator" content="kythera '
PROFILES = (
    "Profiles: the loss along one of them, the others being wherever it is lowest; the band "
    "is one standard error. Dot: the lowest point; diamond: the recommended design; dotted "
    "line: a small increase."
)
# Nothing is fetched, whatever a figure asks for; plotly compiles its own shaders.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:"
)


def report(what: "Solution | Result | Study | str | Path", out: str | Path) -> Path:
    """Write a result as one HTML page: tables, curves, the instrument's own drawings.

    Args:
        what: a solution, a result, the folder of a saved one, or a study, whose search may
            still go on.
        out: the page; an older report at that place is replaced, any other file is not.

    Returns:
        the path of the page.

    Raises:
        StoreError: the result cannot be read, or the page cannot be written.
    """
    out = Path(out)
    _check_place(out)
    result = sources.as_result(what, drawings=True)
    found = landscape(result, gradients=sources.gradients(what))
    folder.write_atomically(out, page(result, found).encode())
    return out


def _check_place(out: Path) -> None:
    """Refuse to replace anything but a report."""
    try:
        with open(out, "rb") as stream:
            if SIGN in stream.read(2000):
                return
    except FileNotFoundError:
        return
    except OSError as error:
        raise errors.StoreError(
            f"The report cannot be written to '{out}': {error.strerror}. "
            "Give the name of a file."
        ) from error
    raise errors.StoreError(
        f"'{out}' exists and is no report, and is not overwritten. Give another name."
    )


def page(result: Result, found: Landscape | None = None) -> str:
    """The whole page as text.

    Args:
        result: what it tells of, finished or not.
        found: the landscape near its optimum; by default that of the result.
    """
    sections = [
        _parameters(result),
        _section("Loss", _figure(figures.loss(result))),
        _terms(result),
        _constraints(result),
        _near(found or landscape(result)),
        _drawings(result),
        _paths(result),
        _failures(result),
        _settings(result),
        _references(result),
    ]
    name = html.escape(result.instrument)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            MARK,
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}: kythera report</title>",
            f"<style>{_asset('page.css')}</style></head><body><main>",
            _template(),
            _header(result),
            "<noscript><p>The figures need JavaScript.</p></noscript>",
            *sections,
            f"<footer>Written by kythera {html.escape(__version__)}. Errors are one "
            "standard deviation.</footer></main>",
            f"<script>{_plotly()}</script><script>{_asset('page.js')}</script>",
            "</body></html>\n",
        ]
    )


def _asset(name: str) -> str:
    return (importlib.resources.files("kythera.report") / name).read_text("utf-8")


def _template() -> str:
    """The look of all figures."""
    return f'<script type="application/json" id="template">{_asset("template.json")}</script>'


def _plotly() -> str:
    """plotly.js of the installed package, as it may stand inside a page."""
    file = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    return file.read_text("utf-8").replace("</script", "<\\/script")


def _section(title: str, *content: str) -> str:
    inside = "\n".join(part for part in content if part)
    return (
        f"<section><h2>{html.escape(title)}</h2>\n{inside}</section>" if inside else ""
    )


def _figure(figure: dict[str, Any] | None, title: str = "") -> str:
    """A figure and its caption; its numbers as JSON that no text can break out of."""
    if not figure or not figure.get("data"):
        return ""
    drawn = {"data": figure["data"], "layout": figure.get("layout", {})}
    data = json.dumps(drawn, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    caption = html.escape(str(figure.get("caption") or ""))
    return (
        "<figure>"
        + (f"<h3>{html.escape(title)}</h3>" if title else "")
        + '<div class="plot"></div>'
        + f'<script type="application/json" class="figure">{data}</script>'
        + (f"<figcaption>{caption}</figcaption>" if caption else "")
        + "</figure>"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], kinds: str) -> str:
    """A table of escaped cells; one letter of `kinds` a column: l(eft) or n(umber)."""
    classes = ["" if kind == "l" else ' class="n"' for kind in kinds]

    def line(tag: str, cells: Iterable[str]) -> str:
        inside = "".join(
            f"<{tag}{c}>{html.escape(cell)}</{tag}>" for c, cell in zip(classes, cells)
        )
        return f"<tr>{inside}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def _pm(measured: Number) -> str:
    known = math.isfinite(measured.stderr) and measured.stderr > 0
    shown = str(measured) if known else f"{measured.value:.4g}"
    return shown.replace("+-", "\u00b1").replace("-", "\u2212")


def _header(result: Result) -> str:
    record = result.record
    failed = int(np.sum(result.trials["state"] == "failed"))
    facts = {
        "Events of the search": f"{result.events:,}",
        "Events of this measurement": f"{record['events']['report']:,}",
        "Trials": f"{len(result.trials['number']):,}"
        + (f" ({failed:,} failed)" if failed else ""),
        "Parameters": f"{text.count_parameters(result.names):,}",
        "Time": _duration(record["seconds"]),
        "Optimiser": record["optimiser"]["option"] or record["optimiser"]["name"],
        "Gradient engine": record["estimator"]["option"] or record["estimator"]["name"],
        "Ended because" if result.finished else "State": record["reason"]
        or "not finished",
    }
    cells = "".join(
        f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>"
        for k, v in facts.items()
    )
    return (
        f'<header><p class="kind">kythera report, {html.escape(_date(record))}</p>'
        f"<h1>{html.escape(result.instrument)}</h1>"
        f'{_gain(result)}<dl class="facts">{cells}</dl></header>'
    )


def _gain(result: Result) -> str:
    """The headline: what was gained, as measured anew."""
    quoted = result.quoted
    start, best, gain = (Number.of(quoted[k]) for k in ("start", "best", "gain"))
    if not result.finished:
        return (
            '<p class="gain">Not finished: nothing was measured anew yet. '
            '<span class="quiet">Best is what the optimiser would build now.</span></p>'
        )
    sure = ""
    if math.isfinite(gain.stderr) and gain.stderr > 0:
        sigmas = abs(gain.value) / gain.stderr
        many = f"{sigmas:.1f}" if sigmas < 100 else "more than 100"
        sure = f", {many} standard errors"
    built = "of the detector as built, " if result.record.get("hard") else ""
    return (
        f'<p class="gain">Loss {_pm(start)} at the start, <b>{_pm(best)}</b> at best: '
        f'a gain of <b>{_pm(gain)}</b><span class="quiet">{sure}. Both designs {built}'
        "on the same fresh events.</span></p>"
    )


def _date(record: dict[str, Any]) -> str:
    return str(record.get("date", ""))[:16].replace("T", " ") + " UTC"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _parameters(result: Result) -> str:
    moved = figures.moves(result)
    rows = text.parameter_rows(
        result.names, result.units, result.start, result.best, MOST_ROWS
    )
    note = ""
    if len(rows) > MOST_ROWS:
        note = f"{MOST_ROWS} of {len(rows):,} parameters, those that moved most."
        rows = sorted(rows, key=lambda row: -moved[row.where].max())[:MOST_ROWS]
    lines = []
    for row in rows:
        is_choice = "=" in result.names[row.where.start]
        lines.append(
            "<tr><td>{}</td><td class='n'>{}</td><td class='n'>{}</td><td>{}</td>"
            "<td class='range'>{}</td></tr>".format(
                html.escape(row.label),
                _minus(row.start),
                _minus(row.best),
                html.escape(row.unit),
                "" if is_choice else _range(result, row.where),
            )
        )
    head = (
        "<table><thead><tr><th>parameter</th><th class='n'>start</th>"
        "<th class='n'>best</th><th>unit</th><th class='range'>range</th></tr></thead>"
    )
    return _section(
        "Parameters",
        f"<p class='note'>{note}</p>" if note else "",
        f"{head}<tbody>{''.join(lines)}</tbody></table>",
        "<p class='note'>Range: hollow where it started, filled where it is best.</p>",
    )


def _minus(number: str) -> str:
    return html.escape(
        number.replace("-", "\u2212") if number[-1:].isdigit() else number
    )


def _range(result: Result, where: slice) -> str:
    """The allowed range as a line, with start and best on it."""
    a, b = (
        8 + 204 * float(np.mean(result.record[k]["cube"][where]))
        for k in ("start", "best")
    )
    return (
        '<svg width="220" height="16" viewBox="0 0 220 16" aria-hidden="true">'
        '<path d="M8 8H212M8 4V12M212 4V12" stroke="#c6ccd3" fill="none"/>'
        f'<path d="M{a:.1f} 8H{b:.1f}" stroke="#0072b2" stroke-width="2"/>'
        f'<circle cx="{a:.1f}" cy="8" r="4" fill="#fff" stroke="#d55e00" '
        'stroke-width="1.8"/>'
        f'<circle cx="{b:.1f}" cy="8" r="4.4" fill="#0072b2"/></svg>'
    )


def _pairs(result: Result, key: str) -> list[tuple[str, Number, Number]]:
    return [
        (name, Number.of(pair["start"]), Number.of(pair["best"]))
        for name, pair in result.quoted[key].items()
    ]


def _terms(result: Result) -> str:
    weights = result.record["instrument"].get("weights", {})
    rows = [
        (name, _pm(a), _pm(b), f"{weights.get(name, 1.0):g}")
        for name, a, b in _pairs(result, "terms")
    ]
    table = _table(("term", "start", "best", "weight"), rows, "lnnn") if rows else ""
    return _section("Terms of the loss", table, _figure(figures.terms(result)))


def _constraints(result: Result) -> str:
    rows = [
        f"<tr><td>{html.escape(name)}</td><td class='n'>{_pm(a)}</td>"
        f"<td class='n'>{_pm(b)}</td><td>{_verdict(b)}</td></tr>"
        for name, a, b in _pairs(result, "slack")
    ]
    table = (
        "<table><thead><tr><th>constraint</th><th class='n'>slack at start</th>"
        "<th class='n'>slack at best</th><th>best design</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return _section(
        "Constraints", table if rows else "", _figure(figures.slack(result))
    )


def _verdict(slack: Number) -> str:
    if slack.value >= 0:
        return "<span class='holds'>holds</span>"
    doubt = math.isfinite(slack.stderr) and slack.value + 2 * slack.stderr >= 0
    return f"<span class='broken'>broken{', within its error' if doubt else ''}</span>"


def _near(found: Landscape) -> str:
    """What the loss says near the optimum, because the expert takes the last decision."""
    notes = "".join(f"<p class='note'>{html.escape(note)}</p>" for note in found.notes)
    if not found.directions:
        return _section("Near the optimum", notes)
    rows = [
        (
            found.said(direction).replace("+-", "\u00b1").replace("-", "\u2212"),
            _ends(found, direction),
        )
        for direction in found.directions[:MOST_DIRECTIONS]
    ]
    said = (
        "<p>What one may change, because the loss hardly feels it. A small increase of the "
        f"loss is {found.delta:.2g}, {html.escape(found.delta_is)}.</p>"
    )
    table = _table(
        ("direction", "between these a small increase is reached"), rows, "ll"
    )
    # profiles of what has no name would tell nobody anything
    named = found.kind == "full"
    profiles = landscape_figures.profiles(found) if named else {}
    drawn = [_figure(figure, name) for name, figure in profiles.items()]
    mapped = landscape_figures.pair(found) if named else None
    grid = f"<p class='note'>{PROFILES}</p><div class='grid'>{''.join(drawn)}</div>"
    return _section(
        "Near the optimum",
        said,
        notes,
        table,
        _figure(landscape_figures.directions(found)),
        grid if drawn else "",
        _figure(landscape_figures.surface(found, *mapped)) if mapped else "",
        _as_good(found),
    )


def _ends(found: Landscape, direction: Direction) -> str:
    return "; ".join(
        f"{name} {low:.4g} to {high:.4g} {unit}".rstrip().replace("-", "\u2212")
        for name, low, high, unit in found.steps(direction)
    )


def _as_good(found: Landscape) -> str:
    """Trials that cannot be told from the best design."""
    near = found.near()
    if not len(near.number):
        return "<p>No design that was tried is within two standard errors of the lowest.</p>"
    rows = [
        (
            f"{number:,}",
            _pm(Number(float(excess), float(error))),
            "on the surface" if fitted else "as measured",
        )
        for number, excess, error, fitted in list(zip(*near))[:MOST_NEAR]
    ]
    count = len(near.number)
    more = f", of which {MOST_NEAR} are shown" if count > MOST_NEAR else ""
    return (
        f"<p>{count:,} of the designs that were tried are within two standard errors of "
        f"the lowest{more}.</p>"
        + _table(("trial", "loss above the lowest", ""), rows, "nnl")
    )


def _drawings(result: Result) -> str:
    drawn = [
        _figure(figure, name[:1].upper() + name[1:].replace("_", " "))
        for name, figure in result.figures.items()
    ]
    failure = result.record.get("drawing_failed")
    if failure:
        drawn.append(
            f"<p class='note'>The instrument could not draw: {html.escape(failure)}</p>"
        )
    return _section("The instrument before and after", *drawn)


def _paths(result: Result) -> str:
    drawn = [_figure(f, name) for name, f in figures.paths(result).items()]
    groups = len(result.record["space"]["groups"])
    note = ""
    if groups > len(drawn):
        note = f"<p class='note'>{len(drawn)} of {groups:,} groups, those that moved most.</p>"
    return _section(
        "Paths of the parameters", note, f"<div class='grid'>{''.join(drawn)}</div>"
    )


def _failures(result: Result) -> str:
    causes: dict[str, list[int]] = {}
    for number, cause in sorted(result.causes.items()):
        causes.setdefault(cause, []).append(number)
    rows = [
        (
            f"{len(numbers):,}",
            ", ".join(map(str, numbers[:5])) + (", ..." * (len(numbers) > 5)),
            cause,
        )
        for cause, numbers in sorted(causes.items(), key=lambda item: -len(item[1]))
    ]
    if not rows:
        return ""
    more = len(rows) - MOST_CAUSES
    return _section(
        "Failed trials",
        _table(("trials", "numbers", "cause"), rows[:MOST_CAUSES], "nll"),
        f"<p class='note'>... and {more:,} more causes.</p>" if more > 0 else "",
    )


def _settings(result: Result) -> str:
    record = result.record
    limits = [f"{value:,g} {name}" for name, value in record["budget"].items() if value]
    entries = {
        "instrument": record["instrument"]["reference"],
        "its settings": _listed(record["instrument"]["settings"]),
        "rows of one evaluation": f"{record['instrument']['rows']:,}",
        "events of one evaluation": f"{record['events']['evaluation']:,}",
        "optimiser": record["optimiser"]["option"] or _part(record["optimiser"]),
        "gradient engine": _part(record["estimator"]),
        "limits": ", ".join(limits) or "not recorded",
        "seed": "a key of its own" if record["seed"] is None else str(record["seed"]),
        "versions": f"kythera {record['kythera']}, jax {record['jax']}, "
        f"Python {record['python']}",
    }
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>"
        for k, v in entries.items()
        if v
    )
    command = record.get("command")
    return _section(
        "Settings",
        f"<p>To repeat this run:</p><pre>{html.escape(command)}</pre>"
        if command
        else "",
        f"<table class='settings'><tbody>{rows}</tbody></table>",
    )


def _part(part: dict[str, Any]) -> str:
    inside = _listed({k: v for k, v in part["settings"].items() if v is not None})
    return f"{part['name']} ({inside})" if inside else part["name"]


def _listed(settings: dict[str, Any]) -> str:
    def short(value: Any) -> str:
        if isinstance(value, dict) and set(value) == {"name", "settings"}:
            return _part(value)
        return value if isinstance(value, str) else json.dumps(value)

    return ", ".join(f"{k} = {short(v)}" for k, v in settings.items())


def _references(result: Result) -> str:
    items = "".join(
        f"<li>{html.escape(reference)}</li>"
        for reference in result.record["references"]
    )
    return _section(
        "References", f"<ol class='references'>{items}</ol>" if items else ""
    )
