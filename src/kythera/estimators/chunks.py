"""The events of an evaluation, chunk by chunk, where more than its measurement is wanted."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kythera.core import measure
from kythera.core.problem import Problem
from kythera.core.types import Key, PyTree


def over_chunks(problem: Problem, key: Key, part: Callable[[Key], PyTree]) -> PyTree:
    """Rows of all chunks, one after the other: of the events that `Direct` would see.

    Args:
        problem: whose chunks; where its pipeline leaves JAX they are taken eagerly.
        key: of the evaluation.
        part: key of a chunk -> arrays with a leading axis `event`.

    Returns:
        the same arrays for all events.
    """
    count, _ = problem.chunks
    if problem.pipeline.is_host:
        parts = [part(jax.random.fold_in(key, i)) for i in range(count)]
        return jax.tree.map(lambda *v: jnp.concatenate(v), *parts)
    stacked = jax.lax.map(part, measure.chunk_keys(key, 0, count))
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), stacked)
