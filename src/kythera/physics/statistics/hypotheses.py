"""Tests of a signal strength: fits, likelihood ratios, CLs, p-values of a discovery.

Equation numbers: G. Cowan, K. Cranmer, E. Gross, O. Vitells, Eur. Phys. J. C 71 (2011) 1554
(arXiv:1007.1727). The derivative of a likelihood ratio needs no derivative of the fits
inside it (envelope theorem); estimates and Asimov data have their implicit one.
"""

from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float, Scalar, Vector
from kythera.physics.statistics.asymptotics import (
    expected_cls,
    log_p_value,
    p_value,
    tail_probabilities,
)
from kythera.physics.statistics.checks import known, listed, reals
from kythera.physics.statistics.fisher import cramer_rao
from kythera.physics.statistics.minimiser import Minimum, minimise

Data = Float[Array, " data"]


class Model(Protocol):
    """A likelihood with parameters in a box, one of them of interest."""

    start: Vector
    low: Vector
    up: Vector
    poi: int | None

    def nll(self, parameters: Vector, data: Data) -> Scalar:
        """-log L, up to a constant of the data; zero where each number is matched."""
        ...

    def expected(self, parameters: Vector) -> Data:
        """Expected data, auxiliary measurements among them: the Asimov data set."""
        ...


class UpperLimit(eqx.Module):
    """What data say against a signal strength mu.

    Args:
        cls: CLs of the data.
        clsb: CLs+b.
        clb: CLb.
        expected: CLs that the background alone gives at -2, ..., +2 sigma, shape (5,).
        q: test statistic of the data.
        q_asimov: of the Asimov data of the background, nuisances as fitted at mu = 0.
        estimate: parameters of the best fit, implicitly differentiable.
        profiled: parameters of the best fit at mu.
    """

    cls: Scalar
    clsb: Scalar
    clb: Scalar
    expected: Float[Array, "5"]
    q: Scalar
    q_asimov: Scalar
    estimate: Vector
    profiled: Vector


class Discovery(eqx.Module):
    """What data say against the background alone.

    Args:
        p0: probability that the background fluctuates to as much signal.
        significance: in standard deviations, sqrt(q0).
        q0: test statistic.
        estimate: parameters of the best fit, implicitly differentiable.
    """

    p0: Scalar
    significance: Scalar
    q0: Scalar
    estimate: Vector


def fit(model: Model, data: Data, mu: Scalar | float | None = None) -> Minimum:
    """Parameters that make the data most likely.

    Args:
        model: the likelihood.
        data: as `model.expected` gives them.
        mu: value at which the parameter of interest is held; by default it is free.

    Returns:
        the minimum of -log L.

    Raises:
        InputError: data of another length, or that no counts can be.
        SimulationError: the fit did not converge; inside `jit` and `vmap`, where nothing
            can be raised, parameters and value are NaN.
    """
    data = _data(model, data)
    low, up = (model.low, model.up) if mu is None else _held(model, mu)
    return minimise(lambda p: model.nll(p, data), model.start, low, up)


def upper_limit(
    model: Model, data: Data, mu: Scalar | float = 1.0, *, tilde: bool = True
) -> UpperLimit:
    """Asymptotic test of a signal strength against smaller ones: CLs and its band.

    q_mu = -2 ln L(mu, profiled) / L(best fit), zero where the best fit lies above mu, Eq.
    14; q~_mu, Eq. 16, is that of a best fit that is never negative. The Asimov data of the
    background have the nuisances that the data prefer at mu = 0.

    Args:
        model: the likelihood.
        data: as `model.expected` gives them.
        mu: tested value of the parameter of interest, > 0.
        tilde: q~_mu (a signal is never negative); else q_mu, within the model's bounds.

    Returns:
        probabilities, test statistics and fits; differentiable in model, data and mu.

    Raises:
        InputError: a mu that is not positive, data of another length or that no counts
            can be, data that the background alone cannot give, or a signal so small that
            q_asimov is lost in rounding.
        SimulationError: a fit did not converge.
        UnsupportedError: the model has no parameter of interest.
        Inside `jit` and `vmap` the first two are NaN, but for the length.
    """
    poi, data = _poi(model), _data(model, data)
    mu = _strength(
        mu, "An upper limit tests", "`discovery` to test the background alone"
    )
    _check_possible(model, data)
    least = jnp.maximum(model.low[poi], 0.0) if tilde else model.low[poi]
    free = model.low.at[poi].set(least), model.up
    boxes = {
        "at mu = 0": _held(model, 0.0),
        "at mu": _held(model, mu),
        "with mu free": free,
        "at mu, of the Asimov data of the background,": _held(model, mu),
    }
    _, held, best, made = _fits(model, data, boxes)
    q = 2 * (held.value - best.value)
    q = jnp.where(best.parameters[poi] > mu, 0.0, jnp.maximum(q, 0.0))
    # The best fit to Asimov data is where they were made: -log L is zero there.
    q_asimov = 2 * made.value
    tails = tail_probabilities(q, q_asimov, tilde=tilde)
    return UpperLimit(
        tails.cls,
        tails.clsb,
        tails.clb,
        expected_cls(q_asimov),
        q,
        q_asimov,
        best.parameters,
        held.parameters,
    )


