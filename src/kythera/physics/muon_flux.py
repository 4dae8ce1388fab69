"""Cosmic muons at sea level: two parameterisations of their flux, and an exact sampler.

A differential flux I(E, theta) counts muons per m2 of area perpendicular to their
direction, per second, per steradian and per GeV of total energy. Fluxes and rates are
**per second**, as all the literature quotes them, not per the native nanosecond: an
exposure of `t` (native) sees `rate * area * t / units.s` muons.

The formulas are written with operators only: NumPy arrays give float64 on the host, JAX
arrays trace.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from kythera.errors import InputError, PhysicsWarning
from kythera.units import TeV, cm2, deg, muon_mass

Numbers = Any  # a float, a NumPy or a JAX array
Flux = Callable[[Numbers, Numbers], Numbers]

# The grid of the sampler: rows in ln E, columns in cos theta, 2^16 cells in all, so that
# 16 random bits choose a cell exactly. 97% of the trials are then accepted.
_cell_bits, _rows, _columns = 16, 512, 128


def guan(energy: Numbers, cos_theta: Numbers) -> Numbers:
    """Flux of sea-level muons by Gaisser's formula, extended to low energy and large angle.

    dI/dE = 0.14 [E (1 + 3.64/(E c^1.29))]^-2.7 [1/(1 + 1.1 E c/115) +
    0.054/(1 + 1.1 E c/850)] cm^-2 s^-1 sr^-1 GeV^-1 with c the effective cosine on a
    curved Earth, c = sqrt((x^2 + P1^2 + P2 x^P3 + P4 x^P5)/(1 + P1^2 + P2 + P4)),
    x = cos theta (M. Guan et al., arXiv:1509.06176, Eq. 2-4). All zenith angles below
    90 degrees, 1 GeV to 100 TeV; at 1 GeV about 15% below PDG's 70 m^-2 s^-1 sr^-1.

    Args:
        energy: total energy E [GeV].
        cos_theta: cosine of the zenith angle, 0 to 1.

    Returns:
        I [m^-2 s^-1 sr^-1 GeV^-1].
    """
    p1, p2, p3, p4, p5 = 0.102573, -0.068287, 0.958633, 0.0407253, 0.817285
    square = cos_theta**2 + p1**2 + p2 * cos_theta**p3 + p4 * cos_theta**p5
    c = (square / (1 + p1**2 + p2 + p4)) ** 0.5
    spectrum = (energy + 3.64 / c**1.29) ** -2.7
    pions = 1 / (1 + 1.1 * energy * c / 115)
    kaons = 0.054 / (1 + 1.1 * energy * c / 850)
    return 0.14 / cm2 * spectrum * (pions + kaons)


def shukla(energy: Numbers, cos_theta: Numbers) -> Numbers:
    """Flux of sea-level muons, simple in energy and good below 100 GeV near the vertical.

    dI/dE = I0 N (E0 + E)^-n (1 + E/eps)^-1 D^-(n-1), N = (n-1)(E0 + Ec)^(n-1),
    D = sqrt(r^2 cos^2 + 2 r + 1) - r cos (P. Shukla and S. Sankrith, arXiv:1606.06907,
    Eq. 9), with I0 = 88.0, n = 3, E0 = 3.87 GeV, Ec = 0.5 GeV, eps = 854 GeV, r = 174.
    From 0.5 GeV up, below 65 degrees. It has no enhancement of inclined energetic muons
    (pions that decay before they interact): at 75 degrees and 100 GeV it is 15 times too
    low. Take `guan` there.

    Args:
        energy: total energy E [GeV].
        cos_theta: cosine of the zenith angle, 0 to 1.

    Returns:
        I [m^-2 s^-1 sr^-1 GeV^-1].
    """
    i0, n, e0, e_cut, epsilon, r = 88.0, 3, 3.87, 0.5, 854.0, 174.0
    norm = i0 * (n - 1) * (e0 + e_cut) ** (n - 1)
    # D without the difference of two large numbers
    distance = (2 * r + 1) / ((r**2 * cos_theta**2 + 2 * r + 1) ** 0.5 + r * cos_theta)
    return norm * (e0 + energy) ** -n / (1 + energy / epsilon) / distance ** (n - 1)


def intensity(
    flux: Flux, cos_theta: float, energy_min: float, energy_max: float = 100 * TeV
) -> float:
    """Muons that arrive from one direction in a range of energies (host, float64).

    Gauss-Legendre quadrature of the flux in ln E.

    Args:
        flux: `guan`, `shukla`, or a function like them that takes NumPy arrays.
        cos_theta: cosine of the zenith angle.
        energy_min: lower total energy [GeV].
        energy_max: upper total energy [GeV].

    Returns:
        Integral of I dE [m^-2 s^-1 sr^-1].
    """
    _check_range(energy_min, energy_max)
    x, w = _nodes(math.log(energy_min), math.log(energy_max), 200)
    energy = np.exp(x)
    return float(np.sum(w * energy * flux(energy, np.float64(cos_theta))))


def horizontal_rate(
    flux: Flux,
    energy_min: float,
    energy_max: float = 100 * TeV,
    theta_max: float = 90 * deg,
) -> float:
    """Muons that cross a horizontal plane from above (host, float64).

    2 pi times the integral of I cos(theta) dE d(cos theta), Gauss-Legendre.

    Args:
        flux: `guan`, `shukla`, or a function like them that takes NumPy arrays.
        energy_min: lower total energy [GeV].
        energy_max: upper total energy [GeV].
        theta_max: largest zenith angle [rad].

    Returns:
        The rate [m^-2 s^-1].
    """
    _check_range(energy_min, energy_max, theta_max)
    x, w = _nodes(math.log(energy_min), math.log(energy_max), 200)
    c, v = _nodes(math.cos(theta_max), 1.0, 200)
    energy = np.exp(x)
    table = flux(energy[:, None], c) * energy[:, None] * c
    return float(2 * math.pi * w @ table @ v)


def check_model(flux: Flux, energy_max: float, theta_max: float) -> None:
    """Warn where a flux is asked for outside of its range.

    Args:
        flux: the model.
        energy_max: upper total energy [GeV].
        theta_max: largest zenith angle [rad].
    """
    if flux is shukla and theta_max > 65 * deg * (1 + 1e-6) and energy_max > 30:
        warnings.warn(
            "Shukla's flux is too low for inclined energetic muons (by 15 at 75 "
            f"degrees and 100 GeV); the range goes to {theta_max / deg:.0f} degrees "
            f"and {energy_max:g} GeV. Use `guan`, or theta_max <= 65 degrees.",
            PhysicsWarning,
            stacklevel=3,
        )


class FluxSampler(eqx.Module):
    """Draws cosmic muons that cross a horizontal plane, with exactly the flux given.

    Accept-reject under a piecewise constant bound on a grid in (ln E, cos theta): a cell
    by Walker's alias method, a place in it uniformly, accepted with probability density
    over bound, until every muon is accepted. The grid sets the speed, not the
    distribution. No gradient passes through the draw.

    Attributes:
        flux: the differential flux that is sampled.
        energy_min: lower total energy [GeV].
        energy_max: upper total energy [GeV].
        theta_max: largest zenith angle [rad].
        rate: muons through a horizontal plane in these ranges [m^-2 s^-1]; n muons on an
            area A stand for n/(rate A) seconds.
    """

    flux: Flux = eqx.field(static=True)
    energy_min: float = eqx.field(static=True)
    energy_max: float = eqx.field(static=True)
    theta_max: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    _accepted: float = eqx.field(static=True)
    _threshold: Array
    _alias: Array
    _bound: Array

    def __init__(
        self,
        flux: Flux = guan,
        *,
        energy_min: float = 0.5,
        energy_max: float = 500.0,
        theta_max: float = 70 * deg,
    ):
        """Tabulate the bound once, on the host.

        Args:
            flux: `guan`, `shukla`, or a smooth function like them that takes NumPy and
                JAX arrays.
            energy_min: lower total energy [GeV], above the muon's mass.
            energy_max: upper total energy [GeV].
            theta_max: largest zenith angle [rad], up to 90 degrees.

        Raises:
            InputError: for empty or unphysical ranges.
        """
        _check_range(energy_min, energy_max, theta_max)
        check_model(flux, energy_max, theta_max)
        self.flux = flux
        self.energy_min, self.energy_max = float(energy_min), float(energy_max)
        self.theta_max = float(theta_max)
        self.rate = horizontal_rate(flux, energy_min, energy_max, theta_max)
        bound = _cell_bounds(flux, *_edges(energy_min, energy_max, theta_max))
        area = math.log(energy_max / energy_min) * (1 - math.cos(theta_max))
        self._accepted = self.rate / (2 * math.pi * float(bound.mean()) * area)
        threshold, alias = _alias_table(bound)
        self._threshold = jnp.asarray(threshold)
        self._alias = jnp.asarray(alias)
        self._bound = jnp.asarray(bound, dtype=float)

    def __call__(
        self, n: int, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
        """Draw n muons.

        Args:
            n: how many.
            key: random key.

        Returns:
            Total energy [GeV], cosine of the zenith angle, and azimuth [rad] in
            [0, 2 pi); each of shape (n,). The muon comes from there: it travels down.
        """
        likely = n + 6 * math.sqrt(n * (1 - self._accepted)) + 16
        trials = math.ceil(likely / self._accepted)  # enough but for one call in 1e9

        zero = jnp.zeros(n)

        def draw(state):
            i, *_ = state
            *muon, good = self._propose(jax.random.fold_in(key, i), trials)
            place = jnp.cumsum(good)  # accepted trial k goes to row k
            row = jnp.where(good, place - 1, n)
            packed = (zero.at[row].set(x, mode="drop") for x in muon)
            return i + 1, place[-1] >= n, *packed

        # A call that falls short is drawn anew as a whole: which trials are accepted
        # says nothing of where the accepted ones lie, so this biases nothing.
        start = (0, jnp.asarray(False), zero, zero, zero)
        _, _, ln_energy, cosine, phi = jax.lax.while_loop(
            lambda state: ~state[1], draw, start
        )
        energy = jnp.clip(jnp.exp(ln_energy), self.energy_min, self.energy_max)
        return energy, cosine, phi

    def _propose(self, key: PRNGKeyArray, n: int) -> tuple[Array, ...]:
        """For each of n trials: ln E, cos theta, phi, accepted or not."""
        # One call for all the random bits, the dear part: 16 for the cell and 32 for the
        # alias; 24, what float32 can hold, for each uniform number, the first of which
        # is made of what the others leave over.
        bits = jax.random.bits(key, (5, n), "uint32")
        cell = (bits[0] >> (32 - _cell_bits)).astype("int32")
        cell = jnp.where(bits[1] < self._threshold[cell], cell, self._alias[cell])
        rest = ((bits[0] & 0xFFFF) << 8) | (bits[2] & 0xFF)
        words = (rest, bits[2] >> 8, bits[3] >> 8, bits[4] >> 8)
        u, v, w, turn = (x.astype(float) * 2.0**-24 for x in words)
        ln_edges, cos_edges = _edges(self.energy_min, self.energy_max, self.theta_max)
        ln_step, cos_step = ln_edges[1] - ln_edges[0], cos_edges[1] - cos_edges[0]
        ln_energy = ln_edges[0] + ln_step * (cell // _columns + u)
        cosine = jnp.minimum(cos_edges[0] + cos_step * (cell % _columns + v), 1.0)
        bound = jax.lax.stop_gradient(self._bound)[cell]
        accepted = w * bound < _density(self.flux, ln_energy, cosine)
        return ln_energy, cosine, 2 * jnp.pi * turn, accepted


def _density(flux: Flux, ln_energy: Numbers, cosine: Numbers) -> Numbers:
    """Muons through a horizontal plane per unit of ln E and cos theta."""
    xp = jnp if isinstance(ln_energy, jax.Array) else np
    energy = xp.exp(ln_energy)
    return flux(energy, cosine) * energy * cosine


def _edges(
    energy_min: float, energy_max: float, theta_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the cells in ln E and in cos theta."""
    ln_energy = np.linspace(math.log(energy_min), math.log(energy_max), _rows + 1)
    return ln_energy, np.linspace(math.cos(theta_max), 1.0, _columns + 1)


