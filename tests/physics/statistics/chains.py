"""Autoregressive chains, whose autocorrelation times are known exactly."""

import numpy as np
from scipy.signal import lfilter


def ar1(n: int, a: float, seed: int) -> np.ndarray:
    """x_i = a x_(i-1) + sqrt(1 - a^2) e_i: unit variance, tau = (1 + a) / (2 (1 - a))."""
    noise = np.random.default_rng(seed).standard_normal(n)
    rest, _ = lfilter([np.sqrt(1 - a * a)], [1, -a], noise[1:], zi=[a * noise[0]])
    return np.concatenate([noise[:1], rest])
