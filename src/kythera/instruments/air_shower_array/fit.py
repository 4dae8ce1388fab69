"""The likelihood of what an array measured, and its maximum for gamma rays and protons.

For one primary with core (x, y), energy E and direction cosines (nx, ny), with l_i the mean
count of unit i and t_i the time of the front there,

    -ln L = sum_i q_i [l_i - N_i ln l_i] (electrons and muons)
            + sum_i w_i (T_i - t_i - <T - t>)^2 / (2 s^2).

SWGOLO has q = w = 1 and times without an unknown offset. Here q = 1 / (1 + (5%)^2 N) lets a
count weigh as the resolution of the tanks allows, w = N / (1 + N) lets a unit that saw
nothing tell no time, and the offset <...>, the mean weighted with w, is fitted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

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
_PAIRS = [(a, b) for a in range(5) for b in range(a, 6)]
FOUND = "maxima of likelihoods"  # what `jax.checkpoint` keeps, instead of a new search
STEEPEST = 0.95  # sine of a zenith angle, beyond which no fit goes
ENERGIES = (-3.5, 3.5)  # ln(E / PeV), likewise


class Measured(eqx.Module):
    """Hits, as the likelihood needs them.

    Args:
        counts: of electrons and of muons, shape (2, event, unit).
        quality: q of both, likewise.
        least: N - N ln N, the least that either adds to -ln L but for q, likewise.
        clock: w, shape (event, unit).
        time: T, ns, likewise.
    """

    counts: Float[Array, "2 event unit"]
    quality: Float[Array, "2 event unit"]
    least: Float[Array, "2 event unit"]
    clock: Float[Array, "event unit"]
    time: Float[Array, "event unit"]


def measured(hits: Hits) -> Measured:
    """Counts, never negative, and their weights."""
    counts = jnp.maximum(jnp.stack([hits.electrons, hits.muons]), 0.0)
    n = total(hits)
    quality = 1 / (1 + COUNTING**2 * counts)
    least = counts - counts * jnp.log(jnp.maximum(counts, 1e-3))
    return Measured(counts, quality, least, n / (1 + n), hits.time)


class Arrival(NamedTuple):
    """What the times add to -ln L, exactly: a parabola of the direction cosines n.

    value + slope . (n - at) + (n - at) . curvature . (n - at) / 2

    Args:
        at: cosines of the plane that fits best, or near them, (event, 2).
        value: (event,).
        slope: (event, 2); near 0.
        curvature: (event, 2, 2).
    """

    at: Array
    value: Array
    slope: Array
    curvature: Array

    def __call__(self, n: Float[Array, "event 2"]) -> tuple[Array, Array]:
        """The value, (event,), and its slopes, (event, 2)."""
        away = n - self.at
        turned = jnp.sum(self.curvature * away[:, None], -1)
        value = self.value + jnp.sum((self.slope + 0.5 * turned) * away, -1)
        return value, self.slope + turned


def arrival(design: Layout, data: Measured) -> Arrival:
    """Of the times that were measured."""
    weight = data.clock
    norm = jnp.sum(weight, -1, keepdims=True) + 1e-3

    def centred(v: Array) -> Array:
        return (v - jnp.sum(weight * v, -1, keepdims=True) / norm) / TIME

    by = [centred(-v / SPEED) for v in design.positions]
    sums = [[jnp.sum(weight * a * b, -1) for b in by] for a in by]
    curvature = jnp.stack([jnp.stack(row, -1) for row in sums], -2)
    late = centred(data.time)
    first = jnp.stack([jnp.sum(weight * a * late, -1) for a in by], -1)
    # Any point does in theory; beside the plane of best fit digits are lost.
    at = jax.lax.stop_gradient(-_solve(curvature + 1e-3 * jnp.eye(2), first))
    front = at[:, :1] * design.positions[0] + at[:, 1:] * design.positions[1]
    late = centred(data.time - front / SPEED)
    slope = jnp.stack([jnp.sum(weight * a * late, -1) for a in by], -1)
    return Arrival(at, 0.5 * jnp.sum(weight * late**2, -1), slope, curvature)


class Model(NamedTuple):
    """What a primary predicts, of electrons and muons, each of shape (event, unit).

    Args:
        means: of the counts.
        logs: of the means.
        logs_by: derivatives of the logarithms by the five parameters.
    """

    means: tuple[Array, Array]
    logs: tuple[Array, Array]
    logs_by: tuple[list[Array], list[Array]]


def model(design: Layout, p: Float[Array, "event 5"], gamma: Array) -> Model:
    """Of primaries p = (x, y in km, ln(E / PeV), nx, ny); `gamma` is 1 or 0 for each."""
    means, logs_by = [], []
    for one in _densities(design, p, gamma, *_distance(design, p)[:2]):
        whole = one.density + one.background
        means.append(design.area * whole)
        logs_by.append([one.density / whole * v for v in one.by()])
    logs = jnp.log(means[0]), jnp.log(means[1])
    return Model((means[0], means[1]), logs, (logs_by[0], logs_by[1]))


class _Density(NamedTuple):
    """exp(top - fall) and a background; ln(fall) = steep + power ln R."""

    background: float
    density: Array
    fall: Array
    power: Array
    power_by: list[Any]  # by the five parameters, as those below
    top_by: list[Any]
    fall_by: list[Array]  # of ln(fall)

    def by(self) -> list[Array]:
        """Slopes of the logarithm of the density alone."""
        return [a - self.fall * b for a, b in zip(self.top_by, self.fall_by)]


def _densities(
    design: Layout, p: Array, gamma: Array, log: Array, log_by: list[Any]
) -> list[_Density]:
    """Of electrons and of muons, (event, unit), where ln R and its slopes are these."""
    profile, push = jax.linearize(lambda v: _profile(v, gamma), p[:, 2:].T)
    by = jax.vmap(push)(jnp.eye(3)[:, :, None] + jnp.zeros_like(p[:, 0]))
    profile, by = jax.tree.map(lambda v: v[..., None], (profile, by))
    found = []
    for i, background in enumerate((ELECTRON_BACKGROUND, MUON_BACKGROUND)):
        top, steep, power = profile[i]
        top_by, steep_by, power_by = ([0.0, 0.0, *v] for v in by[i])
        fall = jnp.exp(steep + power * log)
        slopes = zip(steep_by, power_by, log_by, strict=True)
        fall_by = [a + b * log + power * c for a, b, c in slopes]
        density = jnp.exp(top - fall)
        found.append(
            _Density(background, density, fall, power, power_by, top_by, fall_by)
        )
    return found


def _distance(
    design: Layout, p: Array
) -> tuple[Array, list[Any], dict[tuple[int, int], Array]]:
    """ln R of each unit from the axis, its slopes, and second derivatives but for zeros."""
    ux, uy = design.positions
    x, y, _, nx, ny = p.T[..., None]
    dx, dy = ux - km * x, uy - km * y
    along = nx * dx + ny * dy
    square = dx**2 + dy**2 - along**2
    far = square > air_showers.NEAREST**2
    square = jnp.where(far, square, air_showers.NEAREST**2)
    per = jnp.where(far, 1 / square, 0.0)
    by = [
        km * per * (along * nx - dx),
        km * per * (along * ny - dy),
        0.0,  # the energy
        -per * along * dx,
        -per * along * dy,
    ]
    half = {  # of the second derivatives of the square
        (0, 0): km**2 * (1 - nx**2),
        (0, 1): -(km**2) * nx * ny,
        (1, 1): km**2 * (1 - ny**2),
        (0, 3): km * (dx * nx + along),
        (0, 4): km * dy * nx,
        (1, 3): km * dx * ny,
        (1, 4): km * (dy * ny + along),
        (3, 3): -(dx**2),
        (3, 4): -dx * dy,
        (4, 4): -(dy**2),
    }
    twice = {(a, b): per * v - 2 * by[a] * by[b] for (a, b), v in half.items()}
    return 0.5 * jnp.log(square), by, twice


def _profile(v: Float[Array, "3 event"], gamma: Array) -> tuple:
    """Of electrons and muons: ln of the density at the axis, of the slope, the power."""
    energy, nx, ny = v
    sine = jnp.sqrt(nx**2 + ny**2 + 1e-8)
    theta = jnp.arcsin(jnp.minimum(sine, 0.99))
    found = air_showers.mixed(gamma, jnp.exp(energy) * PeV, theta)
    across = jnp.log(jnp.cos(theta))
    return (
        (found.log_electrons + across, jnp.log(found.slope), found.power),
        (found.log_muons + across, jnp.zeros_like(theta), found.muon_power),
    )


def nll(
    design: Layout, data: Measured, times: Arrival, p: Array, gamma: Array
) -> Float[Array, " event"]:
    """-ln L of each event, and half of the square of the prior's pulls."""
    return _nll(data, model(design, p, gamma)) + _outside(times, p)[0]


