"""Straight tracks through the planes, measured with Gaussian errors."""

import equinox as eqx
import jax.numpy as jnp

from kythera.core import random
from kythera.core.stage import (
    AbstractPathwiseSimulator,
    AbstractSource,
    AbstractTractableSimulator,
)
from kythera.core.types import Array, Float, Key
from kythera.instruments.telescope.design import Telescope


class Tracks(eqx.Module):
    """Straight lines x = intercept + slope z.

    Args:
        intercept: x at z = 0, m, shape (event,).
        slope: dimensionless, shape (event,).
    """

    intercept: Float[Array, " event"]
    slope: Float[Array, " event"]


class Beam(AbstractSource[Tracks]):
    """Tracks with Gaussian intercepts and slopes.

    Args:
        width: standard deviation of the intercept, m.
        divergence: standard deviation of the slope.
    """

    width: float = 0.01
    divergence: float = 0.01
    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Tracks:
        """Draw `events` tracks."""
        normal = random.normal(key, (2, events))
        return Tracks(self.width * normal[0], self.divergence * normal[1])


class Planes(
    AbstractPathwiseSimulator[Telescope, Tracks, Float[Array, "event plane"]],
    AbstractTractableSimulator[Telescope, Tracks, Float[Array, "event plane"]],
):
    """Hits x_ij = intercept_i + slope_i z_j + resolution * normal, m."""

    def __call__(
        self, design: Telescope, x: Tracks, *, key: Key
    ) -> Float[Array, "event plane"]:
        """Measured coordinates, m, shape (event, plane)."""
        true = self._true(design, x)
        return true + design.resolution * random.normal(key, true.shape)

    def log_prob(
        self, design: Telescope, x: Tracks, y: Float[Array, "event plane"]
    ) -> Float[Array, " event"]:
        """Sum of the planes' normal log densities."""
        pull = (y - self._true(design, x)) / design.resolution
        return jnp.sum(-(pull**2) / 2 - jnp.log(design.resolution), -1)

    def _true(self, design: Telescope, x: Tracks) -> Float[Array, "event plane"]:
        return x.intercept[:, None] + x.slope[:, None] * design.z
