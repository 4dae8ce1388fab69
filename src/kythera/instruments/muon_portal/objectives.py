"""What a portal is built for: few missed sources at few false alarms, small masses found.

In each row scan 0 is the cargo without, and scan 1 the same cargo with what is hidden; the
result is one test statistic for each (`Answer.value`).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.objective import AbstractObjective, PerEventLoss, Score
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float, Scalar
from kythera.instruments.muon_portal.design import Portal
from kythera.units import kg

_WHITE_PAPER = (
    "T. Dorigo et al., Toward the end-to-end optimization of particle physics "
    "instruments with differentiable programming, Reviews in Physics 10 (2023) 100085"
)


class BinormalFalseNegatives(AbstractObjective):
    """False negatives at a fixed false-positive rate, if both statistics were normal.

    FN = Phi((m0 + z s0 - m1) / s1), z the quantile of the false-positive rate, from the
    means and variances without and with the source. Smooth and quiet with few rows: made
    for the search; report `FalseNegatives`.

    Args:
        rate: false-positive rate, in (0, 1).
    """

    rate: float = 0.01
    references: ClassVar[tuple[str, ...]] = (_WHITE_PAPER,)

    def tally(self, design: Portal, trace: Trace) -> Float[Array, "event 4"]:
        """First and second powers of both statistics."""
        s = trace.result.value
        return jnp.concatenate([s, s**2], -1)

    def score(self, design: Portal, tally: Float[Array, "4"]) -> Score:
        """The term "false_negatives"."""
        mean, square = tally[:2], tally[2:]
        spread = jnp.sqrt(jnp.maximum(square - mean**2, 1e-8))
        z = jax.scipy.stats.norm.ppf(1 - self.rate)
        pull = (mean[0] + z * spread[0] - mean[1]) / spread[1]
        return Score({"false_negatives": jax.scipy.stats.norm.cdf(pull)})


class _Distribution(eqx.Module):
    """Cumulative distribution of a statistic on fixed points, as additive rows.

    Args:
        low, high: range of the points.
        count: number of them.
    """

    low: float = -8.0
    high: float = 8.0
    count: int = eqx.field(static=True, default=641)

    @property
    def points(self) -> Float[Array, " point"]:
        """The points."""
        return jnp.linspace(self.low, self.high, self.count)

    def rows(self, s: Array) -> Float[Array, "... point"]:
        """1 where s lies below a point, smeared by half a spacing of the points."""
        spacing = (self.high - self.low) / (self.count - 1)
        return jax.nn.sigmoid((self.points - s[..., None]) / (spacing / 2))

    def quantile(self, cdf: Float[Array, " point"], share: float) -> Scalar:
        """Where a cumulative distribution reaches `share`, by linear interpolation."""
        rising = jnp.maximum(cdf, jnp.arange(self.count) * 1e-9)
        return jnp.interp(share, rising, self.points)

    def at(self, cdf: Float[Array, " point"], s: Scalar) -> Scalar:
        """A cumulative distribution at s."""
        return jnp.interp(s, self.points, cdf)


class FalseNegatives(AbstractObjective):
    """Missed sources at a fixed false-positive rate: the portal's own figure of merit.

    The threshold t is the (1 - rate) quantile of the statistic without a source, FN the
    share of sources below it. Its error includes that of the threshold.

    Args:
        rate: false-positive rate; the sample needs many more than 1 / rate rows.
    """

    rate: float = 0.01
    distribution: _Distribution = _Distribution()
    references: ClassVar[tuple[str, ...]] = (_WHITE_PAPER,)

    def tally(self, design: Portal, trace: Trace) -> Float[Array, "event 2 point"]:
        """Both cumulative distributions."""
        return self.distribution.rows(trace.result.value)

    def score(self, design: Portal, tally: Float[Array, "2 point"]) -> Score:
        """The term "false_negatives"."""
        threshold = self.distribution.quantile(tally[0], 1 - self.rate)
        missed = self.distribution.at(tally[1], threshold)
        return Score({"false_negatives": missed})


class HalfPowerMass(AbstractObjective):
    """L = sum over materials of u w50: the mass that is found half of the time, weighted.

    Eq. 8 and 9 of the white paper: for each material w50 is the mass at which the power of
    the test is 0.5 at the given false-positive rate (5%). The power is known at some nodes
    of mass (linear weights in ln mass) and interpolated; where it crosses 0.5 nowhere, w50
    is extrapolated with the slope at the end, so that it stays differentiable.

    Args:
        utilities: u of each material, in the order of the scene's `hidden`, shape (z,).
        lightest, heaviest: range of masses that the scene draws, kg.
        nodes: number of nodes in it.
        rate: false-positive rate.
    """

    utilities: tuple[float, ...] = eqx.field(static=True, default=(1.0,))
    lightest: float = 50 * kg
    heaviest: float = 150 * kg
    nodes: int = eqx.field(static=True, default=4)
    rate: float = 0.05
    distribution: _Distribution = _Distribution(count=321)
    references: ClassVar[tuple[str, ...]] = (_WHITE_PAPER,)

    @property
    def _masses(self) -> Float[Array, " node"]:
        return jnp.linspace(jnp.log(self.lightest), jnp.log(self.heaviest), self.nodes)

    def tally(self, design: Portal, trace: Trace) -> dict[str, Array]:
        """Distributions without, and with a source near each node; and the weights."""
        rows = self.distribution.rows(trace.result.value)
        step = self._masses[1] - self._masses[0]
        mass = jnp.log(trace.truth.target["mass"])[:, None]
        hat = jnp.maximum(1 - jnp.abs(mass - self._masses) / step, 0)
        kind = trace.truth.target["material"][:, None] == jnp.arange(
            len(self.utilities)
        )
        weight = kind[:, :, None] * hat[:, None, :]
        return {
            "background": rows[:, 0],
            "weight": weight,
            "found": weight[..., None] * rows[:, 1, None, None, :],
        }

    def score(self, design: Portal, tally: dict[str, Array]) -> Score:
        """The term "half_power_mass", kg times utility."""
        threshold = self.distribution.quantile(tally["background"], 1 - self.rate)
        missed = jax.vmap(jax.vmap(lambda c: self.distribution.at(c, threshold)))(
            tally["found"]
        )
        power = 1 - missed / jnp.maximum(tally["weight"], 1e-6)
        half = jax.vmap(self._half)(power)
        return Score(
            {"half_power_mass": jnp.sum(jnp.asarray(self.utilities) * jnp.exp(half))}
        )

    def _half(self, power: Float[Array, " node"]) -> Scalar:
        """ln of the mass where a least-squares line of power over ln mass reaches 0.5."""
        x = self._masses - jnp.mean(self._masses)
        slope = jnp.sum(x * power) / jnp.sum(x**2)
        slope = jnp.maximum(slope, 0.05)  # a portal that finds less of more is noise
        far = 2 * (self._masses[-1] - self._masses[0])
        move = jnp.clip((0.5 - jnp.mean(power)) / slope, -far, far)
        return jnp.mean(self._masses) + move


class Classification(PerEventLoss):
    """Cross entropy of "hidden or not", with P(hidden) = sigmoid((s - middle) / width).

    Args:
        middle, width: of the logistic response to the statistic.
    """

    middle: float = 0.0
    width: float = 0.5

    def loss(self, design: Portal, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The term "cross_entropy", nat for each scan."""
        logit = (trace.result.value - self.middle) / self.width
        without, hidden = logit[:, 0], logit[:, 1]
        entropy = jax.nn.softplus(without) + jax.nn.softplus(-hidden)
        return {"cross_entropy": entropy / 2}