def _cell_bounds(flux: Flux, ln_edges: np.ndarray, cos_edges: np.ndarray) -> np.ndarray:
    """Upper bound of the density in each cell, shape (rows * columns,).

    The largest of 3 x 3 points, and 0.1% more: between points half a cell apart a
    density with |d2 ln f/d(ln E)^2| < 100 exceeds the larger one by less.
    """
    ln_energy = np.interp(np.arange(2 * _rows + 1) / 2, np.arange(_rows + 1), ln_edges)
    cosine = np.interp(
        np.arange(2 * _columns + 1) / 2, np.arange(_columns + 1), cos_edges
    )
    table = _density(flux, ln_energy[:, None], cosine)
    rows = np.maximum(np.maximum(table[:-1:2], table[1::2]), table[2::2])
    cells = np.maximum(np.maximum(rows[:, :-1:2], rows[:, 1::2]), rows[:, 2::2])
    return 1.001 * cells.ravel()


def _alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias table, by Vose's method, with thresholds of 32 bits.

    Cell i, chosen uniformly, is kept if a random 32-bit word is below threshold[i], and
    replaced by alias[i] if not. 32 bits, for the rarest cells hold 1e-10 of all muons.
    """
    share = weights / weights.mean()
    alias = np.arange(len(weights), dtype=np.int32)
    keep = np.ones(len(weights))
    small = list(np.flatnonzero(share < 1))
    large = list(np.flatnonzero(share >= 1))
    while small and large:
        i, j = small.pop(), large[-1]
        keep[i], alias[i] = share[i], j
        share[j] -= 1 - share[i]
        if share[j] < 1:
            small.append(large.pop())
    return np.minimum(keep * 2.0**32, 2.0**32 - 1).astype(np.uint32), alias


def _nodes(low: float, high: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights between two limits."""
    x, w = np.polynomial.legendre.leggauss(count)
    return (low + high) / 2 + (high - low) / 2 * x, (high - low) / 2 * w


def _check_range(
    energy_min: float, energy_max: float, theta_max: float = math.pi / 2
) -> None:
    """Refuse ranges in which there are no muons, or no physics."""
    if not muon_mass < energy_min < energy_max < math.inf:
        raise InputError(
            "The energies of the muons must obey 0.1057 GeV (the mass) < energy_min < "
            f"energy_max; they are {energy_min} and {energy_max} GeV. Energies are total,"
            " in GeV."
        )
    if not 0 < theta_max <= math.pi / 2 + 1e-12:
        raise InputError(
            "The largest zenith angle must obey 0 < theta_max <= pi/2 rad; it is "
            f"{theta_max}. Write degrees as `70 * deg`."
        )
