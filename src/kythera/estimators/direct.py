"""The value at a design, nothing more."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import measure
from kythera.core.evaluation import (
    AbstractEstimator,
    Evaluation,
    Map,
    blocks,
    outcomes,
)
from kythera.core.problem import Problem
from kythera.core.types import Key


def evaluate_all(
    problem: Problem,
    mode: measure.Mode,
    us: Any,
    keys: Any,
    map: Map,
) -> list[Evaluation]:
    """Evaluate q designs, see `in_blocks`.

    Args:
        problem: what to evaluate.
        mode: as for `kythera.core.measure.measure`.
        us: points of the cube, shape (q, n).
        keys: one for each design, shape (q,).
        map: the executor.
    """
    work = functools.partial(measure.evaluate, problem, mode)
    return in_blocks(problem, work, us, keys, map)


def in_blocks(
    problem: Problem,
    work: Callable[[tuple[np.ndarray, Key]], list[Evaluation]],
    us: Any,
    keys: Any,
    map: Map,
) -> list[Evaluation]:
    """Evaluate q designs in blocks whose width the problem alone decides.

    The last block is filled up with copies of the last design, whose answers are dropped:
    compiling for each number of designs would take seconds, and a whole block simulates
    only some 30,000 primaries. Copies are not counted as events. Outside JAX, where nothing
    compiles and a simulation may take minutes, the last block is short.

    Args:
        problem: what to evaluate.
        work: (points, keys) of one block -> its evaluations; it travels to other processes.
        us: points of the cube, shape (q, n).
        keys: one for each design, shape (q,).
        map: the executor.

    Returns:
        one evaluation for each design; failed ones, with the cause, where a block was lost.
    """
    # NumPy cuts: in JAX each length would be one more program.
    points, data = np.asarray(us), np.asarray(jax.random.key_data(keys))
    kind = jax.random.key_impl(keys)
    cut = blocks(len(points), problem.width)
    if problem.pipeline.is_host:
        cut = [np.unique(where) for where in cut]
    items = [
        (points[where], jax.random.wrap_key_data(jnp.asarray(data[where]), impl=kind))
        for where in cut
    ]
    found: list[Evaluation] = []
    for item, block in zip(items, outcomes(map, work, items), strict=True):
        if isinstance(block, errors.SimulationError):
            block = [Evaluation.failed(str(block), problem.price)] * len(item[0])
        found.extend(block)
    return found[: len(points)]


class Direct(AbstractEstimator[None]):
    """The mean and its standard error; for optimisers that need no gradient."""

    gives_gradient: ClassVar[bool] = False
    mode: ClassVar[measure.Mode] = "value"

    def check(self, problem: Problem) -> None:
        """Every problem can be evaluated."""
        problem.check()

    def __call__(
        self,
        problem: Problem,
        us: Any,
        state: None,
        *,
        key: Key,
        map: Map = map,
    ) -> tuple[list[Evaluation], Any]:
        """See the base class."""
        return evaluate_all(problem, self.mode, jnp.asarray(us), key, map), state
