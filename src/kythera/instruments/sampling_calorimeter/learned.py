"""Energies from deposits by a network that reads the layers as a set."""

import jax.numpy as jnp

from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.sampling_calorimeter.design import Stack
from kythera.instruments.sampling_calorimeter.reconstruction import scaled
from kythera.instruments.sampling_calorimeter.simulator import edges
from kythera.stages.reconstruction.deep_sets import DeepSets
from kythera.units import GeV, mm

NUMBERS = 7  # of an element, besides the weights of its materials
SOFT = 0.1 * GeV  # deposits count as they are below, by their logarithm above
THIN = 1 * mm  # an active layer fades out below


class EnergyNetwork(AbstractStage[Stack, Array, Array]):
    """The energy of each particle, GeV, from the set of its active layers.

    E_pred = S + (S + 1 GeV) y, where S is the sum of what `ActiveDeposits` keeps and y what
    a `DeepSets` makes of the layers: their deposits, thicknesses, places and materials. It
    knows the design, but not the kind of the particle. It is trained under `Retrain`.

    Args:
        network: with one output.
    """

    network: DeepSets

    def __init__(self, materials: int, *, width: int = 32, key: Key | None = None):
        """Fresh weights.

        Args:
            materials: that absorbers and active layers may have, together.
            width: of the hidden layers.
            key: of the weights, as in `DeepSets`.
        """
        self.network = DeepSets(elements, NUMBERS + materials, width=width, key=key)

    def __call__(
        self, design: Stack, x: Float[Array, "event layer"], *, key: Key
    ) -> Float[Array, " event"]:
        """Shape (event,)."""
        seen = jnp.sum(scaled(design, x), -1)
        return seen + (seen + 1 * GeV) * self.network(design, x, key=key)[:, 0]


def elements(
    design: Stack, deposits: Float[Array, "event layer"]
) -> tuple[Float[Array, "event pair numbers"], Float[Array, "event pair"]]:
    """Each active layer with the absorber before it, as numbers of order one.

    Args:
        design: the stack.
        deposits: in all its layers, GeV.

    Returns:
        of each active layer: its deposit, its part of all deposits and their sum; where it
        begins and how thick it is in radiation lengths, the same for its absorber; the
        weights of both materials. And 1 for a layer that is there.
    """
    seen = scaled(design, deposits)
    total = jnp.sum(seen, -1, keepdims=True) + SOFT
    built = design.layers()
    t = built.thickness / built.medium.radiation_length
    place = jnp.stack([edges(t)[1:-1:2], t[1::2], t[::2]], -1) / 20
    materials = [design.absorber_material, design.active_material]
    thick = built.thickness[1::2, None]
    layer = jnp.concatenate([place, thick, *materials], -1)
    event = [jnp.log1p(seen / SOFT), seen / total, jnp.log(total) + 0 * seen]
    rows = jnp.broadcast_to(layer, (len(seen), *layer.shape))
    there = jnp.clip(built.thickness[1::2] / THIN, 0.0, 1.0)
    return (
        jnp.concatenate([jnp.stack(event, -1), rows], -1),
        jnp.broadcast_to(there, seen.shape),
    )
