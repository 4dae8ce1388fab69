"""Gradients from the density of the simulator's output: nothing is differentiated but p."""

from typing import Any, ClassVar

import jax.numpy as jnp

from kythera import errors
from kythera.core import measure
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map
from kythera.core.problem import Problem
from kythera.core.stage import AbstractTractableSimulator
from kythera.core.types import Array, Float, Key
from kythera.estimators.direct import evaluate_all


class ScoreFunction(AbstractEstimator[None]):
    """grad T = E[ psi_i d log p(z_i | x_i, theta) ] + what depends on theta beside z.

    psi_i is the influence of event i on the score, with the mean of the *other* events as
    its baseline (leave one out), so that the estimate is unbiased for means. Also called
    REINFORCE or the likelihood-ratio method. It works where the simulator jumps, at a
    price: its variance grows with the number of hits.
    """

    gives_gradient: ClassVar[bool] = True
    mode: ClassVar[measure.Mode] = "score"
    references: ClassVar[tuple[str, ...]] = (
        "R. J. Williams, Simple statistical gradient-following algorithms for "
        "connectionist reinforcement learning, Machine Learning 8 (1992) 229",
        "S. Mohamed, M. Rosca, M. Figurnov, A. Mnih, Monte Carlo gradient estimation in "
        "machine learning, J. Mach. Learn. Res. 21 (2020) 132, arXiv:1906.10652",
    )

    def check(self, problem: Problem) -> None:
        """Needs a density, all stages inside JAX, and no nuisance parameters."""
        problem.check()
        simulator = problem.pipeline.simulator
        if not isinstance(simulator, AbstractTractableSimulator):
            raise errors.UnsupportedError(
                "`ScoreFunction` needs a simulator whose output has a density, but "
                f"`{type(simulator).__name__}` is not an `AbstractTractableSimulator`. "
                "Use `Pathwise` if it can be differentiated, `FiniteDifference`, or an "
                "optimiser without gradients such as `Evolution`."
            )
        if problem.pipeline.is_host:
            raise errors.UnsupportedError(
                "`ScoreFunction` needs all stages inside JAX, but one of the pipeline "
                "runs outside. Use `FiniteDifference`, or an optimiser without gradients."
            )
        nuisances = problem.objective.nuisances()
        if nuisances:
            raise errors.UnsupportedError(
                "`ScoreFunction` holds the signals fixed, but the nuisance parameters "
                f"{list(nuisances)} need their derivatives. Use `Pathwise`, "
                "`FiniteDifference`, or an optimiser without gradients."
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
