"""Showers reconstructed by likelihood under both hypotheses, and their test statistic."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.safe import safe_sqrt
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.air_shower_array.design import Layout
from kythera.instruments.air_shower_array.fit import (
    Measured,
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
SHIFTS = (0.0, 0.5)  # of the core away from the units' middle, likewise


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

    Both start from a plane through the times, and from the best of some energies and cores
    around the middle of the particles. Derivatives are implicit (see `fit`).

    Args:
        rounds: of Levenberg-Marquardt.
    """

    references = (REFERENCE,)
    rounds: int = eqx.field(static=True, default=12)

    def __call__(self, design: Layout, x: Hits, *, key: Key) -> Reconstructed:
        """All showers as gamma rays, and once more as protons, in one batch."""
        count = x.time.shape[0]
        twice = jax.tree.map(lambda v: jnp.concatenate([v, v]), x)
        gamma = jnp.concatenate([jnp.ones(count), jnp.zeros(count)])
        data = measured(twice)
        start = first_guess(design, twice, data, gamma)
        found = fit(design, data, start, gamma, self.rounds)
        return Reconstructed(
            _estimate(found.p[:count]),
            found.covariance[:count],
            found.nll[count:] - found.nll[:count],
            _spread(design, data, found.p, gamma),
            jnp.maximum(found.size[count:], found.size[:count]),
        )


def first_guess(
    design: Layout, hits: Hits, data: Measured, gamma: Array
) -> Float[Array, "event 5"]:
    """Parameters from which a fit starts; no derivative passes.

    A core outside of the array lies farther from its middle than the particles' middle.
    """
    design, hits, data = jax.lax.stop_gradient((design, hits, data))
    core, cosines, middle = summary(design, total(hits), hits.time)[:3]
    one = jnp.ones_like(core[0])
    away = core - middle
    starts = jnp.stack(
        [
            jnp.stack([*((core + shift * away) / km), level * one, *cosines], -1)
            for level in ENERGIES
            for shift in SHIFTS
        ]
    )
    values = jax.lax.map(lambda p: nll(design, data, p, gamma), starts)
    best = jnp.argmin(values, 0)
    return jnp.take_along_axis(starts, best[None, :, None], 0)[0]


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
    logs = model(design, data, p, gamma).logs
    square = 1.0
    for log, q, n in zip(logs, data.quality, data.counts, strict=True):
        ratio = log[:, :count] - log[:, count:]
        square = square + jnp.sum(q[:, :count] * n[:, :count] * ratio**2, 0)
    return jnp.sqrt(square)
