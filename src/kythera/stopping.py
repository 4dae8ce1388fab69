"""When a search ends: its limits, nothing gained any more, an interrupt."""

import atexit
import contextlib
import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from kythera import errors
from kythera.core.evaluation import Trial

PATIENCE = 5.0  # seconds that what runs may take after SIGTERM
GRACE = 2.0  # and how long after them the process may still not listen


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

    def fit(
        self, count: int, trials: Sequence[Trial], price: int, under_way: int = 0
    ) -> int:
        """How many of `count` more designs fit into the limits, beside those under way."""
        spent = trials[-1].spent if trials else 0
        room = float(count)
        if self.trials is not None:
            room = min(room, self.trials - len(trials) - under_way)
        if self.events is not None:
            room = min(room, (self.events - spent) / price - under_way)
        return max(0, int(room))

    def reached(
        self, trials: Sequence[Trial], price: int, seconds: float, under_way: int = 0
    ) -> str:
        """Why there is no room for a single design more; empty while there is."""
        if self.trials is not None and self.trials - len(trials) - under_way < 1:
            return "all trials are done"
        if self.seconds is not None and seconds >= self.seconds:
            return "the time is over"
        fits = self.fit(1, trials, price, under_way)
        return "" if fits else "the budget of events is spent"


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


class Abandoned(BaseException):
    """What ran did not end in time after SIGTERM; no `except Exception` may keep it."""


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a clean stop; the second one is raised.

    SIGINT (Ctrl-C) is patient: what runs may end. SIGTERM is the notice of a machine that
    will vanish: what still runs within `leavable` after some seconds is left by `Abandoned`.
    A handler that the caller installed before is told of both.

    Python hears a signal only between two steps of its own; a program that is inside of a
    library then (a compiler, say) is ended from outside, by a thread: SIGTERM means that.

    Args:
        patience: seconds that what runs may still take after SIGTERM.
        kept: whether all trials are kept elsewhere, so that the process may be ended
            where it does not listen.
    """

    left: ClassVar[bool] = False  # whether this process has left a computation behind

    def __init__(self, patience: float = PATIENCE, kept: bool = False):
        self.patience, self.kept = patience, kept
        self.asked = self.late = self._leavable = False
        self._old: dict[int, Any] = {}
        self._ended = threading.Event()
        self._writer: socket.socket | None = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is not threading.main_thread():
            return self  # nobody can send a signal here
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._ask)
        if os.name != "posix":
            return self
        # The only place that learns of a signal while Python does not listen.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self._writer is not None:
            signal.set_wakeup_fd(self._old_fd)
            self._writer.close()  # which ends the thread, where it still listens
            self._thread.join()
            self._reader.close()
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)

    @contextlib.contextmanager
    def leavable(self) -> Iterator[None]:
        """While something runs that may be left.

        Raises:
            Abandoned: the time is over, or ends.
        """
        if self.late:
            raise Abandoned
        self._leavable = True
        try:
            yield
        finally:
            self._leavable = False

    def _ask(self, number: int, frame: Any) -> None:
        if self.late:  # the knock of our own thread
            self.asked = True
            if self._leavable:
                self._leavable = False
                Interrupt.left = True
                atexit.register(_hurry)
                raise Abandoned
            return
        again, old = self.asked, self._old[number]
        if callable(old) and old is not signal.default_int_handler:
            old(number, frame)  # which may send the other signal to us
        if again:
            raise KeyboardInterrupt
        self.asked = True

    def _watch(self) -> None:
        numbers = b""
        while signal.SIGTERM not in numbers:
            numbers = self._reader.recv(64)
            if not numbers:  # it has ended
                return
            if self._old_fd >= 0:  # somebody else listens too
                with contextlib.suppress(OSError):
                    os.write(self._old_fd, numbers)
        if self._ended.wait(self.patience):
            return
        self.late = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if self.kept and not self._ended.wait(GRACE):
            os._exit(130)  # as one that was interrupted


def _hurry() -> None:
    """At its exit a process may wait for a computation that was left: not for long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(round(GRACE))
