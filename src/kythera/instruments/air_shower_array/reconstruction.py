"""Showers reconstructed by likelihood under both hypotheses, and their test statistic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.checks import check_count
from kythera.core.safe import safe_sqrt
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.air_shower_array.design import Layout
from kythera.instruments.air_shower_array.fit import (
    FOUND,
    Measured,
    arrival,
    fit,
    measured,
    model,
    nll,
)
from kythera.instruments.air_shower_array.public import Estimate, summary
from kythera.instruments.air_shower_array.simulator import REFERENCE, Hits, total
from kythera.physics.air_showers import PeV
from kythera.units import km

ENERGIES = (-2.8, -1.6, -0.4, 0.8, 2.0)  # ln(E / PeV), among which a fit starts
SHIFTS = (0.0, 0.7)  # of the core away from the units' middle, in its distance from it
DISTANCES = (0.8, 1.4, 2.0, 3.0)  # of further cores on that line from the middle, km
PAIRS = 50_000  # of showers and units that are fitted at once, so that caches hold them
GROUPS = 90  # units, at least, into which more units are merged for the first fits
FINER = 4  # times as many, at each step from there to all units


class Reconstructed(NamedTuple):
    """What the fits tell of each shower, shape (event, ...).

    Args:
        best: the gamma ray that fits best.
        covariance: of (x, y in km, ln E, nx, ny), (event, 5, 5).
        statistic: TS = ln L(gamma) - ln L(proton), each at its maximum.
        spread: standard deviation of TS from the fluctuations of the counts.
        size: of the larger last gradient in units of errors; near 0 where both converged.
    """

    best: Estimate
    covariance: Array
    statistic: Array
    spread: Array
    size: Array


class LikelihoodFit(AbstractStage[Layout, Hits, Reconstructed]):
    """Fits a gamma ray and a proton to each shower.

    Each unit keeps a core from passing, so that a fit which starts elsewhere stays there.
    Hence fits start from several cores on the line from the array's middle through that of
    the particles, each with the best of some energies and the plane through the times; they
    see many units merged with their neighbours. After half of the rounds the best goes on,
    with four times as many groups at a time, to the units as they are. Derivatives are
    implicit (see `fit`).

    Args:
        rounds: of Levenberg-Marquardt, two thirds of them at each step where units were
            merged; > 0.

    Raises:
        InputError: no whole number of rounds above 0.
    """

    references = (REFERENCE,)
    rounds: int = eqx.field(static=True, default=12)

    def __check_init__(self):
        """Refuse fits that do not move."""
        check_count("rounds", self.rounds, "Give some, such as 12")

    def __call__(self, design: Layout, x: Hits, *, key: Key) -> Reconstructed:
        """All showers as gamma rays, and once more as protons."""
        count, units = x.time.shape
        gamma = jnp.concatenate([jnp.ones(count), jnp.zeros(count)])
        start = first_guess(design, _twice(x), gamma, self.rounds // 2)
        start = jnp.swapaxes(start.reshape(2, count, -1), 0, 1)
        blocks = -(-count // max(1, PAIRS // units))
        if blocks == 1:
            return self._fitted(design, x, start)
        fitted = jax.checkpoint(
            lambda block: self._fitted(design, *block),
            policy=jax.checkpoint_policies.save_only_these_names(FOUND),
        )
        return _in_blocks(fitted, (x, start), count, blocks)

    def _fitted(self, design: Layout, x: Hits, start: Array) -> Reconstructed:
        """From guesses of both kinds, (event, 2, 5)."""
        count, units = x.time.shape
        gamma = jnp.concatenate([jnp.ones(count), jnp.zeros(count)])
        start = jnp.swapaxes(start, 0, 1).reshape(2 * count, -1)
        groups, rounds = FINER * GROUPS, self.rounds
        while 2 * groups <= units:
            coarse, sums = merged(*jax.lax.stop_gradient((design, x)), groups)
            rounds = -(-2 * self.rounds // 3)
            start = fit(coarse, measured(_twice(sums)), start, gamma, rounds).p
            groups *= FINER
        data = measured(_twice(x))
        found = fit(design, data, start, gamma, rounds)
        return Reconstructed(
            _estimate(found.p[:count]),
            found.covariance[:count],
            found.nll[count:] - found.nll[:count],
            _spread(design, data, found.p, gamma),
            jnp.maximum(found.size[count:], found.size[:count]),
        )


def _twice(x: Hits) -> Hits:
    return jax.tree.map(lambda v: jnp.concatenate([v, v]), x)


def _in_blocks(call: Callable[[Any], Any], x: Any, count: int, blocks: int) -> Any:
    """Of equally many events, one after the other; some come twice, to fill the last."""
    size = -(-count // blocks)
    order = (jnp.arange(blocks * size) % count).reshape(blocks, size)
    found = jax.lax.map(call, jax.tree.map(lambda v: v[order], x))
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[:count], found)


def first_guess(
    design: Layout, hits: Hits, gamma: Array, rounds: int
) -> Float[Array, "event 5"]:
    """Where the best of several fits to merged units ends; no derivative passes.

    Args:
        design: where the units are.
        hits: what they measured.
        gamma: 1 for gamma rays, 0 for protons, (event,).
        rounds: of each fit.
    """
    design, hits = merged(*jax.lax.stop_gradient((design, hits)), GROUPS)
    data = measured(hits)
    times = arrival(design, data)
    core, cosines, middle = summary(design, total(hits), hits.time)[:3]
    away = core - middle
    line = away / (1.0 + safe_sqrt(jnp.sum(away**2, 0)))
    cores = [(core + shift * away) / km for shift in SHIFTS]
    cores += [middle / km + line * distance for distance in DISTANCES]
    one = jnp.ones_like(core[0])

    def fitted(core: Array) -> tuple[Array, Array]:
        levels = [jnp.stack([*core, at * one, *cosines], -1) for at in ENERGIES]
        guesses = jnp.stack(levels)
        values = jax.lax.map(lambda p: nll(design, data, times, p, gamma), guesses)
        found = fit(design, data, _least(guesses, values), gamma, rounds)
        return found.p, found.nll

    return _least(*jax.lax.map(fitted, jnp.stack(cores)))


def merged(design: Layout, hits: Hits, least: int) -> tuple[Layout, Hits]:
    """At least so many groups, each of as many neighbours: by strips in x, then by y.

    What does not fill a last group is left out.
    """
    x, y = design.positions
    each = x.size // least
    if each < 2:
        return design, hits
    groups = x.size // each
    strip = jnp.argsort(jnp.argsort(x)) * round(groups**0.5) // x.size
    order = jnp.lexsort((y, strip))[: groups * each].reshape(groups, each)
    counts = total(hits)[:, order]
    weight = counts / (1 + counts) + 1e-3
    return (
        Layout(jnp.mean(x[order], 1), jnp.mean(y[order], 1), design.tanks * each),
        Hits(
            jnp.sum(hits.electrons[:, order], -1),
            jnp.sum(hits.muons[:, order], -1),
            jnp.sum(weight * hits.time[:, order], -1) / jnp.sum(weight, -1),
        ),
    )


def _least(guesses: Array, values: Array) -> Float[Array, "event 5"]:
    """Of each event, the guess of the least -ln L."""
    best = jnp.argmin(values, 0)
    return jnp.take_along_axis(guesses, best[None, :, None], 0)[0]


def _estimate(p: Array) -> Estimate:
    sine = safe_sqrt(p[:, 3] ** 2 + p[:, 4] ** 2)
    return Estimate(
        km * p[:, 0],
        km * p[:, 1],
        jnp.exp(p[:, 2]) * PeV,
        jnp.arcsin(jnp.minimum(sine, 0.99)),
        jnp.arctan2(p[:, 4], jnp.where(sine > 1e-6, p[:, 3], 1e-6)),
    )


def _spread(
    design: Layout, data: Measured, p: Array, gamma: Array
) -> Float[Array, " event"]:
    """From var N = (ln l_g - ln l_p)^2 q N, and 1 for what is not modelled."""
    count = p.shape[0] // 2
    logs = model(design, p, gamma).logs
    square = 1.0
    for log, q, n in zip(logs, data.quality, data.counts, strict=True):
        ratio = log[:count] - log[count:]
        square = square + jnp.sum(q[:count] * n[:count] * ratio**2, -1)
    return jnp.sqrt(square)
