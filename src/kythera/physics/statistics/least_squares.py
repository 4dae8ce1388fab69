"""Fits to observables and roots of functions of them, with the errors that they inherit.

The parameters p of a fit minimise chi2(p, d), where d are the data (and the priors). How they
move with the data follows from d chi2 / d p = 0 by the implicit function theorem:

    dp/dd = -(d2 chi2 / dp dp)^-1 (d2 chi2 / dp dd)

with the full Hessian; its Gauss-Newton part alone, J^T C^-1 J, is wrong at first order where
the model is not linear and does not go through the points. A root f(x, d) = 0 has
dx/dd = -(df/dx)^-1 df/dd (A. Ramos, arXiv:1809.01289, section 2.3). Errors then are those of
`observables`: whatever correlates the data is respected, also by an uncorrelated fit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.stats

from kythera import errors
from kythera.core import compilation
from kythera.core.precision import double_precision
from kythera.physics.statistics.observables import Observables
from kythera.physics.statistics.propagation import covariance as covariance_of
from kythera.physics.statistics.propagation import linear
from kythera.text import format_measured

BRUNO = "M. Bruno, R. Sommer, Comput. Phys. Commun. 285 (2023) 108643, arXiv:2209.14188"

WORST = 1e13  # condition number of a correlation matrix that can still be inverted
CONVERGED = (
    1e-10  # Newton decrement, in chi2: parameters are within 1e-5 of their errors
)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """What a fit found.

    Args:
        parameters: k of them, as observables.
        chi_square: at the minimum, priors included.
        degrees: points and priors, less the parameters.
        expected_chi_square: what a right model has on average, given how the data are
            correlated (arXiv:2209.14188); equal to `degrees` where the fit knows the
            covariance.
        p_value: probability of a larger chi2 for uncorrelated data; nan without degrees of
            freedom.
    """

    parameters: Observables
    chi_square: float
    degrees: int
    expected_chi_square: float
    p_value: float

    def __str__(self) -> str:
        """The parameters, one a line, and how well they fit."""
        found = self.parameters.estimate()
        lines = [
            f"p[{i}] {format_measured(value, stderr)}"
            for i, (value, stderr) in enumerate(zip(found.value, found.stderr))
        ]
        return "\n".join(
            [
                *lines,
                f"chi2 {self.chi_square:.4g} for {self.degrees} degrees of freedom, "
                f"expected {self.expected_chi_square:.4g}, p-value {self.p_value:.3g}",
            ]
        )


def least_squares(
    model: Callable[[Any, Any], Any],
    x: Any,
    y: Observables,
    start: Any,
    *,
    stderr: Any = None,
    covariance: Any = None,
    priors: Mapping[int, Observables] | None = None,
) -> Fit:
    """Fit y = model(p, x) by least squares.

    Args:
        model: (parameters of shape (k,), x) -> predictions of the shape of `y`, written
            with `jax.numpy`. A combined fit is a model that returns all its points.
        x: handed to the model: an array, or a tree of arrays.
        y: the points.
        start: first guess of the parameters, shape (k,).
        stderr: errors that weight the points, of the shape of `y`; by default those of
            `y.estimate()`.
        covariance: of the points, shape (points, points), for a correlated fit: usually
            `propagation.covariance(y)`.
        priors: parameter -> what is known of it beforehand, such as `constants` or the
            result of another fit; its error is that of `estimate()`.

    Returns:
        the parameters as observables that depend on points and priors, and chi2.

    Raises:
        InputError: fewer points and priors than parameters, points without error, a
            covariance that cannot be inverted, a prior of no parameter.
        SimulationError: the fit did not converge, or the data do not determine the
            parameters.
    """
    begin = np.asarray(start, float)
    known = _Priors.of(priors or {}, begin.size)
    count = y.size + known.value.size
    if begin.ndim != 1 or not 0 < begin.size <= count:
        raise errors.InputError(
            "A fit needs a start of shape (k,) and at least as many points and priors as "
            f"parameters, but the start has the shape {begin.shape}, and there are {count} "
            "of those. Give more points or a model with fewer parameters."
        )
    errors_of_y = _point_errors(y, stderr)
    chi = _ChiSquare(model, x, y.value, known, begin)
    weight = np.diag(1 / errors_of_y)
    p = chi.minimum(weight, begin)
    if covariance is not None:  # from where the uncorrelated fit ends
        weight = _inverse_root(np.asarray(covariance, float), y)
        p = chi.minimum(weight, p)
    residuals, slopes = chi.residuals(weight, p)
    inverse = chi.inverse_hessian(weight, p)
    by_points = 2 * inverse @ chi.slopes(p).T @ weight.T @ weight
    by_priors = 2 * inverse[:, known.index] / known.stderr**2
    found = linear(p, [(y, by_points), *zip(known.sources, by_priors.T)])
    value, degrees = float(residuals @ residuals), count - begin.size
    spread = weight @ covariance_of(y) @ weight.T
    free = np.eye(count) - slopes @ np.linalg.pinv(slopes)
    full = scipy.linalg.block_diag(spread, np.eye(known.value.size))
    tail = float(scipy.stats.chi2.sf(value, degrees)) if degrees else float("nan")
    return Fit(found, value, degrees, float(np.sum(free * full)), tail)


def root(
    function: Callable[[Any, Any], Any], data: Observables, start: Any
) -> Observables:
    """The x with function(x, data) = 0.

    Args:
        function: (x, array of the shape of `data`) -> the shape of x, with `jax.numpy`.
        data: what it depends on.
        start: first guess of x, a number or an array.

    Returns:
        x, of the shape of `start`.

    Raises:
        SimulationError: no root was found from there, or the derivative vanishes at it.
    """
    begin = np.asarray(start, float)

    def flat(x: Any, d: Any) -> Any:
        return jnp.ravel(function(x.reshape(begin.shape), d.reshape(data.shape)))

    with double_precision():
        both = compilation.jit(lambda x, d: (flat(x, d), jax.jacfwd(flat)(x, d)))
        d = data.value.ravel()
        found = scipy.optimize.root(
            lambda x: tuple(map(np.asarray, both(x, d))),
            begin.ravel(),
            jac=True,
            options={"xtol": 1e-14},
        )
        value, by_x = map(np.asarray, both(found.x, d))
        by_data = np.asarray(compilation.jit(jax.jacrev(flat, 1))(found.x, d))
    step = np.full(begin.size, np.nan)
    if np.all(np.isfinite(by_x)) and np.linalg.cond(by_x) < 1 / np.finfo(float).eps:
        step = np.linalg.solve(by_x, value)
    if not np.all(np.abs(step) <= 1e-8 * np.maximum(np.abs(found.x), 1e-8)):
        raise errors.SimulationError(
            "A root must have a value of zero and a derivative that can be inverted, but "
            f"from {begin.tolist()} the search ended at {found.x.tolist()} with the value "
            f"{value.tolist()} and the derivative {by_x.tolist()}. Start closer to it."
        )
    slopes = -np.linalg.solve(by_x, by_data)
    return linear(found.x.reshape(begin.shape), [(data, slopes)])


@dataclasses.dataclass(frozen=True)
class _Priors:
    """What is known of some parameters beforehand."""

    index: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    sources: list[Observables]

    @classmethod
    def of(cls, priors: Mapping[int, Observables], parameters: int) -> "_Priors":
        for i in priors:
            if i not in range(parameters):
                raise errors.InputError(
                    f"A prior must be of one of the {parameters} parameters, but one is of "
                    f"number {i!r}. They are counted from 0."
                )
        sources = list(priors.values())
        index = np.array(list(priors), int)
        stderr = np.array([s.estimate().stderr.item() for s in sources])
        if not np.all(stderr > 0):
            raise errors.InputError(
                f"A prior must have an error, but those of {list(priors)} are "
                f"{stderr.tolist()}. Fix a parameter that is known exactly in the model."
            )
        return cls(index, np.array([s.value.item() for s in sources]), stderr, sources)


class _ChiSquare:
    """Residuals of points and priors, and their derivatives, compiled once for a fit."""

    def __init__(
        self, model: Callable, x: Any, y: np.ndarray, known: _Priors, start: np.ndarray
    ):
        self.y, self.known = y.ravel(), known
        self._prior_slopes = np.eye(start.size)[known.index] / known.stderr[:, None]

        def flat(p: Any) -> Any:
            found = jnp.asarray(model(p, x))
            if found.shape != y.shape:
                raise errors.InputError(
                    "The model must predict every point, but gives the shape "
                    f"{found.shape} for points of shape {y.shape}. Add `0 * x` to a constant."
                )
            return found.ravel()

        self._both = compilation.jit(lambda p: (flat(p), jax.jacfwd(flat)(p)))
        self._bent = compilation.jit(jax.hessian(lambda p, v: jnp.vdot(v, flat(p))))

    def model(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and their derivatives, shapes (points,) and (points, k)."""
        with double_precision():
            value, slopes = self._both(jnp.asarray(p))
            return np.asarray(value), np.asarray(slopes)

    def slopes(self, p: np.ndarray) -> np.ndarray:
        """d model / d p."""
        return self.model(p)[1]

    def residuals(self, weight: np.ndarray, p: np.ndarray) -> tuple[Any, Any]:
        """Weighted residuals of points, then priors, and their derivatives."""
        value, slopes = self.model(p)
        pull = (p[self.known.index] - self.known.value) / self.known.stderr
        with np.errstate(over="ignore", invalid="ignore"):  # a step may lead too far
            return (
                np.concatenate([weight @ (self.y - value), pull]),
                np.concatenate([-weight @ slopes, self._prior_slopes]),
            )

    def minimum(self, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The parameters at the minimum, by Levenberg-Marquardt's method."""
        slopes_at: Any = lambda p: self.residuals(weight, p)[1]  # noqa: E731
        try:
            found = scipy.optimize.least_squares(
                lambda p: self.residuals(weight, p)[0],
                start,
                slopes_at,
                method="lm",
                ftol=1e-15,
                xtol=1e-15,
                gtol=1e-15,
            )
        except ValueError as failure:  # residuals that are not finite
            raise errors.SimulationError(
                f"The model must be finite where the fit starts, but at {start.tolist()} is "
                f"{self.model(start)[0].tolist()}. Start elsewhere."
            ) from failure
        residuals, slopes = self.residuals(weight, found.x)
        gradient = 2 * slopes.T @ residuals
        left = gradient @ self.inverse_hessian(weight, found.x) @ gradient / 2
        if not left <= CONVERGED * max(1.0, 2 * found.cost):
            raise errors.SimulationError(
                "At a minimum chi2 cannot be lowered, but after "
                f"{found.nfev} evaluations from {start.tolist()} the fit stands at "
                f"{found.x.tolist()} with chi2 {2 * found.cost:.6g}, which a step would lower "
                f"by {left:.3g}. Start closer, or add priors."
            )
        return found.x

    def inverse_hessian(self, weight: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Of chi2 in the parameters, all of it; must be positive-definite."""
        residuals, slopes = self.residuals(weight, p)
        pulls = weight.T @ residuals[: self.y.size]
        with double_precision():
            bent = np.asarray(self._bent(jnp.asarray(p), jnp.asarray(pulls)))
        hessian = 2 * (slopes.T @ slopes - bent)
        scale = np.sqrt(np.abs(np.diag(hessian)))
        with np.errstate(invalid="ignore", divide="ignore"):
            normed = hessian / scale / scale[:, None]
        lowest = np.nan
        if np.all(np.isfinite(normed)):
            lowest = np.linalg.eigvalsh(normed)[0]
        if not lowest > 10 * p.size * np.finfo(float).eps:
            raise errors.SimulationError(
                "At a minimum the Hessian of chi2 must be positive-definite, but at "
                f"{p.tolist()} the lowest eigenvalue, on a scale of 1, is {lowest:.3g}: the "
                "data do not determine all parameters, or this is no minimum. Use a model "
                "with fewer parameters, priors, or another start."
            )
        return np.linalg.inv(normed) / scale / scale[:, None]


def _point_errors(y: Observables, stderr: Any) -> np.ndarray:
    """Errors of the points, shape (points,)."""
    found = y.estimate().stderr if stderr is None else np.asarray(stderr, float)
    found = np.broadcast_to(found, y.shape).ravel()
    bad = np.flatnonzero(~(found > 0) | ~np.isfinite(found))
    if bad.size:
        raise errors.InputError(
            f"Points must have positive errors, but {bad.size} of {y.size} have not (the "
            f"first is number {bad[0]}: {found[bad[0]]:g}). Leave these points out, or give "
            "`stderr`."
        )
    return found


def _inverse_root(covariance: np.ndarray, y: Observables) -> np.ndarray:
    """The lower triangular W with W^T W = covariance^-1, by way of the correlations."""
    if covariance.shape != (y.size, y.size):
        raise errors.InputError(
            f"The covariance of {y.size} points must have the shape {(y.size, y.size)}, but "
            f"has {covariance.shape}. Use `covariance(y)`."
        )
    width = np.sqrt(np.diag(covariance))
    correlation = covariance / width / width[:, None]
    condition = np.linalg.cond(correlation)
    if not condition < WORST:
        counts = {n: e.fluctuations.shape[1] for n, e in y.ensembles.items()}
        raise errors.InputError(
            "A correlated fit needs a covariance that can be inverted, but the correlation "
            f"matrix of {y.size} points has the condition number {condition:.3g} (samples by "
            f"ensemble: {counts}). Use fewer points than samples, leave out points that "
            "others determine, or fit without `covariance`: errors respect correlations then "
            "too."
        )
    lower = np.linalg.cholesky(correlation)
    return scipy.linalg.solve_triangular(lower, np.diag(1 / width), lower=True)
