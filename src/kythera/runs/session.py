"""A search whose trials are kept: begun, interrupted, and gone on with."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from kythera import errors
from kythera.core.evaluation import (
    AbstractEstimator,
    AbstractOptimiser,
    Callback,
    Trial,
)
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.drawing import plain
from kythera.optimise import default_estimator, optimise
from kythera.runs.describe import begin, describe
from kythera.runs.recorder import StoredRun
from kythera.runs.trials import storable
from kythera.solution import Solution

if TYPE_CHECKING:
    from kythera.runs.executors import AbstractExecutor
    from kythera.runs.study import Study

DRAWING = "application/vnd.plotly.v1+json"  # media type of what `Study.drawing` reads
DENSE = 64  # of that many trials all are drawn, and as many each time they double,
PAUSE = 0.5  # with so many seconds between two drawings at least


def search(
    study: "Study",
    problem: Problem,
    optimiser: AbstractOptimiser,
    estimator: AbstractEstimator | None = None,
    *,
    key: Key,
    run: int = 1,
    executor: "AbstractExecutor | None" = None,
    max_events: float | None = None,
    max_trials: int | None = None,
    max_seconds: float | None = None,
    max_cpu_seconds: float | None = None,
    max_price: float | None = None,
    price_per_hour: float = 0.0,
    callbacks: Sequence[Callback] = (),
    context: Mapping[str, Any] | None = None,
    trackers: Mapping[str, str] | None = None,
    **options: Any,
) -> Solution:
    """Run a search of a study, or go on with one that was interrupted.

    The trials are, bit for bit, those of a search that was never interrupted. A limit that
    was reached may be raised.

    Args:
        study: where trials, states and what was found are kept.
        problem: what the study is about.
        optimiser: as for `optimise`; the same when it goes on, as are estimator and key.
        estimator: likewise.
        key: likewise.
        run: number of the run in the study.
        executor: where designs are evaluated; by default in this process.
        max_events: limit of `optimise`.
        max_trials: likewise.
        max_seconds: likewise.
        max_cpu_seconds: CPU time of this process and the workers, over all interruptions.
        max_price: in the currency of `price_per_hour`.
        price_per_hour: of one CPU.
        callbacks: called after each trial.
        context: what the record says beside, as for `runs.describe.begin`.
        trackers: what tracking programs call this run, to go on with it there.
        options: further ones of `optimise`.

    Returns:
        the solution.

    Raises:
        StoreError: the store is lost, or another process holds the run.
        InputError: limits that leave nothing to do, or what does not fit the study.
        SimulationError: the first twenty trials failed, all of them.
    """
    estimator = estimator or default_estimator(problem, optimiser)
    if max_seconds is None and (max_cpu_seconds or max_price):
        max_seconds = float("inf")  # a limit that the loop knows
    limits = {
        "events": max_events,
        "trials": max_trials,
        "seconds": None if max_seconds == float("inf") else max_seconds,
        "cpu_seconds": max_cpu_seconds,
        "price": max_price,
    }
    spending = _Spending(study, limits, price_per_hour)
    about = {"budget": limits, **(context or {})}
    record = begin(problem, optimiser, estimator, key, **about)
    with study.begin(run) as stored:
        resume = stored.resume()
        seen = len(resume.trials) if resume else 0
        stored.describe(
            record,
            limits=json.dumps(limits),
            executor="local" if executor is None else executor.describe(),
            price_per_hour=price_per_hour,
            tracker=json.dumps(dict(trackers or {})),
        )
        if executor is not None:
            stored.workers = lambda: executor.cpu_seconds
            options = {"map": executor, **options}
        try:
            solution = optimise(
                problem,
                optimiser,
                estimator,
                key=key,
                max_events=max_events,
                max_trials=max_trials,
                max_seconds=max_seconds,
                recorder=stored,
                resume=resume,
                callbacks=[
                    *callbacks,
                    spending.of(stored, seen),
                    _Album(stored, problem, seen),
                ],
                **options,
            )
        except errors.SimulationError as error:
            stored.finish("failed", str(error))
            raise
        _keep(stored, solution, about)
    return solution


def _keep(stored: StoredRun, solution: Solution, about: Mapping[str, Any]) -> None:
    """What was found: the record, the figures, and the state of the run."""
    found = describe(solution, **about)
    if found.figures:
        stored.keep(
            "figures.json", json.dumps(found.figures).encode(), "application/json"
        )
    _Album(stored, solution.problem, 0).draw(len(solution.trials), solution.best)
    state = "failed" if solution.failure else "finished"
    if solution.reason.startswith("interrupted"):
        state = "stopped"
        found.record["finished"] = False  # it can go on
    stored.describe(found.record, state=state, reason=storable(solution.reason))


class _Spending:
    """Stops a search when its CPU time or its price is spent, or its user's."""

    def __init__(
        self, study: "Study", limits: Mapping[str, float | None], price_per_hour: float
    ):
        self.study, self.limits, self.hourly = study, limits, price_per_hour
        for name in ("cpu_seconds", "price"):
            limit = limits[name]
            if limit is not None and not limit > 0:
                raise errors.InputError(
                    f"`max_{name}` must be > 0, but is {limit}. Give a larger budget."
                )
        if not price_per_hour >= 0:
            raise errors.InputError(
                f"`price_per_hour` must be >= 0, but is {price_per_hour}. Give what one "
                "CPU costs in an hour."
            )
        if limits["price"] is not None and price_per_hour == 0:
            raise errors.InputError(
                "A limit on the price needs `price_per_hour` > 0, but it is 0. Give what "
                "one CPU costs in an hour."
            )

    def of(self, stored: StoredRun, seen: int) -> Callback:
        """The callback for a run, of which the first `seen` trials are paid for."""
        mine = [u for u in self.study.store.usage() if u["user"] == self.study.user]
        others = mine[0]["cpu_seconds"] - stored.cpu_seconds
        others_price = mine[0]["price"] - stored.cpu_seconds * self.hourly / 3600
        allowed = mine[0]["cpu_seconds_limit"], mine[0]["price_limit"]

        def check(trial: Trial) -> str | None:
            if trial.number < seen:
                return None
            cpu = stored.cpu_seconds
            price = cpu * self.hourly / 3600
            for spent, limit, what in (
                (cpu, self.limits["cpu_seconds"], "the CPU time is spent"),
                (price, self.limits["price"], "the price is spent"),
                (
                    others + cpu,
                    allowed[0],
                    f"the CPU time of {self.study.user!r} is spent",
                ),
                (
                    others_price + price,
                    allowed[1],
                    f"the price of {self.study.user!r} is spent",
                ),
            ):
                if limit is not None and spent >= limit:
                    return what
            return None

        return check


