"""The loop. It exists once: ask, evaluate, tell; then measure what was found again."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import (
    AbstractEstimator,
    AbstractOptimiser,
    Callback,
    Evaluation,
    Map,
    Recorder,
    Trial,
)
from kythera.core.problem import Problem
from kythera.core.space import _get, _leaf, is_cube, leaf_paths
from kythera.core.stage import AbstractPathwiseSimulator, AbstractTractableSimulator
from kythera.core.types import Key
from kythera.estimators.direct import Direct
from kythera.estimators.finite_difference import FiniteDifference
from kythera.estimators.pathwise import Pathwise
from kythera.estimators.score_function import ScoreFunction
from kythera.solution import Gain, Solution, compare
from kythera.stopping import Interrupt, Limits

D = TypeVar("D")

# Streams of keys beside those of the trials, which are fold_in(root, number).
_INIT, _ASK, _REPORT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
REPORT_FACTOR = 8  # the report measures start and end with so many times the events
SOFT_FEWER = 4  # where two are measured, the softened detector sees so many times fewer
FAILURES = 20  # so many failed trials in a row end the run


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where an interrupted search goes on: what a `Recorder` was given last.

    Args:
        trials: all up to the checkpoint, in order.
        state: of the checkpoint, or only its leaves in order.
        seconds: that the search had taken.
    """

    trials: Sequence[Trial]
    state: Any
    seconds: float = 0.0


def default_estimator(
    problem: Problem, optimiser: AbstractOptimiser
) -> AbstractEstimator:
    """The engine that suits a problem and an optimiser."""
    return gradient_estimator(problem) if optimiser.needs_gradient else Direct()


def gradient_estimator(problem: Problem) -> AbstractEstimator:
    """The engine with gradients: pathwise, else score function, else differences."""
    if not problem.pipeline.is_host:
        if isinstance(problem.pipeline.simulator, AbstractPathwiseSimulator):
            return Pathwise()
        if isinstance(problem.pipeline.simulator, AbstractTractableSimulator):
            return ScoreFunction()
    return FiniteDifference()


def _check(
    problem: Problem,
    optimiser: AbstractOptimiser,
    estimator: AbstractEstimator,
    limits: Limits,
    first: int,
) -> None:
    """Refuse what cannot work before the first event."""
    if optimiser.needs_gradient and not estimator.gives_gradient:
        raise errors.UnsupportedError(
            f"`{type(optimiser).__name__}` needs gradients, but "
            f"`{type(estimator).__name__}` gives none. Use `Pathwise`, `ScoreFunction` "
            "or `FiniteDifference`, or an optimiser without gradients."
        )
    estimator.check(problem)
    optimiser.check(problem)
    limits.check(estimator.price(problem), problem.events, first)


def _keys(root: Key, samples: Sequence[int]) -> Key:
    """One by one: a vmap would compile anew for each number of designs."""
    parts = [jax.random.key_data(jax.random.fold_in(root, i)) for i in samples]
    data = jnp.asarray(np.stack(parts))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(root))


def _samples(policy: str, number: int, q: int) -> list[int]:
    """Which trial's key draws the events of each of q designs."""
    if policy == "fixed":
        return [0] * q
    return [number] * q if policy == "batch" else list(range(number, number + q))


