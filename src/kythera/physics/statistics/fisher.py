"""How well parameters can be known: Fisher information and the bound of Cramer and Rao.

R. A. Fisher 1922, C. R. Rao 1945, H. Cramer 1946; binned and extended models as in Cowan,
Cranmer, Gross and Vitells, Eur. Phys. J. C 71 (2011) 1554 (arXiv:1007.1727), section 3.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.types import Array, Float
from kythera.physics.statistics.checks import known, listed, reals

Matrix = Float[Array, "parameter parameter"]


def fisher_information(
    jacobian: Float[Array, "bin parameter"],
    expected: Float[Array, " bin"],
    widths: Float[Array, " parameter"] | Sequence[float] | None = None,
) -> Matrix:
    """Information of Poisson counts in bins on the parameters that they depend on.

    I = J^T diag(1/n) J + diag(1/sigma^2), with n the expected counts, J = dn/dtheta: minus
    the expected second derivative of the log-likelihood, exactly, constraint terms included.
    A bin that expects nothing whatever the parameters are (n = 0 and J = 0) tells nothing.

    Args:
        jacobian: J, counts per unit of each parameter.
        expected: n, counts, >= 0.
        widths: standard deviation of each parameter's Gaussian constraint; `math.inf` (or
            None for all) where there is none.

    Returns:
        I, symmetric, shape (parameter, parameter).

    Raises:
        InputError: shapes that do not fit, a width that is not positive, derivatives that
            are not finite, or a bin that expects nothing while it depends on a parameter
            (these two are NaN under `jit`).
    """
    jacobian, expected = reals(jacobian, "`jacobian`"), reals(expected, "`expected`")
    if jacobian.ndim != 2 or jacobian.shape[:1] != expected.shape:
        raise errors.InputError(
            "A jacobian has the shape (bin, parameter) and expected counts (bin,), but "
            f"they have the shapes {jacobian.shape} and {expected.shape}. Transpose one."
        )
    _check_finite(jacobian, "A jacobian")
    silent = (expected == 0) & jnp.all(jacobian == 0, 1)
    bad = ~silent & ~(expected > 0)
    if known(bad) and bad.any():
        where = np.flatnonzero(bad)
        raise errors.InputError(
            "A bin that depends on a parameter must expect more than no counts, but bins "
            f"{listed(where)} expect {np.asarray(expected)[where[:5]]}. Merge them with "
            "their neighbours, or drop them."
        )
    weight = jnp.where(bad, jnp.nan, 1 / jnp.where(silent | bad, 1.0, expected))
    information = (jacobian * weight[:, None]).T @ jacobian
    return _constrained(information, widths)


def unbinned_information(
    scores: Float[Array, "event parameter"],
    weights: Float[Array, " event"] | float = 1.0,
    widths: Float[Array, " parameter"] | Sequence[float] | None = None,
) -> Matrix:
    """Information of single events, estimated from a sample of them.

    I = sum_i w_i s_i s_i^T + diag(1/sigma^2), with the score s = d log p(x; theta)/dtheta of
    each event. For an extended likelihood s = d log lambda, where the density lambda(x) of
    counts integrates to what is expected. The sum is the integral over x where the rows
    are nodes of a quadrature and w = lambda times the nodes' weights.

    Args:
        scores: s, per unit of each parameter.
        weights: expected counts that each row stands for, >= 0: N / n for N expected
            events of which n were drawn from p.
        widths: of Gaussian constraints, as for `fisher_information`.

    Returns:
        I; from drawn events an unbiased estimate, whose inverse is biased by O(1/n).

    Raises:
        InputError: shapes that do not fit, a width that is not positive, or scores that
            are not finite or weights that are not >= 0 (these two are NaN under `jit`).
    """
    scores, weights = reals(scores, "`scores`"), reals(weights, "`weights`")
    if scores.ndim != 2:
        raise errors.InputError(
            "Scores have the shape (event, parameter), but the shape is "
            f"{scores.shape}. Stack the derivatives in the last axis."
        )
    if weights.shape not in ((), scores.shape[:1]):
        raise errors.InputError(
            f"Weights are one number or one for each of {len(scores)} events, but their "
            f"shape is {weights.shape}. Give what each row of the scores stands for."
        )
    _check_finite(scores, "Scores")
    bad = ~(weights >= 0) | jnp.isinf(weights)
    if known(bad) and bad.any():
        where = np.flatnonzero(np.atleast_1d(bad))
        raise errors.InputError(
            "Weights are expected counts, finite and >= 0, but those of events "
            f"{listed(where)} are {np.atleast_1d(weights)[where[:5]]}. Information adds up "
            "over events: draw them with weights that are not negative."
        )
    weights = jnp.broadcast_to(jnp.where(bad, jnp.nan, weights), scores.shape[:1])
    return _constrained((scores * weights[:, None]).T @ scores, widths)


def covariance(information: Matrix, names: Sequence[str] | None = None) -> Matrix:
    """Smallest covariance that unbiased estimates can have: the inverse information.

    Args:
        information: I, symmetric.
        names: of the parameters, for errors.

    Returns:
        I^-1; NaN under `jit` where I is singular to rounding, or not symmetric.

    Raises:
        InputError: not a square matrix, one that is not symmetric, or one that is singular:
            some combination of parameters leaves all expectations as they are.
    """
    information = reals(information, "An information matrix")
    shape = information.shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise errors.InputError(
            "An information matrix has the shape (parameter, parameter), of one parameter "
            "or more, but the shape is "
            f"{information.shape}. Give the matrix of `fisher_information`."
        )
    diagonal = jnp.diagonal(information)
    # Parameters have units: singular is what is singular for unit diagonal.
    unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    scaled = information / (unit[:, None] * unit)
    frozen = jax.lax.stop_gradient(scaled)
    values, vectors = jnp.linalg.eigh(jnp.where(jnp.isfinite(frozen), frozen, 0.0))
    gap = jnp.max(jnp.abs(frozen - frozen.T))
    even = gap <= jnp.finfo(scaled.dtype).eps ** 0.5
    if known(gap) and gap > 0 and not even:
        raise errors.InputError(
            "An information matrix is symmetric, but, on a diagonal of one, this one "
            f"differs from its transpose by {gap:.3g}. Give (I + I.T) / 2 if this is "
            "rounding."
        )
    least = 10 * len(unit) * jnp.finfo(scaled.dtype).eps
    regular = (values[0] > least) & jnp.all(jnp.isfinite(frozen)) & even
    if known(regular) and not regular:
        raise errors.InputError(_singular(information, vectors[:, 0] / unit, names))
    safe = jnp.where(regular, scaled, jnp.eye(len(unit), dtype=scaled.dtype))
    inverse = jnp.linalg.inv(safe) / (unit[:, None] * unit)
    return jnp.where(regular, (inverse + inverse.T) / 2, jnp.nan)


def cramer_rao(
    information: Matrix, names: Sequence[str] | None = None
) -> Float[Array, " parameter"]:
    """Smallest standard deviation that unbiased estimates can have: sqrt((I^-1)_kk).

    Args:
        information: I, symmetric.
        names: of the parameters, for errors.

    Returns:
        sigma of each parameter with all others unknown, in its unit.

    Raises:
        InputError: as for `covariance`.
    """
    return jnp.sqrt(jnp.diagonal(covariance(information, names)))


def _check_finite(values: Array, what: str) -> None:
    """Refuse derivatives that are not finite, where they are known."""
    bad = ~jnp.isfinite(values)
    if known(bad) and bad.any():
        rows = np.unique(np.nonzero(np.asarray(bad))[0])
        raise errors.InputError(
            f"{what} must have finite entries, but in rows {listed(rows)} some are not. "
            "Look at the derivatives there."
        )


def _constrained(information: Matrix, widths: object) -> Matrix:
    """Gaussian constraints added to the diagonal."""
    if widths is None:
        return information
    sigma = reals(widths, "`widths`")
    if sigma.shape != information.shape[:1]:
        raise errors.InputError(
            f"Each of {len(information)} parameters needs the width of its constraint, "
            f"but `widths` has the shape {sigma.shape}. Give inf where there is none."
        )
    if known(widths) and not (np.asarray(widths) > 0).all():
        raise errors.InputError(
            f"The width of a constraint must be > 0, but `widths` is {np.asarray(widths)}. "
            "Take a parameter that is known exactly out of the matrix; inf is none."
        )
    return information + jnp.diag(1 / sigma**2)


def _singular(
    information: Matrix, direction: Array, names: Sequence[str] | None
) -> str:
    """What cannot be known, in words."""
    if not np.isfinite(np.asarray(information)).all():
        return (
            "An information matrix needs finite entries, but some are not. Look at the "
            "derivatives of the expected counts."
        )
    way = np.asarray(direction)
    way = way / way[np.abs(way).argmax()]
    labels = names or [str(i) for i in range(len(way))]
    loose = [f"{v:+.3g} {n}" for v, n in zip(way, labels) if abs(v) > 1e-3]
    return (
        "Parameters can be told apart only where the information matrix is regular, but "
        f"nothing is known of the direction {' '.join(loose)}. Constrain a parameter of it "
        "(`widths`), fix one, or add bins that tell them apart."
    )
