"""Straight tracks: textbook errors, two fits of one model, simulated scatters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.physics.scattering import layer_variances
from kythera.stages.reconstruction.linear_track import least_squares, smooth
from kythera.stages.reconstruction.lines import LineHits, LineTracks, line_hits

Z = np.array([0, 0.1, 0.25, 0.6, 0.7, 1.0])
SIGMA = np.array([1, 1, 2, 1, 1, 1]) * 1e-4
THICKNESS = np.full(6, 0.01)


def variances(thickness, momentum=0.5):
    return layer_variances(jnp.asarray(thickness), momentum)


@jax.jit
def fits(across, z, precision, variances):
    """Both fits of many tracks that share their planes."""

    def both(across, precision):
        hits = line_hits(across, z, precision, variances)
        return smooth(hits), least_squares(hits)

    return jax.vmap(both)(across, precision)


def tracks(count, seed=1):
    """Lines that every plane turns, and their measured points."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(count, 2)) * [0.1, 0.05]
    place, slope = truth.T.copy()
    turn = np.sqrt(np.asarray(variances(THICKNESS)))
    points, way = [], np.diff(Z, prepend=0)
    for step, sigma, width in zip(way, SIGMA, turn, strict=True):
        place = place + step * slope
        points.append(place + sigma * rng.normal(size=count))
        last = slope
        slope = slope + width * rng.normal(size=count)
    return truth, np.stack([place, last], -1), np.stack(points, -1)


COUNT = 2000


@pytest.fixture
def measured(x64):
    truth, end, points = tracks(COUNT)
    rng = np.random.default_rng(2)
    weight = np.where(rng.random(points.shape) < 0.9, 1.0, 0.0)
    return truth, end, points, weight / SIGMA**2


def test_pulls_have_unit_width_and_both_fits_agree(measured):
    truth, end, points, precision = measured
    one, other = fits(points, Z, precision, variances(THICKNESS))
    assert np.all(one.found)
    scale = np.sqrt(np.diagonal(other.covariance[:, 0], axis1=1, axis2=2))
    difference = (one.parameters[:, 0] - other.parameters[:, 0]) / scale
    np.testing.assert_allclose(difference, 0, atol=1e-7)
    np.testing.assert_allclose(
        one.covariance[:, 0], other.covariance[:, 0], rtol=1e-10, atol=1e-18
    )
    np.testing.assert_allclose(one.chi2, other.chi2, rtol=1e-6, atol=1e-6)
    # where it starts, and, smoothed, where it ends: the line behind z = 0 at the last plane
    last = np.array(one.parameters[:, -1])
    last[:, 0] += Z[-1] * last[:, 1]
    turned = np.array([[1, Z[-1]], [0, 1]])
    covariance = turned @ np.asarray(one.covariance[:, -1]) @ turned.T
    for found, want, errors in (
        (one.parameters[:, 0], truth, one.covariance[:, 0]),
        (last, end, covariance),
    ):
        pull = (found - want) / np.sqrt(np.diagonal(errors, axis1=1, axis2=2))
        np.testing.assert_allclose(np.std(pull, 0), 1, atol=4 / np.sqrt(2 * COUNT))
        np.testing.assert_allclose(np.mean(pull, 0), 0, atol=4 / np.sqrt(COUNT))
    ratio = np.sum(one.chi2) / np.sum(one.freedom)
    assert ratio == pytest.approx(1, abs=4 * np.sqrt(2 / np.sum(one.freedom)))


def test_without_material_it_is_the_textbooks_line(measured):
    _, _, points, precision = measured
    one, _ = fits(points, Z, precision, np.zeros(6))
    w = precision[0]
    mean = np.sum(w * Z) / np.sum(w)
    square = np.sum(w * (Z - mean) ** 2)
    cov = one.covariance[0, 0]
    assert cov[1, 1] == pytest.approx(1 / square, rel=1e-10)
    assert cov[0, 0] == pytest.approx(1 / np.sum(w) + mean**2 / square, rel=1e-10)
    slope, place = np.polyfit(Z, points[0], 1, w=np.sqrt(w))
    np.testing.assert_allclose(one.parameters[0, 0], [place, slope], rtol=1e-8)


def test_hits_that_determine_nothing(measured):
    _, _, points, _ = measured
    precision = np.zeros((COUNT, 6))
    precision[1, 2] = precision[2, [1, 4]] = 1e8  # none, one, two
    one, other = fits(points, Z, precision, variances(THICKNESS))
    for fit in (one, other):
        np.testing.assert_array_equal(fit.found[:3], [False, False, True])
        for value in (fit.parameters, fit.covariance, fit.chi2):
            assert np.all(np.isfinite(value))
            np.testing.assert_array_equal(value[:2], 0)
    assert one.chi2[2] == pytest.approx(0, abs=1e-6)


@jax.jit
def slope_error(z, sigma, thickness):
    hits = line_hits(jnp.zeros(6), z, 1 / sigma**2, variances(thickness))
    return jnp.log(smooth(hits).covariance[0, 1, 1])


def test_errors_can_be_differentiated_in_the_detector(x64):
    at = Z, SIGMA, THICKNESS
    for i, slope in enumerate(jax.jit(jax.grad(slope_error, (0, 1, 2)))(*at)):
        step = 1e-4 * np.where(at[i] > 0, at[i], 1)[1]
        up, down = [list(at) for _ in range(2)]
        up[i], down[i] = (at[i] + s * (np.arange(6) == 1) for s in (step, -step))
        want = (slope_error(*up) - slope_error(*down)) / (2 * step)
        assert slope[1] == pytest.approx(float(want), rel=1e-5)


def of_tracks(hits):
    """Values of the fits of straight tracks, and derivatives of all of them."""

    def total(hits):
        fit = LineTracks(lambda design, x: x)(None, hits, key=jax.random.key(1))
        rows = jnp.sum(fit.parameters) + 1e3 * jnp.sum(fit.covariance)
        return rows + jnp.sum(fit.chi2), fit

    return jax.value_and_grad(total, has_aux=True)(hits)


def of_all_hits(hits):
    """Likewise of the fit of all hits at once."""

    def total(hits):
        def event(across, weight):
            precision = weight / hits.resolution**2
            return least_squares(
                line_hits(across[0], hits.z, precision, variances(hits.thickness))
            )

        fit = jax.vmap(event)(hits.across, hits.weight)
        return jnp.sum(fit.parameters) + jnp.sum(fit.chi2), fit

    return jax.value_and_grad(total, has_aux=True)(hits)


@pytest.mark.parametrize("function", [of_tracks, of_all_hits])
def test_missing_hits_may_hold_anything(function):
    _, _, points = tracks(8)
    weight = np.ones((8, 6))
    weight[1:4, 2] = weight[2, 0] = weight[3, 5] = weight[4, 1:] = 0
    run = jax.jit(function)

    def fitted(junk):
        across = np.where(weight > 0, points, junk)[:, None]
        full = across, Z, SIGMA, weight, THICKNESS, np.full(8, 0.5)
        return run(LineHits(*(jnp.asarray(v, float) for v in full)))

    want = fitted(0.0)
    np.testing.assert_array_equal(want[0][1].found.reshape(8), np.arange(8) != 4)
    for junk in (np.nan, np.inf, -1e38):
        jax.tree.map(np.testing.assert_array_equal, fitted(junk), want)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(want))
    np.testing.assert_array_equal(want[1].weight[1:5][weight[1:5] == 0], 0)
