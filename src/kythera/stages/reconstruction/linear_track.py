"""Fits of tracks that scatter: filter and smoother, and all hits at once.

A track is described by the same few parameters on its whole way, such as place and slope at
z = 0: those of the line, or helix, on which it moves at present. Material changes them at
random. In these terms nothing has to be carried from plane to plane, and

    parameters behind plane i = parameters before it + noise of covariance Q_i,
    measurements at plane i = H_i parameters + errors of covariance 1 / W_i,

is all there is. Without scattering it is the weighted least squares of a textbook.
R. Fruehwirth, Application of Kalman filtering to track and vertex fitting, Nucl. Instrum.
Meth. A 262 (1987) 444.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.small_matrices import inverse, pivots, solve
from kythera.core.types import Array, Bool, Float, Scalar


class Hits(eqx.Module):
    """The hits of one track, in the order of passage, about a reference track.

    Args:
        residual: measured minus expected, shape (plane, measured).
        rows: H, derivatives of what is expected by the parameters, (plane, measured, n).
        precision: weight / sigma^2, (plane, measured): 0 where there is no hit, whatever the
            residual is there, also NaN; derivatives by it and by the residual are 0 then.
        noise: Q, what the parameters get behind each plane, (plane, n, n).
    """

    residual: Float[Array, "plane measured"]
    rows: Float[Array, "plane measured n"]
    precision: Float[Array, "plane measured"]
    noise: Float[Array, "plane n n"]


class Fit(eqx.Module):
    """What is known of a track as it arrives at each plane.

    Args:
        parameters: best values, given all hits, shape (plane, n).
        covariance: of these, (plane, n, n).
        chi2: of the whole track, with its scatters.
        freedom: hits that were measured, less the parameters.
        found: whether the hits determine a track; if not, all numbers are 0.
    """

    parameters: Float[Array, "plane n"]
    covariance: Float[Array, "plane n n"]
    chi2: Scalar
    freedom: Scalar
    found: Bool[Array, ""]


def smooth(hits: Hits) -> Fit:
    """Kalman's filter from both ends, joined at each plane, in terms of information.

    With L the information (inverse covariance) and e = L x, a hit adds H^T W H and H^T W r,
    and noise makes of them (1 + L Q)^-1 L and (1 + L Q)^-1 e. This is exact also at the
    start, where nothing is known and L = 0, and where Q is singular: no starting covariance
    has to be invented. Time grows with the number of planes.

    Args:
        hits: of one track.
    """
    hits = _measured(hits)
    weighted = jnp.swapaxes(hits.rows * hits.precision[..., None], -1, -2)
    own = weighted @ hits.rows, jnp.einsum("pnm,pm->pn", weighted, hits.residual)
    size = hits.rows.shape[-1]

    def forth(carry: tuple, at: tuple) -> tuple[tuple, tuple]:
        known, noise = jax.tree.map(jnp.add, carry, at[0]), at[1]
        return _with_noise(known, noise), carry

    def back(carry: tuple, at: tuple) -> tuple[tuple, tuple]:
        known = _with_noise(carry, at[1])
        return jax.tree.map(jnp.add, known, at[0]), known

    zero = jnp.zeros((size, size)), jnp.zeros(size)
    zero = jax.tree.map(lambda v: v.astype(own[0].dtype), zero)
    _, before = jax.lax.scan(forth, zero, (own, hits.noise))
    _, behind = jax.lax.scan(back, zero, (own, hits.noise), reverse=True)
    information, vector = jax.tree.map(lambda *v: sum(v), before, own, behind)
    return _fit(hits, information, vector)


def least_squares(hits: Hits) -> Fit:
    """The same by one least-squares fit with the covariance of all hits.

    Hits at planes i and j are correlated by what scattered before both: V_ij = H_i
    (sum_{l < min(i, j)} Q_l) H_j^T + delta_ij / W_i. Time grows with the cube of the hits.

    Args:
        hits: of one track.

    Returns:
        parameters and covariance as the track arrives at the first plane: one row.
    """
    hits = _measured(hits)
    planes, measured, size = hits.rows.shape
    before = jnp.cumsum(hits.noise, 0) - hits.noise
    first = jnp.minimum(jnp.arange(planes)[:, None], jnp.arange(planes))
    shared = jnp.einsum("iam,ijmn,jbn->iajb", hits.rows, before[first], hits.rows)
    total = planes * measured
    there = hits.precision != 0  # where it is 0 the root has no derivative
    root = jnp.where(there, jnp.sqrt(jnp.where(there, hits.precision, 1.0)), 0.0)
    root = root.reshape(total)
    covariance = jnp.eye(total) + root[:, None] * shared.reshape(total, total) * root
    rows = root[:, None] * hits.rows.reshape(total, size)
    white = solve(covariance, rows)
    residual = root * hits.residual.reshape(total)
    information, vector = white.T @ rows, white.T @ residual
    one = _inverse(information)
    fitted = one[0] @ vector
    left = residual - rows @ fitted
    chi2 = left @ solve(covariance, left)
    return _result(hits, fitted[None], one[0][None], chi2, one[1])


def _measured(hits: Hits) -> Hits:
    """The same without what stands where there is no hit."""
    there = hits.precision != 0
    residual, precision = (
        jnp.where(there, v, 0.0) for v in (hits.residual, hits.precision)
    )
    return Hits(residual, hits.rows, precision, hits.noise)


def _with_noise(known: tuple[Array, Array], noise: Array) -> tuple[Array, Array]:
    """Information and vector after noise."""
    information, vector = known
    mixed = jnp.eye(len(vector)) + information @ noise
    both = jnp.concatenate([information, vector[:, None]], -1)
    both = solve(mixed, both)
    information = both[:, :-1]
    return (information + information.T) / 2, both[:, -1]


def _fit(hits: Hits, information: Array, vector: Array) -> Fit:
    """From the joined information at each plane."""
    covariance, good = jax.vmap(_inverse)(information)
    fitted = jnp.einsum("pmn,pn->pm", covariance, vector)
    left = hits.residual - jnp.einsum("pmn,pn->pm", hits.rows, fitted)
    # r^T V^-1 r with V^-1 r = W (what is left), where r may be about any one track
    about = hits.residual - hits.rows @ fitted[0]
    chi2 = jnp.sum(hits.precision * about * left)
    return _result(hits, fitted, covariance, chi2, jnp.all(good))


def _inverse(information: Array) -> tuple[Array, Array]:
    """The inverse, by way of a matrix with ones on its diagonal; whether there is one."""
    diagonal = jnp.diag(information)
    scale = jnp.where(diagonal > 0, diagonal, 1.0) ** -0.5
    scaled = scale[:, None] * information * scale
    least = jnp.min(pivots(jax.lax.stop_gradient(scaled)))
    good = least > 10 * len(scale) * jnp.finfo(scaled.dtype).eps
    scaled = jnp.where(good, scaled, jnp.eye(len(scale)))
    return scale[:, None] * inverse(scaled) * scale, good


def _result(
    hits: Hits, fitted: Array, covariance: Array, chi2: Array, found: Array
) -> Fit:
    freedom = jnp.sum(hits.precision > 0) - hits.rows.shape[-1]
    values = fitted, covariance, chi2, freedom.astype(fitted.dtype)
    fitted, covariance, chi2, freedom = (jnp.where(found, v, 0.0) for v in values)
    return Fit(fitted, covariance, chi2, freedom, found)
