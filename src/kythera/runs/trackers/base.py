"""What all trackers share: a queue and a thread between the search and somebody's server.

The search only puts trials into the queue. The thread imports the library (seconds), opens
the connection (minutes, where a server is away) and writes in batches; whatever goes wrong
there ends the tracker and nothing else.
"""

import abc
import json
import math
import queue
import re
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kythera import text
from kythera.runs.result import Number, Result

if TYPE_CHECKING:
    from kythera.core.evaluation import Trial

MOST_PARAMETERS = 100  # whose curves are logged
PAUSE = 1.0  # seconds in which trials gather to a batch
PATIENCE = 60.0  # seconds that `end` waits for what is not yet written
HURRY = 5.0  # the same where a search was broken off: a spot machine may be leaving
CONFIG = (  # the parts of a record that were known before the search
    *("kythera", "jax", "python", "command", "instrument", "optimiser", "estimator"),
    *("seed", "budget"),
)
LONGEST = 200  # characters of a name


class TrackerWarning(UserWarning):
    """A tracker failed and was dropped; the search goes on without it."""


class Row(NamedTuple):
    """What is logged of one trial.

    Args:
        step: the trial's number.
        time: seconds since 1970.
        values: by name; all are finite.
    """

    step: int
    time: float
    values: dict[str, float]


class Found(NamedTuple):
    """What is logged at the end of a search.

    Args:
        numbers: gain, losses and the best design by name; all are finite.
        reason: why it ended; empty where it was broken off by an error.
        step: number of the last trial.
        report: the page to attach; None where there is none.
        finished: whether it ran to its end.
    """

    numbers: dict[str, float]
    reason: str
    step: int
    report: Path | None
    finished: bool


class _End(NamedTuple):
    """What follows the last trial; no result where the search was broken off."""

    result: Result | None
    report: Path | None


class AbstractSink(abc.ABC):
    """One tracking program. A `Tracker` calls it from a thread of its own; it may fail."""

    @property
    def continues(self) -> bool:
        """Whether `open` can take up an earlier run of the same id."""
        return True

    @abc.abstractmethod
    def open(self, id: str, name: str, config: Mapping[str, Any]) -> int:
        """Begin the run with this id, or go on with it; how many trials it holds.

        Args:
            id: 32 hexadecimal digits.
            name: for people.
            config: settings, flat: "instrument.settings.planes" -> 6.
        """

    @abc.abstractmethod
    def write(self, rows: list[Row]) -> None:
        """Log some trials, in order."""

    @abc.abstractmethod
    def close(self, found: Found) -> None:
        """Log what was found and end the run."""


