"""Errors of the fits are the spreads of what is fitted (pulls)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.compilation import jit
from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.reconstruction import (
    TrackFits,
    at_least_two,
    fit_lines,
)
from kythera.instruments.muon_portal.scan import Grid, Hits

GRID = Grid((6, 5, 5), (1.0, 1.0, 0.6))
UPPER, LOWER = (0.8, 0.7, 0.5, 0.4), (-0.4, -0.45, -0.7, -0.8)
SIGMA_UPPER = np.array([1e-3, 5e-4, 1e-3, 2e-3])
SIGMA_LOWER = np.array([5e-4, 1e-3, 1e-3, 5e-4])
N = 20_000
PORTAL = Portal(
    Panels(UPPER, resolution=SIGMA_UPPER), Panels(LOWER, resolution=SIGMA_LOWER)
)
pytestmark = pytest.mark.usefixtures("x64")


def points(rng, heights, sigmas, start, slope, z_0) -> np.ndarray:
    """Smeared points (xyz, panel, muon) of lines through `start` (2, n) at height z_0."""
    z = np.array(heights)[:, None] + np.zeros(N)
    across = start[:, None] + slope[:, None] * (z - z_0)
    across = across + sigmas[:, None] * rng.normal(size=across.shape)
    return np.concatenate([across, z[None]])


def kinked(slope, kick, z_kick=0.1, seed=0, scale=1.0):
    """Hits of lines with one kick of (kick_x, kick_y) in slope, and where it was.

    Errors are `scale` times those of the panels.
    """
    rng = np.random.default_rng(seed)
    place = rng.uniform(-0.3, 0.3, (2, N))
    slope = np.array(slope)[:, None] + np.zeros((2, N))
    above = points(rng, UPPER, scale * SIGMA_UPPER, place, slope, z_kick)
    bent = slope + np.array(kick)[:, None]
    below = points(rng, LOWER, scale * SIGMA_LOWER, place, bent, z_kick)
    both = jnp.asarray(np.stack([above, below], 1))[None, None]
    z = both[:, :, 2]
    return Hits(both[:, :, :2], z, jnp.ones_like(z), jnp.full((1, 1, N), 3.0)), place


def fit(hits: Hits):
    return jit(lambda h: TrackFits(GRID)(PORTAL, h, key=jax.random.key(0)))(hits)


def assert_pull(pull, n=N, mean=0.0, width=1.0):
    """Mean and width of a normal sample, within four standard errors."""
    assert np.mean(pull) == pytest.approx(mean, abs=4 / np.sqrt(n))
    assert np.std(pull) == pytest.approx(width, abs=4 / np.sqrt(2 * n))


@pytest.mark.parametrize("z", [0.45, -0.3])
def test_pulls_of_lines(z):
    hits, place = kinked((0.5, -0.2), (0.0, 0.0))
    track = fit_lines(hits, PORTAL.arms)
    slope = np.array([[0.5], [-0.2]])
    true = place + slope * (z - 0.1)
    for arm in (0, 1):
        slopes = track.slope[0, 0, :, arm] - slope
        errors = np.sqrt(track.slope_variance[0, 0, :, arm])
        places = track.at(z)[0, 0, :, arm] - true
        place_errors = np.sqrt(track.variance_at(z)[0, 0, :, arm])
        for axis in (0, 1):
            assert_pull(slopes[axis] / errors[0])
            assert_pull(places[axis] / place_errors[0])


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.6, 0.0), (0.0, -0.6)])
def test_pulls_of_deflection_and_displacement(slope):
    found = fit(kinked(slope, (0.0, 0.0))[0])
    pulls = {}
    for axis in (0, 1):
        for name in ("angle", "shift"):
            value = np.asarray(getattr(found, name))[0, 0, axis]
            variance = np.asarray(getattr(found, f"{name}_variance"))[0, 0, axis]
            pulls[name] = value / np.sqrt(variance)
            assert_pull(pulls[name])
        variances = found.angle_variance * found.shift_variance
        expected = (found.covariance / np.sqrt(variances))[0, 0, axis, 0]
        correlation = np.corrcoef(pulls["angle"], pulls["shift"])[0, 1]
        assert correlation == pytest.approx(expected, abs=4 / np.sqrt(N))


def test_covariance_between_projections_is_left_out_at_45_degrees():
    # inclined along the diagonal, the two transverse components correlate; each one's
    # own error is right
    found = fit(kinked((0.5, 0.5), (0.0, 0.0))[0])
    pulls = np.asarray(found.angle / found.angle_variance**0.5)[0, 0]
    for pull in pulls:
        assert_pull(pull)
    correlation = np.corrcoef(*pulls)[0, 1]
    assert -0.5 < correlation < -0.1  # what `Scatters` does not keep


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.5, 0.0), (0.3, -0.4)])
@pytest.mark.parametrize("kick", [(0.2, 0.0), (0.15, 0.15)])
def test_point_of_a_single_kick_is_found(slope, kick):
    # kicks of 50 errors: the quoted error falls with the measured deflection, which moves
    # the mean pull, not the mean point
    hits, place = kinked(slope, kick)
    found = fit(hits)
    true = np.concatenate([place, np.full((1, N), 0.1)])
    pulls = np.asarray(found.point - true)[0, 0]
    pulls = pulls / np.sqrt(np.asarray(found.point_variance))[0, 0]
    for pull in pulls:
        assert np.mean(pull) == pytest.approx(0, abs=0.05)
        assert np.std(pull) == pytest.approx(1, abs=4 / np.sqrt(2 * N))


def test_height_is_unbiased_to_second_order():
    # d.e / e^2 at d, e along one axis: the second derivatives in both axes cancel
    for scale in (1.0, 4.0):
        hits, _ = kinked((0.0, 0.0), (0.2, 0.0), scale=scale)
        shift = np.asarray(fit(hits).point)[0, 0, 2] - 0.1
        assert np.mean(shift) == pytest.approx(0, abs=4 * np.std(shift) / np.sqrt(N))


def test_mean_pull_is_in_proportion_to_the_errors():
    means = []
    for scale in (4.0, 1.0):
        hits, _ = kinked((0.5, 0.0), (0.2, 0.0), scale=scale)
        found = fit(hits)
        shift = np.asarray(found.point)[0, 0, 2] - 0.1
        error = scale * np.sqrt(np.asarray(found.point_variance)[0, 0, 2])
        means.append(np.mean(shift / error))
    assert means[0] == pytest.approx(0.12, abs=4 / np.sqrt(N))
    assert means[1] == pytest.approx(0.03, abs=4 / np.sqrt(N))


def test_angle_is_in_the_direction_of_travel():
    found = fit(kinked((0.0, 0.0), (-0.02, 0.01))[0])
    # dx/dz falls by 0.02: going down, the muon turns to +x
    assert np.mean(found.angle[0, 0, 0]) == pytest.approx(0.02, rel=0.01)
    assert np.mean(found.angle[0, 0, 1]) == pytest.approx(-0.01, rel=0.02)
    # at the lower face, 0.4 below the kick
    assert np.mean(found.shift[0, 0, 0]) == pytest.approx(0.4 * 0.02, rel=0.01)


def test_unseen_muons_have_weight_zero_and_finite_numbers():
    hits, _ = kinked((0.0, 0.0), (0.01, 0.0))
    hits = eqx.tree_at(lambda h: h.weight, hits, hits.weight.at[:, :, 0].set(0.0))
    found = fit(hits)
    assert np.all(found.weight == 0)
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))
    assert np.all(at_least_two(hits.weight)[:, :, 1] == 1)
