"""Significances against published numbers, limits and other forms of the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kythera import errors
from kythera.physics.statistics.asymptotics import (
    discovery_significance,
    expected_cls,
    log_p_value,
    p_value,
    significance,
    tail_probabilities,
)

significance_of = jax.jit(discovery_significance)


def test_counting_experiments(x64):
    """relaxed's number for two bins, and Cowan's formula written as he does."""
    z = significance_of(jnp.full(3, 10.0), jnp.full(3, 50.0), jnp.array([0.0, 5, 10]))
    want = [1.370615487755, 1.107366267886, 0.775146768744]
    np.testing.assert_allclose(z, want, atol=1e-11)
    bins = significance_of(
        jnp.array([5.0, 3, 0]), jnp.array([50.0, 10, 1]), jnp.zeros(3)
    )
    assert jnp.sqrt(jnp.sum(bins**2)) == pytest.approx(1.142624459142421, abs=1e-12)


def test_small_signals_keep_digits_and_slope(x64):
    """Z -> s / sqrt(b + sigma^2), in value and derivative, down to no signal at all."""
    s = jnp.array([0.0, 1e-9, 1e-6, 1e-3])
    z = significance_of(s, jnp.full(4, 50.0), jnp.full(4, 3.0))
    np.testing.assert_allclose(z, s / np.sqrt(59), rtol=1e-4)
    slope = jax.vmap(jax.grad(discovery_significance), (0, None, None))(s, 50.0, 3.0)
    np.testing.assert_allclose(slope, 1 / np.sqrt(59), rtol=1e-3)


def test_p_values_are_normal_tails():
    z = np.array([0.0, 1.0, 3.0, 5.0])
    np.testing.assert_allclose(p_value(z), stats.norm.sf(z), rtol=1e-4)
    np.testing.assert_allclose(significance(p_value(z)), z, atol=1e-4)


def test_tails_from_the_distributions(x64):
    """CLs+b and CLb are integrals of the densities of q~, Eq. 64, with sigma = mu / a."""
    mu, a = 1.0, 1.7

    def density(q, true):
        """Eq. 64: a normal root below a^2, a normal q above."""
        shift = (mu - true) * a / mu
        below = stats.norm.pdf(np.sqrt(q) - shift) / (2 * np.sqrt(q))
        centre = (mu**2 - 2 * mu * true) * (a / mu) ** 2
        return np.where(q < a**2, below, stats.norm.pdf(q, centre, 2 * a))

    for q in (1.1, 5.0):  # on both sides of a^2 = 2.89
        x = np.linspace(q, 80, 400_001)
        tails = tail_probabilities(q, a**2)
        assert tails.clsb == pytest.approx(np.trapezoid(density(x, mu), x), abs=2e-6)
        assert tails.clb == pytest.approx(np.trapezoid(density(x, 0.0), x), abs=2e-6)
        assert tails.cls == pytest.approx(float(tails.clsb / tails.clb))
    plain = tail_probabilities(5.0, a**2, tilde=False)
    assert plain.clsb == pytest.approx(stats.norm.sf(np.sqrt(5)))


def test_the_band_holds_what_the_background_gives(x64):
    """A data set n sigma up has CLb = Phi(-n), and its CLs is the band's."""
    a = 1.7
    band = expected_cls(a**2)
    for n, cls in zip((2, 1, 0, -1), band):
        assert tail_probabilities((a + n) ** 2, a**2, tilde=False).cls == pytest.approx(
            float(cls)
        )
    assert (np.diff(band) > 0).all()


@pytest.mark.parametrize("bad", [(-1.0, 5.0, 0.0), (1.0, 0.0, 0.0), (1.0, 5.0, -2.0)])
def test_bad_counts(bad):
    with pytest.raises(errors.InputError, match="background > 0"):
        discovery_significance(*bad)
    assert np.isnan(significance_of(*bad))


def test_ratios_of_tails_that_underflow():
    """In float32: CLs where CLs+b and CLb are 1e-80, against logarithms in float64."""
    q, q_asimov = 60.0, 0.09
    t = (q - q_asimov) / (2 * 0.3)
    want = np.exp(stats.norm.logsf(t + 0.3) - stats.norm.logsf(t))
    found = tail_probabilities(q, q_asimov)
    assert found.clb == 0
    assert found.cls == pytest.approx(want, rel=2e-3)  # of logarithms near 5000
    band = expected_cls(121.0)
    n = np.array([2.0, 1, 0, -1, -2])
    want = np.exp(stats.norm.logsf(n + 11) - stats.norm.logsf(n))
    np.testing.assert_allclose(band, want, rtol=1e-4)
    value, slope = jax.value_and_grad(log_p_value)(30.0)
    assert value == pytest.approx(stats.norm.logsf(30.0), rel=1e-6)
    assert slope == pytest.approx(-30.0332, rel=1e-4)


def test_statistics_of_limits_are_in_their_ranges():
    for call in (lambda: expected_cls(0.0), lambda: tail_probabilities(1.0, [2.0, -1])):
        with pytest.raises(errors.InputError, match="q_asimov > 0"):
            call()
    with pytest.raises(errors.InputError, match="q >= 0"):
        tail_probabilities(-1.0, 2.0)
    assert np.isnan(jax.jit(expected_cls)(0.0)).all()
    tails = jax.jit(tail_probabilities)(jnp.array([1.0, -1]), jnp.array([0.0, 1]))
    assert np.isnan([tails.cls, tails.clb, tails.clsb]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", 1.0), "`signal` must be real numbers, but is 'a'"),
        ((1.0, ["2"]), "`background` must be real numbers"),
        ((1.0, 2.0, 1j), "`uncertainty` must be real numbers"),
        (([1.0, 2], [1.0, 2, 3]), r"broadcast, but have \(2,\), \(3,\) and \(\)"),
    ],
)
def test_what_is_no_count(arguments, message):
    with pytest.raises(errors.InputError, match=message):
        discovery_significance(*arguments)
