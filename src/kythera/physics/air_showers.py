"""What an extensive air shower of a gamma ray or a proton leaves on the ground at 4800 m.

The parametrisation of SWGOLO (T. Dorigo et al., arXiv:2310.01857, code
github.com/tdorigo/SWGOLO, CC0), fitted to simulated showers: mean densities of "electrons"
(electrons, positrons and photons) and of muons in the plane across the shower, as functions
of the distance from its axis, of the energy and of the zenith angle of the primary.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from kythera.core.types import Array, Float
from kythera.errors import PhysicsWarning
from kythera.physics import air_shower_table as table
from kythera.units import TeV, deg, m

PeV = 1e3 * TeV
LOWEST, HIGHEST = 0.1 * PeV, 10 * PeV  # energies to which it was fitted
LARGEST = 65 * deg  # zenith angle, likewise
NEAREST = 2 * m  # a shower is not denser than at this distance from its axis
SPEED = 0.29979 * m  # of light, per ns, with the digits of SWGOLO
BIN = 0.02  # width of the histograms to which the muons were fitted
LEAST = 1e-13  # of a density, 1/m2, so that logarithms exist
# Coefficients (power, node) of the cubic polynomials that are 1 at one of y = 1, 2, 3, 4 and 0
# at the others.
_CUBIC = np.linalg.inv(np.vander(np.arange(1.0, 5.0), 4, increasing=True))
# Gamma rays, then protons: (primary, zenith node, parameter, coefficient).
_ELECTRONS = np.array([table.GAMMA_ELECTRONS, table.PROTON_ELECTRONS])
_MUONS = np.array([table.GAMMA_MUONS, table.PROTON_MUONS])


def _sizes(rows: np.ndarray, plain: Sequence[bool]) -> np.ndarray:
    """s, t, b, c of p0 = s exp(b x^c) + t: a exp(b x^c) where `plain`, else exp(a) + it."""
    a, b, c = np.moveaxis(rows[:, :, 0], -1, 0)
    only = np.array(plain)[:, None]
    return np.stack(
        [
            np.where(only, a, 1.0),
            np.where(only, 0.0, np.exp(np.where(only, 0, a))),
            b,
            c,
        ],
        -1,
    )


_ELECTRON_SIZES = _sizes(_ELECTRONS, [True, False])
_MUON_SIZES = _sizes(_MUONS, [False, False])


class Profile(eqx.Module):
    """Densities around the axes of showers, as two stretched exponentials.

    With R in metres, e(R) = exp(log_electrons - slope R^power) and
    mu(R) = exp(log_muons - R^muon_power), per m2 across the shower. All of one shape.

    Args:
        log_electrons: of p0, 1/m2.
        slope: p1.
        power: p2.
        log_muons: of 0.02 p0, 1/m2.
        muon_power: p2 of the muons.
    """

    log_electrons: Float[Array, "..."]
    slope: Float[Array, "..."]
    power: Float[Array, "..."]
    log_muons: Float[Array, "..."]
    muon_power: Float[Array, "..."]

    def logs(self, log_distance: Array) -> tuple[Array, Array]:
        """Logarithms of both densities, 1/m2, at distances given by their logarithms."""
        electrons = self.slope * jnp.exp(self.power * log_distance)
        muons = jnp.exp(self.muon_power * log_distance)
        return self.log_electrons - electrons, self.log_muons - muons

    def densities(self, distance: Array) -> tuple[Array, Array]:
        """Electrons and muons per m2 across the shower, at distances from its axis in m."""
        found = self.logs(jnp.log(jnp.maximum(distance, NEAREST)))
        return jnp.exp(found[0]), jnp.exp(found[1])


def gamma(energy: Array, theta: Array) -> Profile:
    """Showers of gamma rays.

    Args:
        energy: GeV, 0.1 to 10 PeV.
        theta: zenith angle, rad, up to 65 degrees.

    Warns:
        PhysicsWarning: outside that range (where the values are known).
    """
    warn_outside(energy, theta)
    return mixed(jnp.ones_like(energy), energy, theta)


def proton(energy: Array, theta: Array) -> Profile:
    """Showers of protons; arguments and warning as for `gamma`."""
    warn_outside(energy, theta)
    return mixed(jnp.zeros_like(energy), energy, theta)


def mixed(is_gamma: Array, energy: Array, theta: Array) -> Profile:
    """Showers of either primary; `is_gamma` is 1 or 0, of the shape of the others.

    Nothing warns here, so that a fit may look around: see `warn_outside`.
    """
    decades = jnp.log(energy / LOWEST) / math.log(HIGHEST / LOWEST)
    x = jnp.maximum(0.5 + 20 * decades, 0.05)  # no power of a negative number
    log, angle = jnp.log(x), 0.5 + 4 * theta / LARGEST

    def at_nodes(numbers: np.ndarray) -> Array:
        return jnp.asarray(numbers.reshape(-1, *[1] * jnp.ndim(x)), x.dtype)

    k0, k1, k2, k3 = map(at_nodes, _CUBIC)
    nodes = k0 + angle * (k1 + angle * (k2 + angle * k3))  # weight of each

    def across(rows: np.ndarray, value: Callable[..., Array]) -> Array:
        """Interpolated between the nodes; `value` takes the coefficients there."""
        chosen = [
            jnp.where(is_gamma > 0, at_nodes(one), at_nodes(other))
            for one, other in zip(*np.moveaxis(rows, -1, 1), strict=True)
        ]
        return jnp.sum(nodes * value(*chosen), 0)

    def size(rows: np.ndarray) -> Array:
        found = across(rows, lambda s, t, b, c: s * jnp.exp(b * jnp.exp(c * log)) + t)
        return jnp.log(jnp.maximum(found, LEAST))

    def bent(rows: np.ndarray) -> Array:
        return across(rows, lambda a, b, c: a + x * (b + x * c))

    found = Profile(
        size(_ELECTRON_SIZES),
        bent(_ELECTRONS[:, :, 1]),
        bent(_ELECTRONS[:, :, 2]),
        size(_MUON_SIZES) + math.log(BIN),
        bent(_MUONS[:, :, 2]),
    )
    # Else the compiler works all of this out once more for each place on the ground.
    return jax.lax.optimization_barrier(found)


def axis_distance(
    dx: Array, dy: Array, theta: Array, phi: Array
) -> tuple[Array, Array]:
    """Where points of the ground are as the shower sees them.

    With t = sin(theta) (cos(phi) dx + sin(phi) dy): R = sqrt(dx^2 + dy^2 - t^2), and the
    front arrives at t / c.

    Args:
        dx: point minus core, m.
        dy: likewise.
        theta: zenith angle, rad.
        phi: azimuth, rad.

    Returns:
        ln R (R in m, at least 2 m), and the time of the front, ns, since it met the core.
    """
    along = jnp.sin(theta) * (jnp.cos(phi) * dx + jnp.sin(phi) * dy)
    square = jnp.maximum(dx**2 + dy**2 - along**2, NEAREST**2)
    return 0.5 * jnp.log(square), along / SPEED


def warn_outside(energy: Any, theta: Any) -> None:
    """Warn of showers to which the parametrisation was not fitted.

    Args:
        energy: GeV; nothing is said while JAX traces.
        theta: rad, likewise.

    Warns:
        PhysicsWarning: with the range and the offending values.
    """
    if isinstance(energy, Tracer) or isinstance(theta, Tracer):
        return
    energies, angles = np.asarray(energy, float), np.asarray(theta, float)
    slop = 1e-5  # single precision
    low, up = (float(f(energies)) for f in (np.min, np.max))
    steepest, flattest = (float(f(angles)) for f in (np.min, np.max))
    if low < LOWEST * (1 - slop) or up > HIGHEST * (1 + slop):
        warnings.warn(
            "The densities of air showers were fitted between 0.1 and 10 PeV, but energies "
            f"go from {low / PeV:.4g} to {up / PeV:.4g} PeV. Narrow the spectrum, or take "
            "what comes as an extrapolation.",
            PhysicsWarning,
            stacklevel=3,
        )
    if steepest < -slop or flattest > LARGEST * (1 + slop):
        warnings.warn(
            "The densities of air showers were fitted for zenith angles of 0 to 65 degrees, "
            f"but angles go from {steepest / deg:.4g} to {flattest / deg:.4g} degrees. "
            "Narrow the angles, or take what comes as an extrapolation.",
            PhysicsWarning,
            stacklevel=3,
        )
