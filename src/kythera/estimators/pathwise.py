"""Exact derivatives through the whole pipeline at a fixed key."""

from typing import Any, ClassVar

import jax.numpy as jnp

from kythera import errors
from kythera.core import measure
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map
from kythera.core.problem import Problem
from kythera.core.stage import AbstractPathwiseSimulator
from kythera.core.types import Array, Float, Key
from kythera.estimators.direct import evaluate_all


class Pathwise(AbstractEstimator[None]):
    """Automatic differentiation of the pipeline (reparametrised draws).

    grad T = d score / d design + E[ <d score / d tally, d tally / d design> ], in reverse
    mode, chunk by chunk: unbiased for every objective that is a mean, biased by O(1/n)
    for a score that is not linear. One evaluation costs about three simulations.
    """

    gives_gradient: ClassVar[bool] = True
    mode: ClassVar[measure.Mode] = "pathwise"
    references: ClassVar[tuple[str, ...]] = (
        "S. Mohamed, M. Rosca, M. Figurnov, A. Mnih, Monte Carlo gradient estimation in "
        "machine learning, J. Mach. Learn. Res. 21 (2020) 132, arXiv:1906.10652",
    )

    def check(self, problem: Problem) -> None:
        """Needs a simulator that promises derivatives, and no stage outside JAX."""
        problem.check()
        simulator = problem.pipeline.simulator
        name = type(simulator).__name__
        if not isinstance(simulator, AbstractPathwiseSimulator):
            raise errors.UnsupportedError(
                "`Pathwise` needs a simulator that can be differentiated, but "
                f"`{name}` is not an `AbstractPathwiseSimulator`. Use "
                "`FiniteDifference`, `ScoreFunction` if it has a density, or an "
                "optimiser without gradients such as `Evolution`."
            )
        if problem.pipeline.is_host:
            raise errors.UnsupportedError(
                "`Pathwise` needs all stages inside JAX, but one of the pipeline runs "
                "outside. Use `FiniteDifference`, or an optimiser without gradients."
            )

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
        return evaluate_all(problem, self.mode, jnp.asarray(us), key, map), state
