"""The report: everything is in it, nothing is fetched, all text is escaped."""

import dataclasses
import html
import json
import re
import subprocess

import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.report import figures, page
from kythera.runs.result import write

from .surfaces import cloud, noisy, quadratic, result, rotated

FIGURE = re.compile(r'<script type="application/json" class="figure">(.*?)</script>')


def drawn(text):
    return [json.loads(found) for found in FIGURE.findall(text)]


def body(text):
    """The page without plotly.js."""
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def text(toy_result):
    return page.page(toy_result)


def test_the_headline(text, toy_result):
    assert f"<h1>{toy_result.instrument}</h1>" in text
    for number in ("start", "best", "gain"):
        shown = page._pm(page.Number.of(toy_result.quoted[number]))
        assert shown in body(text)
    assert f"{toy_result.events:,}" in body(text)


def test_the_table_names_parameters_units_and_options(text):
    rows = re.findall(r"<tr><td>(.*?)</td><td class='n'>(.*?)</td>", body(text))
    assert ("z", "10") in rows
    assert ("material", "iron") in rows
    assert "<td>cm</td>" in text
    assert body(text).count("<svg") == 2  # a choice has no range


def test_sections(text):
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Parameters",
        "Loss",
        "Terms of the loss",
        "Constraints",
        "Near the optimum",
        "The instrument before and after",
        "Paths of the parameters",
        "Failed trials",
        "Settings",
        "References",
    ]


def test_failed_trials_have_their_causes(text, toy_result):
    assert toy_result.causes
    for cause in toy_result.causes.values():
        assert html.escape(cause) in text


def test_figures_hold_the_numbers(text, toy_result):
    found = drawn(text)
    good = toy_result.trials["state"] == "complete"
    points = next(t for t in found[0]["data"] if t.get("name") == "trials")
    np.testing.assert_allclose(points["y"], toy_result.trials["total"][good], rtol=1e-5)
    np.testing.assert_allclose(
        points["error_y"]["array"], toy_result.trials["stderr"][good], rtol=1e-5
    )
    names = {t.get("name") for figure in found for t in figure["data"]}
    assert {"image", "time", "height", "start", "best", "failed"} <= names
    assert "Where it is." in text


def test_nothing_is_fetched(text):
    outside = body(text)
    assert "default-src 'none'" in outside
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", outside)


def test_all_text_is_escaped(toy_result):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\u2028"
    record = json.loads(json.dumps(toy_result.record))
    record["instrument"] |= {"name": evil, "reference": evil, "settings": {evil: evil}}
    record["reason"] = record["command"] = record["optimiser"]["option"] = evil
    record["references"] = [evil]
    record["causes"] = {"1": evil}
    record["date"] = evil
    record["space"]["names"][0] = record["space"]["groups"][0]["path"] = evil
    record["space"]["units"][0] = record["space"]["groups"][0]["unit"] = evil
    for of in ("terms", "slack"):
        pairs = record["soft"][of]
        record["soft"][of] = {evil + name: pair for name, pair in pairs.items()}
    record["terms"] = [evil + name for name in record["terms"]]
    record["slack"] = [evil + name for name in record["slack"]]
    trace = {"type": "scatter", "x": [1], "y": [1], "name": evil}
    drawing = {evil: {"data": [trace], "layout": {}, "caption": evil}}
    bad = dataclasses.replace(toy_result, record=record, figures=drawing)
    text = page.page(bad)
    clean = page.page(toy_result)
    assert text.count("<script") == clean.count("<script")
    assert text.count("</script") == clean.count("</script")
    assert "<img" not in body(text)
    assert drawn(text)


def test_twelve_thousand_parameters(toy_result):
    """Tables and pictures are cut, by the largest move."""
    n = 12_000
    record = json.loads(json.dumps(toy_result.record))
    names = [f"part{i // 100}.z[{i % 100}]" for i in range(n)]
    groups = [
        {"path": f"part{i}.z", "kind": "real", "size": 100, "unit": "m", "log": False}
        for i in range(120)
    ]
    record["space"] = {
        "names": names,
        "units": ["m"] * n,
        "lower": [0.0] * n,
        "upper": [1.0] * n,
        "kinds": ["real"] * n,
        "groups": groups,
    }
    start, best = np.full(n, 0.5), np.full(n, 0.5)
    best[7777] = 0.9
    for key, values in (("start", start), ("best", best)):
        record[key] = {"cube": values.tolist(), "values": values.tolist()}
    count = 2000
    column = np.arange(count)
    trials = {
        "number": column,
        "sample": column,
        "u": np.tile(start, (count, 1)),
        "values": np.tile(start, (count, 1)),
        "total": 1 + 1 / (1.0 + column),
        "stderr": np.full(count, 0.1),
        "terms": np.ones((count, 2)),
        "terms_stderr": np.ones((count, 2)),
        "slack": np.ones((count, 1)),
        "slack_stderr": np.ones((count, 1)),
        "spent": 4 * (column + 1),
        "state": np.full(count, "complete"),
    }
    wide = dataclasses.replace(toy_result, record=record, trials=trials)
    text = page.page(wide)
    assert len(body(text)) < 3_000_000
    assert "40 of 120 parameters, those that moved most" in text
    rows = re.findall(r"<tr><td>(part\d+\.z[^<]*)</td>", text)
    assert rows[0] == "part77.z (mean of 100)"
    assert len(rows) == page.MOST_ROWS
    paths = figures.paths(wide)
    assert len(paths) == figures.MOST_GROUPS
    assert [t["name"] for t in paths["part77.z"]["data"]].count("[77]") == 1
    assert len(paths["part77.z"]["data"][0]["x"]) == figures.MOST_POINTS
    assert len(paths["part77.z"]["data"]) == figures.MOST_LINES


