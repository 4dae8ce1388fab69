"""Figures of a search: against events or seconds, fronts, comparisons, unfinished runs."""

import json

import numpy as np
import pytest

from kythera import errors
from kythera.report import figures
from kythera.report.landscape import landscape
from kythera.report.landscape_figures import directions, pair, profiles, surface

from .surfaces import cloud, noisy, quadratic, result, rotated


@pytest.fixture(scope="module")
def made():
    u = cloud(4, 160, 1)
    found, _ = noisy(quadratic(rotated([40, 10, 3, 0.5])[0], [0.55] * 4), u, 2)
    return result(u, found, best=[0.5] * 4, bounds=(0.0, 2.0), unit="cm")


@pytest.fixture(scope="module")
def found(made):
    return landscape(made)


def named(figure, name):
    return next(t for t in figure["data"] if t.get("name") == name)


def titles(figure):
    axes = [figure["layout"][axis] for axis in ("xaxis", "yaxis")]
    return [axis["title"]["text"] for axis in axes]


def test_seconds_are_those_of_the_trials(made):
    in_seconds = named(figures.loss(made, "seconds"), "trials")
    assert in_seconds["x"] == (0.5 * (1 + np.arange(160))).tolist()
    assert named(figures.loss(made), "trials")["x"] == (4 + 4 * np.arange(160)).tolist()
    assert titles(figures.loss(made, "seconds"))[0].endswith("(s)")
    [path] = figures.paths(made, "seconds").values()
    assert path["data"][0]["x"][-1] == 80
    with pytest.raises(errors.InputError, match="'hours'"):
        figures.loss(made, "hours")


def test_a_run_that_goes_on_has_no_fresh_lines(made):
    trials = {k: made.trials[k] for k in ("total", "stderr")}
    open_end = result(made.trials["u"], trials, gain=None)
    assert [t["name"] for t in figures.loss(open_end)["data"] if t.get("name")] == [
        "trials"
    ]
    assert "Dashed" not in figures.loss(open_end)["caption"]
    assert "Dashed" in figures.loss(made)["caption"]
    drawn = figures.compare({"a": open_end})
    assert [t.get("marker", {}).get("symbol") for t in drawn["data"]].count(
        "diamond"
    ) == 0


def test_nothing_to_draw():
    nothing = result(
        np.array([[0.5]]), {"total": np.array([np.inf]), "stderr": np.array([np.nan])}
    )
    nothing.trials["state"][:] = "failed"
    assert figures.loss(nothing) is None
    assert figures.terms(nothing) is None
    assert figures.pareto(nothing) is None
    assert figures.compare({"a": nothing}) is None


def test_the_front_has_errors_both_ways_and_keeps_constraints():
    u = cloud(1, 6, 1)
    terms = np.array([[1.0, 5], [2, 3], [3, 3], [0, 0], [3, 1], [9, 9]])
    columns = {
        **{"total": terms.sum(1), "stderr": np.ones(6)},
        **{"terms": terms, "terms_stderr": np.tile([0.1, 0.2], (6, 1))},
        **{"slack": np.array([[1.0]] * 3 + [[-1.0]] + [[1.0]] * 2)},
        "slack_stderr": np.zeros((6, 1)),
    }
    one = result(u, columns, terms=["image", "cost"], slack=["room"])
    figure = figures.pareto(one)
    best = named(figure, "beaten by none")
    assert list(zip(best["x"], best["y"])) == [(1, 5), (2, 3), (3, 1)]
    assert best["error_x"]["array"] == [0.1] * 3
    assert best["error_y"]["array"] == [0.2] * 3
    assert named(figure, "breaks a constraint")["x"] == [0]
    assert sorted(named(figure, "trials")["x"]) == [3, 9]
    assert titles(figure) == ["image", "cost"]
    assert titles(figures.pareto(one, "cost")) == ["cost", "image"]
    for pair_of in (("cost", "cost"), ("imag", "cost")):
        with pytest.raises(errors.InputError, match="image"):
            figures.pareto(one, *pair_of)


