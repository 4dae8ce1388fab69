"""One large evaluation, cut into pieces that go to different processes."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, outcomes
from kythera.core.problem import Problem
from kythera.core.types import Array, Float, Key, PyTree
from kythera.estimators.direct import Direct


class Spread(AbstractEstimator[None]):
    """Cuts the events of one evaluation into pieces, which an executor measures at once.

    For evaluations that take minutes, where an optimiser asks for fewer designs than there
    are workers. Tallies add up: the pieces first give theirs; with the mean m known they
    give their parts of the spread of the influences and, where the inner engine has
    gradients, of those. All sums are made here in the order of the pieces, so that the
    result depends on the number of pieces, but neither on that of the workers nor on who
    is first. Pieces are equal: the events are rounded up.

    An evaluation simulates its events twice, as every one of several chunks does. Where a
    stage runs outside JAX, the pieces give the tallies of their events, and nothing is
    simulated twice.

    Args:
        estimator: the inner engine: `Direct`, `Pathwise` or `ScoreFunction`.
        parts: number of pieces; a small multiple of the number of workers.

    Raises:
        InputError: fewer than two pieces.
        UnsupportedError: another engine.
    """

    estimator: AbstractEstimator = Direct()
    parts: int = 8
    references: ClassVar[tuple[str, ...]] = ()

    def __check_init__(self):
        """Refuse a single piece, and engines that are no single measurement."""
        if int(self.parts) != self.parts or self.parts < 2:
            raise errors.InputError(
                f"`parts` must be a whole number >= 2, but is {self.parts}. Try 8."
            )
        if not hasattr(self.estimator, "mode"):
            raise errors.UnsupportedError(
                "`Spread` cuts one measurement into pieces, but "
                f"`{type(self.estimator).__name__}` makes several, which an executor "
                "spreads already. Use it alone, or spread `Direct`, `Pathwise` or "
                "`ScoreFunction`."
            )

    @property
    def gives_gradient(self) -> bool:
        """As the inner engine."""
        return self.estimator.gives_gradient

    def check(self, problem: Problem) -> None:
        """What the inner engine refuses."""
        self.estimator.check(problem)

    def price(self, problem: Problem) -> int:
        """That of the events, rounded up to equal pieces."""
        return self._cut(problem).price

    def _cut(self, problem: Problem) -> Problem:
        """The problem with as many equal chunks in each piece."""
        parts = min(self.parts, problem.events)
        count = parts * -(-problem.chunks[0] // parts)
        size = -(-problem.events // count)
        return problem.replace(events=count * size, chunk=size)

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
        cut = self._cut(problem)
        count = cut.chunks[0]
        size = count // min(self.parts, count)
        items = [
            (np.asarray(u), k, first, size)
            for u, k in zip(us, key, strict=True)
            for first in range(0, count, size)
        ]
        pieces = count // size
        host = cut.pipeline.is_host
        work = functools.partial(_host_piece if host else _first_piece, cut)
        found = _grouped(list(outcomes(map, work, items)), pieces)
        mode: measure.Mode = self.estimator.mode  # type: ignore[attr-defined]
        if host:
            return [
                _from_rows(cut, u, k, parts)
                for u, k, parts in zip(us, key, found, strict=True)
            ], state
        means = [_sum(parts) for parts in found]
        again = [
            (*item, means[i // pieces])
            for i, item in enumerate(items)
            if not isinstance(means[i // pieces], errors.SimulationError)
        ]
        work = functools.partial(_second_piece, cut, mode)
        sums = iter(_grouped(list(outcomes(map, work, again)), pieces))
        return [
            _failed(cut, mean)
            if isinstance(mean, errors.SimulationError)
            else _from_sums(cut, np.asarray(u), mean, _sum(next(sums)))
            for u, mean in zip(us, means, strict=True)
        ], state


def _grouped(found: list[Any], size: int) -> list[list[Any]]:
    return [found[i : i + size] for i in range(0, len(found), size)]


def _sum(parts: Sequence[Any]) -> Any:
    """One piece after the other; the first error where there is one."""
    for part in parts:
        if isinstance(part, errors.SimulationError):
            return part
    return functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), parts)


def _failed(problem: Problem, error: errors.SimulationError) -> Evaluation:
    return Evaluation.failed(str(error), problem.price)


@jit
def _tallies(problem: Problem, u: Array, key: Key, first: Array, count: int) -> PyTree:
    keys = measure.chunk_keys(key, first, count)
    return measure.add_tallies(problem, u, keys)


@jit
def _influences(
    problem: Problem,
    u: Array,
    key: Key,
    first: Array,
    count: int,
    mean: PyTree,
    mode: measure.Mode,
) -> tuple[Array, Array | None]:
    keys = measure.chunk_keys(key, first, count)
    return measure.add_influences(problem, u, keys, mean, mode)


_conclude = jit(measure.conclude)


def _first_piece(problem: Problem, item: tuple) -> PyTree:
    """What one piece adds to the mean tally, as NumPy arrays."""
    u, key, first, count = item
    where = jnp.asarray(first)
    return measure.simulated(
        _tallies, problem, jnp.asarray(u, float), key, where, count
    )


def _second_piece(problem: Problem, mode: measure.Mode, item: tuple) -> Any:
    """What one piece adds to spread and gradients, as NumPy arrays."""
    u, key, first, count, mean = item
    u, first = jnp.asarray(u, float), jnp.asarray(first)
    mean = jax.tree.map(jnp.asarray, mean)
    return measure.simulated(_influences, problem, u, key, first, count, mean, mode)


def _host_piece(problem: Problem, item: tuple) -> PyTree:
    """Tallies of the events of one piece, as NumPy arrays."""
    u, key, first, count = item

    def rows(u: Array) -> PyTree:
        chunks = range(first, first + count)
        return measure.join_rows(
            [measure.chunk_rows(problem, u, key, chunk) for chunk in chunks]
        )

    return measure.simulated(rows, jnp.asarray(u, float))


def _from_sums(problem: Problem, u: np.ndarray, mean: PyTree, sums: Any) -> Evaluation:
    if isinstance(sums, errors.SimulationError):
        return _failed(problem, sums)
    arrays = jax.tree.map(jnp.asarray, (mean, *sums))
    found = measure.fetch(_conclude(problem, jnp.asarray(u, float), *arrays))
    return measure.finish(problem, found, problem.price)


def _from_rows(problem: Problem, u: Array, key: Key, parts: list[Any]) -> Evaluation:
    for part in parts:
        if isinstance(part, errors.SimulationError):
            return _failed(problem, part)
    rows = measure.join_rows(parts)
    found = measure.fetch(measure.rows_measured(problem, jnp.asarray(u, float), rows))
    return measure.finish(problem, found, problem.price)
