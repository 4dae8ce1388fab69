"""Functions whose derivatives stay finite where the textbook's do not."""

import jax.numpy as jnp

from kythera.core.types import Array


def safe_sqrt(x: Array | float) -> Array:
    """Square root with value and derivative zero where x <= 0."""
    x = jnp.asarray(x)
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
