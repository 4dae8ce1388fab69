"""The error of a mean over a Markov chain: the Gamma method with its automatic window.

For the fluctuations d_i of an observable about its mean, in Monte Carlo time i = 1..N,

    Gamma(t) = 1/(N - t) sum_i d_i d_(i+t),    rho(t) = Gamma(t) / Gamma(0)
    tau(W) = 1/2 + sum_(t=1..W) rho(t)
    stderr^2 = 2 tau Gamma(0) (1 + 1/N) / N,   tau = tau(W) (1 + (2W + 1)/N) / (1 + 1/N)

(U. Wolff, Comput. Phys. Commun. 156 (2004) 143, hep-lat/0306017, Eq. 31 to 49). The window is
the first W >= 1 with exp(-W/T) < T / sqrt(W N), T = S / ln((2 tau(W) + 1) / (2 tau(W) - 1)):
there the statistical error of tau outgrows what the sum still lacks. In several chains of one
ensemble the sums over i run within each, about its own mean.

NumPy in float64: rows are observables. Of sums over lags, few are made as products of
blocks of the chain, whose matrices fit a cache, and many by Fourier transformation.
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

BLOCK = 16  # samples of a block; the fastest of 8, 16, 32, 64
FIRST = 2 * BLOCK + 1  # lags that are tried first; most windows are shorter
MANY = 512  # lags from which on Fourier transformation is faster
GROUP = 32  # observables at a time: their chains stay in the cache
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
            chosen for; 0 takes the measurements as independent.
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
    sums = sum(lag_sums(chain.fluctuations, lags) for chain in chains)
    return sums / _pairs_of(chains, lags)


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


def lag_sums(x: np.ndarray, lags: int) -> np.ndarray:
    """sum_i x_i x_(i+t) for t = 0 ... lags - 1.

    Args:
        x: shape (observable, time).
        lags: how many.

    Returns:
        shape (observable, lags); zero from the length of the chain on.
    """
    if lags == 1:
        return np.vecdot(x, x)[:, None]
    return _lags_of(_extended(np.zeros((len(x), 0)), x, lags), lags)


def _lags_of(sums: np.ndarray, lags: int) -> np.ndarray:
    """Of what `_extended` returns: its first entry is lag 1 - BLOCK."""
    return sums[:, BLOCK - 1 : BLOCK - 1 + lags]


def _extended(sums: np.ndarray, x: np.ndarray, lags: int) -> np.ndarray:
    """Sums over lags, with more of them.

    Args:
        sums: those so far, whole blocks of them; of shape (observable, 0) at first.
        x: shape (observable, time).
        lags: that are wanted.
    """
    done, stop = max(sums.shape[1] // BLOCK - 1, 0), -(-(lags - 1) // BLOCK) + 1
    found = np.zeros((len(x), (stop + 1) * BLOCK))
    if lags > MANY:
        length = scipy.fft.next_fast_len(x.shape[1] + lags, real=True)
        modes = np.abs(np.asarray(scipy.fft.rfft(x, length)))
        power = modes**2
        _lags_of(found, lags)[:] = np.asarray(scipy.fft.irfft(power, length))[:, :lags]
        return found
    found[:, : sums.shape[1]] = sums
    for begin in range(0, len(x), GROUP):
        group = slice(begin, begin + GROUP)
        _add_products(found[group], x[group], done, stop)
    return found


def _add_products(sums: np.ndarray, x: np.ndarray, first: int, stop: int) -> None:
    """Add what blocks of the chain `first` ... `stop - 1` apart have to do with each other."""
    rows, count = len(x), x.shape[1] // BLOCK
    blocks = x[:, : count * BLOCK].reshape(rows, count, BLOCK)
    rest = np.zeros((rows, 1, BLOCK))  # the last block is no whole one
    rest[:, 0, : x.shape[1] - count * BLOCK] = x[:, count * BLOCK :]
    across = blocks.transpose(0, 2, 1)
    products = np.zeros((rows, BLOCK, BLOCK))
    for k in range(first, min(stop, count + 1)):
        if k == 0:
            # A square product of a matrix with itself would be left to BLAS' `syrk`, which
            # takes twice as long here. The last row has lag 0 alone, the rest is negative.
            np.matmul(across[:, :-1], blocks, out=products[:, :-1])
            products[:, -1, -1] = np.vecdot(across[:, -1], across[:, -1])
            products += rest.transpose(0, 2, 1) * rest
        else:
            np.matmul(across[:, :, : count - k], blocks[:, k:], out=products)
            products += blocks[:, count - k, :, None] * rest
        begin = k * BLOCK
        sums[:, begin : begin + 2 * BLOCK - 1] += products.reshape(rows, -1) @ DIAGONALS


def _diagonals() -> np.ndarray:
    """Sums a flat (BLOCK, BLOCK) matrix along its diagonals j - i = 1 - BLOCK ..."""
    i, j = np.divmod(np.arange(BLOCK**2), BLOCK)
    return np.eye(2 * BLOCK - 1)[j - i + BLOCK - 1]


DIAGONALS = _diagonals()


def _pairs(chain: Chain, lags: int) -> np.ndarray:
    """Number of pairs of measurements at each lag, shape (lags,)."""
    if chain.present is None:
        return np.maximum(chain.fluctuations.shape[1] - np.arange(lags), 0.0)
    return np.round(lag_sums(chain.present[None].astype(float), lags)[0])


def _pairs_of(chains: Sequence[Chain], lags: int) -> np.ndarray:
    """The same in all chains, at least 1."""
    return np.maximum(sum(_pairs(chain, lags) for chain in chains), 1.0)


def _measured(chains: Sequence[Chain]) -> int:
    return sum(chain.measured for chain in chains)


def _longest(chains: Sequence[Chain]) -> int:
    """Lags that are looked at: half of the longest chain."""
    return max(chain.fluctuations.shape[1] for chain in chains) // 2


def _taus(rho: np.ndarray) -> np.ndarray:
    """tau(W), kept above 1/2, shape (observable, lags)."""
    terms = rho.copy()
    terms[:, 0] = 0.5
    return np.maximum(np.cumsum(terms, 1), 0.5 + np.finfo(float).eps)


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
    size = len(chains[0].fluctuations)
    gamma0, tau, window = np.zeros(size), np.zeros(size), np.zeros(size, int)
    open_, lags = np.arange(size), min(FIRST, longest)
    sums = [np.zeros((size, 0)) for _ in chains]
    while open_.size:
        sums = [_extended(s, c.fluctuations, lags) for s, c in zip(sums, chains)]
        gamma = sum(_lags_of(s, lags) for s in sums) / _pairs_of(chains, lags)
        taus, w = _taus(_normed(gamma)), np.arange(1, lags)
        scale = S / np.log((2 * taus[:, 1:] + 1) / (2 * taus[:, 1:] - 1))
        cut = np.exp(-w / scale) < scale / np.sqrt(w * n)
        cut |= w >= longest - 1
        at, found = np.argmax(cut, 1) + 1, np.any(cut, 1)
        gamma0[open_], window[open_] = gamma[:, 0], at
        tau[open_] = np.take_along_axis(taus, at[:, None], 1)[:, 0]
        more = 2 * lags - 1  # again what whole blocks give
        open_, lags = open_[~found], min(more if more <= MANY else longest, longest)
        if open_.size:
            chains = [Chain(c.fluctuations[~found], c.present) for c in chains]
            sums = [s[~found] for s in sums]
    still = _still(gamma0)
    gamma0[still], tau[still], window[still] = 0.0, 0.5, 0
    unbiased = tau * (1 + (2 * window + 1) / n) / (1 + 1 / n)  # Eq. 49
    unbiased[still] = 0.5
    return _from_tau(gamma0, unbiased, _tau_error(tau, window, n) * ~still, window, n)


def _rho_error(rho: np.ndarray, t: int, n: int) -> np.ndarray:
    """Eq. E.11 of hep-lat/0409106, its sum cut at the last lag that is known."""
    k = np.arange(1, rho.shape[1] - t)
    terms = rho[:, k + t] + rho[:, np.abs(k - t)] - 2 * rho[:, [t]] * rho[:, k]
    return np.sqrt(np.sum(terms**2, 1) / n)


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
