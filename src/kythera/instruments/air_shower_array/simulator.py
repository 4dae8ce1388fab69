"""Showers that arrive, and what the units of an array measure of them."""

import math
import numbers

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core import random
from kythera.core.stage import (
    AbstractPathwiseSimulator,
    AbstractSimulator,
    AbstractSource,
)
from kythera.core.types import Array, Float, Key
from kythera.instruments.air_shower_array.design import Layout
from kythera.physics import air_showers
from kythera.physics.air_showers import HIGHEST, LARGEST, LOWEST
from kythera.units import km, m2, ns, s

REFERENCE = "T. Dorigo et al., arXiv:2310.01857; github.com/tdorigo/SWGOLO"
WINDOW = 128 * ns  # in which particles are counted
MUON_BACKGROUND = 1826 / m2 / s * WINDOW
ELECTRON_BACKGROUND = 200 / m2 / s * WINDOW
TIME = 10 * ns  # resolution of an arrival time
COUNTING = 0.05  # relative resolution of a count


class Showers(eqx.Module):
    """Primaries of air showers.

    Args:
        energy: GeV, shape (event,).
        theta: zenith angle, rad.
        phi: azimuth, rad.
        x: of the core, where the axis meets the ground, m.
        y: likewise.
        is_gamma: 1 for a gamma ray, 0 for a proton.
    """

    energy: Float[Array, " event"]
    theta: Float[Array, " event"]
    phi: Float[Array, " event"]
    x: Float[Array, " event"]
    y: Float[Array, " event"]
    is_gamma: Float[Array, " event"]

    def profile(self) -> air_showers.Profile:
        """Their densities, each field of shape (event, 1)."""
        rows = self.is_gamma, self.energy, self.theta
        return air_showers.mixed(*(v[:, None] for v in rows))


class Sky(AbstractSource[Showers]):
    """Gamma rays and protons over a square.

    Args:
        gammas: fraction of gamma rays.
        low: least energy, GeV.
        high: largest energy, GeV.
        index: of the spectrum E^-index; 0 for a flat one, any finite number.
        steepest: largest zenith angle, rad, up to pi / 2.
        flat_in: "theta", or "sine" of it, in which the zenith angles are uniform.
        half: half of the side of the square of the cores, m.

    Raises:
        InputError: an empty range, a fraction outside of [0, 1], what is no finite number,
            an angle below the horizon, or another word.

    Warns:
        PhysicsWarning: energies or angles beyond the parametrisation of the densities.
    """

    gammas: float = 0.5
    low: float = LOWEST
    high: float = HIGHEST
    index: float = 2.7
    steepest: float = LARGEST
    flat_in: str = eqx.field(static=True, default="sine")
    half: float = 3 * km
    primaries: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        """Refuse empty ranges, warn of showers that the densities were not fitted to."""
        names = ("gammas", "low", "high", "index", "steepest", "half")
        values = {name: getattr(self, name) for name in names}
        if any(isinstance(v, jax.Array) for v in values.values()):
            return  # while JAX traces
        for name, value in values.items():
            if not (isinstance(value, numbers.Real) and math.isfinite(value)):
                raise errors.InputError(
                    f"`{name}` of the sky must be a finite number, but is {value!r}. "
                    f"Leave it out for {getattr(type(self), name)}."
                )
        if not (0 <= self.gammas <= 1 and 0 < self.low < self.high):
            raise errors.InputError(
                "The fraction of gamma rays must be in [0, 1] and 0 < low < high, but got "
                f"{self.gammas} and energies of {self.low} to {self.high} GeV. Mend them."
            )
        if not (0 < self.steepest <= math.pi / 2 and self.half > 0):
            raise errors.InputError(
                "`steepest` must be in (0, pi / 2] rad and `half` > 0 m, but they are "
                f"{self.steepest} and {self.half}. Give angles as 65 * deg."
            )
        if self.flat_in not in ("theta", "sine"):
            raise errors.InputError(
                f"`flat_in` is 'theta' or 'sine', but got {self.flat_in!r}. Take one."
            )
        air_showers.warn_outside([self.low, self.high], [0.0, self.steepest])

    @property
    def area(self) -> float:
        """Over which cores are uniform, m2."""
        return 4 * self.half**2

    def __call__(self, events: int, *, key: Key) -> Showers:
        """Draw `events` showers."""
        u = random.uniform(key, (6, events))
        energy = _power_law(u[0], self.low, self.high, self.index)
        if self.flat_in == "theta":
            theta = self.steepest * u[1]
        else:
            theta = jnp.arcsin(jnp.sin(self.steepest) * u[1])
        core = self.half * (2 * u[3:5] - 1)
        is_gamma = jnp.asarray(u[5] < self.gammas, energy.dtype)
        return Showers(
            jnp.clip(energy, self.low, self.high),
            theta,
            jnp.pi * (2 * u[2] - 1),
            core[0],
            core[1],
            is_gamma,
        )


def _power_law(u: Array, low: float, high: float, index: float) -> Array:
    """Energies of a spectrum E^-index at the fractions u of its integral, GeV.

    With p = 1 - index, E = low (1 + u ((high / low)^p - 1))^(1 / p); for p > 0 the same from
    the other end, so that no power overflows or is lost beside 1.
    """
    power, span = 1 - index, jnp.log(high / low)
    if power == 0:
        return low * jnp.exp(u * span)
    end, part = (high, 1 - u) if power > 0 else (low, u)
    lost = jnp.expm1(-abs(power) * span)
    energy = end * jnp.exp(jnp.log1p(part * lost) / power)
    return jnp.clip(energy, low, high)