def optimise(
    problem: Problem[D],
    optimiser: AbstractOptimiser,
    estimator: AbstractEstimator | None = None,
    *,
    key: Key,
    max_events: float | None = None,
    max_trials: int | None = None,
    max_seconds: float | None = None,
    enqueue: Iterable[D] = (),
    callbacks: Sequence[Callback] = (),
    recorder: Recorder | None = None,
    map: Map = map,
    report_events: int | None = None,
    resume: Resume | None = None,
) -> Solution[D]:
    """Look for the design with the smallest loss, and measure what was found.

    Args:
        problem: space, pipeline and objective.
        optimiser: which design to look at next.
        estimator: what is learnt at each; by default what suits the problem.
        key: root of all random numbers: `jax.random.key(1)`.
        max_events: primaries that the search may simulate; never exceeded: of the last
            batch of a population only as many designs are measured as still fit.
        max_trials: designs that it may look at, likewise.
        max_seconds: wall time after which no new design is asked for (not replayable).
        enqueue: designs that are measured first; the search starts from the best of them
            and the problem's start.
        callbacks: called after each trial; True stops.
        recorder: where trials and states are kept.
        map: executor; the builtin runs in this process.
        report_events: rows for the final measurement of start and end on the same fresh
            events; by default eight times those of one evaluation. Where the search saw
            a softened detector, that one is measured with a quarter of them (but no fewer
            than one evaluation has), on events of its own.
        resume: goes on where an interrupted search of the same problem, engines and key
            was: the trials are then, bit for bit, those of one that was never
            interrupted. Callbacks are called for the earlier trials again; `enqueue` is
            not looked at.

    Returns:
        the solution; `print` shows its table.

    Raises:
        UnsupportedError: a combination that cannot work, before anything is simulated.
        InputError: no budget, or one smaller than a single evaluation; or what is resumed
            does not fit the problem and the engines.
        SimulationError: the first twenty trials failed, all of them.
    """
    estimator = estimator or default_estimator(problem, optimiser)
    limits, queue = Limits(max_events, max_trials, max_seconds), list(enqueue)
    first = 1 + len(queue) if queue else 0  # the start is measured beside them
    _check(problem, optimiser, estimator, limits, first)
    key_init, key_ask, key_report = (
        jax.random.fold_in(key, stream) for stream in (_INIT, _ASK, _REPORT)
    )
    began = time.perf_counter() - (resume.seconds if resume else 0.0)
    u_start = np.asarray(problem.space.start)
    learned = estimator.init(problem, key=key_init)
    price = estimator.price(problem)
    run = _Run(problem, estimator, key, learned, callbacks, recorder, map)

    with Interrupt() as interrupt:
        u0 = u_start if resume else _enqueued(problem, queue, u_start, run.evaluate)
        state, cut = optimiser.init(problem, u0, key=key_init), ""
        if resume is not None:
            state = run.resume(resume, state)
        while not run.reason:
            run.reason = optimiser.finished(state) or (
                "interrupted"
                if interrupt.asked
                else limits.reached(run.trials, price, time.perf_counter() - began)
            )
            if run.reason:
                run.reason += cut
                break
            us, state = optimiser.ask(
                state, key=jax.random.fold_in(key_ask, len(run.trials))
            )
            us = np.asarray(us)
            fit = limits.fit(len(us), run.trials, price)
            cut = f" ({fit} of the last batch of {len(us)})" if fit < len(us) else ""
            us = us[:fit]
            if not is_cube(us):
                raise errors.SpaceError(
                    f"`{type(optimiser).__name__}` asked for a point outside the unit "
                    f"cube: {us}. Report this as a fault of the optimiser."
                )
            state = optimiser.tell(state, us, run.evaluate(us, optimiser.sample))
            # a batch that a limit cut is no state to go on from, should the limit be raised
            if recorder is not None and not cut:
                saved = state, run.learned, run.reason
                recorder.checkpoint(len(run.trials) - 1, saved)

        u_best = np.asarray(optimiser.recommend(state))[0]
        rows = report_events or REPORT_FACTOR * problem.events
        final = estimator.measured(problem, run.learned)
        soft, hard = _measured_anew(
            final, np.stack([u_start, u_best]), rows, key_report
        )
        failure = soft.cause or (hard.cause if hard else "")
        if failure:
            run.reason += f"; start and best could not be measured anew: {failure}"
    return Solution(
        problem=problem,
        optimiser=optimiser,
        estimator=estimator,
        key=key,
        u_start=u_start,
        u_best=u_best,
        soft=soft,
        hard=hard,
        trials=run.trials,
        reason=run.reason,
        seconds=time.perf_counter() - began,
        state=(state, run.learned),
    )


