"""Central differences on common random numbers: gradients of anything."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, Measured
from kythera.core.problem import Problem
from kythera.core.types import Array, Float, Key
from kythera.estimators.direct import evaluate_all

MOST = 500  # coordinates: beyond, one gradient costs more than a whole other search


class FiniteDifference(AbstractEstimator[None]):
    """dT/du_j from T(u + h e_j) - T(u - h e_j) on the same events.

    Works with every simulator, at the price of 2 n + 1 evaluations. Biased by O(h^2);
    where a step would leave the cube the difference is one-sided, biased by O(h). On a
    simulator that jumps, h smooths the jumps: larger steps, less noise, more bias.

    Args:
        step: h, a fraction of each parameter's range.
    """

    step: float = 0.02
    gives_gradient: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse steps that leave no room."""
        if not 0 < self.step <= 0.5:
            raise errors.InputError(
                f"`step` must be in (0, 0.5] of the range, but is {self.step}. "
                "Try 0.02."
            )

    def check(self, problem: Problem) -> None:
        """Refuse spaces that are too large to be differenced."""
        problem.check()
        n = problem.space.size
        if n > MOST:
            raise errors.UnsupportedError(
                f"`FiniteDifference` needs 2 n + 1 evaluations of at most {MOST} "
                f"parameters, but the space has {n}. Freeze some, or use `Pathwise`, or "
                "an optimiser without gradients."
            )

    def price(self, problem: Problem) -> int:
        """2 n + 1 evaluations."""
        return problem.price * (2 * problem.space.size + 1)

    def __call__(
        self,
        problem: Problem,
        us: Float[Array, "q n"],
        state: None,
        *,
        key: Key,
        map: Map = map,
    ) -> tuple[list[Evaluation], Any]:
        """See the base class."""
        points_of = np.asarray(us)
        n = points_of.shape[1]
        shift = self.step * np.eye(n, dtype=points_of.dtype)
        points = np.concatenate(
            [np.clip(np.vstack([u, u + shift, u - shift]), 0, 1) for u in points_of]
        )
        keys = jnp.repeat(key, 2 * n + 1, axis=0)
        found = evaluate_all(problem, "value", jnp.asarray(points), keys, map)
        return [
            self._difference(
                points[i : i + 2 * n + 1], found[i : i + 2 * n + 1], self.price(problem)
            )
            for i in range(0, len(found), 2 * n + 1)
        ], state

    def _difference(
        self, points: np.ndarray, found: list[Evaluation], events: int
    ) -> Evaluation:
        """The evaluation at points[0], with the gradient from the others."""
        centre, n = found[0], points.shape[1]
        causes = [f.cause for f in found if f.cause]
        if causes:
            return Evaluation.failed(causes[0], events)
        width = np.array([points[1 + j, j] - points[1 + n + j, j] for j in range(n)])

        def gradient(values: list[float]) -> np.ndarray:
            return (np.array(values[1 : 1 + n]) - np.array(values[1 + n :])) / width

        def with_gradient(measured: Measured, values: list[float]) -> Measured:
            return dataclasses.replace(measured, gradient=gradient(values))

        slack = {
            name: with_gradient(s, [f.slack[name].value for f in found])
            for name, s in centre.slack.items()
        }
        total = with_gradient(centre.total, [f.total.value for f in found])
        return dataclasses.replace(centre, total=total, slack=slack, events=events)
