"""The error of a mean over a Markov chain: the Gamma method with its automatic window.

For the fluctuations d_i of an observable about its mean, in Monte Carlo time i = 1..N,

    Gamma(t) = 1/(N - t) sum_i d_i d_(i+t),    rho(t) = Gamma(t) / Gamma(0)
    tau(W) = 1/2 + sum_(t=1..W) rho(t)
    stderr^2 = 2 tau Gamma(0) (1 + 1/N) / N,   tau = tau(W) (1 + (2W + 1)/N) / (1 + 1/N)

(U. Wolff, Comput. Phys. Commun. 156 (2004) 143, hep-lat/0306017, Eq. 31 to 49). The window is
the first W >= 1 with exp(-W/T) < T / sqrt(W N), T = S / ln((2 tau(W) + 1) / (2 tau(W) - 1)):
there the statistical error of tau outgrows what the sum still lacks. In several chains of one
ensemble the sums over i run within each, about its own mean. That is pyerrors' convention, and
takes one degree of freedom from each chain, while the formulas give back that of one: with R
chains and n independent measurements in all, errors are too small by sqrt(1 - R/n). It is 0.5%
for 10 chains of 100 each, and 11% for 40 chains of 5, whose pulls have a width of sqrt(5/4). Few
long chains are better than many short ones.

NumPy in float64: rows are observables. Few lags are summed one by one, only for observables
whose window is still open, and many by Fourier transformation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft

WOLFF = "U. Wolff, Comput. Phys. Commun. 156 (2004) 143, hep-lat/0306017"
SCHAEFER = (
    "S. Schaefer, R. Sommer, F. Virotta, Nucl. Phys. B845 (2011) 93, arXiv:1009.5228"
)
LUESCHER = "M. Luescher, Comput. Phys. Commun. 165 (2005) 199, hep-lat/0409106"

FIRST = 10  # lags that are summed first; then twice as many, where windows are open
MANY = 200  # lags from which on Fourier transformation is faster
LEAST = 0.5 + np.finfo(float).eps  # tau, so that its logarithm exists
ROWS = 4096  # observables at a time, where all lags of all would take much memory


class Window(NamedTuple):
    """Errors from one ensemble, each of shape (observable,).

    Args:
        stderr: standard error of the mean.
        stderr_error: its own statistical error.
        tau: integrated autocorrelation time, in units of the spacing of measurements; 1/2
            for independent ones.
        tau_error: its statistical error.
        window: the lag W at which its sum was cut.
    """

    stderr: np.ndarray
    stderr_error: np.ndarray
    tau: np.ndarray
    tau_error: np.ndarray
    window: np.ndarray


class Chain(NamedTuple):
    """Fluctuations along one chain.

    Args:
        fluctuations: about the mean of this chain, shape (observable, time); zero where
            nothing was measured.
        present: where something was, shape (time,); None where everywhere.
    """

    fluctuations: np.ndarray
    present: np.ndarray | None = None

    @property
    def measured(self) -> int:
        """Number of measurements."""
        time = self.fluctuations.shape[1]
        return time if self.present is None else int(np.sum(self.present))


def gamma_method(
    chains: Sequence[Chain],
    *,
    S: float = 2.0,
    tau_exp: float = 0.0,
    n_sigma: float = 1.0,
) -> Window:
    """Errors of means over the chains of one ensemble, many observables at once.

    Args:
        chains: of the same observables, at least 5 measurements each.
        S: ratio of exponential and integrated autocorrelation time that the window is
            chosen for; 0 takes the measurements as independent, which is exact for one
            chain of such, and too small by sqrt(1 - R/n) for R chains.
        tau_exp: the slowest mode's autocorrelation time, in units of the spacing; where
            positive, the sum is cut where rho(W) vanishes within `n_sigma` errors, and
            tau_exp |rho(W + 1)| is added for the tail (arXiv:1009.5228).
        n_sigma: see `tau_exp`.

    Returns:
        errors, autocorrelation times and windows; an observable that does not fluctuate has
        no error, and tau = 1/2.
    """
    size = len(chains[0].fluctuations)
    parts = []
    for first in range(0, size, ROWS):
        rows = slice(first, first + ROWS)
        part = [Chain(c.fluctuations[rows], c.present) for c in chains]
        if tau_exp > 0:
            parts.append(_with_tail(part, tau_exp, n_sigma))
        elif S == 0:
            parts.append(_independent(part))
        else:
            parts.append(_automatic(part, S))
    return Window(*map(np.concatenate, zip(*parts)))


def covariance_function(chains: Sequence[Chain], lags: int) -> np.ndarray:
    """Gamma(t) for t = 0 ... lags - 1, shape (observable, lags)."""
    return _gamma(chains, lags)


def autocorrelation_function(
    chains: Sequence[Chain], lags: int
) -> tuple[np.ndarray, np.ndarray]:
    """rho(t) = Gamma(t) / Gamma(0) for t = 0 ... lags - 1, and its error.

    The error is Eq. E.11 of hep-lat/0409106 with all lags up to half of the longest chain.

    Returns:
        both of shape (observable, lags); nan beyond half of the longest chain.
    """
    longest = _longest(chains)
    rho = covariance_function(chains, longest)
    rho /= rho[:, :1]
    both = np.full((2, len(rho), lags), np.nan)
    stop = min(lags, longest)
    both[0, :, :stop] = rho[:, :stop]
    for t in range(stop):
        both[1, :, t] = _rho_error(rho, t, _measured(chains))
    return both[0], both[1]


def lag_sums(x: np.ndarray, lags: int, first: int = 0) -> np.ndarray:
    """sum_i x_i x_(i+t) for t = first ... lags - 1.

    Args:
        x: shape (observable, time).
        lags: where to stop.
        first: where to begin.

    Returns:
        shape (observable, lags - first); zero from the length of the chain on.
    """
    time = x.shape[1]
    if lags - first > MANY:
        length = scipy.fft.next_fast_len(time + lags, real=True)
        power = np.abs(np.asarray(scipy.fft.rfft(x, length))) ** 2
        return np.asarray(scipy.fft.irfft(power, length))[:, first:lags]
    sums = np.zeros((lags - first, len(x)))
    for t in range(first, min(lags, time)):
        np.vecdot(x[:, : time - t], x[:, t:], out=sums[t - first])
    return sums.T


def _gamma(chains: Sequence[Chain], lags: int, first: int = 0) -> np.ndarray:
    """Gamma(t) for t = first ... lags - 1, shape (observable, lags - first)."""
    sums = sum(lag_sums(chain.fluctuations, lags, first) for chain in chains)
    return sums / np.maximum(sum(_pairs(chain, lags, first) for chain in chains), 1.0)


def _pairs(chain: Chain, lags: int, first: int) -> np.ndarray:
    """Number of pairs of measurements at each lag, shape (lags - first,)."""
    if chain.present is None:
        return np.maximum(chain.fluctuations.shape[1] - np.arange(first, lags), 0.0)
    return np.round(lag_sums(chain.present[None].astype(float), lags, first)[0])


def _measured(chains: Sequence[Chain]) -> int:
    return sum(chain.measured for chain in chains)


def _longest(chains: Sequence[Chain]) -> int:
    """Lags that are looked at: half of the longest chain."""
    return max(chain.fluctuations.shape[1] for chain in chains) // 2


def _taus(rho: np.ndarray) -> np.ndarray:
    """tau(W), kept above 1/2, shape (observable, lags)."""
    terms = rho.copy()
    terms[:, 0] = 0.5
    return np.maximum(np.cumsum(terms, 1), LEAST)


def _tau_error(tau: np.ndarray, window: np.ndarray | int, n: int) -> np.ndarray:
    """Eq. 42 of hep-lat/0306017."""
    return 2 * tau * np.sqrt(np.abs(window + 0.5 - tau) / n)


def _from_tau(
    gamma0: np.ndarray, tau: np.ndarray, tau_error: np.ndarray, at: np.ndarray, n: int
) -> Window:
    stderr = np.sqrt(2 * tau * gamma0 * (1 + 1 / n) / n)
    return Window(stderr, stderr * np.sqrt((at + 0.5) / n), tau, tau_error, at)


def _still(gamma0: np.ndarray) -> np.ndarray:
    """Which observables do not fluctuate."""
    return np.abs(gamma0) < 10 * np.finfo(float).tiny


def _normed(gamma: np.ndarray) -> np.ndarray:
    """rho(t); zero for what does not fluctuate."""
    still = _still(gamma[:, 0])
    rho = gamma / np.where(still, 1.0, gamma[:, 0])[:, None]
    rho[still] = 0.0
    return rho


def _independent(chains: Sequence[Chain]) -> Window:
    gamma0, n = covariance_function(chains, 1)[:, 0], _measured(chains)
    stderr, none = np.sqrt(gamma0 / (n - 1)), np.zeros(len(gamma0))
    at = np.zeros(len(gamma0), int)
    return Window(stderr, stderr * np.sqrt(0.5 / n), none + 0.5, none, at)


def _automatic(chains: Sequence[Chain], S: float) -> Window:
    """The window of Eq. 50 to 52; longer lags only for those that need them."""
    n, longest = _measured(chains), _longest(chains)
    gamma0 = covariance_function(chains, 1)[:, 0]
    still = _still(gamma0)
    norm = np.where(still, 1.0, gamma0)
    tau, window = np.full(len(norm), 0.5), np.zeros(len(norm), int)
    sums, open_, first, lags = tau.copy(), np.arange(len(norm)), 1, min(FIRST, longest)
    while open_.size:
        rho = _gamma(chains, lags, first) / norm[open_, None]
        rho[:, 0] += sums[open_]
        taus, w = np.cumsum(rho, 1), np.arange(first, lags)
        sums[open_] = taus[:, -1]
        taus = np.maximum(taus, LEAST)
        scale = S / np.log((2 * taus + 1) / (2 * taus - 1))
        cut = np.exp(-w / scale) < scale / np.sqrt(w * n)
        cut |= w >= longest - 1
        at, found = np.argmax(cut, 1), np.any(cut, 1)
        tau[open_] = np.take_along_axis(taus, at[:, None], 1)[:, 0]
        window[open_] = w[at]
        open_ = open_[~found]
        if open_.size < len(found):
            chains = [Chain(c.fluctuations[~found], c.present) for c in chains]
        first, lags = lags, min(2 * lags, longest)
        if lags > MANY:
            lags = longest
    gamma0[still], tau[still], window[still] = 0.0, 0.5, 0
    unbiased = tau * (1 + (2 * window + 1) / n) / (1 + 1 / n)  # Eq. 49
    unbiased[still] = 0.5
    return _from_tau(gamma0, unbiased, _tau_error(tau, window, n) * ~still, window, n)


def _rho_error(rho: np.ndarray, t: int, n: int) -> np.ndarray:
    """Eq. E.11 of hep-lat/0409106, its sum cut at the last lag that is known."""
    many = rho.shape[1] - t - 1  # terms k = 1 ...
    terms = rho[:, t + 1 :] - 2 * rho[:, [t]] * rho[:, 1 : many + 1]
    before = min(max(t - 1, 0), many)  # those with k < t
    terms[:, :before] += rho[:, t - 1 : t - 1 - before : -1]
    terms[:, before:] += rho[:, abs(before + 1 - t) :][:, : many - before]
    return np.sqrt(np.vecdot(terms, terms) / n)


def _with_tail(chains: Sequence[Chain], tau_exp: float, n_sigma: float) -> Window:
    """The window of arXiv:1009.5228, and what the slowest mode adds behind it."""
    n, longest = _measured(chains), _longest(chains)
    gamma = covariance_function(chains, longest)
    rho = _normed(gamma)
    taus, size = _taus(rho), len(rho)
    tau, tau_error, window = np.full(size, 0.5), np.zeros(size), np.zeros(size, int)
    open_, last = np.flatnonzero(~_still(gamma[:, 0])), max(1, longest // 2 - 2)
    error = _rho_error(rho[open_], 1, n)
    for w in range(1, last + 1):
        mine = rho[open_]
        after = _rho_error(mine, w + 1, n)
        cut = (mine[:, w] - n_sigma * error < 0) | (w == last)
        at, own = open_[cut], taus[open_[cut], w]
        unbiased = own * (1 + (2 * w + 1) / n) / (1 + 1 / n)
        tau[at] = unbiased + tau_exp * np.abs(mine[cut, w + 1])
        tau_error[at] = np.hypot(_tau_error(own, w, n), tau_exp * after[cut])
        window[at] = w
        open_, error = open_[~cut], after[~cut]
        if not open_.size:
            break
    return _from_tau(np.maximum(gamma[:, 0], 0.0), tau, tau_error, window, n)