def _nll(data: Measured, found: Model) -> Array:
    """Of the counts."""
    own = 0.0
    rows = zip(found.means, found.logs, data.counts, data.quality, data.least)
    for mean, log, n, q, least in rows:
        # Less what does not depend on p, so that single precision suffices.
        own = own + jnp.sum(q * (mean - n * log - least), -1)
    return jnp.asarray(own)


def _outside(times: Arrival, p: Array) -> tuple[Array, Array, Array]:
    """What is no count: times and prior; value, gradient and second derivatives."""
    pull = (p - PRIOR[0]) / PRIOR[1]
    value, slope = times(p[:, 3:])
    none = ((0, 0), (3, 0))
    return (
        value + 0.5 * jnp.sum(pull**2, -1),
        pull / PRIOR[1] + jnp.pad(slope, none),
        jnp.diag(1 / PRIOR[1] ** 2) + jnp.pad(times.curvature, (*none, (3, 0))),
    )


def slopes(
    design: Layout, data: Measured, times: Arrival, p: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """-ln L, its gradient (event, 5), and the Fisher matrix with the prior (event, 5, 5)."""
    found = model(design, p, gamma)
    sums: dict[tuple[int, int], Any] = {}
    for mean, by, n, q in zip(found.means, found.logs_by, data.counts, data.quality):
        root = jnp.sqrt(q * mean)
        # Their products are the terms of the Fisher matrix, with the last of the gradient.
        rows = [*(root * v for v in by), root * (1 - n / mean)]
        for a, b in _PAIRS:
            sums[a, b] = sums.get((a, b), 0.0) + jnp.sum(rows[a] * rows[b], -1)
    value, slope, second = _outside(times, p)
    return (
        _nll(data, found) + value,
        slope + jnp.stack([sums[a, 5] for a in range(5)], -1),
        second + _symmetric(sums),
    )


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
    found = _search(*still, jax.lax.stop_gradient(start), gamma, rounds)
    p, fisher, size = (checkpoint_name(v, FOUND) for v in found)
    p = _implicit(design, data, p, gamma, fisher)
    value, _, fisher = slopes(design, data, arrival(design, data), p, gamma)
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
        return slopes(design, data, arrival(design, data), p, gamma)[1]

    _, moved = jax.jvp(slope, (design, data), tangents[:2])
    return p, -_solve(curvature, moved)


def _bent(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> Float[Array, "event 5 5"]:
    """What bends in the logarithms: with the Fisher matrix the exact second derivatives.

    sum q (l - N) d2 ln l; what the times add is in the Fisher matrix.
    """

    def profile(v: Float[Array, "3"], kind: Array) -> tuple:
        return jax.tree.map(lambda v: v[0], _profile(v[:, None], kind[None]))

    second = jax.vmap(jax.jacfwd(jax.jacfwd(profile)))(p[:, 2:], gamma)
    log, log_by, log_twice = _distance(design, p)
    densities = _densities(design, p, gamma, log, log_by)
    sums: dict[tuple[int, int], Any] = {}
    for i, one in enumerate(densities):
        whole, by = one.density + one.background, one.by()
        own = one.density / whole
        excess = own * data.quality[i] * (design.area * whole - data.counts[i])
        bends = [jnp.moveaxis(v, 0, -1)[..., None] for v in second[i]]
        for a in range(5):
            for b in range(a, 5):
                bent = one.power_by[a] * log_by[b] + one.power_by[b] * log_by[a]
                bent = bent + one.fall_by[a] * one.fall_by[b]
                if (a, b) in log_twice:
                    bent = bent + one.power * log_twice[a, b]
                top = 0.0
                if a >= 2:
                    top, steep, power = (v[a - 2, b - 2] for v in bends)
                    bent = bent + steep + power * log
                term = top - one.fall * bent + (1 - own) * by[a] * by[b]
                sums[a, b] = sums.get((a, b), 0.0) + jnp.sum(excess * term, -1)
    return _symmetric(sums)


def _symmetric(sums: dict[tuple[int, int], Array]) -> Float[Array, "event 5 5"]:
    """From entries (a, b) with a <= b."""
    rows = [[sums[min(a, b), max(a, b)] for b in range(5)] for a in range(5)]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _solve(
    matrix: Array, vector: Array, solver: Callable = small_matrices.solve
) -> Array:
    """Of each event."""
    unit, scale = _scaled(matrix)
    return scale * jax.vmap(solver)(unit, scale * vector)


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
    times, definite = arrival(design, data), small_matrices.solve_definite

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        p, value, gradient, fisher, damping, trial = state
        new = slopes(design, data, times, trial, gamma)
        better = new[0] < value
        keep = better[:, None]
        p = jnp.where(keep, trial, p)
        value = jnp.where(better, new[0], value)
        gradient = jnp.where(keep, new[1], gradient)
        fisher = jnp.where(keep[..., None], new[2], fisher)
        damping = jnp.clip(jnp.where(better, damping / 5, damping * 4), 1e-4, 1e4)
        scale = jnp.diagonal(fisher, axis1=-2, axis2=-1)
        damped = fisher + (damping[:, None] * scale)[..., None] * jnp.eye(5)
        trial = _bounded(p - _solve(damped, gradient, definite))
        return (p, value, gradient, fisher, damping, trial), None

    start = _bounded(start)
    events = start.shape[0]
    fisher = jnp.broadcast_to(jnp.eye(5, dtype=start.dtype), (events, 5, 5))
    unknown = jnp.full(events, jnp.inf), jnp.zeros_like(start), fisher
    state = (start, *unknown, jnp.full(events, 0.5), start)
    (p, _, gradient, fisher, *_), _ = jax.lax.scan(step, state, None, length=rounds)
    size = safe_sqrt(jnp.sum(gradient * _solve(fisher, gradient, definite), -1))
    return p, fisher, size


def _bounded(p: Array) -> Array:
    """Energies and directions that the densities can be asked for."""
    energy = jnp.clip(p[:, 2], *ENERGIES)
    sine = safe_sqrt(p[:, 3] ** 2 + p[:, 4] ** 2)
    shrink = jnp.minimum(1.0, STEEPEST / jnp.maximum(sine, STEEPEST))
    return jnp.stack([p[:, 0], p[:, 1], energy, p[:, 3] * shrink, p[:, 4] * shrink], -1)
