"""Tests of a signal strength: fits, likelihood ratios, CLs, p-values of a discovery.

Equation numbers: G. Cowan, K. Cranmer, E. Gross, O. Vitells, Eur. Phys. J. C 71 (2011) 1554
(arXiv:1007.1727). The derivative of a likelihood ratio needs no derivative of the fits
inside it (envelope theorem); estimates and Asimov data have their implicit one.
"""

from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float, Scalar, Vector
from kythera.physics.statistics.asymptotics import (
    expected_cls,
    p_value,
    tail_probabilities,
)
from kythera.physics.statistics.checks import known
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
        SimulationError: the fit did not converge (NaN under `jit`).
    """
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
        SimulationError: a fit did not converge (NaN under `jit`).
        UnsupportedError: the model has no parameter of interest.
        InputError: a mu that is not positive.
    """
    poi = _poi(model)
    mu = jnp.asarray(mu, float)
    if known(mu) and not mu > 0:
        raise errors.InputError(
            f"An upper limit tests a signal strength mu > 0, but it is {float(mu)}. Use "
            "`discovery` to test the background alone."
        )
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
        SimulationError: a fit did not converge (NaN under `jit`).
        UnsupportedError: the model has no parameter of interest.
    """
    poi = _poi(model)
    boxes = {"at mu = 0": _held(model, 0.0), "with mu free": (model.low, model.up)}
    held, best = _fits(model, data, boxes)
    q = 2 * (held.value - best.value)
    q = jnp.where(best.parameters[poi] < 0, 0.0, jnp.maximum(q, 0.0))
    z = safe_sqrt(q)
    return Discovery(p_value(z), z, q, best.parameters)


def expected_limit(model: Model, mu: Scalar | float = 1.0) -> Scalar:
    """CLs of the Asimov data of the background, nuisances where they start: one fit.

    An objective for the design of an analysis: it is small where a signal of strength mu
    that is not there will be excluded. CLb is one half for these data.

    Args:
        model: the likelihood.
        mu: tested value of the parameter of interest, > 0.

    Returns:
        CLs; NaN where the fit does not converge.
    """
    asimov = model.expected(_at(model, 0.0))
    return 2 * p_value(safe_sqrt(2 * fit(model, asimov, mu).value))


def expected_discovery(model: Model, mu: Scalar | float = 1.0) -> Scalar:
    """Significance of the Asimov data with a signal, nuisances where they start: one fit.

    Args:
        model: the likelihood.
        mu: true value of the parameter of interest, > 0.

    Returns:
        Z in standard deviations; NaN where the fit does not converge.
    """
    asimov = model.expected(_at(model, mu))
    return safe_sqrt(2 * fit(model, asimov, 0.0).value)


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


def _held(model: Model, mu: Scalar | float) -> tuple[Vector, Vector]:
    """Bounds that hold the parameter of interest."""
    poi = _poi(model)
    return model.low.at[poi].set(mu), model.up.at[poi].set(mu)
