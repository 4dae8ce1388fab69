"""A trial recomputed: is it the same, bit for bit, or how far is it?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractEstimator, Evaluation, Measured, Trial
from kythera.core.problem import Problem
from kythera.optimise import optimise
from kythera.runs.environment import differences, environment
from kythera.runs.run_spec import RunSpec
from kythera.runs.study import Study


@dataclasses.dataclass(frozen=True)
class Replay:
    """What came of recomputing a trial.

    Args:
        trial: as it was recorded.
        again: as it is now.
        point: largest difference between the point that the optimiser asks for now and the
            recorded one; 0 where they are the same.
        different: what is different on this machine, in words.
    """

    trial: Trial
    again: Evaluation
    point: float
    different: list[str]

    @property
    def identical(self) -> bool:
        """Whether every number has the same bits."""
        a, b = self.trial.evaluation, self.again
        rest = a.events == b.events and np.array_equal(
            a.covariance, b.covariance, equal_nan=True
        )
        return self.point == 0 and self.distance == 0 and rest

    @property
    def distance(self) -> float:
        """Largest difference of any value, in standard errors of the recorded one.

        Infinite where one of them failed, or has a number that the other has not.
        """
        pairs = list(_pairs(self.trial.evaluation, self.again))
        if not pairs:
            return 0.0 if self.trial.evaluation.cause == self.again.cause else np.inf
        return max(_distance(a, b) for a, b in pairs)

    def __str__(self) -> str:
        """The verdict, and what may explain it."""
        number = self.trial.number
        if self.identical:
            return f"trial {number}: bit-identical"
        lines = [f"trial {number}: {self.trial.evaluation.total} -> {self.again.total}"]
        if self.point:
            lines.append(f"  the optimiser asks for a point {self.point:.2g} away")
        if np.isfinite(self.distance):
            lines.append(f"  largest difference: {self.distance:.2g} standard errors")
        else:
            then, now = self.trial.evaluation.cause, self.again.cause
            lines.append(f"  failed because: {then or 'not'} -> {now or 'not'}")
        changed = ", ".join(self.different) or "nothing that is recorded"
        return "\n".join([*lines, f"  different here: {changed}"])


def replay(study: Study, number: int, run: int = 1) -> Replay:
    """Recompute a trial: its point from the optimiser, its events from its key.

    The optimiser is told the recorded evaluations up to that trial and asked again; the
    trial's batch is then simulated anew. An estimator that learns is taught from the start:
    all trials are simulated.

    Args:
        study: which was begun by the command line.
        number: of the trial.
        run: of the study.

    Raises:
        StoreError: there is no such trial, or the study cannot be rebuilt.
    """
    wanted = RunSpec.read(study.spec)
    trials = study.trials(run)
    if not 0 <= number < len(trials):
        raise errors.StoreError(
            f"Run {run} of the study {study.name!r} has no trial {number}, but "
            f"{len(trials)} from 0 on. Give one of them."
        )
    problem = wanted.problem()
    optimiser, estimator = wanted.engines(problem)
    key = jax.random.key(wanted.settings.seed or 0)
    if (
        wanted.settings.in_flight
    ):  # each was evaluated alone, told in the recorded order
        trial = trials[number]
        keys = jnp.stack([jax.random.fold_in(key, trial.sample)])
        us = jnp.asarray(trial.u[None])
        (again,), _ = estimator(problem, us, None, key=keys, map=map)
        return Replay(trial, again, 0.0, _changed(wanted))
    told = _Told(estimator, trials, number)
    try:
        optimise(problem, optimiser, told, key=key, max_trials=len(trials))
    except _Found as found:
        return Replay(trials[number], found.evaluation, found.point, _changed(wanted))
    raise errors.StoreError(
        f"The search of {study.name!r} ends before trial {number} when it is replayed: its "
        "optimiser behaves differently here. Use the versions that it was run with."
    )


def _changed(wanted: RunSpec) -> list[str]:
    here = environment(wanted.environment["reference"])
    return differences(wanted.environment, here)


class _Found(BaseException):
    """Leaves the loop with what was recomputed."""

    def __init__(self, evaluation: Evaluation, point: float):
        self.evaluation, self.point = evaluation, point


class _Told(AbstractEstimator[Any]):
    """Answers with what was recorded, until the batch of the trial in question."""

    gives_gradient: ClassVar[bool] = True
    estimator: AbstractEstimator
    trials: Sequence[Trial]
    number: int

    def check(self, problem: Problem) -> None:
        """As the engine itself."""
        self.estimator.check(problem)

    def price(self, problem: Problem) -> int:
        """As the engine itself."""
        return self.estimator.price(problem)

    def init(self, problem: Problem, *, key: Any) -> Any:
        """The engine's state, and how many trials were answered."""
        return self.estimator.init(problem, key=key), 0

    def __call__(
        self, problem: Problem, us: Any, state: Any, *, key: Any, map: Any
    ) -> tuple[list[Evaluation], Any]:
        """See the base class."""
        learned, first = state
        batch = self.trials[first : first + len(us)]
        is_last = first <= self.number < first + len(us)
        evaluations = [trial.evaluation for trial in batch]
        if is_last or jax.tree.leaves(learned):
            evaluations, learned = self.estimator(
                problem, us, learned, key=key, map=map
            )
        if is_last:
            where = self.number - first
            asked = np.asarray(us)
            point = asked[where] - batch[where].u.astype(asked.dtype)
            raise _Found(evaluations[where], float(np.max(np.abs(point), initial=0)))
        return evaluations, (learned, first + len(us))


def _pairs(a: Evaluation, b: Evaluation) -> Any:
    if a.cause or b.cause:
        return
    yield a.total, b.total
    for first, second in ((a.terms, b.terms), (a.slack, b.slack)):
        for name in {*first, *second}:
            yield _named(first, name), _named(second, name)


def _named(found: Mapping[str, Measured], name: str) -> Measured:
    return found.get(name, Measured(float("nan"), float("nan")))


def _distance(a: Measured, b: Measured) -> float:
    """In standard errors; gradients by their largest component."""
    if (a.gradient is None) != (b.gradient is None):
        return np.inf
    same = [np.array_equal(a.value, b.value, equal_nan=True)]
    same += [np.array_equal(a.stderr, b.stderr, equal_nan=True)]
    if a.gradient is not None and b.gradient is not None:
        same.append(np.array_equal(a.gradient, b.gradient, equal_nan=True))
    if all(same):
        return 0.0
    scale = a.stderr if np.isfinite(a.stderr) and a.stderr > 0 else abs(a.value) or 1.0
    apart = abs(a.value - b.value) / scale
    if a.gradient is not None and b.gradient is not None:
        size = float(np.max(np.abs(a.gradient), initial=0)) or 1.0
        apart = max(apart, float(np.max(np.abs(a.gradient - b.gradient))) / size)
    return float(max(apart, 1e-300)) if np.isfinite(apart) else np.inf