class CalibratedError(AbstractObjective):
    """Mean squared error of an estimate after the best linear calibration.

    min over a, b of E (y - a - b y_hat)^2 = var y - cov^2 / var y_hat: what is left when a
    linear bias is taken out, as one would with a calibration run.

    Args:
        name: of the target.
    """

    name: str = eqx.field(static=True, default="level")

    def tally(self, design: Portal, trace: Trace) -> Float[Array, "event 5"]:
        """First and second powers of estimate and truth."""
        got = trace.result.value[:, 0]
        true = trace.truth.target[self.name]
        return jnp.stack([got, true, got**2, true**2, got * true], -1)

    def score(self, design: Portal, tally: Float[Array, "5"]) -> Score:
        """The term "level_error", m^2 for a level in m."""
        got, true, got2, true2, both = tally
        spread = jnp.maximum(got2 - got**2, 1e-12)
        error = true2 - true**2 - (both - got * true) ** 2 / spread
        return Score({f"{self.name}_error": error})


def roc(
    statistic: np.ndarray, rates: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False negatives at given false-positive rates, from a sample (host).

    Args:
        statistic: shape (event, 2): without, with.
        rates: false-positive rates.

    Returns:
        rates, false negatives, and their binomial standard errors.
    """
    thresholds = np.quantile(statistic[:, 0], 1 - rates)
    missed = (statistic[:, 1] < thresholds[:, None]).mean(1)
    error = np.sqrt(np.maximum(missed * (1 - missed), 1e-9) / len(statistic))
    return rates, missed, error
