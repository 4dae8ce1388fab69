"""The likelihood of what an array measured, and its maximum for gamma rays and protons.

For one primary with core (x, y), energy E and direction cosines (nx, ny), with l_i the mean
count of unit i and t_i the time of the front there,

    -ln L = sum_i q_i [l_i - N_i ln l_i] (electrons and muons)
            + sum_i w_i (T_i - t_i - <T - t>)^2 / (2 s^2).

SWGOLO has q = w = 1 and times without an unknown offset. Here q = 1 / (1 + (5%)^2 N) lets a
count weigh as the resolution of the tanks allows, w = N / (1 + N) lets a unit that saw
nothing tell no time, and the offset <...>, the mean weighted with w, is fitted.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core import small_matrices
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
_PAIRS = [(a, b) for a in range(5) for b in range(a, 5)]
STEEPEST = 0.95  # sine of a zenith angle, beyond which no fit goes
ENERGIES = (-3.5, 3.5)  # ln(E / PeV), likewise


class Measured(eqx.Module):
    """Hits, as the likelihood needs them.

    Units come first: sums over them then go side by side for all events, which processors
    do some ten times faster than one event after the other.

    Args:
        counts: of electrons and of muons, shape (2, unit, event).
        quality: q of both, likewise.
        clock: w, shape (unit, event).
        time: T, ns, likewise.
    """

    counts: Float[Array, "2 unit event"]
    quality: Float[Array, "2 unit event"]
    clock: Float[Array, "unit event"]
    time: Float[Array, "unit event"]


def measured(hits: Hits) -> Measured:
    """Counts, never negative, and their weights."""
    counts = jnp.maximum(jnp.stack([hits.electrons.T, hits.muons.T]), 0.0)
    n = total(hits).T
    return Measured(counts, 1 / (1 + COUNTING**2 * counts), n / (1 + n), hits.time.T)


class Model(NamedTuple):
    """What a primary predicts, shape (unit, event) each, and its slopes.

    Args:
        logs: of the mean counts of electrons and muons.
        pulls: (T - t - offset) / s.
        logs_by: of both, the derivatives by the five parameters.
        pulls_by: the derivatives by nx and ny; there are no others.
    """

    logs: tuple[Array, Array]
    pulls: Array
    logs_by: tuple[list[Array], list[Array]]
    pulls_by: list[Array]


def model(
    design: Layout, data: Measured, p: Float[Array, "event 5"], gamma: Array
) -> Model:
    """Of primaries p = (x, y in km, ln(E / PeV), nx, ny); `gamma` is 1 or 0 for each."""
    x, y, _, nx, ny = p.T
    ux, uy = (v[:, None] for v in design.positions)
    profile, push = jax.linearize(
        lambda energy, x, y: _profile(energy, x, y, gamma), p[:, 2], nx, ny
    )
    basis = jnp.eye(3)[:, :, None] + jnp.zeros_like(nx)
    by = jax.vmap(push)(*basis)  # by ln E, nx, ny
    dx, dy = ux - km * x, uy - km * y
    along = nx * dx + ny * dy
    square = dx**2 + dy**2 - along**2
    far = square > air_showers.NEAREST**2
    square = jnp.where(far, square, air_showers.NEAREST**2)
    log, per = 0.5 * jnp.log(square), jnp.where(far, 1 / square, 0.0)
    nearer = {
        0: km * per * (along * nx - dx),
        1: km * per * (along * ny - dy),
        3: -per * along * dx,
        4: -per * along * dy,
    }
    logs, logs_by = [], []
    for i, background in enumerate((ELECTRON_BACKGROUND, MUON_BACKGROUND)):
        top, steep, power = profile[i]
        fall = jnp.exp(steep + power * log)
        density = jnp.exp(top - fall)
        logs.append(jnp.log(design.area * (density + background)))
        own, fast = density / (density + background), power * fall
        slopes = []
        for j in range(5):
            slope = -fast * nearer[j] if j in nearer else 0.0
            if j >= 2:
                a, b, c = (v[j - 2] for v in by[i])
                slope = slope + a - fall * (b + c * log)
            slopes.append(own * slope)
        logs_by.append(slopes)
    norm = jnp.sum(data.clock, 0) + 1e-3

    def centred(v: Array) -> Array:
        return v - jnp.sum(data.clock * v, 0) / norm

    late = centred(data.time - (nx * ux + ny * uy) / SPEED) / TIME
    turned = [centred(-v / SPEED) / TIME for v in (ux, uy)]
    return Model((logs[0], logs[1]), late, (logs_by[0], logs_by[1]), turned)


def _profile(energy: Array, nx: Array, ny: Array, gamma: Array) -> tuple:
    """Of electrons and muons: ln of the density at the axis, of the slope, the power."""
    sine = jnp.sqrt(nx**2 + ny**2 + 1e-8)
    theta = jnp.arcsin(jnp.minimum(sine, 0.99))
    found = air_showers.mixed(gamma, jnp.exp(energy) * PeV, theta)
    across = jnp.log(jnp.cos(theta))
    return (
        (found.log_electrons + across, jnp.log(found.slope), found.power),
        (found.log_muons + across, jnp.zeros_like(theta), found.muon_power),
    )


def nll(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> Float[Array, " event"]:
    """-ln L of each event, and half of the square of the prior's pulls."""
    return _nll(data, p, model(design, data, p, gamma))


