"""Observables: what is kept through functions, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.physics.statistics.observables import (
    Observables,
    constants,
    observables,
    stack,
)
from kythera.physics.statistics.propagation import autocorrelations, covariance, derive

from .chains import ar1


@pytest.fixture(scope="module")
def pair() -> Observables:
    x, y = ar1(2000, 0.7, 1), ar1(2000, 0.2, 2)
    return observables(np.stack([3 + x, 5 + y + 0.5 * x], 1), "A")


def equal(one: Observables, other: Observables) -> None:
    a, b = one.estimate(), other.estimate()
    np.testing.assert_allclose(a.value, b.value, rtol=1e-12)
    np.testing.assert_allclose(a.stderr, b.stderr, rtol=1e-9)


def test_arithmetic_is_automatic_differentiation(pair):
    a, b = pair
    by_hand = stack([2 - a, a / b, 1 / b, -a * 2 + b**3, a - b, np.float64(2) + a])
    equal(
        by_hand,
        derive(
            lambda a, b: jnp.stack([2 - a, a / b, 1 / b, -a * 2 + b**3, a - b, 2 + a]),
            a,
            b,
        ),
    )
    powers = stack([a**b, 2**a, a**0, np.float64(0.5) ** a, b ** np.array(1.5)])
    equal(powers[:2], derive(lambda a, b: jnp.stack([a**b, 2**a]), a, b))
    equal(powers[3:], derive(lambda a, b: jnp.stack([0.5**a, b**1.5]), a, b))
    assert powers.estimate().stderr[2] == 0
    assert (a - a).estimate().stderr == 0
    wide = pair * np.arange(6.0).reshape(3, 2)
    equal(wide[2], stack([4 * a, 5 * b]))
    equal(pair[::-1] + pair, stack([a + b, b + a]))


def test_trees_go_in_and_come_out(pair):
    def function(of, scale):
        return {"sum": of["a"] + scale, "det": jnp.linalg.det(of["m"])}

    matrix = stack([pair, pair[::-1] * 2])
    found = derive(function, {"a": pair, "m": matrix}, 2)
    equal(found["sum"], pair + 2)
    equal(found["det"], 2 * (pair[0] ** 2 - pair[1] ** 2))
    assert found["det"].shape == ()


def test_ensembles_are_independent_and_one_ensemble_is_not(pair):
    a = pair[0]
    twin = observables(3 + ar1(2000, 0.7, 1), "B")
    error = a.estimate().stderr
    assert (a + twin).estimate().stderr == pytest.approx(np.sqrt(2) * error)
    assert (a + a).estimate().stderr == pytest.approx(2 * error)
    matrix = covariance(stack([a, twin, a + twin]))
    np.testing.assert_allclose(
        matrix / error**2, [[1, 0, 1], [0, 1, 1], [1, 1, 2]], atol=1e-9
    )


def test_constants_are_correlated_as_told(pair):
    matrix = np.array([[0.04, 0.01], [0.01, 0.09]])
    c = constants([1.0, 2.0], matrix, "c")
    np.testing.assert_allclose(covariance(c), matrix, rtol=1e-12)
    found = (c[0] - c[1] + 0 * pair[0]).estimate()
    assert found.stderr == pytest.approx(np.sqrt(0.04 + 0.09 - 0.02))
    assert found.constants["c"] == pytest.approx(found.stderr)


def test_an_estimate_prints_one_line_for_each(pair):
    first, second = str(pair).splitlines()
    assert first.startswith("2.968 +- 0.0")
    assert "'A' ('': 2000 from 1 to 2000)" in repr(pair)
    assert "tau(A)" in second
    rho, error = autocorrelations(pair, "A", 4)
    assert rho.shape == error.shape == (4, 2)
    assert rho[1, 0] == pytest.approx(0.7, abs=4 * error[1, 0])


SINGLE = observables(1 + np.arange(9.0) ** 2)
WRONG = [
    (lambda: observables(np.arange(4.0)), "at least 5 samples"),
    (lambda: observables(3.0), "at least 5 samples"),
    (lambda: observables(np.full((9, 2), 2.5), "A"), "all samples of 2 of 2.*2.5"),
    (lambda: observables([1.0, np.nan, 2, 3, 4]), "must be finite"),
    (
        lambda: observables({"a": np.ones(9), "b": np.ones((9, 2))}),
        "hold the same observables",
    ),
    (lambda: observables(np.arange(5.0), numbers=[1, 2, 2, 3, 4]), "increase"),
    (lambda: observables(np.arange(5.0), numbers=[1, 2, 3]), "increase"),
    (
        lambda: observables({"a": np.arange(5.0)}, numbers={"b": range(5)}),
        "must name the chains",
    ),
    (lambda: constants([1, 2], [[1, 0.5]], "c"), r"shape \(2, 2\)"),
    (lambda: constants([1, 2], [[1, 0.5], [0.4, 1]], "c"), "symmetric"),
    (lambda: constants([1, 2], [[1, 2], [2, 1]], "c"), "positive-semidefinite"),
    (
        lambda: constants(1.0, 0.1, "c") + constants(1.0, 0.2, "c"),
        "different covariances",
    ),
    (lambda: derive(jnp.exp, 3.0), "must be an `Observables`"),
    (lambda: observables(np.arange(9.0)).estimate(S=-1), "`S` must be a number >= 0"),
    (
        lambda: observables(np.arange(9.0), "A").estimate(S={"B": 1}),
        "'B' that is not here",
    ),
    (lambda: observables(np.arange(6.0)).estimate(tau_exp=3), "at least 8 samples"),
    (lambda: derive(lambda m: jnp.log(-m), SINGLE), "finite values, but 1 of 1 .*nan"),
    (lambda: derive(lambda m: jnp.sqrt(m - m), SINGLE), "finite slopes"),
    (lambda: derive(lambda m: 1j * m, SINGLE), "complex"),
    (lambda: derive(lambda m: "x", SINGLE), "What the function gives must be real"),
    (lambda: derive(lambda m, s: m, SINGLE, "x"), "is a text"),
    (lambda: 1 / (SINGLE - SINGLE), "finite slopes|finite values"),
    (lambda: SINGLE / 0, "a division"),
    (lambda: (-SINGLE) ** 0.5, "finite"),
    (lambda: (-SINGLE) ** SINGLE, "finite"),
    (lambda: (-2) ** SINGLE, "finite"),
    (lambda: SINGLE + "1", "combined with must be numbers"),
    (lambda: SINGLE ** np.array([1j]), "combined with must be numbers"),
    (lambda: list(SINGLE), "this is one observable"),
    (lambda: len(SINGLE), "this is one observable"),
    (lambda: stack([]), "there are 0 parts"),
    (lambda: stack([SINGLE, 2.0]), "1 of which are none"),
    (lambda: stack([SINGLE, stack([SINGLE])]), r"shapes \[\(\), \(1,\)\]"),
    (lambda: SINGLE.estimate(S="2"), "`S` must be numbers"),
    (lambda: SINGLE.estimate(S=[2, 3]), "`S` must be a number >= 0"),
    (
        lambda: observables(list("12345")),
        "Samples of ensemble 'events' must be numbers",
    ),
    (lambda: observables(1j * np.arange(9)), "Samples of .* must be numbers"),
    (lambda: observables(np.arange(5.0), numbers=list("12345")), "must be numbers"),
    (lambda: constants("1", 0.1, "c"), "constants 'c' must be numbers"),
    (lambda: constants(np.nan, 0.1, "c"), "must be finite"),
    (lambda: constants(1.0, np.inf, "c"), "must be finite"),
    (lambda: autocorrelations(observables(np.arange(9.0), "A"), "B", 2), "no ensemble"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_bad_input_is_refused(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()


def test_chains_that_do_not_match_are_refused():
    samples = np.arange(9.0) ** 2
    a = observables({"r1": samples, "r2": samples}, "A")
    for other in (
        observables(samples, "A"),
        observables({"r1": samples, "r3": samples}, "A"),
        observables({"r1": samples, "r2": samples[:-1]}, "A"),
        observables({"r1": samples, "r2": samples}, "A", numbers=range(2, 11)),
    ):
        with pytest.raises(errors.InputError, match="same configurations") as told:
            _ = a + other
        assert "'r1': 9 from 1 to 9" in str(told.value)
    same = observables({"r2": samples, "r1": samples}, "A")
    assert (a - same).estimate().stderr == 0


def test_truth_values_are_samples():
    """The efficiency of a cut."""
    passed = np.arange(20) % 3 == 0
    assert observables(passed).value == pytest.approx(passed.mean())


def test_a_constant_may_be_asked_for():
    samples = np.stack([np.arange(9.0), np.ones(9)], 1)
    found = observables(samples, allow_constant=True).estimate()
    assert found.stderr[0] > 0
    assert found.stderr[1] == 0
