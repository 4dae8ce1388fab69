"""The likelihood of what an array measured, and its maximum for gamma rays and protons.

For one primary with core (x, y), energy E and direction cosines (nx, ny), with l_i the mean
count of unit i and t_i the time of the front there,

    -ln L = sum_i q_i [l_i - N_i ln l_i] (electrons and muons)
            + sum_i w_i (T_i - t_i - <T - t>)^2 / (2 s^2).

SWGOLO has q = w = 1 and times without an unknown offset. Here q = 1 / (1 + (5%)^2 N) lets a
count weigh as the resolution of the tanks allows, w = N / (1 + N) lets a unit that saw
nothing tell no time, and the offset <...>, the mean weighted with w, is fitted.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float
from kythera.instruments.air_shower_array.design import Layout
from kythera.instruments.air_shower_array.simulator import (
    COUNTING,
    ELECTRON_BACKGROUND,
    MUON_BACKGROUND,
    TIME,
    Hits,
    total,
)
from kythera.physics import air_showers
from kythera.physics.air_showers import SPEED, PeV
from kythera.units import km

# What is known before: middle and width of x and y (km), ln(E / PeV), nx and ny. It keeps
# every fit finite, where no unit has seen anything, too.
PRIOR = jnp.array([[0.0, 0.0, -1.5, 0.0, 0.0], [3.0, 3.0, 2.0, 0.6, 0.6]])
STEEPEST = 0.95  # sine of a zenith angle, beyond which no fit goes
ENERGIES = (-3.5, 3.5)  # ln(E / PeV), likewise


class Measured(eqx.Module):
    """Hits, as the likelihood needs them.

    Args:
        counts: of electrons and of muons, shape (2, event, unit).
        quality: q of both, likewise.
        clock: w, shape (event, unit).
        time: T, ns, likewise.
    """

    counts: Float[Array, "2 event unit"]
    quality: Float[Array, "2 event unit"]
    clock: Float[Array, "event unit"]
    time: Float[Array, "event unit"]


def measured(hits: Hits) -> Measured:
    """Counts, never negative, and their weights."""
    counts = jnp.maximum(jnp.stack([hits.electrons, hits.muons]), 0.0)
    n = total(hits)
    return Measured(counts, 1 / (1 + COUNTING**2 * counts), n / (1 + n), hits.time)


class Model(NamedTuple):
    """What a primary predicts, shape (..., event, unit).

    Args:
        logs: of the mean counts of electrons and muons.
        pulls: (T - t - offset) / s.
    """

    logs: tuple[Array, Array]
    pulls: Array


def model(
    design: Layout, data: Measured, p: Float[Array, "event 5"], gamma: Array
) -> Model:
    """Of primaries p = (x, y in km, ln(E / PeV), nx, ny); `gamma` is 1 or 0 for each."""
    units = design.positions
    x, y, energy, nx, ny = (p[:, i, None] for i in range(5))
    sine = jnp.sqrt(nx**2 + ny**2 + 1e-8)
    theta = jnp.arcsin(jnp.minimum(sine, 0.99))
    profile = air_showers.mixed(gamma[:, None], jnp.exp(energy) * PeV, theta)
    dx, dy = units[0] - km * x, units[1] - km * y
    along = nx * dx + ny * dy
    square = jnp.maximum(dx**2 + dy**2 - along**2, air_showers.NEAREST**2)
    found = profile.logs(0.5 * jnp.log(square))
    backgrounds = ELECTRON_BACKGROUND, MUON_BACKGROUND
    electrons, muons = (
        jnp.log(design.area * (jnp.cos(theta) * jnp.exp(log) + background))
        for log, background in zip(found, backgrounds, strict=True)
    )
    late = data.time - (nx * units[0] + ny * units[1]) / SPEED
    norm = jnp.sum(data.clock, -1, keepdims=True) + 1e-3
    late = late - jnp.sum(data.clock * late, -1, keepdims=True) / norm
    return Model((electrons, muons), late / TIME)


def nll(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> Float[Array, " event"]:
    """-ln L of each event, and half of the square of the prior's pulls."""
    return _nll(data, p, model(design, data, p, gamma))


def _nll(data: Measured, p: Array, found: Model) -> Array:
    own = 0.5 * jnp.sum(data.clock * found.pulls**2, -1)
    for i in range(2):
        log, n = found.logs[i], data.counts[i]
        # Less what does not depend on p, so that single precision suffices.
        off = jnp.exp(log) - n * log - (n - n * jnp.log(jnp.maximum(n, 1e-3)))
        own = own + jnp.sum(data.quality[i] * off, -1)
    return own + 0.5 * jnp.sum(((p - PRIOR[0]) / PRIOR[1]) ** 2, -1)