def _nll(data: Measured, p: Array, found: Model) -> Array:
    own = 0.5 * jnp.sum(data.clock * found.pulls**2, 0)
    for i in range(2):
        log, n = found.logs[i], data.counts[i]
        # Less what does not depend on p, so that single precision suffices.
        off = jnp.exp(log) - n * log - (n - n * jnp.log(jnp.maximum(n, 1e-3)))
        own = own + jnp.sum(data.quality[i] * off, 0)
    return own + 0.5 * jnp.sum(((p - PRIOR[0]) / PRIOR[1]) ** 2, -1)


def slopes(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """-ln L, its gradient (event, 5), and the Fisher matrix with the prior (event, 5, 5)."""
    found = model(design, data, p, gamma)
    late = data.clock * found.pulls
    gradient = [0.0] * 3 + [jnp.sum(by * late, 0) for by in found.pulls_by]
    fisher: dict[tuple[int, int], Any] = {}
    for a, b in _PAIRS:
        if a >= 3:
            both = found.pulls_by[a - 3] * found.pulls_by[b - 3]
            fisher[a, b] = jnp.sum(data.clock * both, 0)
    for i in range(2):
        mean, q, by = jnp.exp(found.logs[i]), data.quality[i], found.logs_by[i]
        excess, weight = q * (mean - data.counts[i]), q * mean
        gradient = [g + jnp.sum(d * excess, 0) for g, d in zip(gradient, by)]
        for a, b in _PAIRS:
            more = jnp.sum(weight * by[a] * by[b], 0)
            fisher[a, b] = fisher.get((a, b), 0.0) + more
    slope = jnp.stack(gradient, -1) + (p - PRIOR[0]) / PRIOR[1] ** 2
    rows = [[fisher[min(a, b), max(a, b)] for b in range(5)] for a in range(5)]
    matrix = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    return _nll(data, p, found), slope, matrix + jnp.diag(1 / PRIOR[1] ** 2)


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

    The search itself is not differentiated. At its end the derivative is that of the
    implicit function dnll/dp = 0 with the exact Hessian H, dp = -H^-1 d(dnll/dp): to first
    order exact where the fit has converged.

    Args:
        design: where the units are.
        data: what they measured.
        start: of the parameters, (event, 5).
        gamma: 1 where the primary is a gamma ray, 0 for a proton, (event,).
        rounds: of the search.
    """
    still = jax.lax.stop_gradient((design, data))
    p, fisher, size = _search(*still, jax.lax.stop_gradient(start), gamma, rounds)
    p = _implicit(design, data, p, gamma, fisher)
    value, _, fisher = slopes(design, data, p, gamma)
    return Fitted(p, _inverse(fisher), value, size)


@jax.custom_jvp
def _implicit(
    design: Layout, data: Measured, p: Array, gamma: Array, fisher: Array
) -> Array:
    """p, where the slopes are zero, as a function of design and data."""
    return p


@_implicit.defjvp
def _implicit_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    design, data, _, gamma, fisher = primals
    p = _implicit(*primals)  # itself a function, for derivatives of this one
    hessian = fisher + _bent(design, data, p, gamma)
    good = jnp.all(jax.vmap(small_matrices.pivots)(hessian) > 0, -1)
    curvature = jnp.where(good[:, None, None], hessian, fisher)

    def slope(design: Layout, data: Measured) -> Array:
        return slopes(design, data, p, gamma)[1]

    _, moved = jax.jvp(slope, (design, data), tangents[:2])
    return p, -_solve(curvature, moved)


def _bent(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> Float[Array, "event 5 5"]:
    """What bends in the logarithms: with the Fisher matrix the exact second derivatives.

    sum q (l - N) d2 ln l; times are linear in the cosines, and add nothing.
    """

    def slope(q: Array) -> Array:
        found = model(design, data, q, gamma)
        logs = jax.lax.stop_gradient(jnp.stack(found.logs))
        excess = data.quality * (jnp.exp(logs) - data.counts)
        parts = zip(found.logs_by, excess, strict=True)
        sums = [[jnp.sum(d * e, 0) for d in own] for own, e in parts]
        return jnp.stack([a + b for a, b in zip(*sums, strict=True)], -1)

    def along(v: Array) -> Array:
        return jax.jvp(slope, (p,), (jnp.broadcast_to(v, p.shape),))[1]

    return jnp.moveaxis(jax.lax.map(along, jnp.eye(5, dtype=p.dtype)), 0, 1)


def _solve(matrix: Array, vector: Array) -> Array:
    """Of each event."""
    unit, scale = _scaled(matrix)
    return scale * jax.vmap(small_matrices.solve)(unit, scale * vector)


def _inverse(matrix: Array) -> Array:
    unit, scale = _scaled(matrix)
    return scale[:, :, None] * jax.vmap(small_matrices.inverse)(unit) * scale[:, None]


def _scaled(matrix: Array) -> tuple[Array, Array]:
    """With ones on the diagonal, and a little more: what the digits cannot tell from zero."""
    scale = jax.lax.rsqrt(jnp.diagonal(matrix, axis1=-2, axis2=-1))
    least = 20 * jnp.finfo(matrix.dtype).eps * jnp.eye(matrix.shape[-1])
    return scale[:, :, None] * matrix * scale[:, None] + least, scale


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
