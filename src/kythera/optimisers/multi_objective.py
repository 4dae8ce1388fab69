"""Several goals at once: the front of designs that no other one beats in all of them."""

from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints, gaussian_process, history, pareto, samplers
from kythera.optimisers.bayesian import check_dimension, startup_of
from kythera.optimisers.history import History
from kythera.optimisers.random_search import check_sobol, seed_of

MOST = 100  # parameters of the model


class MultiObjective(AbstractOptimiser[History]):
    """Looks for a front over named terms of the loss, each minimised, unweighted.

    `model="nsga2"`, the default, lets a population evolve, sorted by who dominates whom
    (NSGA-II, Optuna's): for hundreds of designs or more. `model="gp"` (extra `bo`) fits a
    Gaussian process to each term and to each constraint and asks where the dominated volume is
    expected to grow most, with noise (qLogNEHVI, BoTorch's): for tens of costly designs.

    Parameters: all kinds. Constraints: "nsga2" sorts feasible designs first; "gp" counts a
    volume as far as all constraints probably hold. A failed design is left out.

    It recommends a front, shape (m, n): of the feasible designs seen, those that none
    dominates ("gp": by what the processes expect). The first of them has the lowest
    weighted loss; it is what a solution calls the best. `ky.front` measures all of them
    anew, with errors.

    Args:
        terms: names of the terms; by default all of them.
        model: "nsga2" or "gp".
        batch: designs that are asked for together, of "nsga2" the population; by default
            40 and 4.
        reference: the worst value that counts, by term ("gp"); by default a little worse
            than the front so far.
        startup: designs before the model is asked ("gp"); by default twice the number of
            parameters and two, within 8 and 20.

    Raises:
        InputError: a value out of range, or a reference without all terms.
    """

    terms: tuple[str, ...] | None = eqx.field(static=True, default=None)
    model: str = eqx.field(static=True, default="nsga2")
    batch: int | None = None
    reference: Mapping[str, float] | None = None
    startup: int | None = None
    references: ClassVar[tuple[str, ...]] = (
        "K. Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, "
        "IEEE Trans. Evol. Comput. 6 (2002) 182",
        "S. Daulton, M. Balandat, E. Bakshy, Parallel Bayesian optimization of multiple "
        "noisy objectives with expected hypervolume improvement, arXiv:2105.08195",
    )
    needs_gradient: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse unknown models, single terms and references that do not fit."""
        if self.model not in ("nsga2", "gp"):
            raise errors.InputError(
                f"`model` must be 'nsga2' or 'gp', but is {self.model!r}. "
                f"{errors.nearest(self.model, ('nsga2', 'gp'))}"
            )
        if self.batch is not None and self.batch < (4 if self.model == "nsga2" else 1):
            raise errors.InputError(
                f"`batch` is too small: {self.batch}. NSGA-II needs a population of 4 or "
                "more, a process a batch of one or more. Leave it out, or raise it."
            )
        if self.terms is not None and len(set(self.terms)) < 2:
            raise errors.InputError(
                f"A front needs two terms or more, but got {self.terms}. Name others, or "
                "use `Bayesian` or `Evolution` for a single one."
            )
        if self.reference is not None and set(self.reference) != set(self.terms or ()):
            raise errors.InputError(
                "`reference` must name each of `terms`, but got "
                f"{sorted(self.reference)} for {self.terms}. Name both alike."
            )

    def check(self, problem: Problem) -> None:
        """Refuse terms that are none, and more parameters than a model can hold."""
        check_sobol(problem.space.size)
        known = problem.term_names()
        if known is not None:
            for name in self.terms or ():
                if name not in known:
                    raise errors.InputError(
                        f"The loss has no term {name!r}. {errors.nearest(name, known)}"
                    )
            _check_several(self.terms or tuple(known))
        if self.model == "gp":
            check_dimension("MultiObjective", problem, MOST)
            gaussian_process.require('MultiObjective(model="gp")')

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> History:
        """See the base class."""
        return history.fresh(problem, u0, key)

    def ask(self, state: History, *, key: Key) -> tuple[np.ndarray, History]:
        """The start and Sobol points, then offspring or what the processes ask for."""
        nsga2 = self.model == "nsga2"
        size = self.batch or (40 if nsga2 else 4)
        first = size if nsga2 else self.startup or startup_of(state.coordinates)
        done = len(state.us) + len(state.asked)
        generation = None
        if done < first or np.sum(state.good) < 2:
            us = history.first_points(state, min(size, max(1, first - done)))
        elif nsga2:
            us, generation = samplers.nsga2(state, size, seed_of(key), size)
        else:
            us = gaussian_process.widen(
                state, size, seed_of(key), self._reference(state)
            )
        if generation is None:
            generation = np.zeros(len(us), int)
        return us, history.asking(state, us, generation)

    def tell(
        self, state: History, us: np.ndarray, evaluations: list[Evaluation]
    ) -> History:
        """Keep all of it."""
        names = self.terms
        for evaluation in evaluations:
            if names is None and constraints.is_good(evaluation):
                names = tuple(evaluation.terms)
        if names is not None:
            _check_several(names)
        return history.told(state, us, evaluations, names)

    def recommend(self, state: History) -> np.ndarray:
        """The front, the lowest weighted loss first, shape (m, n)."""
        good = np.asarray(state.good)
        if not good.any():
            return np.asarray(state.u0)[None]
        us, values = np.asarray(state.us)[good], np.asarray(state.values)[good]
        totals, violation = state.totals[good], state.violation[good]
        if self.model == "gp" and len(us) >= 2:
            values, slack = gaussian_process.fitted(state).means()
            violation = np.sum(np.maximum(0.0, -slack), 1)
        least = violation <= violation.min()
        us, values, totals = us[least], values[least], totals[least]
        front = pareto.nondominated(values)
        order = np.argsort(totals[front], kind="stable")
        _, first = np.unique(us[front][order], axis=0, return_index=True)
        return us[front][order][np.sort(first)]

    def _reference(self, state: History) -> np.ndarray:
        if self.reference is not None and self.terms is not None:
            return np.array([float(self.reference[name]) for name in self.terms])
        feasible = state.good & (state.violation == 0)
        rows = feasible if feasible.any() else state.good
        return pareto.reference_point(np.asarray(state.values)[rows])


def _check_several(names: tuple[str, ...]) -> None:
    if len(names) < 2:
        raise errors.UnsupportedError(
            f"A front needs two terms or more, but the loss has {list(names)}. Name "
            "more terms in the objective, or use `Bayesian` or `Evolution`."
        )
