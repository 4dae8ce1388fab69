"""What a portal is built for: few missed sources at few false alarms, small masses found.

In each row scan 0 is the cargo without, and scan 1 the same cargo with what is hidden; the
result is one test statistic for each (`Answer.value`).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.objective import AbstractObjective, PerEventLoss, Score
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float, Scalar
from kythera.instruments.muon_portal.design import Portal
from kythera.units import kg

_WHITE_PAPER = (
    "T. Dorigo et al., Toward the end-to-end optimization of particle physics "
    "instruments with differentiable programming, Reviews in Physics 10 (2023) 100085"
)


def _check_rate(rate: float) -> None:
    """Refuse rates of false positives that leave no quantile."""
    if not 0 < rate < 1:
        raise errors.InputError(
            f"A false-positive rate lies between 0 and 1, but `rate` is {rate}. Give for "
            "example 0.01."
        )


def _pair(trace: Trace) -> Float[Array, "event 2"]:
    """The statistics without and with what is hidden."""
    s = trace.result.value
    if s.ndim != 2 or s.shape[1] != 2:
        raise errors.UnsupportedError(
            "This objective compares two scans of each cargo, without and with what is "
            f"hidden, but the statistic has the shape (event, scan) = {s.shape}. Take a "
            "scene with two scans, such as `Lorry`, or another objective."
        )
    return s


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

    def __check_init__(self):
        """Refuse a rate outside (0, 1)."""
        _check_rate(self.rate)

    def tally(self, design: Portal, trace: Trace) -> Float[Array, "event 4"]:
        """First and second powers of both statistics."""
        s = _pair(trace)
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

    def quantile(self, cdf: Float[Array, " point"], share: Scalar) -> Scalar:
        """Where a cumulative distribution reaches `share`, by linear interpolation."""
        rising = jnp.maximum(cdf, jnp.arange(self.count) * 1e-9)
        return jnp.interp(share, rising, self.points)

    def at(self, cdf: Float[Array, " point"], s: Scalar) -> Scalar:
        """A cumulative distribution at s."""
        return jnp.interp(s, self.points, cdf)

    def missed(
        self,
        background: Float[Array, " point"],
        found: Float[Array, "... point"],
        rate: float,
    ) -> Float[Array, "..."]:
        """`found` below the (1 - rate) quantile of `background`.

        Derivatives, of which the standard error is made, need the slope of the ROC curve,
        of which few rows tell nothing at one point. It is taken over a factor of 3 in the
        odds of a false positive to both sides, along which FN is nearly linear in ln odds:

            d FN = d F1(t) - dFN/dlogit * d F0(t) / (rate (1 - rate)).

        The value is that of the quantile alone.
        """
        aim = jnp.log((1 - rate) / rate) + jnp.log(3.0) * jnp.array([-1, 0, 1])
        at = jax.lax.stop_gradient(
            jnp.stack([self.quantile(background, q) for q in jax.nn.sigmoid(aim)])
        )
        curves = found.reshape(-1, self.count)
        low, missed, high = (
            jax.vmap(lambda c, t=t: self.at(c, t))(curves).reshape(found.shape[:-1])
            for t in at
        )
        slope = jax.lax.stop_gradient((high - low) / (aim[2] - aim[0]))
        below = self.at(background, at[1]) / (rate * (1 - rate))
        return missed - slope * (below - jax.lax.stop_gradient(below))


class FalseNegatives(AbstractObjective):
    """Missed sources at a fixed false-positive rate: the portal's own figure of merit.

    The threshold t is the (1 - rate) quantile of the statistic without a source, FN the
    share of sources below it. Its error includes that of the threshold; from about
    2.5 / rate rows it is right within 15%, for normal statistics and for the lorry's skewed
    ones (where no row is missed, or none is found, it is zero).

    Args:
        rate: false-positive rate, in (0, 1); the sample needs more than 2.5 / rate rows.
        distribution: points on which both distributions are known.
    """

    rate: float = 0.01
    distribution: _Distribution = _Distribution()
    references: ClassVar[tuple[str, ...]] = (_WHITE_PAPER,)

    def __check_init__(self):
        """Refuse a rate outside (0, 1)."""
        _check_rate(self.rate)

    def tally(self, design: Portal, trace: Trace) -> Float[Array, "event 2 point"]:
        """Both cumulative distributions."""
        return self.distribution.rows(_pair(trace))

    def score(self, design: Portal, tally: Float[Array, "2 point"]) -> Score:
        """The term "false_negatives"."""
        missed = self.distribution.missed(tally[0], tally[1], self.rate)
        return Score({"false_negatives": missed})


class HalfPowerMass(AbstractObjective):
    """L = sum over materials of u w50: the mass that is found half of the time, weighted.

    Eq. 8 and 9 of the white paper: for each material w50 is the mass at which the power of
    the test is 0.5 at the given false-positive rate (5%). The power is known at some nodes
    of mass (linear weights in ln mass, and the mean ln mass of each). w50 is where the
    least-squares line of power over ln mass through all nodes, weighted with their rows,
    reaches 0.5, so that it is quiet and differentiable also where the power crosses 0.5
    nowhere. The line rises by at least 0.05 for each unit of ln mass, and ln w50 stays
    within two ranges of the mean.

    Args:
        utilities: u of each material, in the order of the scene's `hidden`, shape (z,). A
            row whose material has none makes the loss nan.
        lightest, heaviest: range of masses that the scene draws, kg.
        nodes: number of nodes in it, at least 2.
        rate: false-positive rate, in (0, 1).
        distribution: points on which the distributions are known.
    """

    utilities: tuple[float, ...] = eqx.field(static=True, default=(1.0,))
    lightest: float = 50 * kg
    heaviest: float = 150 * kg
    nodes: int = eqx.field(static=True, default=4)
    rate: float = 0.05
    distribution: _Distribution = _Distribution(count=321)
    references: ClassVar[tuple[str, ...]] = (_WHITE_PAPER,)

    def __check_init__(self):
        """Refuse what leaves no line of power over mass."""
        _check_rate(self.rate)
        if not 0 < self.lightest < self.heaviest < float("inf") or self.nodes < 2:
            raise errors.InputError(
                "The power is a line through at least two masses, 0 < `lightest` < "
                f"`heaviest`, but they are {self.lightest} and {self.heaviest} kg with "
                f"{self.nodes} node(s). Give the range that the scene draws."
            )
        if not self.utilities:
            raise errors.InputError(
                "Every hidden material needs a utility, but `utilities` is empty. Give "
                "one number for each entry of the scene's `hidden`."
            )

    @property
    def _masses(self) -> Float[Array, " node"]:
        return jnp.linspace(jnp.log(self.lightest), jnp.log(self.heaviest), self.nodes)

    def tally(self, design: Portal, trace: Trace) -> dict[str, Array]:
        """Distributions without, and with a source near each node; and the weights."""
        rows = self.distribution.rows(_pair(trace))
        step = self._masses[1] - self._masses[0]
        mass = jnp.log(trace.truth.target["mass"])[:, None]
        hat = jnp.maximum(1 - jnp.abs(mass - self._masses) / step, 0)
        kind = trace.truth.target["material"][:, None] == jnp.arange(
            len(self.utilities)
        )
        known = jnp.any(kind, -1)[:, None, None]
        weight = jnp.where(known, kind[:, :, None] * hat[:, None, :], jnp.nan)
        return {
            "background": rows[:, 0],
            "weight": weight,
            "mass": weight * mass[:, None],
            "found": weight[..., None] * rows[:, 1, None, None, :],
        }

    def score(self, design: Portal, tally: dict[str, Array]) -> Score:
        """The term "half_power_mass", kg times utility."""
        missed = self.distribution.missed(
            tally["background"], tally["found"], self.rate
        )
        weight = tally["weight"]
        safe = jnp.maximum(weight, 1e-6)
        half = jax.vmap(self._half)(weight, tally["mass"] / safe, 1 - missed / safe)
        return Score(
            {"half_power_mass": jnp.sum(jnp.asarray(self.utilities) * jnp.exp(half))}
        )

    def _half(
        self,
        weight: Float[Array, " node"],
        mass: Float[Array, " node"],
        power: Float[Array, " node"],
    ) -> Scalar:
        """ln of the mass where a least-squares line of power over ln mass reaches 0.5."""
        share = weight / jnp.maximum(jnp.sum(weight), 1e-6)
        middle = jnp.sum(share * mass)
        x = mass - middle
        slope = jnp.sum(share * x * power) / jnp.maximum(jnp.sum(share * x**2), 1e-9)
        slope = jnp.maximum(slope, 0.05)  # a portal that finds less of more is noise
        far = 2 * (self._masses[-1] - self._masses[0])
        return middle + jnp.clip((0.5 - jnp.sum(share * power)) / slope, -far, far)


class Classification(PerEventLoss):
    """Cross entropy of "hidden or not", with P(hidden) = sigmoid((s - middle) / width).

    Args:
        middle, width: of the logistic response to the statistic.
    """

    middle: float = 0.0
    width: float = 0.5

    def loss(self, design: Portal, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The term "cross_entropy", nat for each scan."""
        logit = (_pair(trace) - self.middle) / self.width
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
        targets = trace.truth.target
        if self.name not in targets:
            raise errors.UnsupportedError(
                f"The scene has no target {self.name!r}. {errors.nearest(self.name, targets)}"
            )
        got, true = trace.result.value[:, 0], targets[self.name]
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
