"""Information matrices: closed forms, quadrature, and what is singular."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from kythera import errors
from kythera.physics.statistics.fisher import (
    covariance,
    cramer_rao,
    fisher_information,
    unbinned_information,
)


def test_counting_experiment_with_a_known_background(x64):
    """n = mu s + beta b with a constraint on beta: the sum of both variances, by hand."""
    s, b, width = 10.0, 50.0, 0.2
    i = fisher_information(jnp.array([[s, b]]), jnp.array([s + b]), [math.inf, width])
    by_hand = math.sqrt((s + b + (width * b) ** 2) / s**2)
    assert cramer_rao(i)[0] == pytest.approx(by_hand, rel=1e-12)


def test_published_bound_of_a_shape_uncertainty(x64):
    """One bin, signal 20, background 35 +- 6 with a Poisson constraint (relaxed, phi = 5)."""
    tau = (35 / 6) ** 2
    jacobian = jnp.array([[20.0, 35.0], [0.0, tau]])
    sigma = cramer_rao(fisher_information(jacobian, jnp.array([35.0, tau])))
    np.testing.assert_allclose(sigma, [0.42130749, 0.17142857], atol=1e-8)


def test_expected_hessian_of_the_likelihood(x64):
    """At the Asimov point the Hessian of -log L is the information."""

    def rates(p):
        return 20 * jnp.exp(-p[0] * jnp.arange(1, 6)) + p[1] ** 2 + p[2]

    at, widths = jnp.array([0.3, 1.2, 2.0]), jnp.array([math.inf, 0.5, 0.7])
    data = 20 * np.exp(-0.3 * np.arange(1, 6)) + 3.44

    def nll(p):
        pull = jnp.where(jnp.isinf(widths), 0.0, (p - at) / widths)
        return jnp.sum(rates(p) - data * jnp.log(rates(p))) + jnp.sum(pull**2) / 2

    @jax.jit
    def both(p):
        information = fisher_information(jax.jacfwd(rates)(p), rates(p), widths)
        return information, jax.hessian(nll)(p)

    np.testing.assert_allclose(*both(at), rtol=1e-10)


def test_single_events_by_quadrature_and_by_drawing(x64):
    """The mean of an exponential: I = N / tau^2."""
    tau, expected = 2.0, 300.0
    nodes, step = np.linspace(0, 100, 200_001, retstep=True)
    p = np.exp(-nodes / tau) / tau
    assert integrate.trapezoid(p, nodes) == pytest.approx(1, abs=1e-6)
    scores = (nodes / tau**2 - 1 / tau)[:, None]
    exact = unbinned_information(scores, expected * p * step)
    np.testing.assert_allclose(exact, [[expected / tau**2]], rtol=1e-3)
    drawn = np.random.default_rng(1).exponential(tau, 40_000)
    scores = (drawn / tau**2 - 1 / tau)[:, None]
    estimate = unbinned_information(scores, expected / len(drawn), [10.0])
    # The variance of s^2 is 8 / tau^4: an error of sqrt(8 / n).
    want = expected / tau**2 + 0.01
    assert abs(float(estimate[0, 0]) - want) < 4 * want * math.sqrt(8 / len(drawn))


def test_a_singular_matrix_names_the_direction(x64):
    """Signal and background of one shape: nothing tells them apart."""
    shape = jnp.array([[5.0, 50.0], [10.0, 100.0]])
    information = fisher_information(shape, jnp.array([55.0, 110.0]))
    with pytest.raises(errors.InputError, match=r"direction .*\+1 s .*-0.1 b.*fix one"):
        covariance(information, ["s", "b"])
    assert np.isnan(jax.jit(cramer_rao)(information)).all()
    assert np.isfinite(cramer_rao(information + jnp.diag(jnp.array([0, 1e-2])))).all()


def test_units_do_not_make_a_matrix_singular():
    """In float32, parameters of 1 eV and of 1 TeV side by side."""
    jacobian = jnp.array([[1.0, 2e-12], [3.0, 1e-12], [1.0, -1e-12]])
    sigma = cramer_rao(fisher_information(jacobian, jnp.ones(3)))
    exact = np.linalg.inv([[11, 4], [4, 6]])
    np.testing.assert_allclose(sigma, np.sqrt(np.diag(exact)) * [1, 1e12], rtol=1e-4)


def test_a_silent_bin_tells_nothing_and_keeps_derivatives():
    """A soft bin that underflowed counts for nothing, in value and derivative."""

    def bound(x):
        jacobian = jnp.stack([jnp.array([x, 2 * x, 0.0]), jnp.array([1.0, -x, 0.0])], 1)
        n = jnp.array([10.0, 20.0, 0.0]) * x
        return cramer_rao(fisher_information(jacobian, n))[0]

    assert np.isfinite(jax.jit(jax.value_and_grad(bound))(2.0)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fisher_information(jnp.ones((3, 1)), jnp.array([1.0, 0.0, -2.0])),
            r"bins 1, 2 expect \[ 0\. -2\.\]. Merge",
        ),
        (lambda: fisher_information(jnp.ones((2, 3)), jnp.ones(3)), "Transpose"),
        (lambda: fisher_information(jnp.ones((2, 2)), jnp.ones(2), [1.0]), "inf"),
        (lambda: fisher_information(jnp.ones((1, 1)), jnp.ones(1), [0.0]), "> 0"),
        (lambda: unbinned_information(jnp.ones(3)), r"\(event, parameter\)"),
        (lambda: covariance(jnp.ones((2, 3))), "shape"),
        (lambda: covariance(jnp.array([[jnp.nan]])), "finite"),
        (lambda: fisher_information("a", [1.0]), "`jacobian` must be real numbers"),
        (lambda: fisher_information([[jnp.nan], [1.0]], [1.0, 1.0]), "rows 0 some"),
        (lambda: unbinned_information([[1.0], [jnp.inf]]), "rows 1 some"),
        (lambda: unbinned_information([[1.0], [2.0]], [1.0, -0.5]), r"1 are \[-0.5\]"),
        (lambda: unbinned_information([[1.0], [2.0]], -1.0), "finite and >= 0"),
        (lambda: unbinned_information([[1.0], [2.0]], [1.0, 2, 3]), "each of 2 events"),
        (lambda: cramer_rao(jnp.zeros((0, 0))), "one parameter or more"),
        (lambda: covariance([[2.0, 1.0], [0.5, 2.0]]), "transpose by 0.25"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()


def test_an_empty_bin_is_nan_under_jit():
    information = jax.jit(fisher_information)(jnp.ones((2, 1)), jnp.array([1.0, 0.0]))
    assert np.isnan(information).all()


def test_what_cannot_be_refused_under_jit_is_nan():
    information = jax.jit(unbinned_information)(jnp.ones((2, 1)), jnp.array([1.0, -1]))
    assert np.isnan(information).all()
    assert np.isnan(jax.jit(covariance)(jnp.array([[2.0, 1.0], [0.5, 2.0]]))).all()
