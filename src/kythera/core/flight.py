"""Designs under way: asked for, and not yet told."""

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, Trial
from kythera.core.problem import Problem
from kythera.core.types import Key


class Pending(NamedTuple):
    """What a checkpoint keeps of a flight.

    Args:
        asked: designs that were ever asked for; the number of the next one.
        samples: whose key draws the events of each that was not told, shape (k,).
        us: points of the cube, shape (k, n).
    """

    asked: int
    samples: np.ndarray
    us: np.ndarray


class Landed(NamedTuple):
    """A design that came back: its sample, point, evaluation, and time under way."""

    sample: int
    u: np.ndarray
    evaluation: Evaluation
    seconds: float


@dataclasses.dataclass(eq=False)
class _Design:
    sample: int
    u: np.ndarray
    result: concurrent.futures.Future | None = None
    began: float = 0.0


def evaluate_one(
    estimator: AbstractEstimator, problem: Problem, item: tuple[np.ndarray, Key]
) -> Evaluation:
    """One design by itself, in this process.

    Args:
        estimator: one without a state.
        problem: what to evaluate.
        item: point of the cube, shape (n,), and the key.
    """
    u, key = item
    us = jnp.asarray(u)[None]
    return estimator(problem, us, None, key=key[None], map=map)[0][0]


class Flight:
    """Designs that were asked for: some wait, some are being evaluated.

    Args:
        submit: (item) -> future; item is (point of the cube, key).
        keys: sample -> key.
        price: primaries of one design.
        pending: of a checkpoint; they wait in their order.
    """

    def __init__(
        self,
        submit: Callable[[tuple[np.ndarray, Key]], concurrent.futures.Future],
        keys: Callable[[int], Key],
        price: int,
        pending: Pending,
    ):
        self._submit, self._keys, self._price = submit, keys, price
        self.asked, self._n = int(pending.asked), pending.us.shape[1]
        self._waiting = collections.deque(
            _Design(int(s), u) for s, u in zip(pending.samples, pending.us, strict=True)
        )
        self._flying: list[_Design] = []

    @property
    def under_way(self) -> int:
        """How many are being evaluated."""
        return len(self._flying)

    @property
    def waiting(self) -> int:
        """How many were asked for and are not yet being evaluated."""
        return len(self._waiting)

    def ask(self, us: np.ndarray, samples: Sequence[int]) -> None:
        """Take designs that an optimiser asked for."""
        self._waiting.extend(map(_Design, samples, us))
        self.asked += len(us)

    def start(self) -> None:
        """Begin with the first one that waits."""
        design = self._waiting.popleft()
        design.began = time.perf_counter()
        design.result = self._submit((design.u, self._keys(design.sample)))
        self._flying.append(design)

    def next(self, like: Trial | None = None) -> Landed:
        """Wait for one that comes back: the first to do so, or the one of a record.

        Of several that are back already, the one that was asked for first is taken.

        Raises:
            InputError: the record's design is not under way.
        """
        design = self._any() if like is None else self._same(like)
        assert design.result is not None
        try:
            found = design.result.result()
        except errors.SimulationError as error:
            found = Evaluation.failed(str(error), self._price)
        self._flying.remove(design)
        seconds = time.perf_counter() - design.began
        return Landed(design.sample, design.u, found, seconds)

    def _any(self) -> _Design:
        results = [design.result for design in self._flying if design.result]
        concurrent.futures.wait(results, return_when=concurrent.futures.FIRST_COMPLETED)
        return next(d for d in self._flying if d.result and d.result.done())

    def _same(self, like: Trial) -> _Design:
        for design in self._flying:
            if design.sample == like.sample and np.array_equal(design.u, like.u):
                return design
        raise errors.InputError(
            "A search is replayed in the order of its tells, but the design of trial "
            f"{like.number} is not among the {len(self._flying)} under way. Give the "
            "problem, the engines, the key and `in_flight` with which it was recorded."
        )

    def pending(self) -> Pending:
        """What a checkpoint keeps."""
        designs = [*self._flying, *self._waiting]
        samples = np.array([design.sample for design in designs], np.int64)
        us = np.array([design.u for design in designs], float)
        return Pending(self.asked, samples, us.reshape(-1, self._n))

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        for design in self._flying:
            if design.result is not None:
                design.result.cancel()


def submitter(map: Map, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """How one item reaches an executor; without one, it is done at once.

    Args:
        map: an executor, or a plain function like the builtin.
        work: item -> result.
    """

    def at_once(item: Any) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(next(iter(map(work, [item]))))
        except errors.SimulationError as error:
            future.set_exception(error)
        return future

    submit = getattr(map, "submit", None)
    return at_once if submit is None else lambda item: submit(work, item)


def first_pending(n: int, asked: int) -> Pending:
    """Nothing is under way."""
    return Pending(asked, np.zeros(0, np.int64), np.zeros((0, n)))


def samples_of(policy: str, number: int, q: int) -> list[int]:
    """Which number's key draws the events of each of q designs that are asked together.

    Args:
        policy: an optimiser's `sample`.
        number: of the first of them.
        q: how many they are.
    """
    if policy == "fixed":
        return [0] * q
    return [number] * q if policy == "batch" else list(range(number, number + q))


def keys_of(root: Key, samples: Sequence[int]) -> Key:
    """fold_in(root, sample) of each; one by one: a vmap would compile for each count."""
    parts = [jax.random.key_data(jax.random.fold_in(root, i)) for i in samples]
    data = jnp.asarray(np.stack(parts))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(root))
