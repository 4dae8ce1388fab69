"""Expected uncertainties: closed forms, bins and matrices that tell nothing, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.objective import Tangents
from kythera.core.pipeline import Trace
from kythera.stages.objectives.uncertainty import ExpectedUncertainty

YIELDS = {"signal": 50.0, "background": 1000.0}
ROWS = {"signal": jnp.array([0.2, 0.8]), "background": jnp.array([0.9, 0.1])}
SLOPES = {"signal": jnp.zeros((1, 2)), "background": jnp.array([[0.05, -0.05]])}


def _sigma(objective, tally):
    return float(objective.score(None, tally).loss["sigma"])


def test_one_bin_is_poisson_counting():
    rows = {"signal": jnp.array([1.0]), "background": jnp.array([1.0])}
    counting = ExpectedUncertainty(YIELDS, "signal", form="sigma")
    assert _sigma(counting, rows) == pytest.approx(math.sqrt(1050), rel=1e-4)
    # a background known to 100: the errors add in quadrature
    known = ExpectedUncertainty(YIELDS, "signal", {"background": 100.0}, form="sigma")
    assert _sigma(known, rows) == pytest.approx(math.sqrt(1050 + 1e4), rel=1e-4)


def test_the_matrix_is_that_of_numpy():
    tally = Tangents(ROWS, SLOPES)
    full = ExpectedUncertainty(
        YIELDS, "signal", {"background": 100.0}, {"shift": 0.4}, form="variance"
    )
    n = np.array([50 * 0.2 + 900, 50 * 0.8 + 100])
    J = np.array([[0.2, 0.8], [0.9, 0.1], [50, -50]])
    matrix = (J / n) @ J.T + np.diag([0, 1e-4, 1 / 0.16])
    np.testing.assert_allclose(full.information(tally), matrix, rtol=1e-5)
    variance = np.linalg.inv(matrix)[0, 0]
    assert float(full.score(None, tally).loss["variance"]) == pytest.approx(
        variance, rel=1e-3
    )
    logarithm = ExpectedUncertainty(
        YIELDS, "signal", {"background": 100.0}, {"shift": 0.4}
    )
    found = float(logarithm.score(None, tally).loss["log_sigma"])
    assert found == pytest.approx(math.log(variance) / 2, abs=1e-3)
    # and the nuisance parameter itself may be what is measured
    shift = ExpectedUncertainty(YIELDS, "shift", shifts={"shift": 0.4}, form="sigma")
    alone = 1 / math.sqrt(2500 / n[0] + 2500 / n[1] + 1 / 0.16)
    assert _sigma(shift, tally) == pytest.approx(alone, rel=1e-4)


def test_the_order_of_parameters_is_the_same_inside():
    objective = ExpectedUncertainty(
        YIELDS, "signal", shifts={"shift": 0.4, "rate": 1.0}
    )
    again = jax.tree.map(lambda v: v, objective)  # what `jit` does to an argument
    assert list(objective.nuisances()) == list(again.nuisances()) == ["rate", "shift"]


def test_empty_bins_tell_nothing_and_have_finite_slopes():
    wider = {k: jnp.concatenate([v, jnp.zeros(1)]) for k, v in ROWS.items()}
    objective = ExpectedUncertainty(YIELDS, "signal", form="sigma")
    assert _sigma(objective, wider) == pytest.approx(_sigma(objective, ROWS), rel=1e-6)
    slopes = jax.jit(jax.grad(lambda t: objective.score(None, t).loss["sigma"]))(wider)
    assert all(np.all(np.isfinite(v)) for v in slopes.values())


def test_negative_counts_are_refused_and_finite_inside():
    negative = ROWS | {"background": jnp.array([0.9, -0.1])}
    objective = ExpectedUncertainty(YIELDS, "signal", form="sigma")
    with pytest.raises(errors.InputError, match=r"bins 1 expect \[-60.*weights"):
        objective.score(None, negative)
    inside = jax.jit(lambda t: objective.score(None, t).loss["sigma"])(negative)
    alone = math.sqrt(910) / 0.2  # what the other bin tells
    assert float(inside) == pytest.approx(alone, rel=1e-3)


def test_a_singular_matrix_is_refused_and_finite_inside():
    same = ROWS | {"background": ROWS["signal"]}
    free = ExpectedUncertainty(YIELDS, "signal", {"background": math.inf}, form="sigma")
    with pytest.raises(errors.InputError, match="nothing is known.*signal.*background"):
        free.score(None, same)

    def inside(tally):
        return free.score(None, tally).loss["sigma"]

    value, slopes = jax.jit(jax.value_and_grad(inside))(same)
    assert 100 * math.sqrt(1050) < float(value) < math.inf
    assert all(np.all(np.isfinite(v)) for v in slopes.values())
    nothing = {k: jnp.zeros(2) for k in YIELDS}
    assert np.isfinite(jax.jit(inside)(nothing))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ExpectedUncertainty(YIELDS, "signl"), "'signl'.*'signal'"),
        (lambda: ExpectedUncertainty(YIELDS, "signal", form="std"), "'std'.*'sigma'"),
        (
            lambda: ExpectedUncertainty(YIELDS, "signal", {"b": 1.0}),
            "'b'.*'background'",
        ),
        (
            lambda: ExpectedUncertainty(YIELDS, "signal", shifts={"r": 0.0}),
            "`shifts` has 0.0 for 'r'",
        ),
        (lambda: ExpectedUncertainty({"signal": -1.0}, "signal"), "`yields` has -1"),
        (lambda: ExpectedUncertainty(YIELDS, "signal", steps={"r": 1.0}), "'r'.*none"),
        (
            lambda: ExpectedUncertainty(YIELDS, "signal").tally(
                None, Trace(None, None, None, {"signal": jnp.ones((3, 2))})
            ),
            r"\['background'\] are not among \['signal'\]",
        ),
    ],
)
def test_bad_input_is_refused(make, match):
    with pytest.raises(errors.InputError, match=match):
        make()
