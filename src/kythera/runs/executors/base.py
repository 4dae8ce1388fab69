"""What an executor is, and the one that needs nothing."""

import abc
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self


class AbstractExecutor(abc.ABC):
    """Where work is done: a `map`, between `with` and its end.

    Results come in the order of the items. An item whose work raises raises when its turn
    comes, with its cause; the others are not lost by that: the iterator goes on.

    Args:
        text: what `kythera.runs.executors.make` was given.
    """

    def __init__(self, text: str):
        self.text = text

    @property
    @abc.abstractmethod
    def workers(self) -> int:
        """How many items are worked on at a time, now or as soon as workers come."""

    @property
    @abc.abstractmethod
    def cpu_seconds(self) -> float:
        """CPU time that finished items took outside of this process, so far."""

    @abc.abstractmethod
    def __call__(
        self, work: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """Results of `work` for each item, in order, like the builtin `map`."""

    @abc.abstractmethod
    def submit(
        self, work: Callable[[Any], Any], item: Any
    ) -> "concurrent.futures.Future[Any]":
        """The result of `work` for one item, to come."""

    def describe(self) -> str:
        """A text for people and records; it holds no secret."""
        return self.text

    def __enter__(self) -> Self:
        """Start the workers, or begin to wait for them."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the workers go; what they are at is dropped."""
        return


class Local(AbstractExecutor):
    """This process: one item after the other, each with all cores that XLA can use.

    Small simulations run fastest here: an item is a block of designs that are simulated
    together (`kythera.core.problem.Problem.width`).
    """

    def __init__(self, text: str = "local"):
        super().__init__(text)

    @property
    def workers(self) -> int:
        """One."""
        return 1

    @property
    def cpu_seconds(self) -> float:
        """Nothing is done elsewhere."""
        return 0.0

    def __call__(
        self, work: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """The builtin."""
        return map(work, items)

    def submit(
        self, work: Callable[[Any], Any], item: Any
    ) -> "concurrent.futures.Future[Any]":
        """Done at once."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(work(item))
        except Exception as error:
            future.set_exception(error)
        return future
