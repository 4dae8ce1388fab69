"""Functions of observables by automatic differentiation, and the covariance of results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import compilation
from kythera.core.precision import double_precision
from kythera.physics.statistics.autocorrelation import autocorrelation_function
from kythera.physics.statistics.checks import reals
from kythera.physics.statistics.observables import (
    Estimate,
    Observables,
    carried,
    check_finite,
)


def derive(function: Callable[..., Any], *arguments: Any) -> Any:
    """Any function of observables, with the errors it inherits.

    The function is differentiated by JAX in float64, in reverse mode where it has fewer
    results than arguments, and forward otherwise.

    Args:
        function: written with `jax.numpy`; takes arrays of the observables' shapes.
        arguments: observables, or trees (tuples, dicts) of them; other numbers in them are
            constants without errors.

    Returns:
        the tree that the function returns, each array as observables.

    Raises:
        InputError: no argument is an `Observables`, or one is a text; the function is
            complex, or it or its derivative is not finite at the values; ensembles of one
            name have different configurations, or constants of one name different
            covariances.
    """
    leaves, tree = jax.tree.flatten(arguments, is_leaf=_is_observables)
    moving = [i for i, leaf in enumerate(leaves) if _is_observables(leaf)]
    if not moving:
        raise errors.InputError(
            "Something to derive from must be an `Observables`, but the arguments are "
            f"{[type(leaf).__name__ for leaf in leaves]}. Call the function itself, or make "
            "`observables(samples)`."
        )
    if any(isinstance(leaf, str | bytes) for leaf in leaves):
        raise errors.InputError(
            "Arguments are observables and numbers, but one of "
            f"{[type(leaf).__name__ for leaf in leaves]} is a text. Give it to the function "
            "by a `lambda`."
        )
    inputs = [leaves[i] for i in moving]
    shapes: list[Any] = []

    def results(*values: Any) -> list[Any]:
        mine = list(leaves)
        for i, value in zip(moving, values):
            mine[i] = value
        found, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, mine)))
        shapes[:] = [structure]
        if any(jnp.iscomplexobj(v) for v in found):
            raise errors.InputError(
                "Errors pass on to real numbers, but the function gives complex ones. Let "
                "it return their real and imaginary parts."
            )
        return [reals(v, "What the function gives") for v in found]

    def both(*values: Any) -> tuple[list[Any], list[Any]]:
        found = results(*values)
        few = sum(v.size for v in found) < sum(v.size for v in values)
        mode = jax.jacrev if few else jax.jacfwd
        return found, mode(results, tuple(range(len(values))))(*values)

    with double_precision():
        values = [jnp.asarray(o.value) for o in inputs]
        found, slopes = jax.device_get(compilation.jit(both)(*values))
    derived = [
        linear(value, list(zip(inputs, slope))) for value, slope in zip(found, slopes)
    ]
    return jax.tree.unflatten(shapes[0], derived)


def linear(value: Any, terms: list[tuple[Observables, Any]]) -> Observables:
    """A quantity whose derivatives are known.

    Args:
        value: any shape.
        terms: what it depends on, and the derivatives with respect to that, of the shape
            (*shape of the value, *shape of the observables).

    Raises:
        InputError: as of `derive`.
    """
    value = np.asarray(value, float)
    pieces = []
    for one, slopes in terms:
        matrix = np.asarray(slopes, float).reshape(value.size, one.size)
        check_finite(value, "values")
        check_finite(matrix, "slopes")
        pieces.append((one, lambda rows, matrix=matrix: matrix @ rows))
    return carried(value, pieces)


def covariance(quantities: Observables, estimate: Estimate | None = None) -> np.ndarray:
    """Covariance of the errors of quantities.

    On each ensemble the correlations are those of the fluctuations at equal Monte Carlo
    time, and the errors those of the Gamma method: an off-diagonal element has the
    geometric mean of the autocorrelation times. So it has no negative eigenvalues, which
    summing the window element by element does not ensure.

    Args:
        quantities: n of them, in any shape.
        estimate: their errors; by default `quantities.estimate()`.

    Returns:
        shape (n, n); its diagonal is the squared errors.
    """
    estimate = quantities.estimate() if estimate is None else estimate
    total = np.zeros((quantities.size, quantities.size))
    for name, one in quantities.ensembles.items():
        products = one.fluctuations @ one.fluctuations.T
        width = np.sqrt(np.diag(products))
        stderr = np.ravel(estimate.ensembles[name].stderr)
        scale = np.divide(stderr, width, out=np.zeros_like(width), where=width > 0)
        total += scale[:, None] * products * scale
    for one in quantities.constants.values():
        total += one.slopes @ one.covariance @ one.slopes.T
    return total


def autocorrelations(
    quantities: Observables, ensemble: str, lags: int
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised autocorrelation rho(t), t = 0 ... lags - 1, and its error: for plots.

    Returns:
        both of shape (lags, *shape of the quantities).

    Raises:
        InputError: no such ensemble.
    """
    if ensemble not in quantities.ensembles:
        raise errors.InputError(
            f"There is no ensemble {ensemble!r}. "
            f"{errors.nearest(ensemble, quantities.ensembles)}"
        )
    chains = quantities.ensembles[ensemble].chains()
    rho, error = autocorrelation_function(chains, lags)
    shape = (lags, *quantities.shape)
    return rho.T.reshape(shape), error.T.reshape(shape)


def _is_observables(leaf: Any) -> bool:
    return isinstance(leaf, Observables)
