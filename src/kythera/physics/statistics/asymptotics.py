"""Discoveries and limits from likelihood ratios, in the limit of many events.

Equation numbers: G. Cowan, K. Cranmer, E. Gross, O. Vitells, Eur. Phys. J. C 71 (2011) 1554
(arXiv:1007.1727). CLs: A. L. Read, J. Phys. G 28 (2002) 2693.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri

from kythera import errors
from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float
from kythera.physics.statistics.checks import known, listed, reals

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
        InputError: counts or an uncertainty outside these ranges (NaN under `jit`), no
            numbers, or shapes that do not broadcast.
    """
    given = {"signal": signal, "background": background, "uncertainty": uncertainty}
    s, b, sigma = (reals(v, f"`{k}`") for k, v in given.items())
    try:
        jnp.broadcast_shapes(s.shape, b.shape, sigma.shape)
    except ValueError as error:
        raise errors.InputError(
            "Signal, background and uncertainty must have shapes that broadcast, but have "
            f"{s.shape}, {b.shape} and {sigma.shape}. Give one number for each bin."
        ) from error
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


def log_p_value(significance: Real) -> Array:
    """ln(1 - Phi(Z)): right, and with a slope, where the probability underflows."""
    return log_ndtr(-jnp.asarray(significance, float))


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
        the probabilities, of the same shape. CLs is a difference of logarithms, and so
        right where the two others underflow.

    Raises:
        InputError: test statistics outside these ranges (NaN under `jit`).
    """
    q, q_asimov = reals(q, "`q`"), reals(q_asimov, "`q_asimov`")
    good = _good(q_asimov, q)
    z, a = safe_sqrt(q), safe_sqrt(q_asimov)
    inside = (z <= a) | (not tilde)
    t = jnp.where(inside, z - a, (q - q_asimov) / jnp.where(inside, 1.0, 2 * a))
    t = jnp.where(good, t, jnp.nan)
    clsb, clb = log_ndtr(-(t + a)), log_ndtr(-t)
    return TailProbabilities(*map(jnp.exp, (clsb, clb, clsb - clb)))


def expected_cls(q_asimov: Real) -> Array:
    """CLs that the background alone will give, at -2, -1, 0, 1 and 2 standard deviations.

    CLs = Phi(-(n + a)) / Phi(-n) with a = sqrt(q_A) and n = 2, ..., -2, Eq. 89: the band
    about the median of what is expected.

    Args:
        q_asimov: test statistic of the Asimov data of the background alone, > 0.

    Returns:
        the band, shape (5, ...), rising.

    Raises:
        InputError: a test statistic that is not positive (NaN under `jit`).
    """
    q_asimov = reals(q_asimov, "`q_asimov`")
    good = _good(q_asimov)
    a = jnp.where(good, safe_sqrt(q_asimov), jnp.nan)
    n = jnp.asarray(BAND).reshape(-1, *(1,) * a.ndim)
    return jnp.exp(log_ndtr(-(n + a)) - log_ndtr(-n))


def _good(q_asimov: Array, q: Array | float = 0.0) -> Array:
    """Which test statistics are in their ranges; where they are known, all must be."""
    good = (q_asimov > 0) & (q >= 0)
    if known(good) and not good.all():
        raise errors.InputError(
            "Limits need test statistics q >= 0 and q_asimov > 0, but the least are "
            f"{np.min(q)} and {np.min(q_asimov)}. Test a signal that moves the expected "
            "counts by more than rounding."
        )
    return good


def _few(values: Array, where: np.ndarray) -> list[float]:
    """The first offending values."""
    return np.atleast_1d(values)[where[:5] % np.size(values)].tolist()
