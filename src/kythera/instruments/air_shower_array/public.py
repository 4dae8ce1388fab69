"""The utility of SWGOLO's public PyTorch code, and a network that reconstructs for it.

The code is SWGOLO7.ipynb of github.com/tdorigo/SWGOLO (CC0): 500 gamma rays in a batch, and

    U = sqrt(sum r + 1e-6) / sqrt(density) + sum r / ((E_hat - E)^2 + 0.01)
        + 0.01 sum r / ((theta_hat - theta)^2 + 1e-5)

with E in PeV, r near 1 where at least 3 units have at least 5 particles.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.objective import AbstractObjective, Score
from kythera.core.pipeline import Trace
from kythera.core.safe import safe_sqrt
from kythera.core.stage import AbstractLearnedStage, AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.air_shower_array.design import Layout
from kythera.instruments.air_shower_array.simulator import (
    REFERENCE,
    TIME,
    WINDOW,
    Hits,
    Showers,
    total,
)
from kythera.physics.air_showers import SPEED, PeV
from kythera.units import km

BATCH = 500  # showers, of which U is a sum
FEATURES = 17  # that the network reads


def reconstructable(counts: Float[Array, "event unit"]) -> Float[Array, " event"]:
    """r = sigmoid(5 (sum_i sigmoid(5 (N_i - 5)) - 3)).

    Args:
        counts: particles in each unit.
    """
    units = jnp.sum(jax.nn.sigmoid(5 * (counts - 5)), -1)
    return jax.nn.sigmoid(5 * (units - 3))


class Estimate(NamedTuple):
    """Primaries as reconstructed, shape (event,) each.

    Args:
        x: of the core, m.
        y: likewise.
        energy: GeV.
        theta: rad.
        phi: rad.
    """

    x: Array
    y: Array
    energy: Array
    theta: Array
    phi: Array


class PublicUtility(AbstractObjective):
    """1e4 / U, with the U of the public code, for batches of 500 showers.

    U is a function of additive tallies but for the density of the cores, which the code
    takes from the extremes of each batch: here it is 500 showers over the square of the
    source (the extremes of 500 make the term 0.4% smaller). `public_utility` is the code's
    own formula.

    Args:
        area: over which cores are uniform, m2.
        training: weight of a second term, "regression", by which a network can learn while
            it is still far off, where U has no slope: the mean of r times the logarithms
            of 1 + d^2 / e of all five numbers, with the code's scales e.
    """

    references: ClassVar[tuple[str, ...]] = (REFERENCE,)
    area: float
    training: float = eqx.field(static=True, default=0.0)

    def tally(self, design: Layout, trace: Trace) -> dict[str, Array]:
        """r, and both of its quotients for each shower."""
        truth, found = trace.truth, trace.result
        r = reconstructable(total(trace.signal))
        energy = ((found.energy - truth.energy) / PeV) ** 2
        theta = (found.theta - truth.theta) ** 2
        rows = {
            "r": r,
            "energy": r / (energy + 0.01),
            "theta": 0.01 * r / (theta + 1e-5),
        }
        if self.training:
            rows["regression"] = r * (
                jnp.log1p(energy / 0.01) + jnp.log1p(theta / 1e-5) + _rest(truth, found)
            )
        return rows

    def score(self, design: Layout, tally: dict[str, Array]) -> Score:
        """The inverse of U, and what the network learns by."""
        reach = safe_sqrt(BATCH * tally["r"] + 1e-6) * jnp.sqrt(self.area / BATCH)
        utility = reach + BATCH * (tally["energy"] + tally["theta"])
        terms = {"inverse_utility": 1e4 / utility}
        if self.training:
            terms["regression"] = self.training * tally["regression"]
        return Score(terms)


def _rest(truth: Showers, found: Estimate) -> Array:
    """Likewise of core and azimuth, to 100 m and 0.1 rad across."""
    core = ((found.x - truth.x) ** 2 + (found.y - truth.y) ** 2) / (0.1 * km) ** 2
    turn = jnp.sin(truth.theta) ** 2 * (1 - jnp.cos(found.phi - truth.phi))
    return jnp.log1p(core) + jnp.log1p(turn / 0.005)


def public_utility(
    counts: Float[Array, "event unit"], truth: Showers, found: Estimate
) -> Array:
    """U of one batch, by the formula of the public code as it stands.

    Args:
        counts: particles in each unit.
        truth: the showers.
        found: what was reconstructed of them.
    """
    r = reconstructable(counts)
    spans = [jnp.max(v) - jnp.min(v) for v in (truth.x, truth.y)]
    density = r.size / (spans[0] * spans[1])
    reach = jnp.sqrt(jnp.sum(r) + 1e-6) / jnp.sqrt(density)
    energy = jnp.sum(r / (((found.energy - truth.energy) / PeV) ** 2 + 0.01))
    return (
        reach + energy + 0.01 * jnp.sum(r / ((found.theta - truth.theta) ** 2 + 1e-5))
    )


class Averages(AbstractStage[Layout, Hits, Estimate]):
    """The same estimate for all showers, whatever was measured.

    With it the public utility has the values of the published run, see reference.md.

    Args:
        energy: GeV; what a network says that has learnt no more than the average.
        theta: rad, likewise.
    """

    energy: float = 0.135 * PeV
    theta: float = 0.44

    def __call__(self, design: Layout, x: Hits, *, key: Key) -> Estimate:
        """Two numbers, and a core and an azimuth of zero."""
        zero = jnp.zeros_like(x.time[:, 0])
        return Estimate(zero, zero, zero + self.energy, zero + self.theta, zero)


class ShowerNetwork(AbstractLearnedStage[Layout, Hits, Estimate]):
    """Core, energy and direction from the hits: a first guess and what a network adds.

    The guess: direction from a plane through the times, core from the middle of the
    particles. The network sees 17 numbers of the event that know where the units are.

    Args:
        network: from these numbers to five corrections.
        public: whether times are those of `PublicArray`, to be read backwards.
    """

    network: eqx.nn.MLP
    public: bool = eqx.field(static=True)

    def __init__(self, *, width: int = 48, public: bool = True, key: Key | None = None):
        """Fresh weights.

        Args:
            width: of the two hidden layers.
            public: see the class.
            key: of the weights; by default that of zero.
        """
        key = jax.random.key(0) if key is None else key
        self.network = eqx.nn.MLP(FEATURES, 5, width, 2, jax.nn.silu, key=key)
        self.public = public

    def fresh(self, key: Key) -> "ShowerNetwork":
        """New weights."""
        return ShowerNetwork(width=self.network.width_size, public=self.public, key=key)

    def __call__(self, design: Layout, x: Hits, *, key: Key) -> Estimate:
        """Five numbers for each shower."""
        time = front_time(x) if self.public else x.time
        core, cosines, _, features = summary(design, total(x), time)
        more = jax.vmap(self.network)(features)
        nx, ny = cosines + 0.1 * more[:, :2].T
        sine = safe_sqrt(nx**2 + ny**2)
        energy = jnp.exp(jnp.clip(features[:, 0] - 7 + 3 * more[:, 2], -3, 3))
        return Estimate(
            core[0] + 0.3 * km * more[:, 3],
            core[1] + 0.3 * km * more[:, 4],
            energy * PeV,
            jnp.arctan2(sine, safe_sqrt(1 - sine**2) + 1e-3),
            jnp.arctan2(ny, jnp.where(sine > 1e-6, nx, 1e-6)),
        )


def front_time(hits: Hits) -> Array:
    """The time of the front, ns, from what `PublicArray` calls the time."""
    square = TIME**2 / (jnp.maximum(hits.electrons, 2.0) - 1)
    w = jnp.sqrt(12 / WINDOW**2 + 1 / square)
    return hits.time * square * w / 2


def plane(
    units: tuple[Array, Array], weight: Array, time: Array
) -> tuple[Array, Array, Array]:
    """Direction cosines (2, event) of weighted planes, the middle (2, event), residuals.

    Args:
        units: their positions, m.
        weight: shape (event, unit).
        time: of the front, ns, likewise.
    """
    norm = jnp.sum(weight, -1, keepdims=True) + 1e-3
    x, y, t = (
        v - jnp.sum(weight * v, -1, keepdims=True) / norm
        for v in (units[0] / km, units[1] / km, SPEED * time / km)
    )
    xx, yy, xy = (jnp.sum(weight * v, -1) for v in (x * x, y * y, x * y))
    xt, yt = jnp.sum(weight * x * t, -1), jnp.sum(weight * y * t, -1)
    # A prior of the cosines, 0.5 around zero, where nearly nothing was seen.
    xx, yy = xx + 1e-4, yy + 1e-4
    determinant = xx * yy - xy**2
    nx, ny = (yy * xt - xy * yt) / determinant, (xx * yt - xy * xt) / determinant
    left = jnp.sum(weight * (t - nx[:, None] * x - ny[:, None] * y) ** 2, -1)
    middle = jnp.stack([jnp.sum(weight * v, -1) / norm[:, 0] for v in units])
    return jnp.stack([nx, ny]), middle, left / norm[:, 0]


def summary(
    design: Layout, counts: Array, time: Array
) -> tuple[Array, Array, Array, Float[Array, "event 17"]]:
    """A guess of core and cosines, the units' middle, and numbers of order one.

    The first three have shape (2, event); core and middle are in m.

    Args:
        design: where the units are.
        counts: particles in each unit, shape (event, unit).
        time: of the front, ns, likewise.
    """
    units = design.positions
    cosines, middle, left = plane(units, counts / (1 + counts), time)
    cosines = cosines / jnp.maximum(1.0, safe_sqrt(jnp.sum(cosines**2, 0)) / 0.95)
    weight = counts * jnp.sqrt(counts + 1)
    norm = jnp.sum(weight, -1) + 1e-3
    core = jnp.stack([jnp.sum(weight * v, -1) / norm for v in units])
    dx, dy = (v - c[:, None] for v, c in zip(units, core, strict=True))
    square = dx**2 + dy**2 - (cosines[0][:, None] * dx + cosines[1][:, None] * dy) ** 2
    distance = jnp.sqrt(jnp.maximum(square, 1.0))
    near = [jnp.exp(-distance / length) for length in (60.0, 150.0, 400.0)]
    seen = [jnp.log1p(jnp.sum(v * counts, -1)) for v in near]
    there = [jnp.log1p(jnp.sum(v, -1)) for v in near]
    sine = safe_sqrt(jnp.sum(cosines**2, 0))
    size = jnp.log1p(jnp.sum(counts, -1))
    detected = jnp.sum(jax.nn.sigmoid(5 * (counts - 5)), -1)
    rows = [
        size,
        *seen,
        *there,
        jnp.log1p(detected),
        sine,
        *cosines,
        *(core / km),
        *((core - middle) / km),
        jnp.log(left + 1e-6) / 5,
        jnp.log(jnp.sum(weight * distance, -1) / norm + 10) / 5,
    ]
    return core, cosines, middle, jnp.stack(rows, -1)
