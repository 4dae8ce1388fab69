"""ky.plot: the report's figures as plotly's, of whatever a run is given as."""

import plotly.graph_objects as go
import pytest

import kythera as ky
from kythera import errors

from .surfaces import cloud, noisy, quadratic, result, rotated


class Study:
    """As much of one as a plot needs."""

    def __init__(self, result):
        self.found = result

    def result(self):
        return self.found

    def drawing(self, number):
        return {f"trial {number}": {"data": [], "layout": {}, "caption": ""}}


@pytest.fixture(scope="module")
def made():
    u = cloud(3, 80, 1)
    found, _ = noisy(quadratic(rotated([40, 10, 3])[0], [0.55] * 3), u, 2)
    return result(u, found, best=[0.5] * 3)


@pytest.fixture(params=["solution", "result", "folder", "study"])
def what(request, toy_solution, toy_result, tmp_path):
    if request.param == "solution":
        return toy_solution
    if request.param == "folder":
        return str(ky.save(toy_solution, tmp_path / "toy"))
    return Study(toy_result) if request.param == "study" else toy_result


def test_every_kind_of_run(what):
    for draw in (ky.plot.history, ky.plot.terms, ky.plot.slack, ky.plot.parameters):
        for axis in ("events", "seconds"):
            figure = draw(what, x=axis)
            assert isinstance(figure, go.Figure)
            assert len(figure.data) > 0
            assert figure.layout.xaxis.title.text
            assert figure.layout.yaxis.title.text
    assert isinstance(ky.plot.pareto(what), go.Figure)
    assert isinstance(ky.plot.drawing(what), go.Figure)


def test_a_caption_stays_with_its_figure(toy_result):
    figure = ky.plot.history(toy_result)
    assert "one standard error" in figure.layout.title.text
    assert figure.layout.margin.t > 34
    assert figure.layout.template.layout.paper_bgcolor == "#ffffff"


def test_the_group_that_moved_most_by_default(toy_result):
    assert ky.plot.parameters(toy_result, "panels").layout.yaxis.title.text == "panels"
    with pytest.raises(errors.InputError, match="Did you mean 'panels'"):
        ky.plot.parameters(toy_result, "panel")


def test_near_the_optimum(made):
    for figure in (
        ky.plot.profile(made, "x[0]"),
        ky.plot.profile(made, "x[0]", "x[1]"),
        ky.plot.profile(ky.landscape(made)),
        ky.plot.directions(made),
    ):
        assert isinstance(figure, go.Figure)
        assert len(figure.data) > 0
    with pytest.raises(errors.InputError, match="'x\\[7\\]'"):
        ky.plot.profile(made, "x[7]")


def test_engines_name_the_curves(toy_solution, toy_result, made):
    names = [t.name for t in ky.plot.compare([toy_solution, toy_result]).data if t.name]
    assert names == ["Evolution, Direct", "Evolution, Direct #2"]
    named = ky.plot.compare({"mine": made}, x="seconds")
    assert [t.name for t in named.data if t.name] == ["mine"]


def test_what_is_not_there_is_said(made):
    for draw in (ky.plot.terms, ky.plot.slack, ky.plot.pareto, ky.plot.drawing):
        with pytest.raises(errors.InputError, match="there is none"):
            draw(made)
    with pytest.raises(errors.InputError, match="there is none"):
        ky.plot.compare([])
    with pytest.raises(errors.InputError, match="'lay'"):
        ky.plot.drawing(made, "lay")
    with pytest.raises(errors.InputError, match="of type list"):
        ky.plot.history([])


def test_one_trial_is_drawn_of_a_study_or_a_solution(toy_solution, made):
    assert isinstance(ky.plot.drawing(Study(made), trial=7), go.Figure)
    with pytest.raises(errors.InputError, match="`sketch`"):
        ky.plot.drawing(toy_solution, trial=0)
    with pytest.raises(errors.InputError, match="`sketch`"):
        ky.plot.drawing(made, trial=0)


def test_a_sketch_of_a_solution_s_trial():
    import jax

    from kythera.instruments import telescope

    solution = ky.optimise(
        telescope.problem(events=50), ky.adam(0.05), max_trials=4, key=jax.random.key(1)
    )
    for number in (0, 3):
        figure = ky.plot.drawing(solution, "side", trial=number)
        expected = solution.trials[number].values
        assert list(figure.data[0].x) == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(errors.InputError, match="There is no trial 4"):
        ky.plot.drawing(solution, trial=4)


def test_it_loads_lazily():
    assert ky.plot.__name__ == "kythera.report.plot"
    assert "plot" in ky.__all__
