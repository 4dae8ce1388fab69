"""Several searches side by side, from starts that fill the cube."""

from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints
from kythera.optimisers.random_search import check_sobol, seed_of, sobol

LATEST = 5  # tells of a copy that are compared with those of the others


class StartsState(NamedTuple):
    """The copies' states, and how each is doing.

    Args:
        copies: one state of the inner optimiser for each start.
        asked: points that each copy asked for, shape (starts,).
        orders: failure, violation and loss of the median design of each copy's latest
            tells, oldest first, shape (starts, 5, 3); inf where there is none yet.
    """

    copies: tuple[Any, ...]
    asked: np.ndarray
    orders: np.ndarray


class MultiStart(AbstractOptimiser[StartsState]):
    """Copies of one optimiser from several starts: against local minima.

    The first copy starts from the problem's start, the others from Sobol points. All
    questions go out in one batch: what a cluster evaluates side by side. Copies that have
    finished ask nothing more. Parameters, constraints and failures: as the inner
    optimiser.

    The recommended design is that of the copy whose latest five tells are the best in
    their median, feasible first.

    Args:
        optimiser: what runs from each start.
        starts: number of copies.

    Raises:
        InputError: fewer than two starts.
    """

    optimiser: AbstractOptimiser
    starts: int = 8
    references: ClassVar[tuple[str, ...]] = (
        "F. Schoen, Stochastic techniques for global optimization: a survey of recent "
        "advances, J. Global Optim. 1 (1991) 207",
    )

    def __check_init__(self):
        """Refuse a single start."""
        if int(self.starts) != self.starts or self.starts < 2:
            raise errors.InputError(
                f"`starts` must be a whole number >= 2, but is {self.starts}. "
                "Use the inner optimiser alone for a single one."
            )

    @property
    def needs_gradient(self) -> bool:
        """As the inner optimiser."""
        return self.optimiser.needs_gradient

    @property
    def sample(self) -> str:
        """As the inner optimiser."""
        return self.optimiser.sample

    def check(self, problem: Problem) -> None:
        """What the inner optimiser refuses."""
        check_sobol(problem.space.size)
        self.optimiser.check(problem)

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> StartsState:
        """See the base class."""
        first = np.clip(np.asarray(u0, float), 0, 1)
        others = sobol(first.size, 0, self.starts - 1, seed_of(key))
        copies = tuple(
            self.optimiser.init(problem, u, key=jax.random.fold_in(key, i))
            for i, u in enumerate(np.concatenate([first[None], others]))
        )
        nothing = np.full((self.starts, LATEST, 3), np.inf)
        return StartsState(copies, np.zeros(self.starts, int), nothing)

    def ask(self, state: StartsState, *, key: Key) -> tuple[np.ndarray, StartsState]:
        """The questions of all copies that have not finished, one after the other."""
        copies, questions = list(state.copies), []
        asked = np.zeros(self.starts, int)
        for i, copy in enumerate(state.copies):
            if not self.optimiser.finished(copy):
                us, copies[i] = self.optimiser.ask(copy, key=jax.random.fold_in(key, i))
                asked[i] = len(us)
                questions.append(us)
        return np.concatenate(questions), state._replace(
            copies=tuple(copies), asked=asked
        )

    def tell(
        self, state: StartsState, us: np.ndarray, evaluations: list[Evaluation]
    ) -> StartsState:
        """Each copy hears the answers to its own questions, where there are any."""
        copies, orders = list(state.copies), np.array(state.orders)
        ends = np.cumsum(state.asked)
        for i, (end, count) in enumerate(zip(ends, state.asked, strict=True)):
            own = slice(end - count, end)
            if evaluations[own]:
                copies[i] = self.optimiser.tell(copies[i], us[own], evaluations[own])
                ranked = sorted(constraints.order(e) for e in evaluations[own])
                orders[i] = np.concatenate([orders[i][1:], [ranked[len(ranked) // 2]]])
        return state._replace(
            copies=tuple(copies), orders=orders, asked=np.zeros(self.starts, int)
        )

    def recommend(self, state: StartsState) -> np.ndarray:
        """What the copy that does best recommends."""
        return self.optimiser.recommend(state.copies[self.leader(state)])

    def leader(self, state: StartsState) -> int:
        """Number of the copy whose latest tells are the best in their median."""
        medians = []
        for latest in np.asarray(state.orders):
            told = sorted(tuple(row) for row in latest if not np.all(np.isinf(row)))
            medians.append(told[len(told) // 2] if told else (np.inf,) * 3)
        return min(range(len(medians)), key=medians.__getitem__)

    def finished(self, state: StartsState) -> str:
        """When all copies are."""
        reasons = [self.optimiser.finished(copy) for copy in state.copies]
        if not all(reasons):
            return ""
        return (
            f"all {self.starts} searches ended, the best because: "
            + reasons[self.leader(state)]
        )
