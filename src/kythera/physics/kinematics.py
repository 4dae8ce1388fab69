"""Momentum, energy and velocity of one relativistic particle (c = 1, GeV)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kythera.units import muon_mass

Real = Float[Array, "*batch"] | float


def energy_from_momentum(momentum: Real, mass: Real = muon_mass) -> Array:
    """Total energy of a particle from its momentum: E = sqrt(p^2 + m^2).

    Args:
        momentum: momentum [GeV], >= 0.
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The total energy [GeV].
    """
    return jnp.hypot(momentum, mass)


def kinetic_energy(momentum: Real, mass: Real = muon_mass) -> Array:
    """Kinetic energy of a particle from its momentum: T = p^2 / (E + m).

    The quotient keeps its digits near rest, where E - m loses them.

    Args:
        momentum: momentum [GeV], >= 0.
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The kinetic energy [GeV].
    """
    return momentum * (momentum / (energy_from_momentum(momentum, mass) + mass))


def momentum_from_kinetic(kinetic: Real, mass: Real = muon_mass) -> Array:
    """Momentum of a particle from its kinetic energy: p = sqrt(T (T + 2 m)).

    At rest (T <= 0) momentum and derivative are given as zero.

    Args:
        kinetic: kinetic energy [GeV].
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The momentum [GeV].
    """
    moving = kinetic > 0
    safe = jnp.where(moving, kinetic, 1.0)
    return jnp.where(moving, jnp.sqrt(safe) * jnp.sqrt(safe + 2 * mass), 0.0)


def momentum_from_energy(energy: Real, mass: Real = muon_mass) -> Array:
    """Momentum of a particle from its total energy: p = sqrt((E - m)(E + m)).

    Args:
        energy: total energy [GeV]; at rest (E <= m) momentum and derivative are zero.
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The momentum [GeV].
    """
    return momentum_from_kinetic(energy - mass, mass)


def velocity(momentum: Real, mass: Real = muon_mass) -> Array:
    """Speed of a particle in units of the speed of light: beta = p / E.

    Args:
        momentum: momentum [GeV], >= 0.
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The speed, between 0 and 1.
    """
    return momentum / energy_from_momentum(momentum, mass)
