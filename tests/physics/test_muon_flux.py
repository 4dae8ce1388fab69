"""Cosmic muons: fluxes against published integrals, the sampler against exact laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from kythera.errors import InputError, PhysicsWarning
from kythera.physics import muon_flux
from kythera.physics.muon_flux import (
    FluxSampler,
    guan,
    horizontal_rate,
    intensity,
    shukla,
)
from kythera.units import cm2, deg, minute, s


@pytest.mark.parametrize(
    ("flux", "energy", "expected"),
    [
        (guan, 1, 60.5),
        (guan, 10, 8.45),
        (guan, 100, 0.130),
        (shukla, 1, 70.4),
        (shukla, 10, 8.51),
        (shukla, 100, 0.129),
    ],
)
def test_vertical_intensity(flux, energy, expected):
    """[m^-2 s^-1 sr^-1] above an energy; PDG: about 70 above 1 GeV."""
    assert intensity(flux, 1.0, energy) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(("flux", "expected"), [(guan, 0.70), (shukla, 0.83)])
def test_rate_through_a_horizontal_plane(flux, expected):
    """Above 0.5 GeV, per cm2 and minute: the rule of thumb is one."""
    rate = horizontal_rate(flux, 0.5) / s
    assert rate * cm2 * minute == pytest.approx(expected, abs=5e-3)


def test_the_rate_is_the_double_integral():
    value = integrate.dblquad(
        lambda c, x: 2 * np.pi * guan(np.exp(x), np.float64(c)) * np.exp(x) * c,
        np.log(1.0),
        np.log(50.0),
        np.cos(1.0),
        1.0,
        epsrel=1e-6,
    )[0]
    assert horizontal_rate(guan, 1.0, 50.0, 1.0) == pytest.approx(value, rel=1e-6)


def test_inclined_energetic_muons():
    """75 degrees, 100 GeV, per cm2: Shukla has no sec(theta) enhancement."""
    c = np.cos(75 * deg)
    assert guan(np.float64(100), c) * cm2 == pytest.approx(2.9e-7, rel=0.02)
    assert shukla(np.float64(100), c) * cm2 == pytest.approx(1.9e-8, rel=0.03)
    with pytest.warns(PhysicsWarning, match="inclined"):
        FluxSampler(shukla, theta_max=75 * deg)


@pytest.mark.parametrize("flux", [guan, shukla])
def test_numpy_and_jax_agree(flux):
    energy, c = np.geomspace(0.5, 1e4, 30), np.linspace(0.05, 1, 30)
    traced = jax.jit(flux)(jnp.asarray(energy), jnp.asarray(c))
    np.testing.assert_allclose(traced, flux(energy, c), rtol=3e-6)
    slope = jax.vmap(jax.grad(flux, argnums=(0, 1)))(jnp.array([0.5]), jnp.array([1.0]))
    assert all(jnp.all(jnp.isfinite(x)) for x in slope)


def cdf(density, low, high):
    """The distribution function of a density on an interval, by fine quadrature."""
    x = np.linspace(low, high, 20_001)
    total = integrate.cumulative_trapezoid(density(x), x, initial=0)
    return lambda value: np.interp(value, x, total / total[-1])


@functools.partial(jax.jit, static_argnums=1)
def draw(sampler, n, key):
    return sampler(n, key=key)


def marginals(flux, sampler):
    nodes, weights = muon_flux._nodes(np.cos(sampler.theta_max), 1.0, 64)
    ln_nodes, ln_weights = muon_flux._nodes(
        np.log(sampler.energy_min), np.log(sampler.energy_max), 128
    )
    energies = np.exp(ln_nodes)

    def of_ln_energy(x):
        energy = np.exp(x)[:, None]
        return flux(energy, nodes) * energy * nodes @ weights

    def of_cosine(c):
        return flux(energies[:, None], c).T * c[:, None] * energies @ ln_weights

    return (
        cdf(of_ln_energy, np.log(sampler.energy_min), np.log(sampler.energy_max)),
        cdf(of_cosine, np.cos(sampler.theta_max), 1.0),
    )


@pytest.mark.parametrize(
    ("flux", "energy", "theta_max"),
    [
        (guan, (0.5, 500.0), 70 * deg),
        (guan, (0.2, 1e4), 90 * deg),
    ],
)
def test_sampled_distributions_are_exact(getkey, flux, energy, theta_max):
    sampler = FluxSampler(
        flux, energy_min=energy[0], energy_max=energy[1], theta_max=theta_max
    )
    e, c, phi = draw(sampler, 200_000, getkey())
    ln_energy_cdf, cosine_cdf = marginals(flux, sampler)
    assert stats.kstest(np.log(np.float64(e)), ln_energy_cdf).pvalue > 1e-3
    assert stats.kstest(np.float64(c), cosine_cdf).pvalue > 1e-3
    assert stats.kstest(np.float64(phi) / (2 * np.pi), "uniform").pvalue > 1e-3
    assert energy[0] <= e.min() < e.max() <= energy[1]
    assert np.cos(theta_max) - 1e-6 <= c.min() < c.max() <= 1


def test_sampled_joint_distribution(getkey):
    """Energy and angle are correlated: chi2 on a grid, with the tail in its last row."""
    sampler = FluxSampler()
    n = 200_000
    e, c, _ = (np.float64(x) for x in draw(sampler, n, getkey()))
    e_edges = np.array([0.5, 0.8, 1.5, 3.0, 6.0, 15.0, 50.0, 120.0, 500.0])
    c_edges = np.cos(np.array([70, 60, 50, 40, 30, 20, 0]) * deg)
    counts, _, _ = np.histogram2d(e, c, bins=[e_edges, c_edges])
    expected = np.empty_like(counts)
    for j, (low, high) in enumerate(zip(c_edges[:-1], c_edges[1:])):
        for i, (bottom, top) in enumerate(zip(e_edges[:-1], e_edges[1:])):
            steep = horizontal_rate(guan, bottom, top, np.arccos(low))
            if high < 1:
                steep -= horizontal_rate(guan, bottom, top, np.arccos(high))
            expected[i, j] = n * steep / sampler.rate
    assert expected.min() > 5
    assert expected.sum() == pytest.approx(n, rel=1e-6)
    assert stats.chisquare(counts.ravel(), expected.ravel()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("flux", "energy_max", "theta_max"),
    [(guan, 500.0, 70 * deg), (guan, 1e4, 90 * deg), (shukla, 500.0, 65 * deg)],
)
def test_the_bound_bounds(flux, energy_max, theta_max):
    """Where it did not, the sampler would be wrong without a sign."""
    edges = muon_flux._edges(0.2, energy_max, theta_max)
    bound = muon_flux._cell_bounds(flux, *edges)
    rng = np.random.default_rng(1)
    u = rng.uniform(size=(2, len(bound)))
    row, column = np.divmod(np.arange(len(bound)), muon_flux._columns)
    x = edges[0][row] + np.diff(edges[0])[0] * u[0]
    c = edges[1][column] + np.diff(edges[1])[0] * u[1]
    assert np.all(muon_flux._density(flux, x, c) <= bound)


def test_the_alias_table_keeps_the_weights():
    weights = np.random.default_rng(2).gamma(0.3, size=muon_flux._rows) + 1e-12
    threshold, alias = muon_flux._alias_table(weights)
    keep = threshold / 2.0**32
    share = keep + np.bincount(alias, 1 - keep, minlength=len(keep))
    expected = weights / weights.mean()
    np.testing.assert_allclose(share, expected, atol=len(weights) * 2.0**-31)


def test_draws_are_pure_and_traceable(getkey):
    sampler, key = FluxSampler(energy_max=50.0), getkey()
    keys = jax.random.split(key, 3)
    many = jax.jit(jax.vmap(lambda k: sampler(1000, key=k)))(keys)
    assert all(x.shape == (3, 1000) for x in many)
    assert len(np.unique(np.asarray(many[0]))) > 2900
    for a, b in zip(draw(sampler, 1000, keys[1]), many):
        np.testing.assert_allclose(a, b[1], rtol=1e-6)


def test_a_short_draw_is_drawn_again(getkey):
    """Were too few trials made, the loop would go on until there are enough."""
    sampler = FluxSampler(energy_max=50.0)
    object.__setattr__(sampler, "_accepted", 1.0)  # n + 16 trials: some fall short
    e, c, _ = draw(sampler, 1000, getkey())
    assert e.shape == (1000,)
    assert e.min() >= 0.5
    assert c.min() > 0.3


@pytest.mark.parametrize(
    "ranges",
    [
        {"energy_min": 0.05},
        {"energy_min": 10.0, "energy_max": 1.0},
        {"energy_max": float("inf")},
        {"energy_min": float("nan")},
        {"theta_max": 0.0},
        {"theta_max": 70.0},
    ],
)
def test_bad_ranges_are_refused(ranges):
    with pytest.raises(InputError, match=r"energ|zenith"):
        FluxSampler(**ranges)
