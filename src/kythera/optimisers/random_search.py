"""Points that fill the cube evenly: the search that every other one must beat."""

import warnings
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints


class SearchState(NamedTuple):
    """How far the sequence was asked, and the best point so far.

    Args:
        seed: of the scrambling.
        count: points that were asked for.
        u0: the start, the first point asked for, shape (n,).
        best: best point so far, shape (n,).
        order: its failure, violation and loss, shape (3,).
    """

    seed: int
    count: int
    u0: np.ndarray
    best: np.ndarray
    order: np.ndarray


class RandomSearch(AbstractOptimiser[SearchState]):
    """The start, then scrambled Sobol points, many at a time.

    Parameters: all kinds. Constraints and failures: the best is looked for among feasible
    designs first, then among those that break their constraints least.

    The recommended design is the best one *seen*: with noise it is also the luckiest, and
    its loss in the search is optimistic. That is why start and end are measured again on
    fresh events.

    Args:
        batch: designs that are asked for together.

    Raises:
        InputError: a batch below one.
    """

    batch: int = 16
    references: ClassVar[tuple[str, ...]] = (
        "I. M. Sobol', On the distribution of points in a cube and the approximate "
        "evaluation of integrals, USSR Comput. Math. Math. Phys. 7 (1967) 86",
        "P. Virtanen et al., SciPy 1.0, Nature Methods 17 (2020) 261",
    )
    needs_gradient: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse an empty batch."""
        if int(self.batch) != self.batch or self.batch < 1:
            raise errors.InputError(
                f"`batch` must be a whole number >= 1, but is {self.batch}. Try 16."
            )

    def check(self, problem: Problem) -> None:
        """Refuse more coordinates than Sobol's sequence has."""
        check_sobol(problem.space.size)

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> SearchState:
        """See the base class."""
        u = np.clip(np.asarray(u0, float), 0, 1)
        return SearchState(seed_of(key), 0, u, u, np.full(3, np.inf))

    def ask(self, state: SearchState, *, key: Key) -> tuple[np.ndarray, SearchState]:
        """The next points of the sequence, shape (batch, n)."""
        first = int(state.count)
        points = sobol(
            state.u0.size, max(0, first - 1), self.batch - (first == 0), state.seed
        )
        us = points if first else np.concatenate([state.u0[None], points])
        return us, state._replace(count=first + self.batch)

    def tell(
        self, state: SearchState, us: np.ndarray, evaluations: list[Evaluation]
    ) -> SearchState:
        """Keep the best."""
        orders = [constraints.order(e) for e in evaluations]
        points = np.concatenate([state.best[None], np.asarray(us, float)])
        known = [tuple(np.asarray(state.order, float)), *orders]
        index = min(range(len(points)), key=known.__getitem__)
        return state._replace(best=points[index], order=np.array(known[index]))

    def recommend(self, state: SearchState) -> np.ndarray:
        """The best point seen, feasible first, shape (1, n)."""
        return np.asarray(state.best)[None]


def check_sobol(n: int) -> None:
    """Refuse more coordinates than Sobol's sequence has.

    Raises:
        UnsupportedError: with what to use instead.
    """
    if n > qmc.Sobol.MAXDIM:
        raise errors.UnsupportedError(
            f"Sobol's sequence has at most {qmc.Sobol.MAXDIM:,} coordinates, but the "
            f"space has {n:,}. Use `adam`, or freeze some parameters."
        )


def seed_of(key: Key) -> int:
    """A whole number for libraries that know no keys."""
    return int(jax.random.bits(key, dtype=jnp.uint32))


def sobol(n: int, first: int, count: int, seed: int) -> np.ndarray:
    """Points first ... first + count - 1 of a scrambled Sobol sequence, (count, n)."""
    if count == 0:
        return np.zeros((0, n))
    rng = np.random.default_rng(int(seed))
    sequence = qmc.Sobol(n, seed=rng)  # pyright: ignore[reportCallIssue]
    if first:
        sequence.fast_forward(first)
    with warnings.catch_warnings():  # balance wants powers of two; a search does not
        warnings.simplefilter("ignore", UserWarning)
        return sequence.random(count)
