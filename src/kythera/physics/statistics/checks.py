"""Laws on values, where there are values: inside `jit` there are none yet."""

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from kythera import errors
from kythera.core.types import Array


def known(*trees: Any) -> bool:
    """Whether all arrays have values (outside jit, vmap and grad)."""
    return not any(isinstance(v, Tracer) for v in jax.tree.leaves(trees))


def listed(indices: Any, most: int = 5) -> str:
    """Some indices as text: "0, 3, 4, ... (12 in all)"."""
    found = [int(i) for i in np.atleast_1d(indices)]
    text = ", ".join(map(str, found[:most]))
    return text if len(found) <= most else f"{text}, ... ({len(found)} in all)"


def reals(value: Any, what: str) -> Array:
    """An array of real numbers, traced or not.

    Args:
        value: a number, an array, or lists of them.
        what: its name, for errors.

    Raises:
        InputError: text, complex numbers, nothing, or lists of different lengths.
    """
    leaves = jax.tree.leaves(value, is_leaf=lambda v: v is None)
    kinds = {np.asarray(v).dtype.kind if known(v) else "f" for v in leaves}
    try:
        if kinds & set("cOSUmM"):
            raise TypeError("no real numbers")
        return jnp.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise errors.InputError(
            f"{what} must be real numbers, but is {reprlib.repr(value)}. Give a number, or "
            "an array of them."
        ) from error
