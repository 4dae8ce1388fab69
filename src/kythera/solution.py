"""What an optimisation found: start and best, measured anew on the same fresh events."""

import dataclasses
from typing import Any, Generic, TypeVar

import jax.numpy as jnp
import numpy as np

from kythera import errors, text
from kythera.core import comparison
from kythera.core.evaluation import (
    AbstractEstimator,
    AbstractOptimiser,
    Map,
    Measured,
    Trial,
)
from kythera.core.problem import Problem
from kythera.core.types import Key

D = TypeVar("D")


@dataclasses.dataclass(frozen=True)
class Gain:
    """Start and end measured on the same fresh events.

    Args:
        start: total loss at the start.
        best: total loss at the recommended design.
        gain: start minus best; its error knows that both saw the same events.
        terms: named terms: (start, best).
        slack: named constraints: (start, best), each to be >= 0.
        events: primaries that this measurement simulated.
        cause: why it failed; empty where it did not. What is unknown is nan.
    """

    start: Measured
    best: Measured
    gain: Measured
    terms: dict[str, tuple[Measured, Measured]]
    slack: dict[str, tuple[Measured, Measured]]
    events: int
    cause: str = ""


@dataclasses.dataclass(frozen=True)
class Solution(Generic[D]):
    """What an optimisation found, and at what price.

    Args:
        problem: with what the estimator learned in place.
        optimiser: with its settings.
        estimator: with its settings.
        key: the root; trial i used fold_in(root, sample_i).
        u_start: the start in the cube, shape (n,).
        u_best: what the optimiser recommends, shape (n,).
        soft: start and best measured anew, as the search saw them.
        hard: the same with the detector as built; None where nothing was softened.
        trials: all of them, in order.
        reason: why it stopped, and why start and best could not be measured anew, if so.
        seconds: wall time.
        state: the optimiser's and the estimator's last states.
    """

    problem: Problem[D]
    optimiser: AbstractOptimiser
    estimator: AbstractEstimator
    key: Key
    u_start: np.ndarray
    u_best: np.ndarray
    soft: Gain
    hard: Gain | None
    trials: list[Trial]
    reason: str
    seconds: float
    state: tuple[Any, Any] = dataclasses.field(repr=False, default=(None, None))

    @property
    def start(self) -> D:
        """The design it started from, as it would be built."""
        return self.problem.space.decode(jnp.asarray(self.u_start), hard=True)

    @property
    def best(self) -> D:
        """The recommended design, as it would be built."""
        return self.problem.space.decode(jnp.asarray(self.u_best), hard=True)

    @property
    def report(self) -> Gain:
        """What is to be quoted: the hard measurement where there is one."""
        return self.hard or self.soft

    @property
    def failure(self) -> str:
        """Why start and best could not be measured anew; empty where they were."""
        return self.soft.cause or (self.hard.cause if self.hard else "")

    @property
    def gain(self) -> Measured:
        """Loss at the start minus loss at the end, on fresh events."""
        return self.report.gain

    @property
    def events(self) -> int:
        """Primaries that the search simulated (the report's come on top)."""
        return self.trials[-1].spent if self.trials else 0

    def table(self, rows: int = 40) -> str:
        """Parameter, start, best, unit; then the losses and the gain with their errors."""
        space = self.problem.space
        losses = [
            (label, str(found.start), str(found.best), str(found.gain))
            for label, found in (("as searched", self.soft), ("as built", self.hard))
            if found is not None
        ]
        summary = text.price_line(
            len(self.trials),
            sum(t.state == "failed" for t in self.trials),
            self.events,
            self.report_events,
            self.seconds,
            self.reason,
        )
        return text.solution_table(
            space.names,
            space.units,
            space.values(jnp.asarray(self.u_start), hard=True),
            space.values(jnp.asarray(self.u_best), hard=True),
            losses,
            {k: (v.value, v.stderr) for k, (_, v) in self.report.slack.items()},
            summary,
            rows,
        )

    @property
    def report_events(self) -> int:
        """Primaries that the measurements of start and end simulated."""
        return self.soft.events + (self.hard.events if self.hard else 0)

    def __str__(self) -> str:
        """The table."""
        return self.table()


def compare(problem: Problem, us: np.ndarray, key: Key, map: Map = map) -> Gain:
    """Measure two designs, (start, best), on the same fresh events.

    Args:
        problem: what to measure.
        us: points of the cube, shape (2, n).
        key: of the events.
        map: executor, where a stage runs outside JAX.

    Returns:
        the comparison; with a `cause` where a stage failed or a value is not finite.
    """
    events = len(us) * problem.price
    try:
        found = comparison.compare(problem, us, key, map)
    except errors.SimulationError as error:
        return unmeasured(str(error), events)
    cause = "; ".join(
        f"{kind} '{name}' of the {which} is {float(value)}"
        for kind, named in (("term", found.loss), ("constraint", found.slack))
        for name, pair in named.items()
        for which, value in zip(("start", "best design"), pair, strict=True)
        if not np.isfinite(value)
    )
    names = list(found.loss)
    k = len(names)
    covariance = np.asarray(found.covariance, float)
    weights = problem.weight(found.loss)
    values = np.array([found.loss[name] for name in names], float)  # (terms, 2)

    def spread(vector: np.ndarray) -> float:
        variance = float(vector @ covariance @ vector)
        return float("nan") if np.isnan(variance) else float(np.sqrt(max(variance, 0)))

    def pair(values: Any, stderrs: Any) -> tuple[Measured, Measured]:
        first, second = (
            Measured(float(v), float(e)) for v, e in zip(values, stderrs, strict=True)
        )
        return first, second

    zero, unit = np.zeros(k), np.eye(k)
    with np.errstate(invalid="ignore"):  # inf - inf: `cause` tells of it
        first, second = weights @ values
        gain = float(first - second)
    sides = [
        [spread(np.concatenate([e, zero])), spread(np.concatenate([zero, e]))]
        for e in unit
    ]
    terms = {name: pair(values[i], sides[i]) for i, name in enumerate(names)}
    slack = {n: pair(value, found.slack_stderr[n]) for n, value in found.slack.items()}
    return Gain(
        Measured(float(first), spread(np.concatenate([weights, zero]))),
        Measured(float(second), spread(np.concatenate([zero, weights]))),
        Measured(gain, spread(np.concatenate([weights, -weights]))),
        terms,
        slack,
        events,
        cause,
    )


def unmeasured(cause: str, events: int = 0) -> Gain:
    """A comparison that was not made.

    Args:
        cause: why.
        events: primaries that were simulated in vain.
    """
    nothing = Measured(float("nan"), float("nan"))
    return Gain(nothing, nothing, nothing, {}, {}, events, cause)
