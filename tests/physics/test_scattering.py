"""Multiple scattering: PDG's numbers, step independence, correlations, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.physics.kinematics import velocity
from kythera.physics.materials import material
from kythera.physics.scattering import (
    exit_levers,
    highland,
    layer_variances,
    log_correction,
    moments_from_variances,
    sample_moments,
    scatter_slab,
    scattering_moments,
    scattering_strength,
)
from kythera.units import mrad

moments_of = jax.jit(scattering_moments)


def drawn(normals, cov):
    """Displacement and deflection from pairs of numbers and a 2 x 2 covariance."""
    numbers = (normals[..., 0], normals[..., 1])
    entries = (cov[..., i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
    return sample_moments(*numbers, *entries)


SLABS = {"beryllium": (0.6, 3.62), "lead": (0.1, 12.74), "iron": (0.1, 6.92)}


@pytest.mark.parametrize("name", SLABS)
def test_whole_slabs_at_5_gev(name):
    length, expected = SLABS[name]
    theta0 = highland(length / material(name).radiation_length, 5.0)
    assert theta0 / mrad == pytest.approx(expected, abs=0.006)


def test_formula_by_hand():
    """p = 1 GeV, 0.1 X0, charge 2: beta = 0.99446."""
    beta = 1 / np.hypot(1, 0.1056583755)
    log = 1 + 0.038 * np.log(0.1 * 4 / beta**2)
    expected = 0.0136 / beta * 2 * np.sqrt(0.1) * log
    assert highland(0.1, 1.0, charge=2.0) == pytest.approx(expected, rel=1e-4)
    given = highland(0.1, 1.0, beta=beta, charge=2.0)
    assert given == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", SLABS)
def test_the_step_length_does_not_matter(x64, name):
    length, expected = SLABS[name]
    x0 = material(name).radiation_length
    whole = moments_of(jnp.array([length]), jnp.array([x0]), jnp.array([5.0]))
    for steps in (10, 1000):
        cut = moments_of(
            jnp.full(steps, length / steps), jnp.full(steps, x0), jnp.full(steps, 5.0)
        )
        np.testing.assert_allclose(cut, whole, rtol=1e-11)
    assert jnp.sqrt(whole[1, 1]) / mrad == pytest.approx(expected, abs=0.006)


def test_the_step_length_does_not_matter_in_float32():
    args = (jnp.full(1000, 1e-4), jnp.full(1000, 0.0056), jnp.full(1000, 5.0))
    whole = moments_of(*(jnp.array([v]) for v in (0.1, 0.0056, 5.0)))
    np.testing.assert_allclose(moments_of(*args), whole, rtol=2e-5)


def test_one_slab_has_the_moments_of_pdg(x64):
    cov = moments_from_variances(jnp.array([0.3]), jnp.array([4e-6]))
    assert jnp.sqrt(cov[0, 0]) == pytest.approx(0.3 * 2e-3 / np.sqrt(3), rel=1e-12)
    correlation = cov[0, 1] / jnp.sqrt(cov[0, 0] * cov[1, 1])
    assert correlation == pytest.approx(np.sqrt(3) / 2, rel=1e-12)


def test_layers_with_gaps_against_a_walk(x64):
    """Independent check: fine steps of angle kicks and straight flights."""
    lengths, variances = np.array([0.1, 0.5, 0.2]), np.array([3e-6, 0.0, 1e-6])
    cov = moments_from_variances(jnp.asarray(lengths), jnp.asarray(variances))
    n = 2000
    state = np.zeros((2, 2))
    for length, variance in zip(lengths, variances):
        h = length / n
        fly = np.array([[1.0, h / 2], [0.0, 1.0]])
        for _ in range(n):
            state = fly @ state @ fly.T
            state[1, 1] += variance / n
            state = fly @ state @ fly.T
    np.testing.assert_allclose(cov, state, rtol=1e-6)


def test_levers_of_a_cut_layer_add_up_to_those_of_the_whole():
    """A layer of length 1 that ends 0.5 before the exit, in two parts: variance by length."""
    whole = exit_levers(0.5, 1.0)
    parts = (exit_levers(0.5, 0.3), exit_levers(0.8, 0.7))
    for i in (0, 1):
        assert 0.3 * parts[0][i] + 0.7 * parts[1][i] == pytest.approx(whole[i])


def test_strength_is_that_of_the_formula():
    t, p = 0.7, 3.0
    found = scattering_strength(p) * t * log_correction(t, beta=velocity(p)) ** 2
    assert float(found) == pytest.approx(float(highland(t, p)) ** 2, rel=1e-6)


def test_total_given_is_total_summed():
    thickness = jnp.array([0.1, 2.0, 0.03])
    each = [layer_variances(t, 3.0, total=thickness.sum()) for t in thickness]
    np.testing.assert_allclose(jnp.stack(each), layer_variances(thickness, 3.0), 1e-6)


def correlation_is(a, b, expected):
    """Sample correlation within 5 standard errors (Fisher's z)."""
    z = np.arctanh(np.corrcoef(a, b)[0, 1]) - np.arctanh(expected)
    assert abs(z) < 5 / np.sqrt(len(a))


def test_sampled_slab(getkey):
    n, theta0, length = 200_000, 12.74 * mrad, 0.1
    y, theta = scatter_slab(jax.random.normal(getkey(), (n, 2)), length, theta0)
    correlation_is(y, theta, np.sqrt(3) / 2)
    assert np.std(theta) == pytest.approx(theta0, rel=5 / np.sqrt(2 * n))
    expected = length * theta0 / np.sqrt(3)
    assert np.std(y) == pytest.approx(expected, rel=5 / np.sqrt(2 * n))


def test_sampled_moments_have_their_covariance(getkey):
    n = 200_000
    cov = moments_from_variances(jnp.array([0.1, 0.5, 0.2]), jnp.array([3e-6, 0, 1e-6]))
    y, theta = drawn(jax.random.normal(getkey(), (n, 2)), cov)
    expected = cov[0, 1] / jnp.sqrt(cov[0, 0] * cov[1, 1])
    correlation_is(y, theta, float(expected))
    assert np.var(y) == pytest.approx(float(cov[0, 0]), rel=5 * np.sqrt(2 / n))
    assert np.var(theta) == pytest.approx(float(cov[1, 1]), rel=5 * np.sqrt(2 / n))


def test_slab_and_moments_sample_alike(x64, getkey):
    normals = jax.random.normal(getkey(), (100, 2))
    cov = moments_of(*(jnp.array([v]) for v in (0.1, 0.0056, 5.0)))
    slab = scatter_slab(normals, 0.1, highland(0.1 / 0.0056, 5.0))
    for a, b in zip(slab, drawn(normals, cov)):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@jax.jit
@jax.value_and_grad
def sampled(x, normals):
    y, theta = drawn(normals, scattering_moments(*x))
    return jnp.sum(y * 1e3 + theta * 2e2)


def test_gradient_is_the_finite_difference(x64, getkey):
    normals = jax.random.normal(getkey(), (5, 2))
    x = jnp.array([[0.1, 0.4, 0.02], [0.0056, 0.3, 0.0176], [1.0, 0.9, 0.3]])
    gradient = np.asarray(sampled(x, normals)[1])
    difference = np.empty_like(gradient)
    for i in np.ndindex(*x.shape):
        h = 1e-5 * x[i]
        up, down = (sampled(x.at[i].add(s * h), normals)[0] for s in (1, -1))
        difference[i] = (up - down) / (2 * h)
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)


@pytest.mark.parametrize("zero", ["thickness", "vacuum"])
def test_nothing_scatters_without_matter(getkey, zero):
    normals = jax.random.normal(getkey(), (5, 2))
    lengths = jnp.zeros(3) if zero == "thickness" else jnp.array([0.1, 0.4, 0.02])
    x = jnp.stack([lengths, jnp.full(3, jnp.inf), jnp.ones(3)])
    value, gradient = sampled(x, normals)
    assert value == 0
    assert jnp.all(jnp.isfinite(gradient))


def test_thin_limit():
    """Finite, positive, growing with thickness; the bare logarithm would not be."""
    t = jnp.logspace(-15, 2, 200)
    theta0 = highland(t, 1.0)
    assert jnp.all(jnp.diff(theta0) > 0)
    assert jnp.all(log_correction(t) > 0.47)
    assert highland(0.0, 1.0) == 0
    assert jnp.isfinite(jax.grad(highland)(0.0, 1.0))
    bare = 0.0136 * np.sqrt(1e-3) * (1 + 0.038 * np.log(1e-3))
    regular = highland(1e-3, 1.0, beta=1.0)
    assert regular == pytest.approx(bare, rel=6e-5)
