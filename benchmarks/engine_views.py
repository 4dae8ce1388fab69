"""The table of `engines.py` in Markdown, and its pictures."""

import shutil
import statistics
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

from engine_cases import ENGINES, PARTS, PROBLEMS

MARK = "<!-- from here on written by benchmarks/engines.py -->\n"
FLOOR = 1e-5  # of the pictures
COLUMNS = 3  # of the pictures
COLOURS = {  # of the families; Okabe and Ito's, which the colour-blind can tell apart
    "derivatives": "#0072B2",
    "probabilities": "#009E73",
    "differences": "#E69F00",
    "surrogates": "#D55E00",
    "populations": "#000000",
    "models of the loss": "#CC79A7",
}
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up")
AXES = {"events": "events simulated", "seconds": "CPU seconds"}


class Row(NamedTuple):
    """Medians over the seeds of a pair after a part of its CPU seconds.

    Args:
        left: part of the start's loss above the optimum.
        error: of it, where the loss was measured.
        span: least and largest of it.
        loss, seconds, events, trials: of the search until then.
        reasons: why the searches ended.
    """

    left: float
    error: float
    span: tuple[float, float]
    loss: float
    seconds: float
    events: float
    trials: float
    reasons: list[str]


def median_of(data: dict, problem: str, engine: str, part: float) -> Row | str | None:
    """The row of a pair; the mark of a refusal or an error; None where nothing was run."""
    runs, name = data["runs"], f"{problem} | {engine}"
    if "refused" in runs.get(name, {}):
        return "-"
    found = [r for k, r in runs.items() if k == name or k.startswith(f"{name} | ")]
    good = [r for r in found if "curve" in r]
    if not good:
        return "error" if found else None
    legs = [[leg for leg in r["curve"] if leg[0] <= part][-1] for r in good]
    best = good[0]["best"] or 0.0
    left = [
        (leg[4] - best) / (r["start"] - best) for leg, r in zip(legs, good, strict=True)
    ]
    middle = map(statistics.median, zip(*legs, strict=True))
    _, seconds, events, trials, loss, error = middle
    return Row(
        statistics.median(left),
        error / (statistics.median(r["start"] for r in good) - best),
        (min(left), max(left)),
        loss,
        seconds,
        events,
        trials,
        [r["reason"] for r in good],
    )


def _names(data: dict) -> tuple[list[str], list[str]]:
    """Problems and engines of which anything was run."""
    known = {tuple(name.split(" | ")[:2]) for name in data["runs"]}
    return (
        [p for p in PROBLEMS if any(p == k[0] for k in known)],
        [e for e in ENGINES if any(e == k[1] for k in known)],
    )


def _starts(data: dict, problem: str) -> tuple[float, float | None]:
    """Losses of a problem's start and optimum."""
    runs = [r for k, r in data["runs"].items() if k.startswith(f"{problem} | ")]
    good = [r for r in runs if "curve" in r] or [{"start": float("nan"), "best": None}]
    return statistics.median(r["start"] for r in good), good[0]["best"]


def _short(value: float, error: float) -> str:
    if value < (least := max(error, 1e-6)):
        return f"< {least:.0e}".replace("e-0", "e-")
    return f"{value:.0e}".replace("e-0", "e-") if value < 1e-3 else f"{value:.2g}"