class _Album:
    """Draws the instrument after trials; fewer and fewer of them."""

    def __init__(self, stored: StoredRun, problem: Problem, seen: int):
        self.stored, self.problem, self.seen = stored, problem, seen
        self.broken = problem.sketch is None
        self.last = float("-inf")

    def __call__(self, trial: Trial) -> None:
        """Draw it where its turn has come."""
        step = 2 ** max(0, (trial.number // DENSE).bit_length() - 1)
        waited = time.monotonic() - self.last > PAUSE
        if waited and trial.number >= self.seen and trial.number % step == 0:
            self.last = time.monotonic()
            self.draw(
                trial.number, self.problem.space.decode(jnp.asarray(trial.u), hard=True)
            )

    def draw(self, number: int, design: Any) -> None:
        """Keep the drawing of a design; one that fails costs nothing but itself."""
        if self.broken:
            return
        try:
            assert self.problem.sketch is not None
            drawn = {k: plain(dict(v)) for k, v in self.problem.sketch(design).items()}
        except Exception as error:  # the instrument's own code may raise anything
            self.broken = True
            warnings.warn(
                f"The instrument could not be drawn: {type(error).__name__}: {error}. Mend "
                "its `sketch`; the search goes on without.",
                stacklevel=2,
            )
            return
        self.stored.keep("drawing.json", json.dumps(drawn).encode(), DRAWING, number)
