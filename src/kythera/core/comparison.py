"""Several designs on the same events, so that their differences have small errors."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import Map
from kythera.core.problem import Problem
from kythera.core.types import Key, PyTree, Vector


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several designs measured on the same events.

    Args:
        loss: named terms, each of shape (designs,).
        slack: named constraints, each of shape (designs,).
        covariance: of all terms of all designs, (designs * terms, designs * terms).
        slack_stderr: of the named constraints, each of shape (designs,).
    """

    loss: dict[str, np.ndarray]
    slack: dict[str, np.ndarray]
    covariance: np.ndarray
    slack_stderr: dict[str, np.ndarray]


@jit
def _rows_compiled(problem: Problem, u: Vector, key: Key) -> PyTree:
    return measure._sample(problem, u, key, "value")[0]


@jit
def _slopes_compiled(problem: Problem, u: Vector, mean: PyTree) -> tuple[Any, PyTree]:
    score = problem.score(problem.design(u), mean)
    named = measure._sorted(score.loss), measure._sorted(score.slack)
    return named, measure._slopes(problem, u, mean)


KEEP = 1 << 28  # bytes of tallies that are kept rather than simulated twice


def _host_rows(problem: Problem, item: tuple[np.ndarray, Key, int]) -> PyTree:
    """Tallies of one chunk of one design, as NumPy arrays."""
    u, key, chunk = item
    u = jnp.asarray(u, float)
    return measure.simulated(measure.chunk_rows, problem, u, key, chunk)


def compare(problem: Problem, us: np.ndarray, key: Key, map: Map = map) -> Comparison:
    """Measure several designs on the same events, so that differences have small errors.

    One chunk is compiled, once, and called for each chunk and design; tallies are kept
    up to a bound, beyond which the chunks are simulated again for the errors. Where a
    stage runs outside JAX, all are kept, and an executor simulates the chunks.

    Args:
        problem: what to measure; `problem.events` rows.
        us: points of the cube, shape (designs, n).
        key: of the events.
        map: executor for stages outside JAX; the builtin runs in this process.

    Raises:
        SimulationError: a stage outside JAX failed.
    """
    points = jnp.asarray(us, float)
    count, size = problem.chunks
    order = range(len(us))
    kept: dict[tuple[int, int], PyTree] = {}
    if problem.pipeline.is_host:
        pairs = list(itertools.product(order, range(count)))
        items = [(np.asarray(points[i]), key, chunk) for i, chunk in pairs]
        work = functools.partial(_host_rows, problem)
        kept = dict(zip(pairs, map(work, items), strict=True))

    def rows(i: int, chunk: int) -> PyTree:
        if (i, chunk) in kept:
            return kept[i, chunk]
        own = jax.random.fold_in(key, chunk)
        found = measure.simulated(_rows_compiled, problem, points[i], own)
        bytes_ = sum(np.asarray(v).nbytes for v in jax.tree.leaves(found))
        if bytes_ * count * len(us) < KEEP:
            kept[i, chunk] = found
        return found

    means = []
    for i in order:
        parts = [jax.tree.map(lambda v: v.mean(0), rows(i, c)) for c in range(count)]
        means.append(jax.tree.map(lambda *v: np.mean(np.stack(v), 0), *parts))
    scored = [
        jax.device_get(_slopes_compiled(problem, u, mean))
        for u, mean in zip(points, means, strict=True)
    ]
    losses, slacks = zip(*(named for named, _ in scored), strict=True)
    outputs, terms = len(losses[0]) + len(slacks[0]), len(losses[0])
    spread = np.zeros((len(us) * outputs, len(us) * outputs))
    for chunk in range(count):
        with np.errstate(invalid="ignore"):  # inf - inf: the value itself tells of it
            psi = [
                measure._influences(
                    rows(i, chunk), means[i], scored[i][1], (size, outputs)
                )
                for i in order
            ]
        psi = np.concatenate([np.asarray(v, float) for v in psi], axis=1)
        spread += psi.T @ psi
    events = count * size
    covariance = spread / events / (events - 1) if events > 1 else spread * np.nan
    errs = np.sqrt(np.diag(covariance)).reshape(len(us), outputs)[:, terms:]
    is_term = np.tile(np.arange(outputs) < terms, len(us))
    return Comparison(
        {name: np.stack([v[name] for v in losses]) for name in losses[0]},
        {name: np.stack([v[name] for v in slacks]) for name in slacks[0]},
        covariance[np.ix_(is_term, is_term)],
        {name: errs[:, k] for k, name in enumerate(slacks[0])},
    )
