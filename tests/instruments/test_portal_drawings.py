"""Pictures of the portal: one scale of colours, units on the axes, what is built."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from kythera.instruments import muon_portal
from kythera.instruments.muon_portal import drawings
from kythera.instruments.muon_portal.design import (
    Panels,
    Portal,
    Prices,
    WithinBudget,
)

SIDES = Panels([0.0], x=[1.7], span_1=1.0, span_2=2.0, facing="x")
DESIGNS = {
    "start": Portal(Panels([1.2, 1.4]), Panels([-1.2, -1.4])),
    "best": Portal(Panels([1.3, 1.5], present=[1.0, 0.0]), Panels([-1.3, -1.5]), SIDES),
}


@pytest.fixture(scope="module")
def problem():
    return muon_portal.problem(muons=10)


@pytest.fixture
def figures(problem, monkeypatch):
    """All of them, without the simulation: maps and statistics are made up."""
    shape = problem.pipeline.source.scene.grid.shape
    true = np.full(shape, 0.003)
    true[1, 2, 3] = 90.0

    def scan(pipeline, design, key):
        shift = 0.0 if design.sides is None else 1.0
        values = np.random.default_rng(1).normal(size=(drawings.BATCH, 2))
        return values + [0, 1 + shift], np.full(shape, 1.0 + shift), true

    monkeypatch.setattr(drawings, "_scan", scan)
    return drawings.draw(problem, DESIGNS, jax.random.key(1))


def _title(axis):
    return axis["title"]["text"]


def test_all_slices_share_one_scale_with_a_unit(figures):
    figure = figures["scattering_density"]
    maps = figure["data"]
    assert [a["text"] for a in figure["layout"]["annotations"]] == [
        "true",
        "seen by start",
        "seen by best",
    ]
    assert len({(m["zmin"], m["zmax"]) for m in maps}) == 1
    assert maps[0]["zmax"] == pytest.approx(np.log10(90), abs=1e-4)
    assert [m["showscale"] for m in maps] == [False, False, True]
    assert maps[-1]["colorbar"]["title"]["text"] == "1/X0 (1/m)"
    assert maps[0]["z"][1][3] == maps[0]["zmax"]
    assert {_title(figure["layout"][f"xaxis{n}"]) for n in ("", "2", "3")} == {"x (m)"}


def test_rates_of_errors_say_what_they_are(figures):
    figure = figures["false_negatives_against_false_positives"]
    assert _title(figure["layout"]["xaxis"]).startswith("false-positive rate")
    assert _title(figure["layout"]["yaxis"]).startswith("false-negative rate")
    lines = {t["name"]: t["y"] for t in figure["data"] if t.get("name")}
    assert sum(lines["best"]) < sum(lines["start"])


def test_three_dimensions_have_units_and_names(figures):
    figure = figures["panels_in_space"]
    scene = figure["layout"]["scene"]
    titles = [_title(scene[f"{axis}axis"]) for axis in "xyz"]
    assert titles == ["x (m)", "y (m)", "z (m)"]
    assert scene["aspectmode"] == "data"
    named = [t["name"] for t in figure["data"] if t["showlegend"]]
    assert named == ["volume", "start", "best"]


def test_only_what_is_built_is_drawn(figures):
    [best] = [t for t in figures["panels_in_space"]["data"] if t["name"] == "best"]
    heights = {z for z in best["z"] if z is not None}
    assert sorted(heights) == pytest.approx([-1.5, -1.3, -1.0, 1.0, 1.3])
    views = [t for t in figures["panels"]["data"] if t["name"] == "best"]
    assert [t["xaxis"] for t in views] == ["x", "x2"]
    across = {y for y in views[1]["x"] if y is not None}
    assert min(across) == -0.5
    assert max(x for x in views[0]["x"] if x is not None) == pytest.approx(1.7)


def test_cost_has_the_prices_and_the_limit_of_the_problem(problem, monkeypatch):
    monkeypatch.setattr(drawings, "_scan", lambda *_: (None, None, None))
    project = WithinBudget(Prices(area=2.0, panel=0.5), 30.0)
    space = dataclasses.replace(problem, space=_within(problem.space, project))
    figure = drawings.draw(space, DESIGNS, jax.random.key(1))["cost"]
    bars = {t["name"]: dict(zip(t["x"], t["y"], strict=True)) for t in figure["data"]}
    assert bars["best"] == pytest.approx(
        {
            "upper: area": 2.0,
            "upper: panels": 0.5,
            "lower: area": 4.0,
            "lower: panels": 1.0,
            "sides: area": 4.0,
            "sides: panels": 0.5,
        }
    )
    assert bars["start"]["sides: area"] == 0
    assert "The budget is 30 in all" in str(figure)


def _within(space, project):
    return type(space)(space.template, space.free, project)


def test_without_an_image_or_statistic_the_other_pictures_stay(problem, monkeypatch):
    monkeypatch.setattr(drawings, "_scan", lambda *_: (None, None, None))
    figures = drawings.draw(problem, DESIGNS, jax.random.key(1))
    assert list(figures) == ["panels", "panels_in_space", "cost"]


def _ranges(figure):
    layout = figure["layout"]
    axes = layout.get("scene", layout)
    return {k: v["range"] for k, v in axes.items() if "axis" in k and "range" in v}


def test_a_sketch_has_the_same_axes_for_every_design(problem):
    space = problem.space
    ends = [space.decode(np.full(space.size, u), hard=True) for u in (0.0, 0.4, 1.0)]
    drawn = [problem.sketch(design) for design in ends]
    json.dumps(drawn, allow_nan=False)
    for name in ("panels", "panels_in_space"):
        ranges = [_ranges(figures[name]) for figures in drawn]
        assert ranges[0] == ranges[1] == ranges[2]
        assert len(ranges[0]) == (3 if "space" in name else 4)
        assert drawn[0][name]["data"] != drawn[1][name]["data"]


def test_a_sketch_cuts_no_panel(problem):
    """Also where the budget does not shrink the longest ones."""
    space = _within(problem.space, None)
    sketch = drawings.Sketch.of(space, problem.pipeline.simulator.grid)
    for u in (0.0, 1.0):
        solid = sketch(space.decode(np.full(space.size, u)))["panels_in_space"]
        ranges = _ranges(solid)
        for trace in solid["data"]:
            for axis in "xyz":
                low, high = ranges[f"{axis}axis"]
                assert all(low < v < high for v in trace[axis] if v is not None)


def test_a_sketch_is_quick_and_compiles_nothing_anew(problem):
    assert problem.sketch == muon_portal.problem(muons=10).sketch
    assert hash(problem.sketch) == hash(muon_portal.problem(muons=10).sketch)
    design = problem.design(problem.space.start)
    problem.sketch(design)
    began = time.process_time()
    for _ in range(10):
        problem.sketch(design)
    assert time.process_time() - began < 1  # 0.03 s alone


def test_a_sketch_draws_only_what_is_built(problem):
    [best] = [
        t
        for t in problem.sketch(DESIGNS["best"])["panels_in_space"]["data"]
        if t["name"] == "design"
    ]
    heights = {z for z in best["z"] if z is not None}
    assert sorted(heights) == pytest.approx([-1.5, -1.3, -1.0, 1.0, 1.3])