def discovery(model: Model, data: Data) -> Discovery:
    """Asymptotic test of the background alone against a signal: p0 and significance.

    q0 = -2 ln L(0, profiled) / L(best fit), zero where the best fit is negative, Eq. 12;
    p0 = 1 - Phi(sqrt(q0)).

    Args:
        model: the likelihood.
        data: as `model.expected` gives them.

    Returns:
        p-value and fit; differentiable in model and data.

    Raises:
        InputError: data of another length, that no counts can be, or that the background
            alone cannot give.
        SimulationError: a fit did not converge.
        UnsupportedError: the model has no parameter of interest.
        Inside `jit` and `vmap` the first two are NaN, but for the length.
    """
    poi, data = _poi(model), _data(model, data)
    _check_possible(model, data)
    boxes = {"at mu = 0": _held(model, 0.0), "with mu free": (model.low, model.up)}
    held, best = _fits(model, data, boxes)
    q = 2 * (held.value - best.value)
    q = jnp.where(best.parameters[poi] < 0, 0.0, jnp.maximum(q, 0.0))
    z = _root(q)
    return Discovery(p_value(z), z, q, best.parameters)


def expected_limit(
    model: Model, mu: Scalar | float = 1.0, *, log: bool = False
) -> Scalar:
    """CLs of the Asimov data of the background, nuisances where they start: one fit.

    An objective for the design of an analysis: it is small where a signal of strength mu
    that is not there will be excluded. CLb is one half for these data.

    Args:
        model: the likelihood.
        mu: tested value of the parameter of interest, > 0.
        log: whether to give ln CLs, whose value and slope do not underflow.

    Returns:
        CLs, or its logarithm.

    Raises:
        InputError: a mu that is not positive.
        SimulationError: the fit did not converge.
        UnsupportedError: the model has no parameter of interest.
        Inside `jit` and `vmap` the first two are NaN.
    """
    mu = _strength(mu, "A limit is expected for", "the strength that is to be excluded")
    asimov = model.expected(_at(model, 0.0))
    z = _root(2 * fit(model, asimov, mu).value)
    return jnp.log(2.0) + log_p_value(z) if log else 2 * p_value(z)


def expected_discovery(model: Model, mu: Scalar | float = 1.0) -> Scalar:
    """Significance of the Asimov data with a signal, nuisances where they start: one fit.

    Args:
        model: the likelihood.
        mu: true value of the parameter of interest, > 0.

    Returns:
        Z in standard deviations.

    Raises:
        InputError: a mu that is not positive, or a signal in bins where the background
            alone expects nothing: Z has no bound there.
        SimulationError: the fit did not converge.
        UnsupportedError: the model has no parameter of interest.
        Inside `jit` and `vmap` the first two are NaN.
    """
    mu = _strength(mu, "A discovery is expected for", "the strength of the true signal")
    asimov = model.expected(_at(model, mu))
    _check_possible(model, asimov)
    return _root(2 * fit(model, asimov, 0.0).value)


def expected_error(model: Model, mu: Scalar | float = 1.0) -> Scalar:
    """Standard deviation of the signal strength by the bound of Cramer and Rao.

    The information is the Hessian of -log L at the Asimov data, all parameters free that
    are not fixed: for Poisson counts and constraints it is the Fisher information.

    Args:
        model: the likelihood.
        mu: true value of the parameter of interest.

    Returns:
        sigma; NaN under `jit` where the information is singular.

    Raises:
        InputError: the information is singular.
    """
    poi, at = _poi(model), _at(model, mu)
    asimov = model.expected(at)
    fixed = (model.low == model.up).at[poi].set(False)
    hessian = jax.hessian(lambda p: model.nll(p, asimov))(at)
    either = fixed[:, None] | fixed
    return cramer_rao(jnp.where(either, jnp.eye(len(at)), hessian))[poi]


