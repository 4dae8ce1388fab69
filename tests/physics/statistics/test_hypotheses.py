"""Limits and discoveries against pyhf, the notes of neos, and finite differences."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.physics.statistics import hypotheses
from kythera.physics.statistics.histfactory import one_channel
from kythera.physics.statistics.workspace import read

from . import workspaces

limit_of = eqx.filter_jit(hypotheses.upper_limit)
discovery_of = eqx.filter_jit(hypotheses.discovery)

# Two Gaussian blobs on a line between edges -1.5, 0, 1.5, exactly; the background's
# template moves (three blobs of neos).
SIGNAL = [0.0356585875, 1.537333483, 9.1106460501, 9.3163618794]
BACKGROUND = [46.5818093968, 45.5532302507, 7.6866674151, 0.1782929374]
UP = [12.5805203287, 51.2357991797, 32.9935264384, 3.1901540532]
DOWN = [1.3653300071, 22.6096761022, 54.6329919639, 21.3920019267]


def two_bins(data):
    return read(workspaces.uncorrelated([12, 11], [50, 52], [3, 7], data))


def blobs():
    moved = {"lo_data": DOWN, "hi_data": UP}
    samples = [
        workspaces.sample(
            "background",
            BACKGROUND,
            {"name": "corr", "type": "histosys", "data": moved},
        ),
        workspaces.sample(
            "signal", SIGNAL, {"name": "mu", "type": "normfactor", "data": None}
        ),
    ]
    return read(workspaces.workspace({"blobs": samples}, {"blobs": BACKGROUND}))


def pyhf_limit(spec):
    """CLs and band of pyhf."""
    from pyhf import infer

    model, data = workspaces.oracle(spec)
    cls, band = infer.hypotest(1.0, data, model, return_expected_set=True)
    return float(cls), np.asarray(band, float)


def test_the_example_of_pyhf(x64):
    """Its documented values, and those of its minimiser told to be exact."""
    model = two_bins([51, 48])
    found = limit_of(model, model.data)
    documented = [0.00260626, 0.01382005, 0.06445319, 0.23525641, 0.57303617]
    assert found.cls == pytest.approx(0.05251497050134021, abs=1e-6)
    np.testing.assert_allclose(found.expected, documented, atol=6e-6)
    cls, band = pyhf_limit(
        workspaces.uncorrelated([12, 11], [50, 52], [3, 7], [51, 48])
    )
    assert found.cls == pytest.approx(cls, abs=1e-8)
    np.testing.assert_allclose(found.expected, band, atol=1e-7)
    assert found.clsb == pytest.approx(float(found.cls * found.clb))
    assert found.estimate[0] == 0  # fewer counts than the background's


@pytest.mark.slow
def test_discovery_in_the_example_of_pyhf(x64):
    model = two_bins([65, 60])
    found = discovery_of(model, model.data)
    assert found.p0 == pytest.approx(0.0252236039598, abs=1e-8)
    want = [1.0639295, 1.0056065, 0.9691227]
    np.testing.assert_allclose(found.estimate, want, atol=3e-5)
    assert discovery_of(model, two_bins([40, 40]).data).p0 == pytest.approx(0.5)


@eqx.filter_jit
def expectations(model):
    return (
        hypotheses.expected_limit(model),
        hypotheses.expected_discovery(model),
        hypotheses.expected_error(model),
        hypotheses.fit(model, model.expected(model.start.at[model.poi].set(0)), 1.0),
    )


@pytest.mark.slow
def test_three_blobs(x64):
    """Asimov data: CLs, the profiled nuisance, Z, and sigma(mu) from the Hessian."""
    cls, z, sigma, profiled = expectations(blobs())
    assert cls == pytest.approx(3.0828e-06, abs=1e-10)
    assert 2 * profiled.value == pytest.approx(21.7643439492, abs=1e-6)
    assert profiled.parameters[0] == pytest.approx(0.1206880668, abs=1e-6)
    assert z == pytest.approx(2.50029, abs=1e-5)
    assert sigma == pytest.approx(0.462122, abs=1e-4)  # a Hessian by differences
    slopes = (np.array(UP) - DOWN) / 2, np.array(SIGNAL)
    n = np.array(SIGNAL) + BACKGROUND
    by_hand = [[np.sum(a * b / n) for a in slopes] for b in slopes] + np.diag([1.0, 0])
    assert sigma == pytest.approx(np.sqrt(np.linalg.inv(by_hand)[1, 1]), abs=1e-9)


@pytest.mark.slow
def test_limits_are_differentiable_in_the_yields(x64):
    """Fits to the data, Asimov data from a fit, and the band: all of it."""
    model = two_bins([51, 48])

    def scores(nominal):
        moved = eqx.tree_at(lambda m: m.nominal, model, nominal)
        found = hypotheses.upper_limit(moved, moved.data.at[:2].set(model.observed))
        return jnp.stack([found.cls, found.expected[3], found.profiled[1]])

    step = jnp.array([[0.3, -1.0], [1.0, 0.5]])
    both = jax.jit(lambda n: jax.jvp(scores, (n,), (step,)))
    values, along = both(model.nominal)
    up, down = (both(model.nominal + s * 1e-4 * step)[0] for s in (1, -1))
    np.testing.assert_allclose(along, (up - down) / 2e-4, rtol=1e-5)
    assert (jnp.abs(along) > 1e-3).all()
    assert values[0] == pytest.approx(0.0525155, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_workspaces(x64, seed):
    """All modifiers, shared parameters, fixed ones, several channels."""
    workspace = workspaces.random(seed)
    model = read(workspace)
    found = limit_of(model, model.data)
    cls, band = pyhf_limit(workspace)
    assert found.cls == pytest.approx(cls, abs=1e-6)
    np.testing.assert_allclose(found.expected, band, atol=1e-6)


def test_what_cannot_be_tested(x64):
    model = blobs()
    with pytest.raises(errors.InputError, match="mu > 0, but it is 0.0. Use `disc"):
        hypotheses.upper_limit(model, model.data, 0.0)
    none = dataclasses.replace(model, poi=None)
    with pytest.raises(errors.UnsupportedError, match="parameter of interest"):
        hypotheses.discovery(none, none.data)


COUNT = one_channel([5.0], [40.0])
BARE = one_channel([5.0, 1.0], [40.0, 0.0])
SHIFTED = one_channel([5.0, 4.0], [40.0, 9.0], {"a": ([38.0, 9.0], [41.0, 9.5])})


def test_a_limit_of_float32_that_underflows():
    """Far fewer counts than the background's: CLs+b and CLb are 1e-80, CLs is not."""
    model = one_channel([1.0], [1000.0])
    found = hypotheses.upper_limit(model, [400.0], 1.0)
    assert found.clb == 0
    assert found.cls == pytest.approx(0.5478, abs=2e-4)  # 0.5478 in float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: hypotheses.expected_limit(COUNT, 0.0),
            "expected for one .* it is 0.0",
        ),
        (lambda: hypotheses.expected_limit(COUNT, [1.0, 2.0]), "one signal strength"),
        (lambda: hypotheses.expected_discovery(COUNT, -1.0), "mu > 0, but it is -1.0"),
        (
            lambda: jax.grad(lambda mu: hypotheses.expected_limit(COUNT, mu))(-1.0),
            "mu > 0, but it is -1.0",
        ),
        (lambda: hypotheses.fit(COUNT, [40.0], [1.0, 2.0]), "held at one value"),
        (
            lambda: hypotheses.upper_limit(SHIFTED, SHIFTED.observed),
            r"3 numbers \(2 counts, 1 auxiliary\), but their shape is \(2,\)",
        ),
        (lambda: hypotheses.fit(SHIFTED, jnp.ones(4)), "`model.data` has both"),
        (lambda: hypotheses.discovery(COUNT, "40"), "Data must be real numbers"),
        (lambda: hypotheses.fit(COUNT, [-3.0]), r"entries 0 are \[-3.\]"),
        (lambda: hypotheses.fit(COUNT, [np.nan]), "finite"),
        (lambda: hypotheses.expected_discovery(BARE), "no counts in bins 1. Give its"),
        (lambda: hypotheses.discovery(BARE, [41.0, 2.0]), "impossible.*bins 1"),
        (lambda: hypotheses.upper_limit(BARE, [41.0, 2.0]), "impossible.*bins 1"),
    ],
)
def test_strengths_and_data_that_cannot_be(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()


def test_what_cannot_be_raised_is_nan():
    """Under `jit`: a strength below zero, data that cannot be, a background of nothing."""
    assert np.isnan(jax.jit(hypotheses.expected_limit)(COUNT, -1.0))
    assert np.isnan(jax.jit(hypotheses.expected_discovery)(COUNT, 0.0))
    assert np.isnan(jax.jit(hypotheses.expected_discovery)(BARE))
    for data in ([-3.0], [np.inf]):
        assert np.isnan(limit_of(COUNT, jnp.array(data), 1.0).cls)
        assert np.isnan(discovery_of(COUNT, jnp.array(data)).p0)
    assert np.isnan(discovery_of(BARE, jnp.array([41.0, 2.0])).significance)
    assert np.isfinite(limit_of(COUNT, COUNT.data, 1.0).cls)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1.0], [3.0]), r"`signal` has \[-1.\] in bins 0"),
        (([1.0], [np.nan]), "`background` has"),
        (
            ([1.0], [3.0, 4.0]),
            r"\(2,\), as the background has, but `signal` has \(1,\)",
        ),
        ((1.0, 3.0), r"shape \(bin,\)"),
        (([], []), r"shape \(bin,\)"),
        ((["s"], [3.0]), "`signal` must be real numbers"),
        (([1.0], [3.0], {"a": ([2.0, 3.0], [4.0])}), "the shift 'a' has"),
        (([1.0], [3.0], {"a": [2.0]}), "pair of templates"),
        (([1.0], [3.0], {"mu": ([2.0], [4.0])}), "Rename the shift"),
        (([1.0], [3.0], None, [3.0, 4.0]), "`observed` has"),
    ],
)
def test_templates_that_make_no_model(arguments, message):
    with pytest.raises(errors.InputError, match=message):
        one_channel(*arguments)
