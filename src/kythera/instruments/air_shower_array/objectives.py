"""What an array is worth: gamma fraction, energy, direction, point sources; SWGOLO's sum.

Each shower counts with the probability that it triggers the array. Densities of the test
statistic are sums of kernels on a fixed grid, which add up over showers.
"""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jax.scipy.special import gammaln

from kythera.core.objective import AbstractObjective, Score
from kythera.core.pipeline import Trace
from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float, Scalar
from kythera.instruments.air_shower_array.design import Layout
from kythera.instruments.air_shower_array.reconstruction import Reconstructed
from kythera.instruments.air_shower_array.simulator import REFERENCE, total
from kythera.units import km, mrad

TRIGGER = 50  # tanks hit
POINTING = 1 * mrad  # dr0, below which no direction need be known
BINS, REACH = 61, 6.0  # of the grid of asinh(TS / SOFT), from -REACH to REACH
SOFT = 3.0  # of a test statistic, above which its logarithm counts


def trigger(
    design: Layout, counts: Float[Array, "event unit"]
) -> Float[Array, " event"]:
    """Probability of at least 50 tanks, P = 1 - sum_{k < 50} Poisson(k; S).

    S = sum over units of n (1 - exp(-N / n)) is the number of tanks hit of the n in each.

    Args:
        design: the number of tanks in a unit.
        counts: particles in each unit.
    """
    hit = design.tanks * -jnp.expm1(-counts / design.tanks)
    mean = jnp.sum(hit, -1)[:, None] + 1e-6
    k = jnp.arange(TRIGGER)
    below = jnp.sum(jnp.exp(k * jnp.log(mean) - mean - gammaln(k + 1.0)), -1)
    return jnp.clip(1 - below, 0.0, 1.0)


class ArrayUtility(AbstractObjective):
    """1000 / U with U = U_GF + U_IR + U_PR + U_PS, SWGOLO's utility of an array.

    - U_GF = 100 (f / sigma_f) X: the precision of the fraction f of gamma rays from the densities
      p of the test statistic, 1 / sigma_f^2 = n <P> int (p_g - p_p)^2 / (f p_g + (1 - f) p_p),
      and the exposure factor X = sqrt(area / n), km.
    - U_IR = 50 <P> / <P sigma_E / E>, of gamma rays, with the errors of the fit.
    - U_PR = 2000 <P dr0 / dr> / <P>, dr^2 = the direction's variance + dr0^2, dr0 = 1 mrad.
    - U_PS = 1000 X <4 P / (25 + 20 sqrt(B))> from 5 sigma of 2 (sqrt(S + B) - sqrt(B)), with
      B protons in the ellipse of the direction and one sigma of the energy.

    The density of cores that SWGOLO takes from each batch is that of n showers over the square
    of the source, and the trigger rate of protons in B is a constant: so U is a function of
    additive tallies. Kernels are as wide as the error of each TS and at least one bin.
    U_IR and U_PR are of the showers that trigger, however few. Every fit counts, converged or
    not: `Reconstructed.size` tells.

    U_GF is too large by what densities of finite samples differ by chance, about in
    proportion to 1 / sqrt(n) where TS tells nothing: 75 of 500 showers, 26 of 4000, of a true 0;
    at the rings, where it is 185, 3 of 500.

    Args:
        area: over which cores are uniform, m2.
        fraction: f, of gamma rays.
        background: protons that trigger, per steradian and per unit of ln E.
        showers: n, of a batch.
    """

    references: ClassVar[tuple[str, ...]] = (REFERENCE,)
    area: float
    fraction: float = 0.5
    background: float = 1e4
    showers: int = 500

    def tally(self, design: Layout, trace: Trace) -> dict[str, Array]:
        """Weights, densities of the statistic, and what gamma rays tell."""
        found: Reconstructed = trace.result
        weight = trigger(design, total(trace.signal))
        gamma = weight * trace.truth.is_gamma
        proton = weight - gamma
        kernel = _kernels(found.statistic, found.spread)
        energy = safe_sqrt(found.covariance[:, 2, 2])
        turn, ellipse = _direction(found)
        inside = self.background * jnp.pi * ellipse * 2 * energy
        return {
            "gamma": gamma,
            "proton": proton,
            "gammas": gamma[:, None] * kernel,
            "protons": proton[:, None] * kernel,
            "energy": gamma * energy,
            "pointing": gamma * POINTING / jnp.sqrt(turn + POINTING**2),
            "source": gamma * 4 / (25 + 20 * safe_sqrt(inside)),
        }

    def utilities(self, tally: dict[str, Array]) -> dict[str, Scalar]:
        """The four parts of U, from mean tallies."""
        seen, tiny = tally["gamma"], 1e-9  # so that nothing seen is worth nothing
        gamma, proton = seen + tiny, tally["proton"] + tiny
        one, other = tally["gammas"] / gamma, tally["protons"] / proton
        both = self.fraction * one + (1 - self.fraction) * other
        apart = jnp.sum((one - other) ** 2 / (both + 1e-6))
        precision = jnp.sqrt(self.showers * (gamma + proton) * apart + 1e-9)
        exposure = math.sqrt(self.area / self.showers) / km
        return {
            "gamma_fraction": self.fraction * precision * exposure * 100,
            "energy": 50 * seen / (tally["energy"] + tiny),
            "pointing": 2000 * tally["pointing"] / gamma,
            "point_source": 1000 * exposure * tally["source"] / self.fraction,
        }

    def score(self, design: Layout, tally: dict[str, Array]) -> Score:
        """1000 / U."""
        whole = jnp.sum(jnp.stack(list(self.utilities(tally).values())))
        return Score({"inverse_utility": 1000 / (whole + 1e-3)})


def _kernels(statistic: Array, spread: Array) -> Float[Array, "event bin"]:
    """Gaussians of asinh(TS / SOFT), whose sum over the bins is 1."""
    centre = jnp.arcsinh(statistic / SOFT)[:, None]
    step = 2 * REACH / (BINS - 1)
    width = jnp.sqrt((spread**2 / (statistic**2 + SOFT**2))[:, None] + step**2)
    grid = jnp.linspace(-REACH, REACH, BINS)
    logs = -0.5 * ((grid - jnp.clip(centre, -REACH, REACH)) / width) ** 2
    kernel = jnp.exp(logs)
    return kernel / (jnp.sum(kernel, -1, keepdims=True) + 1e-9)


def _direction(found: Any) -> tuple[Array, Array]:
    """Variance of the direction, rad2, and area of its error ellipse over pi, sr.

    The errors are those of the cosines (nx, ny): along the slope of the axis an angle is
    1 / cos(theta) times as much, and so is the solid angle.
    """
    c = found.covariance[:, 3:, 3:]
    cosine = jnp.maximum(jnp.cos(found.best.theta), 0.1)
    ux, uy = jnp.cos(found.best.phi), jnp.sin(found.best.phi)
    along = ux**2 * c[:, 0, 0] + uy**2 * c[:, 1, 1] + 2 * ux * uy * c[:, 0, 1]
    across = c[:, 0, 0] + c[:, 1, 1] - along
    determinant = c[:, 0, 0] * c[:, 1, 1] - c[:, 0, 1] ** 2
    turn = jnp.maximum(along / cosine**2 + across, 0.0)  # not below it by rounding
    return turn, safe_sqrt(determinant) / cosine
