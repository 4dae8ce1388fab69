"""Momentum, energy and velocity of one relativistic particle (c = 1, GeV)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kythera.units import muon_mass

Real = Float[Array, "*batch"] | float


def energy_from_momentum(momentum: Real, mass: Real = muon_mass) -> Real:
    """Total energy of a particle from its momentum: E = sqrt(p^2 + m^2).

    Args:
        momentum: momentum [GeV], >= 0.
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The total energy [GeV].
    """
    return jnp.hypot(momentum, mass)


def momentum_from_energy(energy: Real, mass: Real = muon_mass) -> Real:
    """Momentum of a particle from its total energy: p = sqrt((E - m)(E + m)).

    The product form keeps its digits near rest. At rest (E <= m) momentum and
    derivative are zero.

    Args:
        energy: total energy [GeV].
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The momentum [GeV].
    """
    square = (energy - mass) * (energy + mass)
    moving = square > 0
    return jnp.where(moving, jnp.sqrt(jnp.where(moving, square, 1.0)), 0.0)


def velocity(momentum: Real, mass: Real = muon_mass) -> Real:
    """Speed of a particle in units of the speed of light: beta = p / E.

    Args:
        momentum: momentum [GeV], >= 0.
        mass: mass [GeV]; the muon's unless given.

    Returns:
        The speed, between 0 and 1.
    """
    return momentum / energy_from_momentum(momentum, mass)
