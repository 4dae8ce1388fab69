"""What a run shows while it goes on: one live line, or plain lines where nobody watches."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from kythera import text

if TYPE_CHECKING:
    from kythera.core.evaluation import Trial

WINDOW = 10  # trials whose mean loss the gain so far compares with the first one
QUIET = 5.0  # seconds between two plain lines


class Progress:
    """A callback that shows trial, loss, gain so far, events and the time left.

    The gain so far compares the mean loss of the last trials with that of the first one,
    which many optimisers place at the start; it is no result, which is measured at the end
    on fresh events.

    Args:
        console: where to write.
        budget: limits by name: "events", "trials", "seconds".
        price: primaries of one trial.
        start: point of the cube where the search starts, shape (n,).
        asked_to_stop: whether the user asked.
    """

    def __init__(
        self,
        console: Console,
        budget: dict[str, float | None],
        price: int,
        start: Any,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ):
        """See the class."""
        self.console, self.budget, self.price = console, budget, price
        self.start, self.gain_name = np.asarray(start), "gain so far"
        self.asked_to_stop = asked_to_stop
        self.began = time.perf_counter()
        self.first: Any = None  # time of the first trial's end: compiling is over
        self.losses: list[tuple[float, float]] = []
        self.trial: Trial | None = None
        self.failed = 0
        self.live: Live | None = None
        self.said, self.shown = 0.0, self.trial  # time and trial of the last plain line

    def __enter__(self) -> "Progress":
        """Start the live line."""
        if self.console.is_terminal:
            self.live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=4,
                transient=True,
            )
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Take the live line away; say where a plain run ended."""
        if self.live is not None:
            self.live.__exit__(*error)
        elif self.trial is not self.shown:
            self._say()

    def __call__(self, trial: "Trial") -> None:
        """Take in one trial."""
        now = time.perf_counter()
        if self.first is None:
            self.first = (now, self._part(trial, now))
            if not np.allclose(trial.u, self.start, atol=1e-5):
                self.gain_name = "since the first trial"
        self.trial = trial
        total = trial.evaluation.total
        if trial.state == "failed":
            self.failed += 1
        else:
            self.losses.append((total.value, total.stderr))
        if self.live is None and now - self.said >= QUIET:
            self._say()

    def _say(self) -> None:
        self.said, self.shown = time.perf_counter(), self.trial
        self.console.print(self.line(), highlight=False, soft_wrap=True)

    def _part(self, trial: "Trial", now: float) -> float:
        """The part of the budget that is spent, 0 to 1."""
        spent = {
            "events": trial.spent,
            "trials": trial.number + 1,
            "seconds": now - self.began,
        }
        parts = [spent[k] / v for k, v in self.budget.items() if v]
        return min(1.0, max(parts, default=0.0))

    def line(self) -> str:
        """The state in one line."""
        trial, now = self.trial, time.perf_counter()
        if trial is None:
            return "compiling the pipeline and measuring the first design"
        parts = [f"trial {trial.number + 1:,}"]
        if self.losses:
            parts.append(f"loss {text.format_measured(*self.losses[-1])}")
        if len(self.losses) > 1:
            parts.append(f"{self.gain_name} {self._gain()}")
        parts.append(f"{trial.spent:,} events")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.asked_to_stop():
            parts.append("stopping (once more to abort)")
        elif self._is_last(trial, now):
            parts.append("measuring start and best on fresh events")
        else:
            parts.append(self._left(trial, now))
        return "  ".join(parts)

    def _gain(self) -> str:
        losses = np.array(self.losses[1:][-WINDOW:])
        gain = self.losses[0][0] - losses[:, 0].mean()
        error = np.sqrt((losses[:, 1] ** 2).mean() / len(losses))  # of their mean
        error = np.hypot(self.losses[0][1], error)
        return text.format_measured(float(gain), float(error))

    def _is_last(self, trial: "Trial", now: float) -> bool:
        events, trials = self.budget.get("events"), self.budget.get("trials")
        seconds = self.budget.get("seconds")
        return bool(
            (events and trial.spent + self.price > events)
            or (trials and trial.number + 1 >= trials)
            or (seconds and now - self.began >= seconds)
        )

    def _left(self, trial: "Trial", now: float) -> str:
        began, part_then = self.first
        part = self._part(trial, now)
        if part <= part_then or not any(self.budget.values()):
            return "..."
        left = (now - began) * (1 - part) / (part - part_then)
        return f"about {duration(left)} left"

    def _render(self) -> Spinner:
        line = Text(self.line(), overflow="ellipsis", no_wrap=True)
        if not hasattr(self, "_spinner"):
            self._spinner = Spinner("dots", style="blue")
        self._spinner.update(text=line)
        return self._spinner


def duration(seconds: float) -> str:
    """Rounded as one says it: "12 s", "3 min", "2.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def console() -> Console:
    """Where progress goes: the error stream, so that results can be piped."""
    return Console(file=sys.stderr, highlight=False)
