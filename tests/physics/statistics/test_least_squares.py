"""Fits and roots: derivatives are those of fitting again, and failures are told."""

import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.physics.statistics.least_squares import least_squares, root
from kythera.physics.statistics.observables import constants, observables, stack
from kythera.physics.statistics.propagation import covariance, linear

from .chains import ar1

X = np.arange(1.0, 7.0)
START = [2.0, 0.3]


def decay(p, x):
    return p[0] * jnp.exp(-p[1] * x)


def line(p, x):
    return p[0] + p[1] * x


@pytest.fixture(scope="module")
def points():
    chains = [
        3 * np.exp(-0.4 * x) * (1 + 0.3 * ar1(1000, 0.5, int(x))) for x in X
    ]  # fmt: skip
    return observables(np.stack(chains, 1), "A")


def test_derivatives_are_those_of_fitting_again(points):
    marked = constants(points.value, points.estimate().stderr ** 2, "y")
    stderr, step = points.estimate().stderr, 1e-5
    for more in ({}, {"covariance": covariance(points)}):
        fit = least_squares(decay, X, marked, START, **more)
        ends = []
        for sign in (1, -1):
            moved = marked.value + sign * step * (np.arange(6) == 5)
            again = linear(moved, [(marked, np.eye(6))])
            found = least_squares(decay, X, again, START, stderr=stderr, **more)
            ends.append(found.parameters.value)
        slope = (ends[0] - ends[1]) / (2 * step)
        found = fit.parameters.constants["y"].slopes[:, 5]
        np.testing.assert_allclose(found, slope, rtol=1e-4)


def test_a_straight_line_is_the_textbook_one(points):
    """Weighted least squares with the covariance (A^T W A)^-1 of independent points."""
    stderr = points.estimate().stderr
    independent = constants(points.value, stderr**2, "independent")
    fit = least_squares(line, X, independent, START)
    design = np.stack([np.ones(6), X], 1) / stderr[:, None]
    exact = np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(covariance(fit.parameters), exact, rtol=1e-9)
    assert fit.expected_chi_square == pytest.approx(4)
    assert fit.degrees == 4
    assert "4 degrees of freedom" in str(fit)


def test_errors_in_x_are_points_too(points):
    """Fit the true x along with the line: total least squares."""
    x = constants(X, np.full(6, 0.1**2), "x")
    both = stack([points, x])
    start = np.concatenate([START, X])
    fit = least_squares(
        lambda p, _: jnp.stack([line(p, p[2:]), p[2:]]), None, both, start
    )
    without = least_squares(line, X, points, START)
    assert fit.degrees == without.degrees
    assert np.all(
        fit.parameters[:2].estimate().stderr > without.parameters.estimate().stderr
    )


def test_roots_of_several_unknowns(points):
    """Intersection of a circle of radius a with a line through the origin of slope b."""
    data = points[:2]

    def function(x, d):
        return jnp.stack([x[0] ** 2 + x[1] ** 2 - d[0] ** 2, x[1] - d[1] * x[0]])

    found = root(function, data, [1.0, 1.0])
    a, b = data
    exact = a / (1 + b**2) ** 0.5
    assert found[0].value == pytest.approx(exact.value)
    assert found[0].estimate().stderr == pytest.approx(exact.estimate().stderr)


def test_points_that_say_nothing_are_refused(points):
    for call, message in (
        (lambda: least_squares(line, X[:1], points[:1], START), "at least as many"),
        (lambda: least_squares(line, X, points, START, stderr=0.0), "positive errors"),
        (lambda: least_squares(line, X, points - points, START), "positive errors"),
        (
            lambda: least_squares(
                line, X, points, START, priors={2: constants(1, 1, "c")}
            ),
            "2 parameters",
        ),
        (
            lambda: least_squares(
                line, X, points, START, priors={1: constants(1, 0, "c")}
            ),
            "must have an error",
        ),
        (lambda: least_squares(lambda p, x: p[0], X, points, START), "every point"),
        (
            lambda: least_squares(line, X, points, START, covariance=np.eye(5)),
            "the shape",
        ),
    ):
        with pytest.raises(errors.InputError, match=message):
            call()


def test_more_points_than_samples_have_no_correlated_fit():
    few = observables(np.random.default_rng(1).normal(size=(20, 30)), "few")
    x = np.arange(30.0)
    with pytest.raises(errors.InputError, match="30 points .*'few': 20"):
        least_squares(line, x, few, [0.0, 0.0], covariance=covariance(few))
    assert least_squares(line, x, few, [0.0, 0.0]).degrees == 28


def test_a_fit_that_does_not_converge_says_so(points):
    with pytest.raises(errors.SimulationError, match="positive-definite"):
        least_squares(lambda p, x: p[0] + 0 * x + p[1] * 0, X, points, START)
    with pytest.raises(errors.SimulationError, match="positive-definite|lowered"):
        least_squares(decay, X, points, [1e-3, 40.0])
    with pytest.raises(errors.SimulationError, match="finite where the fit starts"):
        least_squares(lambda p, x: jnp.log(p[0]) * x + p[1], X, points, [-1.0, 1.0])
    with pytest.raises(errors.SimulationError, match="Start closer"):
        root(lambda x, d: x**2 + d, points[0], 1.0)