class Hits(eqx.Module):
    """What the units measure, shape (event, unit) each.

    Args:
        electrons: counts with background; any real numbers.
        muons: likewise.
        time: of arrival, ns, since the front met the core.
    """

    electrons: Float[Array, "event unit"]
    muons: Float[Array, "event unit"]
    time: Float[Array, "event unit"]


def expected(design: Layout, x: Showers) -> tuple[Array, Array, Array]:
    """Mean counts of electrons and muons with background, and the time of the front, ns.

    Warns:
        PhysicsWarning: showers beyond the parametrisation (where their values are known).
    """
    air_showers.warn_outside(x.energy, x.theta)
    units = design.positions
    log, time = air_showers.axis_distance(
        units[0] - x.x[:, None],
        units[1] - x.y[:, None],
        x.theta[:, None],
        x.phi[:, None],
    )
    across = design.area * jnp.cos(x.theta)[:, None]
    logs = x.profile().logs(log)
    electrons = across * jnp.exp(logs[0]) + design.area * ELECTRON_BACKGROUND
    muons = across * jnp.exp(logs[1]) + design.area * MUON_BACKGROUND
    return electrons, muons, time


class SmoothArray(AbstractPathwiseSimulator[Layout, Showers, Hits]):
    """Tanks whose counts fluctuate like Poisson counts, but are real numbers.

    N = l exp(s z - s^2 / 2) with s^2 = ln(1 + 1 / l) and z standard normal: positive, of mean
    and variance l as a Poisson count, smooth in l > 0 at a fixed z. So units that see nothing
    add no more to the trigger than they do as built; far from 0 it is more skew, by
    three times. Then the counting resolution, N (1 + 5% z').
    """

    references = (REFERENCE,)

    def __call__(self, design: Layout, x: Showers, *, key: Key) -> Hits:
        """Counts and times."""
        electrons, muons, time = expected(design, x)
        z = random.normal(key, (5, *time.shape))
        counts = [_smooth(mean, z[i]) for i, mean in enumerate((electrons, muons))]
        smeared = [(1 + COUNTING * z[2 + i]) * n for i, n in enumerate(counts)]
        return Hits(smeared[0], smeared[1], time + TIME * z[4])


def _smooth(mean: Array, z: Array) -> Array:
    square = jnp.log1p(1 / mean)
    return mean * jnp.exp(jnp.sqrt(square) * z - 0.5 * square)


class CountingArray(AbstractSimulator[Layout, Showers, Hits]):
    """Tanks as built: counts drawn from Poisson distributions; has no derivative."""

    references = (REFERENCE,)

    def __call__(self, design: Layout, x: Showers, *, key: Key) -> Hits:
        """Counts and times."""
        electrons, muons, time = expected(design, x)
        draw, smear = jax.random.split(key)
        means = jnp.stack([electrons, muons])
        counts = jnp.asarray(jax.random.poisson(draw, means), means.dtype)
        z = random.normal(smear, (3, *time.shape))
        counts = counts * (1 + COUNTING * z[:2])
        return Hits(counts[0], counts[1], time + TIME * z[2])


class PublicArray(AbstractPathwiseSimulator[Layout, Showers, Hits]):
    """The detector of SWGOLO's PyTorch code, SWGOLO7.ipynb, as it is written there.

    Counts are Gaussian with 5%, and fade out below 0.1 particles: g(f) f (1 + 5% z) with
    g = sigmoid(10 (f - 0.1)), drawn for shower and background each; there is no Poisson
    fluctuation. The time is what its function TimeAverage returns, which is no mean of
    times: with the time of the front t, s_b = 128 / sqrt(12) ns,
    s = 10 / sqrt(max(N, 2) - 1) ns and w = sqrt(s_b^-2 + s^-2) it is
    (2 t + s_b (z + u)) / (s^2 w) + sqrt(w) z', u uniform in [-1/2, 1/2]. It is kept as it
    is, so that utilities can be compared.
    """

    references = (REFERENCE,)

    def __call__(self, design: Layout, x: Showers, *, key: Key) -> Hits:
        """Counts and times."""
        electrons, muons, time = expected(design, x)
        quiet = design.area * ELECTRON_BACKGROUND, design.area * MUON_BACKGROUND
        means = electrons - quiet[0], muons - quiet[1]
        z = random.normal(key, (6, *time.shape))
        u = random.uniform(jax.random.fold_in(key, 1), time.shape) - 0.5
        seen = [
            _gated(means[i], z[i]) + _gated(jnp.asarray(quiet[i]), z[2 + i])
            for i in range(2)
        ]
        wide = WINDOW / jnp.sqrt(12.0)
        square = TIME**2 / (jnp.maximum(_gated(means[0], z[0]), 2.0) - 1)
        w = jnp.sqrt(1 / wide**2 + 1 / square)
        shown = (2 * time + wide * (z[4] + u)) / (square * w) + jnp.sqrt(w) * z[5]
        return Hits(seen[0], seen[1], shown)


def _gated(mean: Array, z: Array) -> Array:
    """SmearN of the PyTorch code."""
    return jax.nn.sigmoid(10 * (mean - 0.1)) * mean * (1 + COUNTING * z)


def total(hits: Hits) -> Array:
    """Particles in each unit, never negative."""
    return jnp.maximum(hits.electrons + hits.muons, 0.0)