class Tracker:
    """A callback of `optimise` that shows each trial in a tracking program.

    Use it in a `with` block, call `begin` before the search and `end` after it. It never
    stops the search: where it fails, it warns once (`TrackerWarning`) and is silent then.

    Args:
        sink: the program.
        id: of the run that goes on; see `make`.

    Attributes:
        id: of the run in the tracking program; keep it with the search, and give it to
            `make` when an interrupted search goes on. The trials that it logged before are
            then not logged again. Where the program cannot go on with a run, it is a new
            one, and all trials are logged in it.
    """

    def __init__(self, sink: AbstractSink, *, id: str = ""):
        self.sink = sink
        self.id = id if id and sink.continues else uuid.uuid4().hex
        self._space: Mapping[str, Any] = {}
        self._labels: dict[str, str] = {}
        self._last = 0
        self._queue: queue.SimpleQueue[tuple[float, Trial] | _End] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure = ""

    def __enter__(self) -> "Tracker":
        """For `with`."""
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """End the run where `end` was not called, because the search was broken off."""
        self._stop(_End(None, None), HURRY)

    def begin(self, record: Mapping[str, Any], *, name: str = "") -> None:
        """Open the run; returns at once.

        Args:
            record: what `result.json` will hold, as far as it is known.
            name: of the run, for people; by default those of instrument and optimiser.
        """
        self._space = record["space"]
        names = [record[part]["name"] for part in ("instrument", "optimiser")]
        config = flat({part: record.get(part) for part in CONFIG})
        many, size = MOST_PARAMETERS, len(self._space["names"])
        config["parameters"] = f"the first {many} of {size:,}" if size > many else size
        self._thread = threading.Thread(
            target=self._work, args=(name or " ".join(names), config), daemon=True
        )
        self._thread.start()

    def __call__(self, trial: "Trial") -> None:
        """Log a trial, soon."""
        self._last = trial.number
        if not self._warned():
            self._queue.put((time.time(), trial))

    def end(self, result: Result, *, report: str | Path | None = None) -> None:
        """Log the gain and the best design, attach the report, close the run.

        Waits for a minute at most, for five seconds after an interruption.

        Args:
            result: of the search, finished or not.
            report: page of `kythera.report`, to be attached where the program can.
        """
        seconds = PATIENCE if result.finished else HURRY
        self._stop(_End(result, None if report is None else Path(report)), seconds)

    def _stop(self, end: "_End", seconds: float) -> None:
        """Tell the thread that nothing follows, and wait for it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(end)
        thread.join(seconds)
        if thread.is_alive():
            self._failure = self._failure or f"not all was written in {seconds:.0f} s"
        self._warned()

    def _warned(self) -> bool:
        """Whether the tracker has failed; the first time a warning says so."""
        if self._failure and self._failure != "told":
            cause, self._failure = self._failure, "told"
            name = type(self.sink).__name__
            warnings.warn(
                f"A tracker must not disturb a search, but {name} failed: {cause}. It is "
                "dropped and the search goes on; look at its settings and its server.",
                TrackerWarning,
                stacklevel=3,
            )
        return bool(self._failure)

    def _work(self, name: str, config: dict[str, Any]) -> None:
        """What the thread does, until the end or the first failure."""
        try:
            first = self.sink.open(self.id, name, config)
            end = None
            while end is None:
                rows, end = self._batch()
                if rows := [row for row in rows if row.step >= first]:
                    self.sink.write(rows)
            self.sink.close(self._found(end))
        except Exception as error:  # of somebody else's library, or its server
            lines = str(error).strip().splitlines() or [""]
            self._failure = f"{type(error).__name__}: {lines[0]}".rstrip(". ")

    def _batch(self) -> "tuple[list[Row], _End | None]":
        """Wait for a trial, and take with it what comes soon after."""
        rows, until = [], math.inf
        while True:
            left = until - time.monotonic()
            try:
                item = self._queue.get(timeout=max(0.0, left) if rows else None)
            except queue.Empty:
                return rows, None
            if isinstance(item, _End):
                return rows, item
            rows.append(self._row(*item))
            until = min(until, time.monotonic() + PAUSE)

    def _row(self, when: float, trial: "Trial") -> Row:
        """Loss, terms, constraints, price and parameters of a trial."""
        found = trial.evaluation
        named = {
            "loss": found.total,
            **{f"terms/{name}": term for name, term in found.terms.items()},
            **{f"slack/{name}": slack for name, slack in found.slack.items()},
        }
        values = {
            "events": float(trial.spent),
            "seconds": trial.seconds,
            "failed": float(trial.state == "failed"),
        }
        for name, measured in named.items():
            label = self._label(name)
            values |= {label: measured.value, f"{label}_stderr": measured.stderr}
        values |= self._parameters("parameters", trial.values)
        return Row(trial.number, when, _finite(values))

    def _found(self, end: "_End") -> Found:
        """Gain, losses and the best design."""
        result = end.result
        if result is None:
            return Found({}, "", self._last, None, False)
        gain = result.gain
        numbers = {"result/gain": gain.value, "result/gain_stderr": gain.stderr}
        for which in ("start", "best"):
            loss, label = Number.of(result.quoted[which]), f"result/{which}_loss"
            numbers |= {label: loss.value, f"{label}_stderr": loss.stderr}
        numbers |= self._parameters("result/best", result.best)
        reason = str(result.record["reason"])
        return Found(_finite(numbers), reason, self._last, end.report, result.finished)

    def _parameters(self, group: str, values: Any) -> dict[str, float]:
        """The first parameters by name, in their units: {"parameters/z_cm": 5.0}."""
        space = self._space
        columns = zip(space["names"], space["units"], values, strict=True)
        return {
            self._label(f"{group}/{name}_{unit}" if unit else f"{group}/{name}"): float(
                value / text.native_per(unit)
            )
            for (name, unit, value), _ in zip(
                columns, range(MOST_PARAMETERS), strict=False
            )
        }

    def _label(self, name: str) -> str:
        """A name that every program takes, different for different names.

        "parameters/z[0]" becomes "parameters/z.0".
        """
        if name not in self._labels:
            plain = name.replace("[", ".").replace("]", "").replace("=", ".")
            plain = re.sub(r"[^\w./-]+", "_", plain, flags=re.ASCII)[:LONGEST]
            label, count = plain, 1
            while label in self._labels.values():
                count += 1
                label = f"{plain}_{count}"
            self._labels[name] = label
        return self._labels[name]


def flat(record: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; lists as JSON text, what is not set left out."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{stem}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            found[name] = json.dumps(value)
        elif value is not None and value != "":
            found[name] = value
    return found


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