def table(data: dict) -> str:
    """What is left after all CPU seconds, then all figures problem by problem."""
    problems, engines = _names(data)
    rows = {(p, e): median_of(data, p, e, 1) for p in problems for e in engines}
    lines = [f"| | {' | '.join(problems)} |", "| --- |" + " ---: |" * len(problems)]
    for engine in engines:
        cells = []
        for problem in problems:
            row = rows[problem, engine]
            cells.append(
                _short(row.left, row.error) if isinstance(row, Row) else row or ""
            )
        lines.append(f"| {engine} | {' | '.join(cells)} |")
    for problem in problems:
        start, best = _starts(data, problem)
        known = "not known" if best is None else f"{best:.4g}"
        lines += [
            "",
            f'??? note "{problem}: start {start:.4g}, optimum {known}"',
            "",
            "    | engine | loss | left | least ... largest | events | CPU s | trials |",
            "    | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        found = {e: r for e in engines if isinstance(r := rows[problem, e], Row)}
        for engine, row in sorted(found.items(), key=lambda item: item[1].left):
            left, least, most = (
                _short(value, row.error) for value in (row.left, *row.span)
            )
            lines.append(
                f"    | {engine} | {row.loss:.4g} | {left} | {least} ... {most} | "
                f"{row.events:,.0f} | {row.seconds:.1f} | {row.trials:,.0f} |"
            )
    return "\n".join(lines) + "\n"


def write(data: dict, path: Path) -> None:
    """Write the table to a page, behind what stands there before its mark."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = f"{before.partition(MARK)[0].rstrip()}\n\n{MARK}\n{table(data)}"
    path.write_text(text.lstrip(), encoding="utf-8")


def figure(data: dict, axis: str) -> Any:
    """A panel for each problem, a line for each engine: what is left against `axis`.

    Args:
        data: of the file.
        axis: "events" or "seconds".

    Returns:
        a `plotly.graph_objects.Figure`.
    """
    from plotly.subplots import make_subplots

    problems, engines = _names(data)
    height = -(-len(problems) // COLUMNS)
    shown = make_subplots(
        height, COLUMNS, subplot_titles=problems, vertical_spacing=0.22 / height
    )
    for j, engine in enumerate(engines):
        family = ENGINES[engine][0]
        kin = [e for e in engines if ENGINES[e][0] == family]
        first = True
        for i, problem in enumerate(problems):
            line = _line(data, problem, engine, axis)
            if line is None:
                continue
            look = {"color": COLOURS[family], "symbol": SYMBOLS[kin.index(engine)]}
            shown.add_scatter(
                **line, name=engine, legendgroup=engine, showlegend=first,
                mode="lines+markers", marker=look | {"size": 6}, line_width=1,
                row=i // COLUMNS + 1, col=i % COLUMNS + 1, legendrank=j,
            )  # fmt: skip
            first = False
    shown.update_xaxes(type="log", exponentformat="power", dtick=1)
    shown.update_yaxes(type="log", exponentformat="power", nticks=5)
    shown.update_xaxes(title=AXES[axis], row=height)
    shown.update_yaxes(title="part left", col=1)
    shown.update_layout(
        template="plotly_white", width=1100, height=60 + 250 * height,
        margin={"l": 60, "r": 10, "t": 40, "b": 50}, font_size=11,
    )  # fmt: skip
    return shown


def _line(data: dict, problem: str, engine: str, axis: str) -> dict | None:
    """Coordinates of one engine on one problem; the error bar of the last: all seeds."""
    found = [median_of(data, problem, engine, part) for part in PARTS]
    rows = [row for row in found if isinstance(row, Row)]
    if not rows:
        return None
    last = rows[-1]
    points = [(getattr(r, axis), max(r.left, r.error, FLOOR)) for r in rows]
    points = list(dict.fromkeys(points))
    x, y = map(list, zip(*points, strict=True))
    bars = [[0.0] * (len(x) - 1) for _ in range(2)]
    bars[0].append(max(last.span[1], y[-1]) - y[-1])
    bars[1].append(max(0.0, y[-1] - max(last.span[0], last.error, FLOOR)))
    error = {"array": bars[0], "arrayminus": bars[1], "width": 2, "thickness": 1}
    return {"x": x, "y": y, "error_y": error}


def draw(data: dict, folder: Path) -> None:
    """Write `engines-events.svg` and `engines-seconds.svg`, by way of a browser."""
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.add_script_tag(content=get_plotlyjs())
        for axis in AXES:
            url = page.evaluate(
                "async (json) => Plotly.toImage(JSON.parse(json), {format: 'svg'})",
                figure(data, axis).to_json(),
            )
            text = urllib.parse.unquote(url.split(",", 1)[1])
            target = folder / f"engines-{axis}.svg"
            target.write_text(text + "\n", encoding="utf-8")
        browser.close()