def test_fresh_measurements_stand_beside_the_front(toy_result):
    figure = figures.pareto(toy_result)
    fresh = toy_result.record["soft"]["terms"]
    for name in ("start", "best"):
        trace = named(figure, f"{name}, on fresh events")
        assert trace["x"][0] == pytest.approx(fresh["image"][name]["value"], rel=1e-5)
        assert trace["y"][0] == pytest.approx(fresh["time"][name]["value"], rel=1e-5)


def test_searches_are_compared_from_their_start(made):
    trials = {k: made.trials[k] for k in ("total", "stderr")}
    other = result(made.trials["u"], trials, best=[0.4] * 4)
    figure = figures.compare({"one": made, "two": other})
    for name in ("one", "two"):
        line = named(figure, name)
        assert (line["x"][0], line["y"][0]) == (0, 3)
        assert len(line["x"]) == figures.BINS + 1
        mean = np.average(line["y"][1:], weights=np.diff(line["x"]))
        assert mean == pytest.approx(made.trials["total"].mean(), rel=1e-4)
    diamonds = [t for t in figure["data"] if "error_y" in t]
    assert [t["y"] for t in diamonds] == [[3], [3]]
    assert "different designs" not in figure["caption"]


def test_errors_of_means_know_shared_events():
    u, ones = cloud(1, 40, 1), np.ones(40)
    for sample, error in ((np.arange(40), 1.0), (np.arange(40) // 20, 1.0)):
        columns = {"total": ones, "stderr": ones, "sample": sample}
        figure = figures.compare({"a": result(u, columns, gain=None)})
        line, band = named(figure, "a"), figure["data"][0]
        assert len(line["x"]) == len(set(sample.tolist()))
        assert band["y"][0] - line["y"][0] == pytest.approx(error)


def test_different_instruments_are_not_compared(made, toy_result):
    with pytest.raises(errors.InputError, match="made, toy"):
        figures.compare({"a": made, "b": toy_result})


def test_profiles_have_units_and_errors(found):
    drawn = profiles(found)
    assert len(drawn) == 4
    for name, figure in drawn.items():
        json.dumps(figure, allow_nan=False)
        assert titles(figure) == [f"{name} (cm)", "loss above the lowest"]
        band, line = figure["data"][:2]
        assert band["fill"] == "toself"
        assert 0 < line["x"][0] < line["x"][-1] < 200  # 2 m, in cm
        assert min(line["y"]) == pytest.approx(0, abs=1e-9)
    assert "cm" in drawn["x[0]"]["caption"]


def test_a_map_of_the_loosest_pair(found):
    assert set(pair(found)) == {"x[3]", "x[1]"}
    figure = surface(found)
    json.dumps(figure, allow_nan=False)
    assert figure["data"][0]["type"] == "heatmap"
    levels = [t["contours"]["start"] for t in figure["data"] if t["type"] == "contour"]
    assert levels[:2] == pytest.approx([0.05, 0.2])
    assert titles(surface(found, "x[0]", "x[2]")) == ["x[0] (cm)", "x[2] (cm)"]


def test_directions_are_signed_parts(found):
    figure = directions(found)
    json.dumps(figure, allow_nan=False)
    [cells] = figure["data"]
    assert cells["x"] == [f"x[{i}]" for i in range(4)]
    assert [label[0] for label in cells["y"]] == ["4", "3", "2", "1"]
    np.testing.assert_allclose(np.linalg.norm(cells["z"], axis=1), 1, rtol=1e-4)
    assert (cells["zmin"], cells["zmax"]) == (-1, 1)


def test_without_a_surface_there_is_no_picture():
    u = cloud(2, 3, 1)
    nothing = landscape(result(u, {"total": np.ones(3), "stderr": np.ones(3)}))
    assert directions(nothing) is None
    assert profiles(nothing) == {}
    with pytest.raises(errors.InputError, match="No surface"):
        surface(nothing)
