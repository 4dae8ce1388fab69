"""The nearest neighbours of points, by brute force, on any device.

Distances to a block of points at a time: memory grows with the number of points, not with
its square. No tree and no kernel of its own, so that it compiles, runs under `vmap` and
works on processors and accelerators alike.
"""

import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.types import Array, Bool, Float, Int

BLOCK = 2**20  # distances that are held at a time, 4 MB in single precision


def nearest(
    points: Float[Array, "point space"],
    k: int,
    *,
    present: Bool[Array, " point"] | None = None,
    queries: Float[Array, "query space"] | None = None,
    itself: bool = True,
) -> tuple[Int[Array, "query k"], Bool[Array, "query k"]]:
    """The k nearest of a set of points to each of them, or to others, nearest first.

    Distances are Euclidean; of equal ones the earlier point comes first. The choice is no
    function that can be differentiated: take what is needed of the points that were found.

    Args:
        points: their coordinates.
        k: how many neighbours, at least 1 and at most as many as there are points.
        present: which points there are; one that is not there is nobody's neighbour, whatever
            its coordinates. By default all.
        queries: whose neighbours are sought; by default those of the points themselves.
        itself: whether a point is its own neighbour (of queries it has no meaning).

    Returns:
        the neighbours, and which of them exist: where fewer than k points are there, the
        rest are marked, and their numbers mean nothing.

    Raises:
        InputError: k below 1, or more than there are points.
    """
    count, others = len(points), queries is None and not itself
    most = count - others
    if not 1 <= k <= most:
        raise errors.InputError(
            f"Neighbours must be at least 1 and at most the {most} points that can be, but "
            f"{k} are asked for. Lower their number, or pad the points further."
        )
    points = jax.lax.stop_gradient(jnp.asarray(points))
    if present is None:
        present = jnp.ones(count, bool)
    points = jnp.where(present[:, None], points, 0.0)
    seekers = points if queries is None else jax.lax.stop_gradient(queries)
    number = jnp.arange(len(seekers))

    def search(item: tuple[Array, Array]) -> tuple[Array, Array]:
        own, i = item
        square = jnp.sum((points - own) ** 2, -1)
        possible = present & (jnp.arange(count) != i) if others else present
        found, where = jax.lax.top_k(-jnp.where(possible, square, jnp.inf), k)
        return where, found > -jnp.inf

    size = max(1, min(len(seekers), BLOCK // count))
    return jax.lax.map(search, (jnp.asarray(seekers), number), batch_size=size)