@dataclasses.dataclass
class _Run(Generic[D]):
    """A search: what it is about, and what grows as it goes on.

    Args:
        problem, estimator, key, callbacks, recorder, map: as `optimise` was given them.
        learned: the estimator's state.
        trials: so far.
        reason: why it stops; empty while it goes on.
    """

    problem: Problem[D]
    estimator: AbstractEstimator
    key: Key
    learned: Any
    callbacks: Sequence[Callback]
    recorder: Recorder | None
    map: Map
    trials: list[Trial] = dataclasses.field(default_factory=list)
    reason: str = ""

    def resume(self, saved: Resume, fresh: Any) -> Any:
        """Take up what was saved; the optimiser's state, in the structure of a fresh one."""
        structure = jax.tree.structure((fresh, self.learned, self.reason))
        leaves = jax.tree.leaves(saved.state)
        numbers = [trial.number for trial in saved.trials]
        sizes = {len(trial.u) for trial in saved.trials} | {self.problem.space.size}
        if structure.num_leaves != len(leaves) or len(sizes) > 1:
            raise errors.InputError(
                f"What is resumed must fit the problem and the engines, but a state of "
                f"{len(leaves)} arrays and designs of {sorted(sizes)} parameters meet "
                f"one of {structure.num_leaves} and {self.problem.space.size}. Give the "
                "problem and the engines with which it began."
            )
        if numbers != list(range(len(numbers))):
            raise errors.InputError(
                "The trials of a search must be all of its first ones in order, but are "
                f"{numbers[:5]}... Give those up to the checkpoint."
            )
        for trial in saved.trials:
            self.trials.append(trial)
            for callback in self.callbacks:  # which may remember; it ended nothing then
                callback(trial)
        state, self.learned, reason = jax.tree.unflatten(structure, leaves)
        self.reason = str(reason)
        return state

    def evaluate(self, us: np.ndarray, policy: str) -> list[Evaluation]:
        """Measure designs and keep them as trials."""
        number, space = len(self.trials), self.problem.space
        samples = _samples(policy, number, len(us))
        tick = time.perf_counter()
        found, self.learned = self.estimator(
            self.problem,
            jnp.asarray(us),
            self.learned,
            key=_keys(self.key, samples),
            map=self.map,
        )
        seconds = (time.perf_counter() - tick) / len(us)
        for i, evaluation in enumerate(found):
            spent = evaluation.events + (self.trials[-1].spent if self.trials else 0)
            trial = Trial(
                number + i,
                samples[i],
                us[i],
                space.values(us[i]),
                evaluation,
                seconds,
                spent,
            )
            self.trials.append(trial)
            if self.recorder is not None:
                self.recorder.add(trial)
            if any([callback(trial) for callback in self.callbacks]):
                self.reason = self.reason or "a callback asked to stop"
        self._stop_after_failures()
        return found

    def _stop_after_failures(self) -> None:
        """Twenty failed trials in a row are the end; an error where all have failed."""
        last = [trial.evaluation.cause for trial in self.trials[-FAILURES:]]
        if len(last) < FAILURES or not all(last):
            return
        cause = f"trials in a row failed, the last one because: {last[-1]}"
        if all(trial.evaluation.cause for trial in self.trials):
            raise errors.SimulationError(
                f"{len(self.trials)} {cause}. Mend the simulator or narrow the bounds."
            )
        self.reason = self.reason or f"{FAILURES} {cause}"


def _measured_anew(
    problem: Problem, us: np.ndarray, rows: int, key: Key
) -> tuple[Gain, Gain | None]:
    """Start and best on fresh events: as searched, and as built where that differs.

    Both designs see the same events; the two detectors do not.
    """
    if not problem.softened:
        return compare(problem.replace(events=rows), us, key), None
    fewer = min(rows, max(problem.events, rows // SOFT_FEWER))
    soft = compare(problem.replace(events=fewer), us, key)
    return soft, compare(problem.replace(events=rows).hard(), us, key)


def _enqueued(
    problem: Problem[D],
    designs: list[D],
    u_start: np.ndarray,
    evaluate: Callable[[np.ndarray, str], list[Evaluation]],
) -> np.ndarray:
    """The point to start from: the best of the enqueued designs and the start."""
    if not designs:
        return u_start
    for design in designs:
        _check_frozen(problem.space.template, problem.space.paths, design)
    spaces = [problem.space.restart(design) for design in designs]  # checks the bounds
    us = np.stack([u_start, *(np.asarray(space.start) for space in spaces)])
    found = evaluate(us, "batch")
    order = [(bool(f.cause), f.violation, f.total.value) for f in found]
    return us[min(range(len(us)), key=order.__getitem__)]


def _check_frozen(template: Any, free: Sequence[str], design: Any) -> None:
    """Refuse a design that could not be reached: only what is free would be taken of it."""
    for path in leaf_paths(template):
        ours, theirs = np.asarray(_get(template, path)), np.asarray(_leaf(design, path))
        same = ours.shape == theirs.shape and np.allclose(
            ours, theirs, 1e-6, 0, equal_nan=True
        )
        if path not in free and not same:
            raise errors.SpaceError(
                "An enqueued design must have the template's value of what is frozen, "
                f"but '{path}' is {theirs}, not {ours}. Free it, or start a problem "
                "from that design: `problem.space.restart(design)`."
            )
