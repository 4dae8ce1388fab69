"""Laws on values, where there are values: inside `jit` there are none yet."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def known(*trees: Any) -> bool:
    """Whether all arrays have values (outside jit, vmap and grad)."""
    return not any(isinstance(v, Tracer) for v in jax.tree.leaves(trees))


def listed(indices: Any, most: int = 5) -> str:
    """Some indices as text: "0, 3, 4, ... (12 in all)"."""
    found = [int(i) for i in np.atleast_1d(indices)]
    text = ", ".join(map(str, found[:most]))
    return text if len(found) <= most else f"{text}, ... ({len(found)} in all)"
