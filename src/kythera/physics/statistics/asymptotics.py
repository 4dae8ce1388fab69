"""Discoveries and limits from likelihood ratios, in the limit of many events.

Equation numbers: G. Cowan, K. Cranmer, E. Gross, O. Vitells, Eur. Phys. J. C 71 (2011) 1554
(arXiv:1007.1727). CLs: A. L. Read, J. Phys. G 28 (2002) 2693.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from kythera import errors
from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float
from kythera.physics.statistics.checks import known, listed

Real = Float[Array, "*batch"] | float
BAND = (2.0, 1.0, 0.0, -1.0, -2.0)  # that CLs rises along the band


class TailProbabilities(eqx.Module):
    """How often a hypothesis gives what is less compatible with it than what was seen.

    Args:
        clsb: with the signal.
        clb: with the background alone.
        cls: their ratio, which excludes the signal where it is small (0.05).
    """

    clsb: Array
    clb: Array
    cls: Array


def discovery_significance(
    signal: Real, background: Real, uncertainty: Real = 0.0
) -> Array:
    """Median significance with which a counting experiment discovers a signal.

    Z = sqrt(2 [(s+b) ln(1 + s b / (b^2 + (s+b) v)) - b^2/v ln(1 + v s / (b (b+v)))]) with
    v = sigma_b^2, the background known from an auxiliary count (G. Cowan, Discovery
    sensitivity for a counting experiment with background uncertainty, 2012, Eq. 20); for
    v = 0 this is sqrt(2 [(s+b) ln(1 + s/b) - s]), Eq. 97, and s / sqrt(b) for s << b.

    Args:
        signal: s, expected counts, >= 0.
        background: b, expected counts, > 0.
        uncertainty: sigma_b, standard deviation of b, counts, >= 0.

    Returns:
        Z, in standard deviations.

    Raises:
        InputError: counts or an uncertainty outside these ranges (NaN under `jit`).
    """
    s, b, sigma = (jnp.asarray(v, float) for v in (signal, background, uncertainty))
    good = (s >= 0) & (b > 0) & (sigma >= 0)
    if known(good) and not good.all():
        bad = np.flatnonzero(~np.atleast_1d(good))
        raise errors.InputError(
            "A significance needs signal >= 0, background > 0 and uncertainty >= 0, but "
            f"the entries {listed(bad)} have signal {_few(s, bad)}, background "
            f"{_few(b, bad)}, uncertainty {_few(sigma, bad)}. Give expected counts; where "
            "no background is left, its upper limit."
        )
    b = jnp.where(good, b, 1.0)
    v = sigma**2
    exact = v == 0
    safe = jnp.where(exact, 1.0, v)
    aux = jnp.where(exact, s, b**2 / safe * jnp.log1p(safe * s / (b * (b + safe))))
    half = (s + b) * jnp.log1p(s * b / (b**2 + (s + b) * v)) - aux
    # The difference loses its digits, and the root its derivative, where s is small.
    small = s / b < jnp.finfo(b.dtype).eps ** 0.5
    z = jnp.where(small, s / jnp.sqrt(b + v), safe_sqrt(2 * half))
    return jnp.where(good, z, jnp.nan)


def p_value(significance: Real) -> Array:
    """Probability of a fluctuation of at least Z standard deviations upwards: 1 - Phi(Z)."""
    return ndtr(-jnp.asarray(significance, float))


def significance(p_value: Real) -> Array:
    """The standard deviations of a one-sided p-value, Eq. 1: Z = Phi^-1(1 - p)."""
    return -ndtri(jnp.asarray(p_value, float))


def tail_probabilities(
    q: Real, q_asimov: Real, *, tilde: bool = True
) -> TailProbabilities:
    """CLs+b, CLb and CLs of one value of an upper limit's test statistic.

    With z = sqrt(q) and a = sqrt(q_A), CLs+b = Phi(-z) and CLb = Phi(a - z), Eq. 57; for
    q~ beyond q_A, Eq. 65, CLs+b = Phi(-(q + q_A) / 2a) and CLb = Phi(-(q - q_A) / 2a).

    Args:
        q: q_mu or q~_mu of the data, >= 0.
        q_asimov: of the Asimov data of the background alone, > 0.
        tilde: whether q is q~_mu, whose signal strength is never negative.

    Returns:
        the probabilities, of the same shape.
    """
    q, q_asimov = jnp.asarray(q, float), jnp.asarray(q_asimov, float)
    z, a = safe_sqrt(q), safe_sqrt(q_asimov)
    inside = (z <= a) | (not tilde)
    t = jnp.where(inside, z - a, (q - q_asimov) / jnp.where(inside, 1.0, 2 * a))
    clsb, clb = ndtr(-(t + a)), ndtr(-t)
    return TailProbabilities(clsb, clb, clsb / clb)


def expected_cls(q_asimov: Real) -> Array:
    """CLs that the background alone will give, at -2, -1, 0, 1 and 2 standard deviations.

    CLs = Phi(-(n + a)) / Phi(-n) with a = sqrt(q_A) and n = 2, ..., -2, Eq. 89: the band
    about the median of what is expected.

    Args:
        q_asimov: test statistic of the Asimov data of the background alone, > 0.

    Returns:
        the band, shape (5, ...), rising.
    """
    a = safe_sqrt(jnp.asarray(q_asimov, float))
    n = jnp.asarray(BAND).reshape(-1, *(1,) * a.ndim)
    return ndtr(-(n + a)) / ndtr(-n)


def _few(values: Array, where: np.ndarray) -> list[float]:
    """The first offending values."""
    return np.atleast_1d(values)[where[:5] % np.size(values)].tolist()
