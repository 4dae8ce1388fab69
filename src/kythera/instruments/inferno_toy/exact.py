"""What no summary can surpass: the information of the density of events itself."""

import math

import jax.numpy as jnp
import numpy as np

from kythera.core.types import Array, Float
from kythera.instruments.inferno_toy.problem import (
    NORMALISATIONS,
    SHIFTS,
    check_benchmark,
)
from kythera.instruments.inferno_toy.simulator import (
    MEAN,
    NOMINAL,
    SIGNAL_RATE,
    WIDTHS,
    YIELDS,
)

PARAMETERS = ("signal", "shift", "rate", "background")


def information(step: float = 0.3, nodes: int = 40) -> np.ndarray:
    """Fisher information of an extended unbinned likelihood, by quadrature.

    With the density of events D(x) = s f_s(x) + b f_b(x; r, lambda),

        I_kl = integral dD/dk dD/dl / D dx,

    by the trapezoid rule in the two Gaussian features, which converges faster than any
    power of the step, and Gauss and Legendre's in the exponential one.

    Args:
        step: of the grid in the first two features.
        nodes: in the third one, on [0, 16].

    Returns:
        shape (4, 4), in the order of `PARAMETERS`, without constraints; float64.
    """
    s, b = YIELDS["signal"], YIELDS["background"]
    r, rate = NOMINAL["shift"], NOMINAL["rate"]
    x0, x1 = (
        np.arange(m - 9 * w, m + 9 * w, step) for m, w in zip(MEAN, WIDTHS, strict=True)
    )
    nodes_, weights = np.polynomial.legendre.leggauss(nodes)
    x2, weights = 8 * (nodes_ + 1), 8 * weights
    signal = _normal(x0, 0, 1)[:, None] * _normal(x1, 0, 1)
    background = _normal(x0, MEAN[0] + r, WIDTHS[0])[:, None] * _normal(
        x1, MEAN[1], WIDTHS[1]
    )
    pull = ((x0 - MEAN[0] - r) / WIDTHS[0] ** 2)[:, None]
    total = np.zeros((4, 4))
    for x, weight in zip(x2, weights, strict=True):
        f_s = signal * SIGNAL_RATE * math.exp(-SIGNAL_RATE * x)
        f_b = background * rate * math.exp(-rate * x)
        slopes = np.stack([f_s, b * f_b * pull, b * f_b * (1 / rate - x), f_b])
        density = np.maximum(s * f_s + b * f_b, 1e-300)
        total += weight * np.einsum("kij,lij->kl", slopes / density, slopes)
    return total * step**2


def log_densities(x: Float[Array, "event 3"]) -> Float[Array, "event 2"]:
    """Logarithms of the nominal densities of background and signal, up to a common one.

    Their difference orders events as the best classifier does.

    Args:
        x: features.
    """
    rate, (w0, w1) = NOMINAL["rate"], WIDTHS
    pulls = ((x[:, 0] - MEAN[0]) / w0) ** 2 + ((x[:, 1] - MEAN[1]) / w1) ** 2
    background = math.log(rate / (w0 * w1)) - pulls / 2 - rate * x[:, 2]
    signal = math.log(SIGNAL_RATE) - (x[:, 0] ** 2 + x[:, 1] ** 2) / 2
    return jnp.stack([background, signal - SIGNAL_RATE * x[:, 2]], -1)


def analytical(benchmark: int, matrix: np.ndarray | None = None) -> float:
    """Error of the signal's count with the full likelihood: the best that can be.

    Args:
        benchmark: 0 to 4.
        matrix: of `information`; computed where it is not given.

    Raises:
        InputError: an unknown benchmark.
    """
    check_benchmark(benchmark)
    matrix = information() if matrix is None else matrix
    widths = {"signal": math.inf, **SHIFTS[benchmark], **NORMALISATIONS[benchmark]}
    free = [PARAMETERS.index(name) for name in widths]
    own = matrix[np.ix_(free, free)] + np.diag([1 / w**2 for w in widths.values()])
    return float(np.sqrt(np.linalg.inv(own)[0, 0]))


def _normal(x: np.ndarray, mean: float, width: float) -> np.ndarray:
    return np.exp(-(((x - mean) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
