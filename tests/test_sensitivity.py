"""Which parameters matter: against the telescope's known gradient, and by differences."""

import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.instruments import telescope


@pytest.fixture(scope="module")
def found():
    import jax

    problem = telescope.problem(events=500)
    return ky.sensitivity(problem, key=jax.random.key(3), replicas=16)


def test_the_telescope_s_gradient(found):
    known = np.array([40, 20, -20, -40])  # reference.md; the range is 1 m
    assert np.all(np.abs(found.effect - known) < 5 * found.stderr)
    assert np.all(found.stderr > 0)
    assert set(found.order[:2]) == {0, 3}
    assert found.loss == pytest.approx(10, rel=0.1)
    assert (found.replicas, found.events) == (16, 16 * 500)


def test_the_table_is_ranked_and_cut(found):
    lines = found.table(rows=2).splitlines()
    assert [line.split()[0] for line in lines[1:3]] in (
        ["z[0]", "z[3]"],
        ["z[3]", "z[0]"],
    )
    assert lines[3] == "... and 2 more"
    assert "[0, 1]" in lines[1]


def test_differences_where_there_is_no_gradient(getkey):
    def loss(strong, weak, useless, seed):
        noise = np.random.default_rng(seed).normal()
        return 3 * strong - weak + noise * (1 + useless)

    unit = ky.Real(0, 2)
    problem = ky.from_function(
        loss, {"weak": unit, "useless": unit, "strong": unit}, events=20
    )
    found = ky.sensitivity(problem, key=getkey())
    assert found.names[found.order[0]] == "strong"
    effect = dict(zip(found.names, found.effect, strict=True))
    assert effect["strong"] == pytest.approx(6, rel=0.01)
    assert effect["weak"] == pytest.approx(-2, rel=0.01)
    rows = {line.split()[0]: line for line in found.table().splitlines()}
    weak = abs(effect["useless"]) < 2 * found.stderr[1]
    assert ("not significant" in rows["useless"]) == weak
    assert "not significant" not in rows["strong"]


def test_bad_input(getkey):
    problem = telescope.problem()
    with pytest.raises(errors.InputError, match="at least 2"):
        ky.sensitivity(problem, key=getkey(), replicas=1)
    with pytest.raises(errors.UnsupportedError, match="`Direct` gives none"):
        ky.sensitivity(problem, ky.Direct(), key=getkey())


def test_a_start_that_fails_is_said(getkey):
    problem = ky.from_function(lambda x: float("nan"), {"x": ky.Real(0, 1)})
    with pytest.raises(errors.SimulationError, match="8 of 8 replicas"):
        ky.sensitivity(problem, key=getkey())
