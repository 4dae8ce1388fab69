"""Signal and background in a plane, and the background as it may also be."""

import equinox as eqx
import jax.numpy as jnp

from kythera.core import random
from kythera.core.stage import AbstractPathwiseSimulator, AbstractSource, AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.three_blobs.design import Observable

# Centres of unit Gaussians: the nominal samples, and the background at +-1 sigma.
CENTRES = {
    "signal": (-1.0, 1.0),
    "background": (1.0, -1.0),
    "up": (2.5, 2.0),
    "down": (-2.5, -1.5),
}


class Points(AbstractSource[Float[Array, "event 2"]]):
    """Unit normal pairs, of which all samples are made: they differ by translations."""

    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Float[Array, "event 2"]:
        """Draw `events` pairs."""
        return random.normal(key, (events, 2))


class Blobs(AbstractPathwiseSimulator[Observable, Array, dict[str, Array]]):
    """Positions in the plane of one event of each sample."""

    def __call__(
        self, design: Observable, x: Float[Array, "event 2"], *, key: Key
    ) -> dict[str, Array]:
        """Sample -> positions, each of shape (event, 2)."""
        return {name: x + jnp.array(centre) for name, centre in CENTRES.items()}


class Observed(AbstractStage[Observable, dict[str, Array], dict[str, Array]]):
    """The observable of all samples."""

    def __call__(
        self, design: Observable, x: dict[str, Array], *, key: Key
    ) -> dict[str, Array]:
        """Sample -> numbers in [0, 1], each of shape (event,)."""
        return {name: design(positions) for name, positions in x.items()}
