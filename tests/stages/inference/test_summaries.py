"""Soft summaries: reference vectors, their hard limits, their derivatives, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kythera import errors
from kythera.stages.inference import summaries
from kythera.stages.inference.summaries import Summary

X = jnp.array([0.05, 0.2, 0.22, 0.7, 0.95])
EDGES = jnp.linspace(0, 1, 5)
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2
HARD = [3, 0, 1, 1]
EVER_SOFTER = 1e-5  # of what float32 resolves


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # relaxed 0.4.0 and the formulas in NumPy
        (
            summaries.near_bins(X, CENTRES, 0.1),
            [1.71707473, 1.26601136, 0.93657079, 1.08034312],
        ),
        (
            summaries.near_bins(X, CENTRES, 0.01),
            [2.74167075, 0.25837103, 0.92414862, 1.0758096],
        ),
        (
            summaries.kde_bins(X, EDGES, 0.1),
            [1.94143603, 0.73221795, 0.69536741, 0.97590005],
        ),
        (
            summaries.kde_bins(X, EDGES, 0.02),
            [2.92077347, 0.07301687, 0.99379033, 1.0],
        ),
        (
            summaries.kde_bins(jnp.array([0.1, 0.2, 0.7]), jnp.array([0, 0.5, 1]), 0.1),
            [1.83996318, 0.97728154],
        ),
    ],
)
def test_histograms_are_those_of_other_codes(rows, expected):
    np.testing.assert_allclose(summaries.histogram(rows), expected, rtol=3e-6)


def test_cuts_are_those_of_another_code():
    x = jnp.array([0.1, 0.2, 0.7])
    soft = summaries.soft_cut(x, 0.3, 10)
    np.testing.assert_allclose(soft, [0.11920292, 0.26894142, 0.98201379], rtol=1e-6)
    assert summaries.hard_cut(x, 0.3).tolist() == [0, 0, 1]
    both = summaries.sigmoid_bins(x, jnp.array([-jnp.inf, 0.3, jnp.inf]), 10)
    np.testing.assert_allclose(both[:, 1], soft, rtol=1e-6)


def test_soft_forms_tend_to_the_hard_ones():
    logits = jnp.array([[1.0, 3.0, 2.0], [0.5, -1.0, 0.0]])
    pairs = [
        (summaries.softmax_bins(logits, 0.01), summaries.largest_bin(logits)),
        (summaries.near_bins(X, CENTRES, 1e-4), summaries.nearest_bin(X, CENTRES)),
        (summaries.kde_bins(X, EDGES, 1e-4), summaries.inside_bins(X, EDGES)),
        (summaries.sigmoid_bins(X, EDGES, 1e4), summaries.inside_bins(X, EDGES)),
        (summaries.soft_cut(X, 0.3, 1e4), summaries.hard_cut(X, 0.3)),
    ]
    for soft, hard in pairs:
        np.testing.assert_allclose(soft, hard, atol=EVER_SOFTER)


def test_hard_histogram_is_numpys():
    x = np.array([-0.1, 0.0, 0.25, 0.3, 1.0, 1.1])
    weights = np.arange(1.0, 7.0)
    hard = summaries.histogram(summaries.inside_bins(x, EDGES), weights)
    expected, _ = np.histogram(x, np.asarray(EDGES), weights=weights)
    np.testing.assert_array_equal(hard, expected)
    assert summaries.histogram(summaries.inside_bins(X, EDGES)).tolist() == HARD


def test_what_leaks_over_an_end_is_reflected():
    leaky = summaries.kde_bins(X, EDGES, 0.1)
    whole = summaries.kde_bins(X, EDGES, 0.1, reflect=True)
    np.testing.assert_allclose(jnp.sum(whole, 1), 1.0, rtol=1e-5)
    assert float(jnp.sum(leaky)) < 4.4
    # mirrored by hand at the lower end, and no end at infinity to be mirrored at
    half = jnp.array([0.0, 0.5, jnp.inf])
    found = summaries.kde_bins(X, half, 0.1, reflect=True)[0, 0]
    upper, lower = stats.norm.cdf((0.5 - 0.05) / 0.1), stats.norm.cdf(-0.05 / 0.1)
    image = stats.norm.cdf((0.5 + 0.05) / 0.1) - stats.norm.cdf(0.05 / 0.1)
    np.testing.assert_allclose(found, upper - lower + image, rtol=1e-6)
    slope = jax.grad(lambda x: summaries.kde_bins(x, half, 0.1, reflect=True)[0, 0])
    assert np.all(np.isfinite(slope(X)))


def test_derivatives_in_numbers_and_edges(x64):
    inner = np.array([0.3, 0.6])
    ends = [-np.inf, 0.0, 1.0, np.inf]

    def loss(x, edges):
        e = jnp.concatenate([jnp.array(ends[:2]), edges, jnp.array(ends[2:])])
        rows = summaries.kde_bins(x, e, 0.1) + summaries.sigmoid_bins(x, e, 20.0)
        return jnp.sum(summaries.histogram(rows) ** 2)

    x = np.asarray(X, float)
    slopes = jax.grad(loss, (0, 1))(jnp.asarray(x), jnp.asarray(inner))
    for k, (point, slope) in enumerate(zip((x, inner), slopes, strict=True)):
        for i in range(len(point)):
            step = np.zeros(len(point))
            step[i] = 1e-5
            up, down = ([x, inner], [x, inner])
            up[k], down[k] = point + step, point - step
            difference = (
                loss(*map(jnp.asarray, up)) - loss(*map(jnp.asarray, down))
            ) / 2e-5
            np.testing.assert_allclose(slope[i], difference, rtol=1e-6, atol=1e-8)


def test_straight_through_has_the_value_of_one_and_the_slope_of_the_other(getkey):
    stage = Summary(
        lambda d, x: summaries.kde_bins(x, EDGES, d),
        lambda d, x: summaries.inside_bins(x, EDGES),
    )

    def content(stage, x):
        return stage(0.1, x, key=getkey())[:, 1].sum()

    straight = Summary(stage.soft, stage.hard, "straight_through")
    np.testing.assert_allclose(content(straight, X), HARD[1], atol=1e-6)
    np.testing.assert_allclose(
        jax.grad(lambda x: content(straight, x))(X),
        jax.grad(lambda x: content(stage, x))(X),
    )
    assert content(stage.reported(), X) == HARD[1]
    assert not np.any(jax.grad(lambda x: content(stage.reported(), x))(X))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: summaries.softmax_bins(X[:, None], 0.0),
            "`temperature`.*> 0.*hard form",
        ),
        (lambda: summaries.near_bins(X, CENTRES, -1.0), "`temperature`.*-1.0"),
        (lambda: summaries.kde_bins(X, EDGES, 0.0), "`bandwidth`.*> 0"),
        (lambda: summaries.soft_cut(X, 0.3, -2.0), "`steepness`.*-2.0"),
        (lambda: summaries.kde_bins(X, EDGES[::-1], 0.1), "must increase.*Sort"),
        (lambda: summaries.inside_bins(X, EDGES[:1]), "two or more"),
        (lambda: Summary(lambda d, x: x, lambda d, x: x, "softt"), "'softt'.*'soft'"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(errors.InputError, match=match):
        call()
