"""The value at a design, nothing more."""

import functools
from typing import Any, ClassVar

import jax.numpy as jnp

from kythera.core import measure
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, blocks
from kythera.core.problem import Problem
from kythera.core.types import Key


def evaluate_all(
    problem: Problem,
    mode: measure.Mode,
    us: Any,
    keys: Any,
    map: Map,
) -> list[Evaluation]:
    """Evaluate q designs in blocks whose width the problem alone decides.

    Args:
        problem: what to evaluate.
        mode: as for `kythera.core.measure.measure`.
        us: points of the cube, shape (q, n).
        keys: one for each design, shape (q,).
        map: the executor.

    Returns:
        one evaluation for each design.
    """
    width = measure.width(problem)
    items = list(zip(blocks(us, width), blocks(keys, width), strict=True))
    work = functools.partial(measure.evaluate, problem, mode)
    return [found for block in map(work, items) for found in block]


class Direct(AbstractEstimator[None]):
    """The mean and its standard error; for optimisers that need no gradient."""

    gives_gradient: ClassVar[bool] = False

    def check(self, problem: Problem) -> None:
        """Every problem can be evaluated."""
        return

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
        return evaluate_all(problem, "value", jnp.asarray(us), key, map), state
