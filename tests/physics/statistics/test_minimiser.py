"""Fits in a box: closed forms, implicit derivatives, and searches that fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from kythera import errors
from kythera.physics.statistics.asymptotics import p_value
from kythera.physics.statistics.minimiser import minimise

BOX = jnp.array([1.0, 1e-10]), jnp.array([1.0, 10.0])


def counts(phi):
    """Signal, background and Poisson constraint of a bin that phi moves (relaxed)."""
    b = 45 - 2 * phi
    return 15 + phi, b, (b / (1 + 0.2 * phi**2)) ** 2


def nll(p, phi):
    """Of the Asimov data of the background."""
    s, b, tau = counts(phi)

    def poisson(mean, n):
        return mean - n - n * jnp.log(mean / n)

    return poisson(p[0] * s + p[1] * b, b) + poisson(p[1] * tau, tau)


def profiled(phi):
    """CLs at mu = 1 and the background's factor that goes with it."""
    found = minimise(lambda p: nll(p, phi), jnp.ones(2), *BOX)
    return 2 * p_value(jnp.sqrt(2 * found.value)), found.parameters[1]


def test_published_derivatives_through_a_fit(x64):
    """CLs and d CLs / d phi of relaxed, and d theta / d phi."""

    def both(phi):
        return jnp.stack(profiled(phi))

    reverse = jax.jit(lambda phi: (both(phi), jax.jacrev(both)(phi)))
    (cls, _), slopes = reverse(2.5)
    assert cls == pytest.approx(0.01862987, abs=1e-8)
    np.testing.assert_allclose(slopes, [-0.00453660, -0.0326061193], atol=6e-9)
    assert reverse(5.0)[0][0] == pytest.approx(0.0195425457539, abs=1e-12)
    step = 1e-4
    differences = (reverse(2.5 + step)[0] - reverse(2.5 - step)[0]) / (2 * step)
    np.testing.assert_allclose(slopes, differences, rtol=1e-6)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


FAR = jnp.array([-1.2, 1.0])


@pytest.mark.parametrize(
    ("low", "up"),
    [
        ((-3.0, -3.0), (3.0, 3.0)),
        ((-3.0, -3.0), (0.5, 3.0)),
        ((-1.2, -3.0), (-1.2, 9.0)),
    ],
)
def test_a_curved_valley_with_and_without_bounds(x64, low, up):
    """L-BFGS-B of SciPy finds the same point; the last case holds x[0] = -1.2."""
    found = search(FAR, jnp.array(low), jnp.array(up))
    other = optimize.minimize(
        rosenbrock, FAR, method="L-BFGS-B", bounds=list(zip(low, up)), tol=1e-14
    )
    np.testing.assert_allclose(found.parameters, other.x, atol=1e-5)
    assert found.converged
    assert found.steps < 60
    assert found.value <= other.fun + 1e-12


search = jax.jit(lambda start, low, up: minimise(rosenbrock, start, low, up))


def test_derivatives_at_a_bound_and_of_a_bound(x64):
    """x[0] is pressed against 0.5: it moves with the bound, and x[1] with x[0]^2."""

    def fit(bound):
        up = jnp.array([3.0, 3.0]).at[0].set(bound)
        found = minimise(rosenbrock, FAR, jnp.array([-3.0, -3.0]), up)
        return found.parameters, found.value

    slopes, value = jax.jit(jax.jacfwd(fit))(0.5)
    np.testing.assert_allclose(slopes, [1.0, 1.0], atol=1e-9)
    assert value == pytest.approx(-1.0, abs=1e-9)  # d (1 - x)^2 / dx


def test_a_start_where_the_function_curves_down():
    """Newton's step from there leads to the maximum; in float32."""
    box = jnp.full(2, -3.0), jnp.full(2, 3.0)
    found = jax.jit(lambda x: minimise(lambda p: -jnp.sum(jnp.cos(p)), x, *box))(
        jnp.array([2.5, -2.0])
    )
    np.testing.assert_allclose(found.parameters, 0.0, atol=1e-3)


def test_no_minimum_is_an_error(x64):
    """The sum is known, the difference falls for ever."""
    wide = jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf)
    with pytest.raises(errors.SimulationError, match="not enough|not vanish"):
        minimise(
            lambda x: (x[0] + x[1] - 9) ** 2 - x[0], jnp.zeros(2), *wide, max_steps=20
        )


def test_a_likelihood_undefined_at_the_start_is_nan_under_jit(x64):
    found = jax.jit(lambda x: minimise(lambda p: jnp.sum(jnp.sqrt(p)), x, x - 1, x + 1))
    found = found(jnp.full(2, -3.0))
    assert not found.converged
    assert np.isnan(found.value)
    assert np.isnan(found.parameters).all()


def test_bounds_that_cross():
    with pytest.raises(errors.InputError, match="those of parameters 1 do"):
        minimise(rosenbrock, FAR, jnp.zeros(2), jnp.array([1.0, -1.0]))


def test_bounds_that_cross_are_nan_under_jit():
    found = jax.jit(lambda low: minimise(lambda x: x @ x, jnp.ones(1), low, -low))(
        jnp.ones(1)
    )
    assert np.isnan(found.parameters)
    assert not found.converged
