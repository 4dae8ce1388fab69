"""How a law is stated, and trees are compared."""

import contextlib
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def require(holds: Any, law: str, values: str) -> None:
    """Raise where a law does not hold.

    Raises:
        AssertionError: with the law and the values.
    """
    if not bool(holds):
        raise AssertionError(f"{law}, but {values}.")


def shown(array: np.ndarray) -> str:
    """An array as text, cut where it is long."""
    return np.array2string(np.asarray(array), precision=6, threshold=12, edgeitems=2)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Double precision within this block: derivatives are compared with differences."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def is_real(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers."""
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def widened(tree: Any) -> Any:
    """The tree with its floating-point arrays in the precision of the moment."""
    return jax.tree.map(lambda v: jnp.asarray(v, float) if is_real(v) else v, tree)


def arrays(tree: Any) -> list[tuple[str, np.ndarray]]:
    """Path and value of each array of a tree; keys of random numbers as numbers."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not eqx.is_array(leaf):
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        name = jax.tree_util.keystr(path) or "the output"
        found.append((name, np.asarray(leaf)))
    return found


def require_equal(law: str, a: Any, b: Any, rtol: float = 0.0) -> None:
    """Raise where two trees differ in structure, or an array by more than `rtol`.

    The tolerance is relative to the largest number of each array.
    """
    first, second = arrays(a), arrays(b)
    require(
        jax.tree.structure(a) == jax.tree.structure(b),
        law,
        f"the trees differ: {jax.tree.structure(a)} and {jax.tree.structure(b)}",
    )
    for (name, x), (_, y) in zip(first, second, strict=True):
        require(x.shape == y.shape, law, f"{name} has shapes {x.shape} and {y.shape}")
        if rtol == 0 or not np.issubdtype(x.dtype, np.floating):
            same = np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.floating))
            difference = "" if same else _largest(x, y)
            require(same, law, f"{name} differs{difference}")
            continue
        scale = max(np.max(np.abs(x), initial=0.0), np.max(np.abs(y), initial=0.0))
        gap = np.max(np.abs(x - y), initial=0.0)
        require(
            gap <= rtol * scale,
            law,
            f"{name} differs by {gap:.3g} where its largest number is {scale:.3g}",
        )


def _largest(x: np.ndarray, y: np.ndarray) -> str:
    gap = np.abs(x.astype(float) - y.astype(float))
    return f" by up to {np.nanmax(gap):.3g}" if gap.size else ""
