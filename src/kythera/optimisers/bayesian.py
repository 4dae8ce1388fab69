"""Bayesian optimisation: what was seen so far says where a better design is likely."""

from typing import ClassVar

import equinox as eqx
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints, gaussian_process, history, samplers
from kythera.optimisers.coordinates import Coordinates
from kythera.optimisers.history import History
from kythera.optimisers.random_search import check_sobol, seed_of

MOST = {"tpe": 100, "gp": 100}  # parameters, a choice being one


class Bayesian(AbstractOptimiser[History]):
    """Few, costly designs: a model of the loss says which one to look at next.

    `model="tpe"`, the default, compares two densities, of the good designs and of the
    others (a tree-structured Parzen estimator, Optuna's); it is quick, and takes what
    comes. `model="gp"` (extra `bo`) fits a Gaussian process to the losses and to each
    constraint, with the errors that the evaluations quote, and asks where the noisy
    expected improvement of a whole batch is largest (qLogNEI, BoTorch's), every other
    time near the best design: far fewer trials, but seconds of its own for each batch.

    Parameters: all kinds; a search begins with the start and Sobol points. Constraints:
    "tpe" sorts feasible designs first; "gp" multiplies the improvement with the
    probability that all constraints hold. A failed design is left out of the model.

    It recommends, with "tpe", the best design seen (with noise also the luckiest), and
    with "gp" the one of those seen that the process expects to be best, feasible first.

    The state is the history; model and questions are made anew from it and the key.

    Args:
        model: "tpe" or "gp".
        batch: designs that are asked for together.
        startup: designs before the model is asked; by default twice the number of
            parameters and two, within 8 and 20.

    Raises:
        InputError: a value out of range.
    """

    model: str = eqx.field(static=True, default="tpe")
    batch: int = 4
    startup: int | None = None
    references: ClassVar[tuple[str, ...]] = (
        "T. Akiba et al., Optuna: a next-generation hyperparameter optimization framework,"
        " KDD 2019, arXiv:1907.10902",
        "S. Watanabe, Tree-structured Parzen estimator, arXiv:2304.11127",
        "M. Balandat et al., BoTorch, NeurIPS 33 (2020), arXiv:1910.06403",
        "S. Ament et al., Unexpected improvements to expected improvement for Bayesian "
        "optimization, arXiv:2310.20708",
    )
    needs_gradient: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse unknown models and empty batches."""
        if self.model not in MOST:
            raise errors.InputError(
                f"`model` must be 'tpe' or 'gp', but is {self.model!r}. "
                f"{errors.nearest(self.model, MOST)}"
            )
        if int(self.batch) != self.batch or self.batch < 1:
            raise errors.InputError(
                f"`batch` must be a whole number >= 1, but is {self.batch}. Try 4."
            )
        if self.startup is not None and self.startup < 2:
            raise errors.InputError(
                f"`startup` must be at least 2, but is {self.startup}. "
                "Leave it out, or raise it."
            )

    def check(self, problem: Problem) -> None:
        """Refuse more parameters than a model of the loss can hold."""
        check_dimension("Bayesian", problem, MOST[self.model])
        if self.model == "gp":
            gaussian_process.require('Bayesian(model="gp")')

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> History:
        """See the base class."""
        return history.fresh(problem, u0, key)

    def ask(self, state: History, *, key: Key) -> tuple[np.ndarray, History]:
        """The start and Sobol points, then what the model expects most of."""
        first = self.startup or startup_of(state.coordinates)
        done = len(state.us) + len(state.asked)
        if done < first or np.sum(state.good) < 2:
            us = history.first_points(state, min(self.batch, max(1, first - done)))
        elif self.model == "tpe":
            us = samplers.tpe(state, self.batch, seed_of(key), 2)
        else:
            us = gaussian_process.improve(state, self.batch, seed_of(key))
        return us, history.asking(state, us, np.zeros(len(us), int))

    def tell(
        self, state: History, us: np.ndarray, evaluations: list[Evaluation]
    ) -> History:
        """Keep all of it."""
        return history.told(state, us, evaluations, None)

    def recommend(self, state: History) -> np.ndarray:
        """The best of the designs seen, by the model where it has one, shape (1, n)."""
        if not np.any(state.good):
            return np.asarray(state.u0)[None]
        orders = state.orders
        if self.model == "gp" and np.sum(state.good) >= 2:
            values, slack = gaussian_process.fitted(state).means()
            violation = np.sum(np.maximum(0.0, -slack), 1)
            expected = np.stack([np.zeros(len(values)), violation, values[:, 0]], -1)
            orders = np.full_like(orders, np.inf)
            orders[state.good] = expected
        return constraints.best(np.asarray(state.us), orders)


def startup_of(kinds: Coordinates) -> int:
    """Points that are looked at before there is a model."""
    return int(np.clip(2 * kinds.variables + 2, 8, 20))


def check_dimension(name: str, problem: Problem, most: int) -> None:
    """Refuse more parameters than a model of the loss can hold.

    Raises:
        UnsupportedError: with what to use instead.
    """
    check_sobol(problem.space.size)
    count = Coordinates.of(problem.space).variables
    if count > most:
        raise errors.UnsupportedError(
            f"`{name}` models the loss in at most {most} parameters, but the space has "
            f"{count:,}. Freeze all but the most important ones (`ky.sensitivity` finds "
            "them), or use `adam` with gradients, or `Evolution(diagonal=True)`."
        )
