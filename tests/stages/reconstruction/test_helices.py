"""Helices: the published resolution of a solenoid, pulls of simulated tracks, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.physics.scattering import layer_variances
from kythera.stages.reconstruction.helices import (
    HelixHits,
    Tracker,
    fit_helices,
    helix_hits,
    start,
)
from kythera.stages.reconstruction.linear_track import smooth
from kythera.units import c, pion_mass

FIELD = 2.0


def tracker(layers=6, azimuthal=1e-5, thickness=0.01, inner=0.05):
    even = np.ones(layers)
    radius = np.linspace(inner, 1.0, layers)
    return Tracker(radius, azimuthal * even, 1e-4 * even, thickness * even, FIELD)


@jax.jit
def curvature_error(tracker, curvature):
    """Of a straight-going track from the axis, in e/GeV."""
    parameters = jnp.array([0.0, 0.3, 0.0, 0.0, 0.0]).at[2].set(curvature)
    none = jnp.zeros_like(tracker.radius)
    hits = helix_hits(parameters, tracker, none, none, none + 1)
    return jnp.sqrt(smooth(hits).covariance[0, 2, 2])


@pytest.mark.slow
def test_the_resolution_is_glucksterns(x64):
    # R. L. Gluckstern, Nucl. Instrum. Meth. 24 (1963) 381, in the exact form, and with
    # scattering alone Z. Drasal, W. Riegler, Nucl. Instrum. Meth. A 910 (2018) 127: N + 1
    # equidistant layers over a length L.
    n, length, sigma, curvature = 10, 0.95, 1e-4, 0.02
    measured = tracker(n + 1, sigma, 0.0)
    series = 720 * n**3 / ((n - 1) * (n + 1) * (n + 2) * (n + 3))
    want = sigma * np.sqrt(series) / (c * FIELD * length**2)
    assert curvature_error(measured, curvature) == pytest.approx(want, rel=2e-4)
    thickness = 0.01
    scattered = tracker(n + 1, 1e-9, thickness)
    [variance, *_] = np.asarray(
        layer_variances(np.full(n + 1, thickness), 1 / curvature, mass=pion_mass)
    )
    want = n * np.sqrt(variance) / (c * FIELD * length * np.sqrt(n - 1))
    assert curvature_error(scattered, curvature) == pytest.approx(want, rel=2e-3)


def simulated(tracker, count, transverse, seed=1):
    """True parameters, and hits of helices that are turned at each cylinder."""
    rng = np.random.default_rng(seed)
    d0, z0 = rng.normal(size=(2, count)) * [[1e-3], [0.05]]
    phi = rng.uniform(-np.pi, np.pi, count)
    k, dip = rng.choice([-1, 1], count) / transverse, 0.5 * rng.normal(size=count)
    place = np.stack([-d0 * np.sin(phi), d0 * np.cos(phi), z0], -1)
    u = np.stack([np.cos(phi), np.sin(phi), dip], -1) / np.sqrt(1 + dip**2)[:, None]
    p = np.sqrt(1 + dip**2) / np.abs(k)
    turn = (-c * FIELD * np.sign(k) / p)[:, None]  # rad for each metre of path

    def moved(way):
        x, y, z = u.T[..., None]
        sine, cosine = np.sin(turn * way[:, None]), np.cos(turn * way[:, None])
        off = (sine * x - (1 - cosine) * y) / turn, ((1 - cosine) * x + sine * y) / turn
        new = cosine * x - sine * y, sine * x + cosine * y, z
        shift = np.concatenate([*off, z * way[:, None]], -1)
        return place + shift, np.concatenate(new, -1)

    azimuth, along = [], []
    total = np.sum(tracker.thickness)
    for r, t in zip(tracker.radius, tracker.thickness, strict=True):
        low, high = np.zeros(count), 1.5 * r * np.sqrt(1 + dip**2)
        for _ in range(60):
            middle = (low + high) / 2
            outside = np.hypot(*moved(middle)[0][:, :2].T) > r
            low, high = np.where(outside, low, middle), np.where(outside, middle, high)
        place, u = moved(high)
        cosine = np.sum(u[:, :2] * place[:, :2], -1) / r
        width = layer_variances(t / cosine, p, total=total / cosine, mass=pion_mass)
        one = np.cross([0, 0, 1], u)
        one /= np.linalg.norm(one, axis=1)[:, None]
        normal = np.sqrt(np.asarray(width))[:, None] * rng.normal(size=(2, count, 1))
        u = u + normal[0] * one + normal[1] * np.cross(u, one)
        u /= np.linalg.norm(u, axis=1)[:, None]
        azimuth.append(np.arctan2(place[:, 1], place[:, 0]))
        along.append(place[:, 2])
    azimuth = np.stack(azimuth, -1) + rng.normal(size=(count, 6)) * (
        tracker.azimuthal / tracker.radius
    )
    along = np.stack(along, -1) + rng.normal(size=(count, 6)) * tracker.axial
    return np.stack([d0, phi, k, z0, dip], -1), azimuth, along


@pytest.mark.slow
@pytest.mark.parametrize("transverse", [1.0, 10.0])
def test_pulls_have_unit_width(x64, transverse):
    count = 1000
    truth, azimuth, z = simulated(tracker(), count, transverse)
    weight = np.ones_like(z)
    weight[::3, 2] = 0  # missing hits
    out = fit_helices(HelixHits(tracker(), azimuth, z, weight))
    assert np.mean(out.found) > 0.99
    helix = out.helix
    found = [helix.d0, helix.phi, helix.curvature, helix.z0, helix.dip]
    off = np.stack(found, -1) - truth
    off[:, 1] = np.angle(np.exp(1j * off[:, 1]))
    pull = (off / np.sqrt(np.diagonal(out.covariance, axis1=1, axis2=2)))[out.found]
    np.testing.assert_allclose(np.std(pull, 0), 1, atol=4 / np.sqrt(2 * count))
    np.testing.assert_allclose(np.mean(pull, 0), 0, atol=4 / np.sqrt(count))
    ratio = np.sum(out.chi2) / np.sum(out.freedom)
    assert ratio == pytest.approx(1, abs=4 * np.sqrt(2 / np.sum(out.freedom)))


@pytest.mark.slow
def test_derivatives_are_exact_and_few_hits_are_not_found(x64):
    _, azimuth, z = simulated(tracker(), 4, 1.0)
    weight = np.ones_like(z)
    weight[3, 1:] = 0

    @jax.jit
    def curvature(azimuth, scale):
        wide = tracker(thickness=0.01 * scale)
        out = fit_helices(HelixHits(wide, azimuth, z, weight))
        return jnp.sum(out.helix.curvature), out.found

    value = lambda *v: float(curvature(*v)[0])  # noqa: E731
    slopes = jax.jit(jax.grad(lambda *v: curvature(*v)[0], (0, 1)))(azimuth, 1.0)
    np.testing.assert_array_equal(curvature(azimuth, 1.0)[1], [True] * 3 + [False])
    assert all(np.all(np.isfinite(s)) for s in slopes)
    step = np.zeros_like(azimuth)
    step[1, 3] = 1e-6
    want = (value(azimuth + step, 1.0) - value(azimuth - step, 1.0)) / 2e-6
    assert slopes[0][1, 3] == pytest.approx(want, rel=1e-5)
    want = (value(azimuth, 1.01) - value(azimuth, 0.99)) / 0.02
    assert slopes[1] == pytest.approx(want, rel=1e-3)


def test_layers_and_hits_that_do_not_fit_are_refused():
    good = tracker(3)
    for rows, match in (
        ((np.ones(3), np.ones(3), np.ones(1)), r"shapes are \(3,\), .* \(1,\)"),
        ((np.ones(3), np.ones(4), np.ones(3)), "one hit of each track"),
    ):
        with pytest.raises(errors.InputError, match=match):
            start(good, *rows)
        with pytest.raises(errors.InputError, match=match):
            fit_helices(HelixHits(good, *(v[None] for v in rows)))
    ones, rising = np.ones(2), np.array([0.1, 0.2])
    for rows, match in (
        ((rising[::-1], ones, ones, ones), "must rise"),
        ((rising, ones, ones, -ones), "thicknesses must be >= 0"),
        ((rising, 0 * ones, ones, ones), "must be > 0 m"),
        ((rising, ones, np.ones(3), ones), r"\(3,\)"),
    ):
        with pytest.raises(errors.InputError, match=match):
            Tracker(*rows, FIELD)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e38])
def test_the_first_step_sees_no_missing_hits(x64, junk):
    _, azimuth, z = simulated(tracker(), 1, 1.0)
    weight = np.array([1.0, 1, 0, 1, 1, 0])

    @jax.jit
    @jax.value_and_grad
    def chi2(hits):
        near = start(*hits)
        fit = smooth(helix_hits(near, *hits))
        return fit.chi2 + jnp.sum(fit.parameters) + jnp.sum(near)

    def fitted(junk):
        hits = (np.where(weight > 0, v[0], junk) for v in (azimuth, z))
        hits = tracker(), *hits, weight
        return chi2(jax.tree.map(lambda v: jnp.asarray(v, float), hits))

    want = fitted(0.0)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(want))
    jax.tree.map(np.testing.assert_array_equal, fitted(junk), want)


@pytest.mark.slow
def test_missing_hits_may_hold_anything(x64):
    _, azimuth, z = simulated(tracker(), 4, 1.0)
    weight = np.ones_like(z)
    weight[0, 0] = weight[1, [2, 5]] = weight[3, 1:] = 0

    @jax.jit
    def run(hits):
        def total(hits):
            out = fit_helices(hits)
            rows = out.helix, 1e3 * out.covariance, out.chi2
            return sum(jnp.sum(v) for v in jax.tree.leaves(rows)), out

        return jax.value_and_grad(total, has_aux=True)(hits)

    def fitted(junk):
        there = weight > 0
        hits = (
            tracker(),
            np.where(there, azimuth, junk),
            np.where(there, z, junk),
            weight,
        )
        return run(jax.tree.map(lambda v: jnp.asarray(v, float), HelixHits(*hits)))

    want = fitted(0.0)
    np.testing.assert_array_equal(want[0][1].found, [True] * 3 + [False])
    for junk in (np.nan, np.inf, 1e38):
        jax.tree.map(np.testing.assert_array_equal, fitted(junk), want)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(want))
