"""Showers, counts and utilities of an array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kythera import errors
from kythera.core.pipeline import Trace
from kythera.instruments.air_shower_array import design, objectives, public
from kythera.instruments.air_shower_array.simulator import (
    CountingArray,
    PublicArray,
    Showers,
    Sky,
    SmoothArray,
    expected,
    total,
)
from kythera.physics.air_showers import HIGHEST, LOWEST, PeV
from kythera.units import deg, km


def one(energy, theta=0.0, x=0.0, is_gamma=1.0, copies=1):
    values = energy * PeV, theta, 0.3, x, 0.0, is_gamma
    return Showers(*(jnp.full(copies, v, float) for v in values))


def test_expected_counts_are_area_times_density_and_background():
    # 1 PeV gamma ray at 20 degrees, from above: the values of the parametrisation.
    layout = design.Layout(jnp.array([0.0]), jnp.array([100.0]))
    shower = Showers(*(jnp.array([v]) for v in (PeV, 20 * deg, 0.0, 0.0, 0.0, 1.0)))
    electrons, muons, time = expected(layout, shower)
    across = layout.area * np.cos(20 * deg)
    np.testing.assert_allclose(electrons, across * 8.12 + 0.0055, rtol=1e-3)
    np.testing.assert_allclose(muons, across * 2.92e-3 + 0.0504, rtol=2e-3)
    assert abs(float(time[0, 0])) < 1e-3  # across the direction of the shower


def test_smooth_counts_have_the_moments_of_poisson_counts(getkey):
    layout = design.Layout(jnp.array([0.0]), jnp.array([0.0]))
    far = one(0.3, x=420.0, copies=40_000)
    mean = float(expected(layout, far)[0][0, 0])
    for simulator in (SmoothArray(), CountingArray()):
        counts = np.asarray(simulator(layout, far, key=getkey()).electrons)[:, 0]
        variance = mean + 0.05**2 * (mean + mean**2)
        assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / 40_000))
        assert counts.var() == pytest.approx(variance, rel=0.06)


def test_spectrum_angles_and_cores(getkey):
    sky = Sky(gammas=0.3, half=2 * km)
    rows = sky(20_000, key=getkey())
    energy = np.asarray(rows.energy)
    assert energy.min() >= LOWEST
    assert energy.max() <= HIGHEST
    # Integral spectrum of index 1.7: half of the showers lie below 0.1 * 2^(1/1.7) PeV.
    assert np.mean(energy < LOWEST * 2 ** (1 / 1.7)) == pytest.approx(0.5, abs=0.02)
    assert np.mean(np.asarray(rows.is_gamma)) == pytest.approx(0.3, abs=0.02)
    sine = np.sin(np.asarray(rows.theta))
    assert sine.max() <= np.sin(65 * deg) + 1e-6
    assert sine.mean() == pytest.approx(np.sin(65 * deg) / 2, abs=0.01)
    assert np.abs(np.asarray(rows.x)).max() <= 2 * km
    assert sky.area == 16e6


@pytest.mark.parametrize("index", [-30.0, 0.0, 1.0, 1.000001, 2.7, 9.0, 60.0])
def test_energies_are_the_quantiles_of_the_spectrum(getkey, index):
    count = 20_000
    energy = np.sort(np.asarray(Sky(index=index)(count, key=getkey()).energy, float))
    assert np.all(np.isfinite(energy))
    assert energy[0] >= LOWEST * (1 - 1e-6)
    assert energy[-1] <= HIGHEST * (1 + 1e-6)
    # the fraction of the integral of E^-index below each, from logarithms
    p, span, x = 1 - index, np.log(HIGHEST / LOWEST), np.log(energy / LOWEST)
    below = x / span if p == 0 else np.expm1(p * x) / np.expm1(p * span)
    assert stats.kstest(below, "uniform").pvalue > 1e-4
    # median and mean, within four of their errors
    assert np.median(below) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(count))
    grid = np.linspace(0, span, 200_001)
    density = np.exp(p * (grid - (span if p > 0 else 0)))
    mean, square = (
        np.sum(density * (LOWEST * np.exp(grid)) ** k) / np.sum(density) for k in (1, 2)
    )
    spread = np.sqrt(square - mean**2)
    assert energy.mean() == pytest.approx(mean, abs=4 * spread / np.sqrt(count))


def test_a_sky_may_be_traced(getkey):
    key = getkey()
    run = jax.jit(lambda low: Sky(low=low)(100, key=key).energy)
    np.testing.assert_allclose(run(LOWEST), Sky()(100, key=key).energy, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"index": float("nan")}, "`index` .* finite number, but is nan"),
        ({"high": float("inf")}, "`high` .* but is inf"),
        ({"low": "1"}, "`low` .* but is '1'"),
        ({"gammas": None}, "`gammas` .* but is None. Leave it out for 0.5"),
        ({"steepest": 2.5}, r"`steepest` .* \(0, pi / 2\] rad .* 2.5"),
        ({"steepest": -0.1}, "`steepest`"),
        ({"half": 0.0}, "`half` > 0 m"),
    ],
)
def test_numbers_that_make_no_sky_are_refused(options, match):
    with pytest.raises(errors.InputError, match=match):
        Sky(**options)


def test_skies_that_cannot_be():
    with pytest.raises(errors.InputError, match="low < high"):
        Sky(low=1.0, high=0.5)
    with pytest.raises(errors.InputError, match="'theta' or 'sine'"):
        Sky(flat_in="cosine")
    with pytest.warns(errors.PhysicsWarning, match="0.1 and 10 PeV.*20 PeV"):
        Sky(high=20 * PeV)


def test_trigger_is_the_tail_of_a_poisson_distribution():
    layout = design.rings()
    # 90 units with 0.6 particles each: S = 90 * 19 (1 - exp(-0.6 / 19)) = 53.
    few = jnp.full((1, 90), 0.6)
    mean = 90 * 19 * (1 - np.exp(-0.6 / 19))
    draws = np.random.default_rng(1).poisson(mean, 200_000)
    found = float(objectives.trigger(layout, few)[0])
    assert found == pytest.approx(np.mean(draws >= 50), abs=0.005)
    slope = jax.grad(lambda n: objectives.trigger(layout, n)[0])(jnp.zeros((1, 90)))
    assert jnp.all(jnp.isfinite(slope))


def test_a_blind_estimate_has_the_utility_of_the_public_trace(getkey):
    # Its first 50 epochs have U = 7.58e3, its last 50 1.317e4: what a reconstruction has
    # that tells one energy and one angle for all showers.
    sky, layout = Sky(gammas=1.0, flat_in="theta"), design.rings()
    truth = sky(20_000, key=getkey())
    hits = PublicArray()(layout, truth, key=getkey())
    blind = public.Averages()(layout, hits, key=getkey())
    rows = jax.tree.map(
        lambda v: v.reshape(40, 500, *v.shape[1:]), (total(hits), truth, blind)
    )
    batches = float(jnp.mean(jax.vmap(public.public_utility)(*rows)))
    assert batches == pytest.approx(7.2e3, rel=0.07)
    # The additive form is the same up to the extremes of the cores, 0.4% of the first
    # term, and the root of the mean, which is larger than the mean root of batches.
    objective = public.PublicUtility(sky.area)
    rows = objective.tally(layout, Trace(truth, hits, None, blind))
    mean = jax.tree.map(jnp.mean, rows)
    score = objective.score(layout, mean).loss["inverse_utility"]
    assert float(1e4 / score) == pytest.approx(batches, rel=0.02)


def test_nothing_triggered_is_finite(getkey):
    layout = design.Layout(jnp.array([2900.0, -2900.0]), jnp.array([2900.0, 2900.0]))
    truth = Sky(half=100.0)(20, key=getkey())
    hits = SmoothArray()(layout, truth, key=getkey())

    def utility(x):
        moved = design.Layout(x, layout.y)
        counts = total(SmoothArray()(moved, truth, key=jax.random.key(1)))
        found = public.ShowerNetwork()(moved, hits, key=jax.random.key(2))
        return public.public_utility(counts, truth, found)

    assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(utility))(layout.x))))


def test_what_sees_nothing_or_cannot_tell_is_worth_nothing():
    utility = objectives.ArrayUtility(9 * km**2)
    names = "gamma", "proton", "energy", "pointing", "source"
    density = jnp.zeros(objectives.BINS)
    blind = dict.fromkeys(names, jnp.array(0.0)) | {
        "gammas": density,
        "protons": density,
    }
    assert sum(utility.utilities(blind).values()) < 0.01
    assert utility.score(None, blind).loss["inverse_utility"] > 1e5
    alike = blind | {
        "gamma": jnp.array(0.5),
        "proton": jnp.array(0.5),
        "gammas": 0.5 * jnp.full_like(density, 1 / objectives.BINS),
        "protons": 0.5 * jnp.full_like(density, 1 / objectives.BINS),
    }
    assert utility.utilities(alike)["gamma_fraction"] < 0.01
