"""The loop. It exists once: ask, evaluate, tell; then measure what was found again."""

import dataclasses
import functools
import time
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.enqueued import points_of
from kythera.core.evaluation import (
    AbstractEstimator,
    AbstractOptimiser,
    Callback,
    Evaluation,
    Map,
    Recorder,
    Trial,
)
from kythera.core.flight import (
    Flight,
    Pending,
    evaluate_one,
    first_pending,
    keys_of,
    samples_of,
    submitter,
)
from kythera.core.problem import Problem
from kythera.core.space import is_cube
from kythera.core.stage import AbstractPathwiseSimulator, AbstractTractableSimulator
from kythera.core.types import Key
from kythera.estimators.direct import Direct
from kythera.estimators.finite_difference import FiniteDifference
from kythera.estimators.pathwise import Pathwise
from kythera.estimators.score_function import ScoreFunction
from kythera.solution import Gain, Solution, compare, unmeasured
from kythera.stopping import PATIENCE, Abandoned, Interrupt, Limits

D = TypeVar("D")

# Streams of keys beside those of the trials, which are fold_in(root, number).
_INIT, _ASK, _REPORT, _LEARN = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC
REPORT_FACTOR = 8  # the report measures start and end with so many times the events
SOFT_FEWER = 4  # where two are measured, the softened detector sees so many times fewer
INTERRUPTED = "interrupted"
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
    optimiser.check(estimator.seen(problem))
    limits.check(estimator.price(problem), problem.events, first)


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
    in_flight: int = 0,
    report_events: int | None = None,
    resume: Resume | None = None,
    replay: Sequence[Trial] = (),
    patience: float = PATIENCE,
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
        callbacks: called after each trial; True stops, and so does a text, the reason.
        recorder: where trials and states are kept.
        map: executor; the builtin runs in this process.
        in_flight: designs that are under way at any time, each told when it comes back,
            so that a slow one keeps nobody waiting; for optimisers that allow it. With 0,
            the designs of a batch are told together, and the search does not depend on
            the number of workers.
        report_events: rows for the final measurement of start and end on the same fresh
            events; by default eight times those of one evaluation. Where the search saw
            a softened detector, that one is measured with a quarter of them (but no fewer
            than one evaluation has), on events of its own.
        resume: goes on where an interrupted search of the same problem, engines and key
            was: the trials are then, bit for bit, those of one that was never
            interrupted. Callbacks are called for the earlier trials again; `enqueue` is
            not looked at.
        replay: trials of a search with designs in flight, in whose order this one tells;
            it asks for the same designs then. Behind them it goes on as they come.
        patience: seconds that what runs may still take after SIGTERM, the notice that a
            machine will vanish; then it is left, and what was found is not measured anew.
            SIGINT (Ctrl-C) waits for the running batch.

    Returns:
        the solution; `print` shows its table.

    Raises:
        UnsupportedError: a combination that cannot work, before anything is simulated.
        InputError: no budget, or one smaller than a single evaluation; or what is resumed
            or replayed does not fit the problem and the engines.
        SimulationError: the first twenty trials failed, all of them.
    """
    estimator = estimator or default_estimator(problem, optimiser)
    limits, queue = Limits(max_events, max_trials, max_seconds), list(enqueue)
    first = 1 + len(queue) if queue else 0  # the start is measured beside them
    _check(problem, optimiser, estimator, limits, first)
    learned = estimator.init(problem, key=jax.random.fold_in(key, _INIT))
    if in_flight or replay:
        _check_flight(optimiser, estimator, learned, in_flight)
    u_start = np.asarray(problem.space.start)
    rows = report_events or REPORT_FACTOR * problem.events
    with Interrupt(patience, recorder is not None) as interrupt:
        run = _Run(
            problem, optimiser, estimator, key, limits, callbacks, recorder, map,
            interrupt, learned, time.perf_counter() - (resume.seconds if resume else 0),
            optimiser.init(problem, u_start, key=jax.random.fold_in(key, _INIT)),
        )  # fmt: skip
        try:
            flight = run.begin(queue, resume, in_flight)
            run.go() if flight is None else run.fly(flight, in_flight, replay)
        except Abandoned:
            run.reason = INTERRUPTED
        u_best = np.asarray(optimiser.recommend(run.state))[0]
        us = np.stack([u_start, u_best])
        final, spent = run.learnt(us)
        report = jax.random.fold_in(key, _REPORT)
        soft, hard = _measured_anew(final, us, rows, report, interrupt, map)
        soft = dataclasses.replace(soft, events=soft.events + spent)
        failure = soft.cause or (hard.cause if hard else "")
        if failure and not interrupt.late:
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
        seconds=time.perf_counter() - run.began,
        state=(run.state, run.learned),
    )


def _check_flight(
    optimiser: AbstractOptimiser,
    estimator: AbstractEstimator,
    learned: Any,
    in_flight: int,
) -> None:
    """Refuse what cannot be told one by one."""
    if int(in_flight) != in_flight or in_flight < 1:
        raise errors.InputError(
            f"`in_flight` must be a whole number >= 1, but is {in_flight}. Give the "
            "number of workers; leave it out, and `replay`, to tell batches together."
        )
    if not optimiser.asynchronous:
        raise errors.UnsupportedError(
            f"`{type(optimiser).__name__}` needs the answers to all its questions "
            "before it asks again, but `in_flight` tells them one by one. Leave out "
            "`in_flight`, or use `Evolution` or `RandomSearch`."
        )
    if learned is not None:
        raise errors.UnsupportedError(
            f"`{type(estimator).__name__}` learns from one evaluation for the next, but "
            "`in_flight` has several under way. Leave out `in_flight`, or use an "
            "estimator without a state, such as `Direct`."
        )


@dataclasses.dataclass
class _Run(Generic[D]):
    """A search: what it is about, and what grows as it goes on.

    Args:
        problem, optimiser, estimator, key, callbacks, recorder, map: as `optimise` was
            given them.
        limits: of the search.
        interrupt: tells of signals.
        learned: the estimator's state.
        began: reading of the clock.
        state: the optimiser's, after the last tell.
        trials: so far.
        reason: why it stops; empty while it goes on.
    """

    problem: Problem[D]
    optimiser: AbstractOptimiser
    estimator: AbstractEstimator
    key: Key
    limits: Limits
    callbacks: Sequence[Callback]
    recorder: Recorder | None
    map: Map
    interrupt: Interrupt
    learned: Any
    began: float
    state: Any
    trials: list[Trial] = dataclasses.field(default_factory=list)
    reason: str = ""

    def learnt(self, us: np.ndarray) -> tuple[Problem[D], int]:
        """The problem with what the estimator learnt for these designs, and its price."""
        key = jax.random.fold_in(self.key, _LEARN)
        try:
            with self.interrupt.leavable():
                return self.estimator.measured(
                    self.problem, self.learned, jnp.asarray(us), key=key, map=self.map
                )
        except Abandoned:
            return self.problem, 0

    @functools.cached_property
    def price(self) -> int:
        """Primaries of one design."""
        return self.estimator.price(self.problem)

    def begin(
        self, queue: list[D], saved: Resume | None, in_flight: int
    ) -> Flight | None:
        """Measure what was enqueued, or take up what was saved; the designs under way."""
        n, pending = self.problem.space.size, None
        if saved is None:
            if queue:
                us = points_of(self.problem, queue)
                found = self.evaluate(us, "batch")
                order = [(bool(f.cause), f.violation, f.total.value) for f in found]
                u0 = us[min(range(len(us)), key=order.__getitem__)]
                key = jax.random.fold_in(self.key, _INIT)
                self.state = self.optimiser.init(self.problem, u0, key=key)
            pending = first_pending(n, len(self.trials))
        elif in_flight:
            pending = self._take_up(saved, first_pending(n, 0))
        else:
            self._take_up(saved)
        if not in_flight:
            return None
        assert pending is not None
        work = functools.partial(evaluate_one, self.estimator, self.problem)
        return Flight(
            submitter(self.map, work),
            lambda sample: jax.random.fold_in(self.key, sample),
            self.price,
            pending,
        )

    def _take_up(self, saved: Resume, *fresh: Pending) -> Any:
        """What was saved, in the structure of fresh states."""
        like = (self.state, self.learned, self.reason, *fresh)
        structure = jax.tree.structure(like)
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
        self.state, self.learned, reason, *rest = jax.tree.unflatten(structure, leaves)
        self.reason = str(reason)
        return rest[0] if rest else None

    def _stopped(self) -> str:
        """Why the search ends as it is; empty while it goes on."""
        asked = INTERRUPTED if self.interrupt.asked else ""
        return self.reason or self.optimiser.finished(self.state) or asked

    def _ended(self, under_way: int = 0) -> str:
        """Why no design more is to be asked for; empty while one is."""
        seconds = time.perf_counter() - self.began
        return self._stopped() or self.limits.reached(
            self.trials, self.price, seconds, under_way
        )

    def _ask(self, number: int) -> tuple[np.ndarray, Any]:
        """The optimiser's next points, and its state after it asked."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, _ASK), number)
        us, state = self.optimiser.ask(self.state, key=key)
        us = np.asarray(us)
        if not is_cube(us):
            raise errors.SpaceError(
                f"`{type(self.optimiser).__name__}` asked for a point outside the unit "
                f"cube: {us}. Report this as a fault of the optimiser."
            )
        return us, state

    def go(self) -> None:
        """Batch after batch, until there is a reason to stop."""
        cut = ""
        while not self.reason:
            if reason := self._ended():
                self.reason = reason + cut
                break
            us, state = self._ask(len(self.trials))
            fit = self.limits.fit(len(us), self.trials, self.price)
            cut = f" ({fit} of the last batch of {len(us)})" if fit < len(us) else ""
            us = us[:fit]
            found = self.evaluate(us, self.optimiser.sample)
            self.state = self.optimiser.tell(state, us, found)
            # a batch that a limit cut is no state to go on from, should the limit be raised
            if not cut:
                self._checkpoint()

    def fly(self, flight: Flight, width: int, replay: Sequence[Trial]) -> None:
        """Design after design, as they come in, until there is a reason to stop."""
        try:
            while True:
                full = self._fill(flight, width)
                self.reason = self._stopped() or ("" if flight.under_way else full)
                if self.reason:
                    break
                number = len(self.trials)
                with self.interrupt.leavable():
                    back = flight.next(replay[number] if number < len(replay) else None)
                self.state = self.optimiser.tell(
                    self.state, back.u[None], [back.evaluation]
                )
                self._keep(back.sample, back.u, back.evaluation, back.seconds)
                self._stop_after_failures()
                self._checkpoint(flight.pending())
        finally:
            flight.cancel()

    def _fill(self, flight: Flight, width: int) -> str:
        """Keep `width` designs under way; why there cannot be more, if so."""
        while flight.under_way < width:
            if reason := self._ended(flight.under_way):
                return reason
            if not flight.waiting:
                us, self.state = self._ask(flight.asked)
                samples = samples_of(self.optimiser.sample, flight.asked, len(us))
                flight.ask(us, samples)
            with self.interrupt.leavable():
                flight.start()
        return ""

    def _checkpoint(self, *pending: Pending) -> None:
        if self.recorder is None:
            return
        saved = (self.state, self.learned, self.reason, *pending)
        u = np.asarray(self.optimiser.recommend(self.state))[0]
        now = np.stack([u, self.problem.space.values(u, hard=True)])
        self.recorder.checkpoint(len(self.trials) - 1, saved, now)

    def evaluate(self, us: np.ndarray, policy: str) -> list[Evaluation]:
        """Measure designs and keep them as trials."""
        samples = samples_of(policy, len(self.trials), len(us))
        tick = time.perf_counter()
        with self.interrupt.leavable():
            found, learned = self.estimator(
                self.problem,
                jnp.asarray(us),
                self.learned,
                key=keys_of(self.key, samples),
                map=self.map,
            )
        self.learned = learned
        seconds = (time.perf_counter() - tick) / len(us)
        for sample, u, evaluation in zip(samples, us, found, strict=True):
            self._keep(sample, u, evaluation, seconds)
        self._stop_after_failures()
        return found

    def _keep(
        self, sample: int, u: np.ndarray, evaluation: Evaluation, seconds: float
    ) -> None:
        """One more trial."""
        spent = evaluation.events + (self.trials[-1].spent if self.trials else 0)
        number, values = len(self.trials), self.problem.space.values(jnp.asarray(u))
        trial = Trial(number, sample, u, values, evaluation, seconds, spent)
        self.trials.append(trial)
        if self.recorder is not None:
            self.recorder.add(trial)
        for answer in [callback(trial) for callback in self.callbacks]:
            if answer:
                why = answer if isinstance(answer, str) else "a callback asked to stop"
                self.reason = self.reason or why

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
    problem: Problem,
    us: np.ndarray,
    rows: int,
    key: Key,
    interrupt: Interrupt,
    map: Map,
) -> tuple[Gain, Gain | None]:
    """Start and best on fresh events: as searched, and as built where that differs.

    Both designs see the same events; the two detectors do not.
    """

    def measured(problem: Problem) -> Gain:
        try:
            with interrupt.leavable():
                return compare(problem, us, key, map)
        except Abandoned:
            return unmeasured(f"{INTERRUPTED} before that was done")

    if not problem.softened:
        return measured(problem.replace(events=rows)), None
    fewer = min(rows, max(problem.events, rows // SOFT_FEWER))
    soft = measured(problem.replace(events=fewer))
    return soft, measured(problem.replace(events=rows).hard())
