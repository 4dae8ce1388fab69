"""Double precision for a piece of work, whatever the rest runs in."""

from contextlib import AbstractContextManager

import jax


def double_precision() -> AbstractContextManager:
    """JAX computes in float64 within this block, in this thread alone.

    Error propagation and fits subtract nearly equal numbers and lead to second derivatives,
    for which float32 is not enough.
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax import experimental  # JAX before 0.8

    return experimental.enable_x64(True)  # type: ignore[attr-defined]