@pytest.mark.parametrize("count", [1, 3])
def test_few_trials_can_be_seen(toy_result, count):
    """A line through one point, or a band around it, would be nothing."""
    good = np.flatnonzero(toy_result.trials["state"] == "complete")[:count]
    trials = {k: v[good] for k, v in toy_result.trials.items()}
    trials["sample"] = trials["number"]
    few = dataclasses.replace(toy_result, trials=trials)
    own = [t for t in figures.loss(few)["data"] if t.get("name") == "trials"]
    assert ["markers" in t["mode"] for t in own] == [True]
    assert ("error_y" in own[0]) == (count == 1)
    ends = [t for t in figures.loss(few)["data"] if "fresh" in t.get("name", "")]
    assert all(t["x"][0] < t["x"][1] for t in ends)
    for figure in figures.paths(few).values():
        assert all("markers" in t["mode"] for t in figure["data"])


def test_every_axis_has_a_title(toy_result):
    drawn = [figures.loss(toy_result), figures.terms(toy_result)]
    drawn += [figures.slack(toy_result), *figures.paths(toy_result).values()]
    for figure in drawn:
        for axis in ("xaxis", "yaxis"):
            assert figure["layout"][axis]["title"]["text"]


def test_thinning_keeps_both_ends():
    kept = figures.thinned(10_000, 100)
    assert (kept[0], kept[-1]) == (0, 9999)
    assert len(kept) == 100
    assert list(figures.thinned(3, 100)) == [0, 1, 2]


def test_a_broken_constraint_is_said(toy_result):
    record = json.loads(json.dumps(toy_result.record))
    record["soft"]["slack"]["height"]["best"] = {"value": -0.2, "stderr": 0.01}
    broken = page.page(dataclasses.replace(toy_result, record=record))
    assert "broken</span>" in broken
    assert "broken</span>" not in page.page(toy_result)


@pytest.fixture(scope="module")
def made():
    u = cloud(3, 80, 1)
    found, _ = noisy(quadratic(rotated([40, 10, 3])[0], [0.55] * 3), u, 2)
    return u, found


def near_the_optimum(text):
    [section] = re.findall(
        r"<section><h2>Near the optimum</h2>.*?</section>", text, flags=re.DOTALL
    )
    return section


def test_near_the_optimum_there_are_directions_and_profiles(made):
    text = page.page(result(*made, best=[0.5] * 3))
    section = near_the_optimum(text)
    assert section.count("curvature") >= 3
    assert "0.05, one standard error of the gain" in section
    assert section.count('class="figure"') == 5  # directions, three profiles, a map
    assert "within two standard errors" in section


def test_a_run_that_goes_on_has_a_report(made):
    text = page.page(result(*made, best=[0.5] * 3, gain=None))
    assert "Not finished: nothing was measured anew yet" in body(text)
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert near_the_optimum(text).count("curvature") >= 3
    assert not any("fresh" in t.get("name", "") for f in drawn(text) for t in f["data"])
    few = {k: v[:2] for k, v in made[1].items()}
    short = page.page(result(made[0][:2], few, gain=None))
    assert "No surface" in near_the_optimum(short)


def test_from_solution_result_and_folder(toy_solution, toy_result, tmp_path):
    write(toy_result, tmp_path)
    pages = [
        ky.report(what, tmp_path / f"{i}.html")
        for i, what in enumerate((toy_solution, toy_result, tmp_path))
    ]
    titles = {re.findall("<h2>.*?</h2>", p.read_text())[0] for p in pages}
    assert len(titles) == 1
    assert pages[1].read_text() == pages[2].read_text()


def test_only_a_report_is_replaced(toy_result, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("an older text of mine")
    with pytest.raises(errors.StoreError, match="is no report"):
        ky.report(toy_result, out)
    assert out.read_text() == "an older text of mine"
    out.unlink()
    ky.report(toy_result, out)
    size = out.stat().st_size
    out.write_text(out.read_text() + "<!-- older -->")
    ky.report(toy_result, out)
    assert out.stat().st_size == size
    with pytest.raises(errors.StoreError):
        ky.report(toy_result, tmp_path)


@pytest.mark.program("chromium", "google-chrome")
def test_a_browser_draws_every_figure(toy_result, tmp_path, program):
    from kythera import drawing

    solid = drawing.figure(
        drawing.plane((0, 0, 1), (1, 1), name="panel"),
        drawing.box((0, 0, 0), (1, 1, 1)),
        z="z (m)",
    )
    maps = {k: drawing.figure(drawing.heatmap(np.eye(3))) for k in "ab"}
    shown = toy_result.figures | {"3D": solid, "maps": drawing.side_by_side(maps)}
    out = ky.report(
        dataclasses.replace(toy_result, figures=shown), tmp_path / "report.html"
    )
    command = [
        *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-sync"),
        *("--disable-component-update", f"--user-data-dir={tmp_path / 'browser'}"),
        *("--virtual-time-budget=20000", "--dump-dom", out.as_uri()),
    ]
    found = subprocess.run(command, capture_output=True, timeout=120, check=True)
    dom = found.stdout.decode()
    assert "cannot be drawn" not in re.sub(r"<script>.*?</script>", "", dom, flags=re.S)
    count = len(
        FIGURE.findall(page.page(dataclasses.replace(toy_result, figures=shown)))
    )
    assert dom.count('class="plot js-plotly-plot"') == count
    assert dom.count("<canvas") >= 1  # the one in three dimensions
