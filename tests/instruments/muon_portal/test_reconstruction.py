"""Errors of the fits are the spreads of what is fitted (pulls)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.reconstruction import (
    TrackFits,
    at_least_two,
    fit_lines,
)
from kythera.instruments.muon_portal.scan import Grid, Hits, Points

GRID = Grid((6, 5, 5), (1.0, 1.0, 0.6))
UPPER, LOWER = (0.8, 0.7, 0.5, 0.4), (-0.4, -0.45, -0.7, -0.8)
SIGMA_UPPER = np.array([1e-3, 5e-4, 1e-3, 2e-3])
SIGMA_LOWER = np.array([5e-4, 1e-3, 1e-3, 5e-4])
N = 20_000
PORTAL = Portal(
    Panels(UPPER, resolution=SIGMA_UPPER), Panels(LOWER, resolution=SIGMA_LOWER)
)
pytestmark = pytest.mark.usefixtures("x64")


def points(rng, heights, sigmas, start, slope, z_0) -> Points:
    """Smeared points of lines through `start` (2, n) at the height z_0."""
    z = np.array(heights)[:, None]
    x, y = (
        a + b * (z - z_0) + sigmas[:, None] * rng.normal(size=(len(z), a.size))
        for a, b in zip(start, slope)
    )
    arrays = (x, y, np.broadcast_to(z, x.shape), np.ones_like(x))
    return Points(*(jnp.asarray(v)[None, None] for v in arrays))


def kinked(slope, kick, z_kick=0.1, seed=0):
    """Hits of lines with one kick of (kick_x, kick_y) in slope, and where it was."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-0.3, 0.3, (2, N))
    slope = np.array(slope)[:, None] + np.zeros((2, N))
    above = points(rng, UPPER, SIGMA_UPPER, place, slope, z_kick)
    bent = slope + np.array(kick)[:, None]
    below = points(rng, LOWER, SIGMA_LOWER, place, bent, z_kick)
    return Hits(above, below, jnp.full((1, 1, N), 3.0)), place


def fit(hits: Hits):
    return jax.jit(lambda h: TrackFits(GRID)(PORTAL, h, key=jax.random.key(0)))(hits)


def assert_pull(pull, n=N, mean=0.0, width=1.0):
    """Mean and width of a normal sample, within four standard errors."""
    assert np.mean(pull) == pytest.approx(mean, abs=4 / np.sqrt(n))
    assert np.std(pull) == pytest.approx(width, abs=4 / np.sqrt(2 * n))


@pytest.mark.parametrize("z", [0.45, -0.3])
def test_pulls_of_lines(z):
    hits, place = kinked((0.5, -0.2), (0.0, 0.0))
    tracks = fit_lines(hits.above, [PORTAL.upper])
    for track, start, slope in zip(tracks, place, (0.5, -0.2)):
        assert_pull((track.slope[0, 0] - slope) / np.sqrt(track.slope_variance[0, 0]))
        true = start + slope * (z - 0.1)
        assert_pull((track.at(z)[0, 0] - true) / np.sqrt(track.variance_at(z)[0, 0]))


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.6, 0.0), (0.0, -0.6)])
def test_pulls_of_deflection_and_displacement(slope):
    found = fit(kinked(slope, (0.0, 0.0))[0])
    pulls = {}
    for axis in "xy":
        for name in ("angle", "shift"):
            value = np.asarray(getattr(found, f"{name}_{axis}"))[0, 0]
            variance = np.asarray(getattr(found, f"{name}_variance_{axis}"))[0, 0]
            pulls[name] = value / np.sqrt(variance)
            assert_pull(pulls[name])
        expected = np.asarray(
            getattr(found, f"covariance_{axis}")
            / np.sqrt(
                getattr(found, f"angle_variance_{axis}")
                * getattr(found, f"shift_variance_{axis}")
            )
        )[0, 0, 0]
        correlation = np.corrcoef(pulls["angle"], pulls["shift"])[0, 1]
        assert correlation == pytest.approx(expected, abs=4 / np.sqrt(N))


def test_covariance_between_projections_is_left_out_at_45_degrees():
    # inclined along the diagonal, the two transverse components correlate; each one's
    # own error is right
    found = fit(kinked((0.5, 0.5), (0.0, 0.0))[0])
    pulls = [
        np.asarray(
            getattr(found, f"angle_{a}") / getattr(found, f"angle_variance_{a}") ** 0.5
        )
        for a in "xy"
    ]
    for pull in pulls:
        assert_pull(pull)
    correlation = np.corrcoef(pulls[0].ravel(), pulls[1].ravel())[0, 1]
    assert -0.5 < correlation < -0.1  # a known approximation of `Scatters`


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.5, 0.0), (0.3, -0.4)])
@pytest.mark.parametrize("kick", [(0.2, 0.0), (0.15, 0.15)])
def test_point_of_a_single_kick_is_found(slope, kick):
    # kicks of 50 errors: the point is a ratio, and the error of its linearisation grows
    # as (error / kick)^2 (a kick of 10 errors: 0.12 of the point's own error)
    hits, place = kinked(slope, kick)
    found = fit(hits)
    pull = (np.asarray(found.z)[0, 0] - 0.1) / np.sqrt(
        np.asarray(found.variance_z)[0, 0]
    )
    assert np.mean(pull) == pytest.approx(0, abs=0.05)
    # inclined in x and y, the covariance between the projections is left out: 6%
    width = 1.06 if slope == (0.3, -0.4) and kick[1] else 1.0
    assert np.std(pull) == pytest.approx(width, abs=0.03)
    for axis, start in zip("xy", place):
        value = np.asarray(getattr(found, axis))[0, 0] - start
        variance = np.asarray(getattr(found, f"variance_{axis}"))[0, 0]
        # a bias, not noise (0.007): inclined tracks come out 0.04 to 0.05 of their error off
        assert np.mean(value / np.sqrt(variance)) == pytest.approx(0, abs=0.08)


def test_angle_is_in_the_direction_of_travel():
    found = fit(kinked((0.0, 0.0), (-0.02, 0.01))[0])
    # dx/dz falls by 0.02: going down, the muon turns to +x
    assert np.mean(found.angle_x) == pytest.approx(0.02, rel=0.01)
    assert np.mean(found.angle_y) == pytest.approx(-0.01, rel=0.02)
    # at the lower face, 0.4 below the kick
    assert np.mean(found.shift_x) == pytest.approx(0.4 * 0.02, rel=0.01)


def test_unseen_muons_have_weight_zero_and_finite_numbers():
    hits, _ = kinked((0.0, 0.0), (0.01, 0.0))
    nothing = Points(
        hits.above.x, hits.above.y, hits.above.z, jnp.zeros_like(hits.above.weight)
    )
    found = fit(Hits(nothing, hits.below, hits.momentum))
    assert np.all(found.weight == 0)
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))
    assert np.all(at_least_two(hits.below.weight) == 1)