def _fits(
    model: Model, data: Data, boxes: dict[str, tuple[Vector, Vector]]
) -> list[Minimum]:
    """One fit after the other, in one compiled search.

    A fourth one is of the Asimov data that the first one's parameters expect.
    """
    low, up = (jnp.stack(sides) for sides in zip(*boxes.values()))
    place = jnp.arange(len(boxes))

    def next_fit(
        asimov: Data, box: tuple[Array, Vector, Vector]
    ) -> tuple[Data, Minimum]:
        i, low, up = box
        own = jnp.where(i < 3, data, asimov)
        found = minimise(lambda p: model.nll(p, own), model.start, low, up)
        expected = model.expected(found.parameters)
        return jnp.where(i == 0, expected, asimov), found

    _, found = jax.lax.scan(next_fit, data, (place, low, up))
    if known(found.converged) and not found.converged.all():
        lost = [k for k, ok in zip(boxes, found.converged) if not ok]
        raise errors.SimulationError(
            f"Fits must end at a minimum of -log L, but the one {lost[0]} did not in "
            f"{int(found.steps.max())} steps. Look at `fit` with these data: fix or "
            "constrain what the data do not tell apart, or use float64."
        )
    return [jax.tree.map(lambda v, i=i: v[i], found) for i in range(len(boxes))]


def _strength(mu: Scalar | float, law: str, remedy: str) -> Scalar:
    """A signal strength > 0; NaN under `jit` where it is not."""
    mu = reals(mu, "mu")
    good = mu > 0
    if mu.ndim or (known(good) and not good):
        raise errors.InputError(
            f"{law} one signal strength mu > 0, but it is "
            f"{jax.lax.stop_gradient(mu)}. Use {remedy}."
        )
    return jnp.where(good, mu, jnp.nan)


def _data(model: Model, data: Data) -> Data:
    """The data, as many as the model expects, and where they are known such as can be."""
    data = reals(data, "Data")
    wanted = jax.eval_shape(model.expected, jnp.asarray(model.start, float)).shape
    main = len(getattr(model, "observed", ()))
    if data.shape != wanted:
        parts = f" ({main} counts, {wanted[0] - main} auxiliary)" if main else ""
        raise errors.InputError(
            f"Data are what `model.expected` gives, {wanted[0]} numbers{parts}, but their "
            f"shape is {data.shape}. Give the counts, then the auxiliary measurements: "
            "`model.data` has both."
        )
    bad = ~jnp.isfinite(data) | (jnp.arange(len(data)) < main) & (data < 0)
    if known(bad) and bad.any():
        where = np.flatnonzero(bad)
        raise errors.InputError(
            "Data must be finite, and counts >= 0, but the entries "
            f"{listed(where)} are {np.asarray(data)[where[:5]]}. Give what was counted."
        )
    return jnp.where(bad, jnp.nan, data)


def _check_possible(model: Model, data: Data) -> None:
    """Refuse data that are impossible without a signal; no fit can begin there."""
    nll = model.nll(_at(model, 0.0), data)
    if known(nll) and not jnp.isfinite(nll):
        none = np.asarray(model.expected(_at(model, 0.0)))
        where = np.flatnonzero((none <= 0) & (np.asarray(data) > 0))
        raise errors.InputError(
            "A signal is told from the background alone, but without it data are "
            f"impossible: -log L is {nll} at mu = 0. The background expects no counts in "
            f"bins {listed(where)}. Give its upper limit there, or merge bins."
        )


def _poi(model: Model) -> int:
    if model.poi is None:
        raise errors.UnsupportedError(
            "A test of a signal strength needs a parameter of interest, but the model has "
            "none. Name it in the measurement (`poi`)."
        )
    return model.poi


def _at(model: Model, mu: Scalar | float) -> Vector:
    """The start, with this signal strength."""
    return jnp.asarray(model.start, float).at[_poi(model)].set(mu)


def _root(q: Scalar) -> Scalar:
    """sqrt(q), zero with slope zero where q <= 0, and NaN where the fit has failed."""
    return jnp.where(jnp.isnan(q), q, safe_sqrt(q))


def _held(model: Model, mu: Scalar | float) -> tuple[Vector, Vector]:
    """Bounds that hold the parameter of interest."""
    poi, mu = _poi(model), reals(mu, "mu")
    if mu.ndim:
        raise errors.InputError(
            "The parameter of interest is held at one value, but mu has the shape "
            f"{mu.shape}. Use `jax.vmap` for several."
        )
    return model.low.at[poi].set(mu), model.up.at[poi].set(mu)
