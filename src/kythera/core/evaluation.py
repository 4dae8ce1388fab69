"""What was learnt at one design, and the interfaces of engines, optimisers and records."""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import equinox as eqx
import numpy as np

from kythera import errors
from kythera.core.problem import Problem
from kythera.core.types import AbstractClassVar, Array, Float, Key
from kythera.text import format_measured

S = TypeVar("S")
Map = Callable[..., Iterable[Any]]  # like the builtin `map`: an executor


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number, its standard error, and its gradient in the cube where known.

    Args:
        value: the number.
        stderr: one standard deviation; nan where a single row cannot tell.
        gradient: with respect to the point of the cube, shape (n,).
    """

    value: float
    stderr: float
    gradient: np.ndarray | None = None

    def __str__(self) -> str:
        """Value and error, rounded to the error."""
        return format_measured(self.value, self.stderr)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was learnt at one design.

    Args:
        total: the weighted loss.
        terms: its named terms, unweighted.
        slack: the named constraints, each to be >= 0.
        covariance: of the terms, in their order, shape (terms, terms).
        events: primaries that were simulated for it.
        cause: why it failed; empty where it did not. A failed evaluation has an infinite
            total and nothing else.
    """

    total: Measured
    terms: Mapping[str, Measured]
    slack: Mapping[str, Measured]
    covariance: np.ndarray
    events: int
    cause: str = ""

    @property
    def violation(self) -> float:
        """Sum of the amounts by which constraints are broken, 0 where all hold."""
        return float(sum(max(0.0, -s.value) for s in self.slack.values()))

    @classmethod
    def failed(cls, cause: str, events: int) -> "Evaluation":
        """An evaluation that gave no number."""
        nothing = Measured(float("inf"), float("nan"))
        return cls(nothing, {}, {}, np.zeros((0, 0)), events, cause)


class AbstractEstimator(eqx.Module, Generic[S]):
    """A gradient engine: what can be learnt at one design, and by which means."""

    references: ClassVar[tuple[str, ...]] = ()
    gives_gradient: AbstractClassVar[bool]

    @abc.abstractmethod
    def check(self, problem: Problem) -> None:
        """Refuse a problem that cannot work, before anything is simulated.

        Raises:
            UnsupportedError: with a sentence that says what to use instead.
        """

    def seen(self, problem: Problem) -> Problem:
        """The problem as an optimiser's `check` may take it: smoother, if it is made so."""
        return problem

    def price(self, problem: Problem) -> int:
        """Primaries that are simulated for one design."""
        return problem.price

    def init(self, problem: Problem, *, key: Key) -> S:
        """The first state: surrogate weights, replay buffers; None where there is none."""
        return None  # type: ignore[return-value]

    @abc.abstractmethod
    def __call__(
        self,
        problem: Problem,
        us: Float[Array, "q n"],
        state: S,
        *,
        key: Key,
        map: Map,
    ) -> tuple[list[Evaluation], S]:
        """Evaluate q designs.

        Args:
            problem: what to evaluate.
            us: points of the cube, shape (q, n).
            state: from `init` or the last call.
            key: one key for each design, shape (q,).
            map: the executor through which simulations reach other processes.
        """

    def measured(
        self,
        problem: Problem,
        state: S,
        us: Float[Array, "2 n"],
        *,
        key: Key,
        map: Map,
    ) -> tuple[Problem, int]:
        """The problem to re-measure with, learned parts in place, and what that took.

        Args:
            problem: what was searched.
            state: from the last call.
            us: start and recommended design, for which learned parts must be alike.
            key: of all that is simulated for it.
            map: the executor.

        Returns:
            the problem, and the primaries that were simulated.
        """
        return problem, 0


class AbstractOptimiser(eqx.Module, Generic[S]):
    """Which design to look at next."""

    references: ClassVar[tuple[str, ...]] = ()
    # Whether `ask` may come again before all that it asked for was told, and `tell` one
    # design at a time, in any order.
    asynchronous: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def needs_gradient(self) -> bool:
        """Whether `tell` needs gradients; where it is always so, a class variable."""

    @property
    def sample(self) -> str:
        """Which events the designs see.

        "fresh": each trial its own; "batch": designs that are asked for together share
        theirs; "fixed": all trials share those of the first.
        """
        return "fresh"

    def check(self, problem: Problem) -> None:
        """Refuse kinds of parameters, constraints, or a dimension that cannot work.

        Raises:
            UnsupportedError: with a sentence that says what to use instead.
        """
        return

    @abc.abstractmethod
    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> S:
        """The first state; of the problem only names, groups, units and terms count."""

    @abc.abstractmethod
    def ask(self, state: S, *, key: Key) -> tuple[np.ndarray, S]:
        """Points of the cube to be evaluated side by side, shape (q, n)."""

    @abc.abstractmethod
    def tell(self, state: S, us: np.ndarray, evaluations: list[Evaluation]) -> S:
        """Take in what was learnt at the points that were asked for.

        Some may have failed, and where a budget ended within a batch only the first of
        them are here.
        """

    @abc.abstractmethod
    def recommend(self, state: S) -> np.ndarray:
        """What it would build now, shape (m, n); m > 1 is a front."""

    def finished(self, state: S) -> str:
        """Why it has nothing more to ask; empty while it has."""
        return ""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One design that was evaluated.

    Args:
        number: from 0, in the order of the tells.
        sample: the number whose key drew the events (its own unless the optimiser shares).
        u: point of the cube, shape (n,).
        values: native value of each coordinate, shape (n,).
        evaluation: what was learnt.
        seconds: wall time of its batch, shared out equally.
        spent: primaries of this and all earlier trials.
    """

    number: int
    sample: int
    u: np.ndarray
    values: np.ndarray
    evaluation: Evaluation
    seconds: float
    spent: int

    @property
    def state(self) -> str:
        """Either "complete" or "failed"."""
        return "failed" if self.evaluation.cause else "complete"


# After each trial; True stops, and so does a text, which says why.
Callback = Callable[[Trial], bool | str | None]


class Recorder(Protocol):
    """Where trials go; the loop knows no database."""

    def add(self, trial: Trial) -> None:
        """Keep one trial."""
        ...

    def checkpoint(self, number: int, state: Any, recommended: np.ndarray) -> None:
        """Keep the state after trial `number`, a tree of arrays, numbers and text.

        It holds what `optimise` needs to go on: the states of optimiser and estimator,
        and why the search ends, if it does. `recommended` is what the optimiser
        would build now: point of the cube and native values, shape (2, n).
        """
        ...


def outcomes(
    map: Map, work: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[Any]:
    """Results of `map` in order; where an item was lost, its `SimulationError` instead.

    One simulation that fails, or takes its worker with it, costs its own designs only. Any
    other error ends the search, as it should: it is a fault of the program.
    """
    found = iter(map(work, items))
    last: errors.SimulationError | None = None
    try:
        for _ in items:
            try:
                yield next(found)
            except errors.SimulationError as error:
                last = error
                yield error
            except StopIteration:  # an iterator that ends with its first error
                raise last or RuntimeError("`map` gave too few results") from None
    finally:
        getattr(found, "close", lambda: None)()


def blocks(count: int, width: int) -> list[np.ndarray]:
    """Indices of `count` designs in blocks of `width`, the last index repeated to fill up.

    All blocks have one shape, so that one program serves any number of designs. A design
    that is alone stays alone: a search that asks for one at a time pays for one.
    """
    size = 1 if count == 1 else width
    return [
        np.minimum(np.arange(i, i + size), count - 1) for i in range(0, count, size)
    ]
