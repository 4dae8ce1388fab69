"""The loss of neos: published value, derivative through the fit, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kythera import errors
from kythera.core.pipeline import Trace
from kythera.instruments import three_blobs
from kythera.instruments.three_blobs.problem import YIELDS, model
from kythera.physics.statistics.histfactory import one_channel
from kythera.stages.objectives.limits import ExpectedInference

# The blobs projected on (y - x) / sqrt 2, between -1.5, 0, 1.5: parts of each sample.
PARTS = {
    "signal": [0.001782929375, 0.07686667415, 0.455532302505, 0.46581809397],
    "background": [0.465818093968, 0.455532302507, 0.076866674151, 0.001782929374],
    "up": [0.125805203287, 0.512357991797, 0.329935264384, 0.031901540532],
    "down": [0.013653300071, 0.226096761022, 0.546329919639, 0.213920019267],
}
TALLY = {name: jnp.array(rows) for name, rows in PARTS.items()}
GOAL = ExpectedInference(YIELDS, model, "log_cls", floor=1e-12)


def test_the_value_of_pyhf_and_the_derivative_through_the_fit(x64):
    tally = {name: jnp.array(rows) for name, rows in PARTS.items()}
    steps = jax.tree.map(lambda v: v * jnp.array([0.3, -0.1, 0.2, -0.4]), tally)

    @jax.jit
    def moved(size):
        rows = jax.tree.map(lambda v, s: v + size * s, tally, steps)
        return GOAL.score(None, rows).loss["log_cls"]

    both = jax.jit(jax.value_and_grad(moved))
    value, slope = both(0.0)
    assert jnp.exp(value) == pytest.approx(3.0828e-06, abs=1e-10)
    difference = (both(1e-4)[0] - both(-1e-4)[0]) / 2e-4
    assert slope == pytest.approx(float(difference), rel=1e-6)
    assert abs(slope) > 0.1


def counting(form):
    """Two bins that expect 200 of signal and 100 of background each."""
    yields = {"signal": 400.0, "background": 200.0}
    goal = ExpectedInference(
        yields, lambda c: one_channel(c["signal"], c["background"]), form, floor=1e-6
    )
    halves = {name: jnp.array([0.5, 0.5]) for name in yields}
    return jax.value_and_grad(lambda rows: goal.score(None, rows).loss[form]), halves


@pytest.mark.parametrize("form", ["log_cls", "log_p0"])
def test_strong_signals_keep_value_and_slope_in_float32(form):
    """Against q = 2 (m - n + n log(n/m)) in each bin by hand, and tails of float64."""
    s, b = 200.0, 100.0
    if form == "log_cls":
        q = 4 * (s - b * np.log(1 + s / b))
        of_s = 2 * (1 - b / (s + b))
    else:
        q = 4 * ((s + b) * np.log(1 + s / b) - s)
        of_s = 2 * np.log(1 + s / b)
    z = np.sqrt(q)
    want = stats.norm.logsf(z) + np.log(2) * (form == "log_cls")
    assert want < np.log(np.finfo(np.float32).tiny)
    hazard = np.exp(stats.norm.logpdf(z) - stats.norm.logsf(z))
    call, halves = counting(form)
    for f in (call, jax.jit(call)):
        value, slopes = f(halves)
        assert value == pytest.approx(want, rel=1e-5)
        slope = -hazard * of_s / (2 * z) * 400
        np.testing.assert_allclose(slopes["signal"], slope, rtol=1e-3)


@pytest.mark.slow
def test_other_forms(x64):
    """p0 and sigma of pyhf for the same templates; the first is pyhf's, too."""
    tally = {name: jnp.array(rows) for name, rows in PARTS.items()}
    for form, want, digits in (("p0", 0.00620454, 1e-8), ("sigma", 0.462159, 1e-6)):
        goal = ExpectedInference(YIELDS, model, form, floor=1e-12)
        value = jax.jit(lambda t, g=goal: g.score(None, t))(tally).loss[form]
        assert value == pytest.approx(want, abs=digits)


def test_negative_counts_are_an_error():
    tally = TALLY | {"up": jnp.array([0.5, -0.2, 0.3, 0.4])}
    with pytest.raises(errors.InputError, match="bins 1 of 'up' expect"):
        GOAL.score(None, tally)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ExpectedInference(YIELDS, model, "logcls"), "Did you mean 'log_cls'"),
        (lambda: ExpectedInference({"signal": 0.0}, model), "'signal' is 0.0"),
        (lambda: ExpectedInference(YIELDS, model, floor=-1.0), "'floor' is -1.0"),
        (
            lambda: GOAL.tally(None, Trace(None, None, None, {"signal": np.ones(2)})),
            "Name them alike",
        ),
        (lambda: three_blobs.problem(bins=1), "`bins` .* >= 2, but is 1"),
        (lambda: three_blobs.problem(bins=2.5), "`bins` .* >= 2, but is 2.5"),
        (lambda: three_blobs.problem(units=0), "`units` .* >= 1, but is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()
