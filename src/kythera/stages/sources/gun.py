"""Single particles, and the record of particles that simulators from outside take."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.stage import AbstractSource
from kythera.core.types import Array, Float, Int, Key


class Particles(NamedTuple):
    """Particles of each event, padded to the same number where they are several.

    Args:
        pdg: kind, in the numbering of the Particle Data Group (electron 11, photon 22),
            shape (event,) or (event, particle).
        energy: kinetic, GeV, same shape.
        position: where they start, m, one more axis (x, y, z).
        direction: of flight, unit vectors, one more axis.
        weight: of the event; 0 where there is no particle.
    """

    pdg: Int[Array, " *rows"]
    energy: Float[Array, " *rows"]
    position: Float[Array, "*rows 3"]
    direction: Float[Array, "*rows 3"]
    weight: Float[Array, " *rows"]


class ParticleGun(AbstractSource[Particles]):
    """One particle for each event, always from the same place in the same direction.

    Args:
        pdg: its kind: 11 electron, -11 positron, 22 photon, 13 muon, -13 antimuon.
        energy: kinetic, GeV: one number, or (lowest, highest) of a uniform distribution.
        position: where it starts, m.
        direction: of flight, of any length.

    Raises:
        InputError: no positive energy, or no direction.
    """

    pdg: int = eqx.field(static=True)
    energy: tuple[float, float] = eqx.field(static=True)
    position: tuple[float, float, float] = eqx.field(static=True)
    direction: tuple[float, float, float] = eqx.field(static=True)
    primaries: int = eqx.field(static=True, default=1)

    def __init__(
        self,
        pdg: int,
        energy: float | tuple[float, float],
        position: tuple[float, float, float] = (0.0, 0.0, 0.0),
        direction: tuple[float, float, float] = (0.0, 0.0, 1.0),
    ):
        """See the class."""
        low, high = energy if isinstance(energy, tuple) else (energy, energy)
        if not 0 < low <= high < float("inf"):
            raise errors.InputError(
                f"Energies must be positive and in order, but are {low} to {high} GeV. "
                "Give one number, or (lowest, highest)."
            )
        length = sum(v**2 for v in direction) ** 0.5
        if not 0 < length < float("inf"):
            raise errors.InputError(
                f"A direction must have a length, but is {direction}. Try (0, 0, 1)."
            )
        self.pdg, self.energy = int(pdg), (float(low), float(high))
        self.position = tuple(float(v) for v in position)  # type: ignore[assignment]
        self.direction = tuple(v / length for v in direction)  # type: ignore[assignment]
        self.primaries = 1

    def __call__(self, events: int, *, key: Key) -> Particles:
        """Draw the energies, and repeat the rest."""
        low, high = self.energy

        def rows(values: Any) -> Array:
            return jnp.broadcast_to(jnp.asarray(values, float), (events, 3))

        return Particles(
            pdg=jnp.full(events, self.pdg, jnp.int32),
            energy=low + (high - low) * jax.random.uniform(key, (events,)),
            position=rows(self.position),
            direction=rows(self.direction),
            weight=jnp.ones(events),
        )
