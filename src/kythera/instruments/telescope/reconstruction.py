"""The slope of a straight line through the hits."""

import jax.numpy as jnp

from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.telescope.design import Telescope


class LineFit(AbstractStage[Telescope, Float[Array, "event plane"], Array]):
    """Least squares with equal weights: slope = sum (z - mean z) x / sum (z - mean z)^2."""

    def __call__(
        self, design: Telescope, x: Float[Array, "event plane"], *, key: Key
    ) -> Float[Array, " event"]:
        """Fitted slopes, shape (event,)."""
        lever = design.z - jnp.mean(design.z)
        return x @ lever / jnp.sum(lever**2)
