"""The Gamma method against exact autocorrelation times and plain sums."""

import numpy as np
import pytest

from kythera.physics.statistics import autocorrelation
from kythera.physics.statistics.autocorrelation import Chain, gamma_method, lag_sums

from .chains import ar1


@pytest.mark.parametrize("time", [5, 16, 33, 700])
def test_sums_over_lags_are_those_sums(time):
    x = np.random.default_rng(time).standard_normal((3, time))
    plain = [[r[: time - t] @ r[t:] if t < time else 0.0 for t in range(40)] for r in x]
    np.testing.assert_allclose(lag_sums(x, 40), plain, atol=1e-12)


def test_blocks_and_fourier_transformation_agree(monkeypatch):
    x = np.random.default_rng(1).standard_normal((2, 1300))
    whole = lag_sums(x, 600)
    monkeypatch.setattr(autocorrelation, "MANY", 10_000)
    np.testing.assert_allclose(lag_sums(x, 600), whole, atol=1e-10)


def test_errors_are_those_of_theory():
    """Over many chains: the scatter of means, and tau = (1 + a) / (2 (1 - a))."""
    n, a, many = 4000, 0.6, 400
    chains = np.stack([ar1(n, a, seed) for seed in range(many)])
    means = chains.mean(1)
    found = gamma_method([Chain(chains - means[:, None])])
    exact = np.sqrt((1 + a) / (1 - a) / n)
    assert means.std() == pytest.approx(exact, rel=0.1)  # 3.5% is one sigma
    assert found.stderr.mean() == pytest.approx(exact, rel=0.02)
    assert found.tau.mean() == pytest.approx(2.0, rel=0.03)
    assert found.stderr.std() == pytest.approx(found.stderr_error.mean(), rel=0.3)
    assert found.tau.std() == pytest.approx(found.tau_error.mean(), rel=0.3)


def test_replicas_and_gaps_use_all_that_was_measured():
    """Half of the configurations, at random, of two chains: the same tau."""
    rng, n = np.random.default_rng(3), 20_000
    kept, whole = [], []
    for seed in (1, 2):
        x, present = ar1(n, 0.8, seed), rng.random(n) < 0.5
        mean = x[present].mean()
        kept.append(Chain(np.where(present, x - mean, 0.0)[None], present))
        whole.append(Chain((x - x.mean())[None]))
    gaps, full = gamma_method(kept), gamma_method(whole)
    count = sum(chain.measured for chain in kept)
    assert count == pytest.approx(n, rel=0.05)
    # Per kept configuration: tau - 1/2 is halved, Gamma(0) stays.
    assert full.tau[0] == pytest.approx(4.5, rel=0.1)
    assert gaps.tau[0] == pytest.approx(4.5, rel=0.15)
    assert gaps.stderr[0] > full.stderr[0]


@pytest.mark.parametrize("S", [0.0, 2.0])
def test_many_short_chains_have_errors_that_are_too_small(S):
    """By sqrt(1 - R/n), as the documentation says: pulls are wider by sqrt(5/4)."""
    x = np.random.default_rng(2).normal(size=(4000, 40, 5))
    d = x - x.mean(2, keepdims=True)
    found = gamma_method([Chain(c) for c in np.moveaxis(d, 1, 0)], S=S)
    stderr = np.sqrt(np.mean(found.stderr**2) * 200)
    assert stderr == pytest.approx(np.sqrt(1 - 40 / 200), rel=0.02)
    pulls = x.mean((1, 2)) / found.stderr
    assert pulls.std() == pytest.approx(np.sqrt(5 / 4), rel=0.03)


def test_rows_do_not_see_each_other():
    chains = np.stack([ar1(1500, a, 5) for a in np.linspace(0, 0.97, 70)])
    chains -= chains.mean(1)[:, None]
    for settings in ({}, {"S": 0.0}, {"tau_exp": 5.0, "n_sigma": 2.0}):
        together = gamma_method([Chain(chains)], **settings)
        for row in (0, 33, 69):
            alone = gamma_method([Chain(chains[[row]])], **settings)
            for one, all_ in zip(alone, together):
                assert one[0] == pytest.approx(all_[row], rel=1e-9)


def test_what_does_not_fluctuate_has_no_error():
    x = np.zeros((2, 50))
    x[1] = ar1(50, 0.3, 1)
    for settings in ({}, {"S": 0.0}, {"tau_exp": 2.0}):
        found = gamma_method([Chain(x)], **settings)
        assert (found.stderr[0], found.tau[0]) == (0.0, 0.5)
        assert found.stderr[1] > 0
