"""When nothing is gained any more: gains against noise, shared events, no events."""

import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.stopping import Converged

W = 10


def _stops(losses, stderr=0.1, sample=lambda i: i, cause="", **settings):
    """Number of trials after which it stops; None where it never does."""
    callback = Converged(**({"window": W} | settings))
    for i, loss in enumerate(losses):
        found = ky.Evaluation(
            ky.Measured(loss, stderr), {}, {}, np.zeros((0, 0)), 100, cause
        )
        u = np.zeros(1)
        if callback(ky.Trial(i, sample(i), u, u, found, 0.1, 100 * i + 100)):
            return i + 1
    return None


def _noise(size, count=40, seed=1):
    return size * np.random.default_rng(seed).normal(size=count)


def test_it_goes_on_while_the_gain_is_significant():
    falling = 10 - np.arange(40.0)
    assert _stops(falling) is None
    assert _stops(falling + _noise(0.5)) is None


def test_it_stops_where_nothing_is_gained():
    assert _stops(np.r_[10 - np.arange(20.0), np.full(40, -10.0)]) == 40
    assert _stops(np.full(40, 1.0), stderr=np.nan) == 2 * W


def test_a_gain_is_judged_against_the_quoted_error():
    falling = 1 - 0.001 * np.arange(40)  # 0.01 between the halves
    assert _stops(falling, stderr=0.1) == 2 * W  # error 0.1 sqrt(2 / 10) = 0.045
    assert _stops(falling, stderr=0.01) is None  # error 0.0045
    assert _stops(falling, stderr=0.01, sigmas=3.0) == 2 * W


def test_a_gain_is_judged_against_the_scatter():
    slowly = 1 - 0.001 * np.arange(40)
    assert _stops(slowly + _noise(0.5), stderr=1e-6, sigmas=2.0) == 2 * W


def test_designs_of_one_batch_share_their_noise():
    falling = 1 - 0.01 * np.arange(40)  # 0.1 between the halves
    assert _stops(falling, stderr=0.15) is None  # independent: error 0.067
    # Two batches of five in each half: 0.15 sqrt(4 / 4) = 0.15.
    assert _stops(falling, stderr=0.15, sample=lambda i: i // 5) == 2 * W


def test_a_fixed_sample_is_judged_by_change_alone():
    slowly = 1 - 1e-6 * np.arange(60)
    assert _stops(slowly, stderr=0.5, sample=lambda i: 0) is None
    leap = slowly.copy()
    leap[3] = 1e3  # a line search that went too far scatters, but gains
    assert _stops(leap[:20], stderr=0.5, sample=lambda i: 0) is None
    flat = np.r_[slowly[:20], np.full(40, slowly[20])]
    assert _stops(flat, stderr=0.5, sample=lambda i: 0) == 40


def test_failed_trials_do_not_count():
    assert _stops(np.full(40, np.inf), cause="no beam") is None


def test_windows_of_one_are_refused():
    with pytest.raises(errors.InputError, match="at least 2 trials, but is 1"):
        Converged(1)
