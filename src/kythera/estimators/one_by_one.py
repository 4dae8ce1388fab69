"""Engines that learn from one design before they look at the next."""

import abc
from typing import Generic, TypeVar

import numpy as np

from kythera.core.evaluation import AbstractEstimator, Evaluation, Map
from kythera.core.problem import Problem
from kythera.core.types import Array, Float, Key

S = TypeVar("S")


class AbstractOneByOne(AbstractEstimator[S], Generic[S]):
    """Takes designs that come together one after the other: each changes the state."""

    @abc.abstractmethod
    def evaluate(
        self, problem: Problem, u: np.ndarray, state: S, key: Key, map: Map
    ) -> tuple[Evaluation, S]:
        """Evaluate one design, point of the cube of shape (n,)."""

    def __call__(
        self,
        problem: Problem,
        us: Float[Array, "q n"],
        state: S,
        *,
        key: Key,
        map: Map = map,
    ) -> tuple[list[Evaluation], S]:
        """See the base class."""
        found = []
        for u, k in zip(np.asarray(us), key, strict=True):
            evaluation, state = self.evaluate(problem, u, state, k, map)
            found.append(evaluation)
        return found, state