def slopes(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """-ln L, its gradient (event, 5), and the Fisher matrix with the prior (event, 5, 5)."""

    def at(q: Array) -> Model:
        return model(design, data, q, gamma)

    found, push = jax.linearize(at, p)
    basis = jnp.broadcast_to(jnp.eye(5)[:, None], (5, *p.shape))
    moved = jax.vmap(push)(basis)  # leaves of shape (5, event, unit)
    gradient = jnp.einsum("aeu,eu->ea", moved.pulls, data.clock * found.pulls)
    fisher = jnp.einsum("aeu,beu->eab", data.clock * moved.pulls, moved.pulls)
    for i in range(2):
        mean, q = jnp.exp(found.logs[i]), data.quality[i]
        by = moved.logs[i]
        gradient = gradient + jnp.einsum("aeu,eu->ea", by, q * (mean - data.counts[i]))
        fisher = fisher + jnp.einsum("aeu,beu->eab", q * mean * by, by)
    gradient = gradient + (p - PRIOR[0]) / PRIOR[1] ** 2
    return _nll(data, p, found), gradient, fisher + jnp.diag(1 / PRIOR[1] ** 2)


class Fitted(NamedTuple):
    """The result of a fit.

    Args:
        p: parameters, differentiable in design and data, shape (event, 5).
        covariance: inverse Fisher matrix at p, (event, 5, 5).
        nll: -ln L there, (event,).
        size: of the last gradient in units of the errors, sqrt(g C g): near 0 where it
            converged.
    """

    p: Array
    covariance: Array
    nll: Array
    size: Array


def fit(
    design: Layout, data: Measured, start: Array, gamma: Array, rounds: int = 10
) -> Fitted:
    """Maximise the likelihood of all events at once (Levenberg-Marquardt).

    The search itself is not differentiated. At its end p* one Newton step with the exact
    Hessian H, p = p* - H^-1 dnll/dp(p*; design, data), carries the derivative of the
    implicit function dnll/dp = 0: to first order exact where the fit has converged.

    Args:
        design: where the units are.
        data: what they measured.
        start: of the parameters, (event, 5).
        gamma: 1 where the primary is a gamma ray, 0 for a proton, (event,).
        rounds: of the search.
    """
    still = jax.lax.stop_gradient((design, data))
    p, fisher, size = _search(*still, jax.lax.stop_gradient(start), gamma, rounds)

    def slope(design: Layout, data: Measured, q: Array) -> Array:
        return jax.grad(lambda q: jnp.sum(nll(design, data, q, gamma)))(q)

    basis = jnp.broadcast_to(jnp.eye(5)[:, None], (5, *p.shape))
    hessian = jax.vmap(lambda v: jax.jvp(lambda q: slope(*still, q), (p,), (v,))[1])(
        basis
    )
    hessian = jnp.moveaxis(hessian, 0, 1)
    good = jnp.all(jnp.isfinite(jnp.linalg.cholesky(hessian)), (-2, -1))
    curvature = jnp.where(good[:, None, None], hessian, fisher)
    step = _solve(curvature, slope(design, data, p))
    # At a maximum nothing but the derivative of this step is left.
    p = p - (step - jax.lax.stop_gradient(step))
    value, _, fisher = slopes(design, data, p, gamma)
    return Fitted(p, jnp.linalg.inv(fisher), value, size)


def _solve(matrix: Array, vector: Array) -> Array:
    return jnp.linalg.solve(matrix, vector[..., None])[..., 0]


def _search(
    design: Layout, data: Measured, start: Array, gamma: Array, rounds: int
) -> tuple[Array, Array, Array]:
    """Parameters at the least -ln L, Fisher matrix, what is left of the gradient."""

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        p, value, gradient, fisher, damping, trial = state
        new = slopes(design, data, trial, gamma)
        better = new[0] < value
        keep = better[:, None]
        p = jnp.where(keep, trial, p)
        value = jnp.where(better, new[0], value)
        gradient = jnp.where(keep, new[1], gradient)
        fisher = jnp.where(keep[..., None], new[2], fisher)
        damping = jnp.clip(jnp.where(better, damping / 5, damping * 4), 1e-4, 1e4)
        scale = jnp.diagonal(fisher, axis1=-2, axis2=-1)
        damped = fisher + (damping[:, None] * scale)[..., None] * jnp.eye(5)
        trial = _bounded(p - _solve(damped, gradient))
        return (p, value, gradient, fisher, damping, trial), None

    start = _bounded(start)
    events = start.shape[0]
    fisher = jnp.broadcast_to(jnp.eye(5, dtype=start.dtype), (events, 5, 5))
    unknown = jnp.full(events, jnp.inf), jnp.zeros_like(start), fisher
    state = (start, *unknown, jnp.full(events, 0.5), start)
    (p, _, gradient, fisher, *_), _ = jax.lax.scan(step, state, None, length=rounds)
    size = safe_sqrt(jnp.sum(gradient * _solve(fisher, gradient), -1))
    return p, fisher, size


def _bounded(p: Array) -> Array:
    """Energies and directions that the densities can be asked for."""
    energy = jnp.clip(p[:, 2], *ENERGIES)
    sine = safe_sqrt(p[:, 3] ** 2 + p[:, 4] ** 2)
    shrink = jnp.minimum(1.0, STEEPEST / jnp.maximum(sine, STEEPEST))
    return jnp.stack([p[:, 0], p[:, 1], energy, p[:, 3] * shrink, p[:, 4] * shrink], -1)
