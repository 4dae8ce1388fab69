"""When a search ends: its limits, nothing gained any more, an interrupt."""

import dataclasses
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np

from kythera import errors
from kythera.core.evaluation import Trial


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a search may spend; one of them must be given.

    Args:
        events: primaries that it may simulate.
        trials: designs that it may look at.
        seconds: wall time after which no new design is asked for.
    """

    events: float | None
    trials: float | None
    seconds: float | None

    def check(self, price: int, rows: int, first: int) -> None:
        """Refuse limits that leave nothing to do.

        Args:
            price: primaries of one design.
            rows: of one evaluation.
            first: designs that are measured whatever the optimiser asks for.

        Raises:
            InputError: no limit, or one that is too small.
        """
        limits = {f"max_{k}": v for k, v in dataclasses.asdict(self).items()}
        if all(limit is None for limit in limits.values()):
            raise errors.InputError(
                "A run needs a budget, but none was given. Set max_events, max_trials "
                "or max_seconds."
            )
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise errors.InputError(
                    f"`{name}` must be > 0, but is {limit}. Give a larger budget."
                )
        if self.events is not None and self.events < price:
            raise errors.InputError(
                f"The budget of {self.events:,.0f} events is smaller than one "
                f"evaluation, {price:,} events. Raise the budget or lower "
                f"`problem.events`, {rows}."
            )
        if self.fit(first, [], price) < first:
            raise errors.InputError(
                f"The start and the enqueued designs are {first} trials of {price:,} "
                "events, more than the budget allows. Raise it, or enqueue fewer."
            )

    def fit(self, count: int, trials: Sequence[Trial], price: int) -> int:
        """How many of `count` more designs fit into the limits."""
        spent = trials[-1].spent if trials else 0
        room = float(count)
        if self.trials is not None:
            room = min(room, self.trials - len(trials))
        if self.events is not None:
            room = min(room, (self.events - spent) / price)
        return max(0, int(room))

    def reached(self, trials: Sequence[Trial], price: int, seconds: float) -> str:
        """Why there is no room for a single design more; empty while there is."""
        if self.trials is not None and self.trials - len(trials) < 1:
            return "all trials are done"
        if self.seconds is not None and seconds >= self.seconds:
            return "the time is over"
        return "" if self.fit(1, trials, price) else "the budget of events is spent"


class Converged:
    """A callback that stops when nothing is gained any more, measured against the noise.

    It compares the mean loss of the last `window` trials with that of the `window` before:
    it stops when the gain is not above `sigmas` standard errors of that difference, where
    the errors are the larger of the quoted ones and the observed scatter. Losses on the
    same events (a `batch`, or two trials of one sample) vary together: their quoted errors
    add up in one half and cancel between the halves. Where all trials share their events
    (`LBFGSB`) there is no noise between them: it stops when the mean does not fall.

    Args:
        window: number of trials in each half, at least two.
        sigmas: how significant a gain must be to go on.
    """

    def __init__(self, window: int = 20, sigmas: float = 1.0):
        """See the class."""
        if window < 2:
            raise errors.InputError(
                f"`window` must be at least 2 trials, but is {window}. Try 20."
            )
        self.window, self.sigmas = window, sigmas
        self._losses: list[tuple[float, float, int]] = []

    def __call__(self, trial: Trial) -> bool:
        """Whether to stop after this trial."""
        if trial.number == 0:
            self._losses.clear()
        if trial.state == "complete":
            total = trial.evaluation.total
            self._losses.append((total.value, total.stderr, trial.sample))
        w = self.window
        if len(self._losses) < 2 * w or len(self._losses) % w:
            return False
        values, errs, samples = np.array(self._losses[-2 * w :]).T
        before, after = values[:w], values[w:]
        _, sample = np.unique(samples, return_inverse=True)
        shared = np.bincount(sample, np.nan_to_num(errs) * np.repeat([1, -1], w) / w)
        scatter = (before.var(ddof=1) + after.var(ddof=1)) / w
        noise = np.sqrt(max(np.sum(shared**2), scatter)) if len(shared) > 1 else 0.0
        return bool(before.mean() - after.mean() <= self.sigmas * noise)


class Interrupt:
    """Turns the first SIGINT into a clean stop; the second one is raised.

    A handler that the caller installed before is told of both.
    """

    def __enter__(self) -> "Interrupt":
        self.asked = False
        try:
            self._old = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread: nobody can press Ctrl-C here
            self._old = None
        return self

    def _ask(self, *signal_and_frame: Any) -> None:
        if callable(self._old) and self._old is not signal.default_int_handler:
            self._old(*signal_and_frame)
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
