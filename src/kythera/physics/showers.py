"""Showers in matter: how deep they are, how they fluctuate, how layers share their energy.

Electromagnetic: G. Grindhammer, S. Peters, "The parameterized simulation of electromagnetic
showers in homogeneous and sampling calorimeters", hep-ex/0001020 (GFlash). Hadronic: R. K.
Bock, T. Hansl-Kozanecka, T. P. Shah, Nucl. Instrum. Meth. 186 (1981) 533. Everything is
smooth in thicknesses and in the fractions of materials, so that it can be differentiated.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln

from kythera.core.types import Array, Float
from kythera.errors import InputError
from kythera.physics import energy_loss
from kythera.physics.materials import composition, interaction_length, material
from kythera.units import GeV, MeV, cm2, g, muon_mass

SCALE_ENERGY = 21.2 * MeV  # E_s of multiple scattering, in the Moliere radius
LEAST_AT = 3.5  # beta gamma near which ionisation is least
NODES = 14  # of the quadrature of the gamma distribution


class Medium(eqx.Module):
    """What a shower meets in a material, or in each of several (arrays of one shape).

    Args:
        density: kg/m3.
        radiation_length: X0, m.
        interaction_length: nuclear, lambda_I, m.
        critical_energy: Ec, GeV: what an electron loses by ionisation in one X0.
        Z: atomic number, averaged over the mass.
        ionisation: least mean energy loss of a charged particle, GeV/m.
    """

    density: Any
    radiation_length: Any
    interaction_length: Any
    critical_energy: Any
    Z: Any
    ionisation: Any

    @property
    def moliere_radius(self) -> Any:
        """R_M = 21.2 MeV X0 / Ec, m."""
        return SCALE_ENERGY * self.radiation_length / self.critical_energy


@functools.cache
def medium(name: str) -> Medium:
    """The numbers of a material, with Ec = 2.66 MeV (X0 Z/A)^1.1, X0 in g/cm2 (GFlash).

    Args:
        name: as for `materials.material`.

    Raises:
        InputError: unknown, or without chemical composition.
    """
    found = material(name)
    mass_length = found.radiation_length * found.density / (g / cm2)
    critical = 2.66 * MeV * (mass_length * found.Z / found.A) ** 1.1
    atomic = sum(w * material(s).Z for s, w in composition(name).items())
    with jax.ensure_compile_time_eval():  # it may be asked for while something compiles
        least = energy_loss.stopping_power(LEAST_AT * muon_mass, found)
    return Medium(
        float(found.density),
        float(found.radiation_length),
        interaction_length(name),
        float(critical),
        float(atomic),
        # Five digits are the same in single and double precision.
        float(f"{float(least) * found.density:.5g}"),
    )


def media(names: Sequence[str]) -> Medium:
    """Several materials as one record of arrays, shape (material,).

    Args:
        names: at least one.

    Raises:
        InputError: none, or an unknown one.
    """
    if not names:
        raise InputError("A list of materials needs at least one. Name some.")
    rows = [medium(name) for name in names]
    fields = Medium.__dataclass_fields__
    return Medium(*(np.array([getattr(r, f) for r in rows]) for f in fields))


def mixed(parts: Medium, volume: Float[Array, "... material"]) -> Medium:
    """The effective medium of materials that are mixed finely (hep-ex/0001020, Sec. 3.1).

    Radiation and interaction lengths, and ionisation, add up in volume; the critical energy
    is the mean over radiation lengths, Ec = X0 sum w_i Ec_i / X0_i; Z that over mass. Of
    one material alone it is that material.

    Args:
        parts: the materials, shape (material,).
        volume: how much of each, in any unit; the last axis must hold something.

    Returns:
        arrays of the shape (...).
    """
    total = jnp.sum(volume, -1)
    mass = volume * parts.density
    lengths = volume / parts.radiation_length
    return Medium(
        jnp.sum(mass, -1) / total,
        total / jnp.sum(lengths, -1),
        total / jnp.sum(volume / parts.interaction_length, -1),
        jnp.sum(lengths * parts.critical_energy, -1) / jnp.sum(lengths, -1),
        jnp.sum(mass * parts.Z, -1) / jnp.sum(mass, -1),
        jnp.sum(volume * parts.ionisation, -1) / total,
    )


class Profile(NamedTuple):
    """Energy against depth: a gamma distribution, dE/dt ~ (beta t)^(alpha-1) e^(-beta t)."""

    alpha: Any
    beta: Any

    def contained(self, depth: Array) -> Array:
        """Part of the energy that is deposited before a depth.

        Args:
            depth: in the profile's unit; 0 is deposited before 0.
        """
        return incomplete_gamma(jnp.asarray(self.alpha), self.beta * depth)


@functools.cache
def _quadrature() -> tuple[list[float], list[float], list[float]]:
    """Logarithms of u = v^2 at nodes v in (0, 1), u, and weights of du/u."""
    v, w = np.polynomial.legendre.leggauss(NODES)
    v, w = (v + 1) / 2, w / 2
    return (2 * np.log(v)).tolist(), (v**2).tolist(), (2 * w / v).tolist()


@jax.custom_jvp
def incomplete_gamma(a: Array, x: Array) -> Array:
    """The regularised incomplete gamma function P(a, x), differentiable in both.

    P = int_0^1 (x u)^a e^(-x u) / Gamma(a) du/u by Gauss-Legendre quadrature in the square
    root of u; beyond a + 7 sqrt(a) + 7, where 1 - P < 1e-6, x counts as that. (JAX' own
    function iterates for each number and is many times slower with its derivatives.)

    Args:
        a: 1 to 15.
        x: any real number; P is 0 below 0.

    Returns:
        shape of a and x together; errors below 2e-5 up to a = 7, 1e-4 at 10.
    """
    return _incomplete_gamma(a, x)[0]


@incomplete_gamma.defjvp
def _incomplete_gamma_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    value, by_a, by_x = _incomplete_gamma(*primals)
    return value, by_a * tangents[0] + by_x * tangents[1]


def _incomplete_gamma(a: Array, x: Array) -> tuple[Array, Array, Array]:
    """P, dP/da and dP/dx."""
    last = a + 7 * jnp.sqrt(a) + 7
    inside = jnp.clip(x, 1e-9, last)
    log_x, log_gamma = jnp.log(inside), gammaln(a)
    front = a * log_x - log_gamma
    value = moment = first = jnp.zeros_like(front)
    for log_u, u, weight in zip(*_quadrature(), strict=True):  # one fused loop
        term = weight * jnp.exp(front + (a * log_u - inside * u))
        value, moment, first = value + term, moment + log_u * term, first + u * term
    by_a = value * (log_x - digamma(a)) + moment
    by_x = a * value / inside - first  # of the sum, not of the integral
    return value, by_a, jnp.where((x > 1e-9) & (x < last), by_x, 0.0)


def mean_electron_profile(energy: Array, where: Medium) -> Profile:
    """The mean shower of an electron, depth in radiation lengths (GFlash, homogeneous).

    T = ln y - 0.858, alpha = 0.21 + (0.492 + 2.38/Z) ln y, beta = (alpha - 1) / T with
    y = E / Ec (hep-ex/0001020, Eq. 6 and 7).

    Args:
        energy: of the electron, GeV, some tens of the critical energy.
        where: the medium.
    """
    log_y = jnp.log(energy / where.critical_energy)
    top = log_y - 0.858
    alpha = 0.21 + (0.492 + 2.38 / where.Z) * log_y
    return Profile(alpha, (alpha - 1) / top)


def electron_profile(
    energy: Array, where: Medium, normal: Array, several: Array | float = 1.0
) -> Profile:
    """One electron's shower, depth in radiation lengths (GFlash, homogeneous).

    (ln T, ln alpha) is a correlated pair of normal numbers (hep-ex/0001020, Eq. 9-13):
    <ln T> = ln(ln y - 0.812), width 1 / (1.26 ln y - 1.4); <ln alpha> = ln(0.81 + (0.458 +
    2.26/Z) ln y), width 1 / (0.86 ln y - 0.58); correlation 0.705 - 0.023 ln y. Widths are
    at most 0.5, T at least 0.5, alpha at least 1.05.

    Args:
        energy: of the electron, GeV.
        where: the medium.
        normal: two standard normal numbers for each, shape (2, ...).
        several: of equal electrons that start together: widths shrink with the square root.
    """
    log_y = jnp.log(energy / where.critical_energy)
    half = jnp.sqrt(several)
    wide_t = 1 / jnp.maximum(1.26 * log_y - 1.4, 2.0) / half
    wide_a = 1 / jnp.maximum(0.86 * log_y - 0.58, 2.0) / half
    rho = jnp.clip(0.705 - 0.023 * log_y, 0.0, 1.0)
    both = jnp.sqrt((1 + rho) / 2) * normal[0]
    apart = jnp.sqrt((1 - rho) / 2) * normal[1]
    mean_t = jnp.maximum(log_y - 0.812, 0.5)
    mean_a = jnp.maximum(0.81 + (0.458 + 2.26 / where.Z) * log_y, 1.2)
    top = mean_t * jnp.exp(wide_t * (both + apart))
    alpha = jnp.maximum(mean_a * jnp.exp(wide_a * (both - apart)), 1.05)
    return Profile(alpha, (alpha - 1) / top)


def pion_profiles(energy: Array) -> tuple[Profile, Profile]:
    """The two parts of a hadronic shower behind its first interaction (Bock et al.).

    alpha = 0.6165 + 0.3193 ln E for both, beta = 0.2198 per radiation length for the
    electromagnetic part, 0.9099 - 0.0237 ln E per interaction length for the other. Fitted
    from 15 to 140 GeV; below 4 GeV alpha is held at 1.05.

    Args:
        energy: at the interaction, GeV.

    Returns:
        the electromagnetic part, depth in X0, and the hadronic one, depth in lambda_I.
    """
    log_e = jnp.log(jnp.maximum(energy / GeV, 1.0))
    alpha = jnp.maximum(0.6165 + 0.3193 * log_e, 1.05)
    beta = jnp.full_like(alpha, 0.2198)
    return Profile(alpha, beta), Profile(alpha, 0.9099 - 0.0237 * log_e)


def electromagnetic_fraction(energy: Array, normal: Array, spread: float) -> Array:
    """Part of a pion's shower that neutral pions carry, f = 1 - (E/E0)^((k - 1) s).

    With s = 1, k = 0.82 and E0 = 1 GeV it is the power law of D. E. Groom, Nucl. Instrum.
    Meth. A 572 (2007) 633; it fluctuates through s, log-normal with mean 1.

    Args:
        energy: at the interaction, GeV.
        normal: a standard normal number for each.
        spread: width of ln s.
    """
    log_e = jnp.log(jnp.maximum(energy / GeV, 1.0))
    factor = jnp.exp(spread * normal - spread**2 / 2)
    return 1 - jnp.exp(-0.18 * log_e * factor)


def neighbourhood(
    depth: Float[Array, " layer"], length: float
) -> Float[Array, "layer layer"]:
    """How much of each layer the particles in a layer have seen: rows sum to one.

    The mean over layer l of e^(-|t - t'| / length), integrated over layer m, in closed
    form: thin layers see the mean of all around them, thick ones themselves.

    Args:
        depth: thickness of each layer.
        length: over which particles forget where they came from, in the same unit.
    """
    thick = depth / length + 1e-6
    edges = jnp.concatenate([jnp.zeros(1), jnp.cumsum(thick)])
    gap = jnp.maximum(edges[:-1, None] - edges[None, 1:], 0.0)
    gap = gap + gap.T
    part = -jnp.expm1(-thick)
    apart = 0.5 * part[:, None] * part * jnp.exp(-gap)
    same = jnp.eye(thick.size, dtype=bool)
    weight = jnp.where(same, jnp.diag(_own(thick, part)), apart)
    return weight / jnp.sum(weight, -1, keepdims=True)


def _own(thick: Array, part: Array) -> Array:
    """thick - (1 - e^-thick), of which little would be left of a thin layer."""
    series = thick**2 / 2 * (1 - thick / 3 + thick**2 / 12)
    return jnp.where(thick < 0.05, series, thick - part)


def electromagnetic_share(layers: Medium, near: Float[Array, "layer layer"]) -> Array:
    """Energy deposited per radiation length, in units of the mean around a layer.

    Charged particles cross thin layers and lose Ec in each radiation length, whatever the
    layer: the share is Ec / <Ec>. The softest photons of a shower stay where Z is high:
    1 / (1 + 0.007 (<Z> - Z)), e-hat of GFlash (hep-ex/0001020, Sec. 3.1). In a thick layer
    both are one.

    Args:
        layers: the medium of each, shape (layer,).
        near: of `neighbourhood`, in radiation lengths.
    """
    share = layers.critical_energy / (near @ layers.critical_energy)
    return share / (1 + 0.007 * (near @ layers.Z - layers.Z))


def hadronic_share(layers: Medium, near: Float[Array, "layer layer"]) -> Array:
    """The same for hadrons, per interaction length: by ionisation alone."""
    loss = layers.ionisation * layers.interaction_length
    return loss / (near @ loss)
