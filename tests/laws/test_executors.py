"""The laws of executors: order, causes, the same bits, and workers that die."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

import cloudpickle
import jax
import numpy as np
import pytest

import kythera as ky
from kythera import errors, testing
from kythera.core import comparison, measure
from kythera.instruments import telescope
from kythera.runs import executors
from kythera.runs.executors import AbstractExecutor
from kythera.runs.executors.pool import DaskExecutor

from .test_resume import same

# Workers have no tests: functions of this file travel with what they hold.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

KEY = jax.random.key(8)
KINDS = ("local", "dask:workers=2,attempts=3")


@pytest.fixture(scope="module")
def pool() -> Iterator[AbstractExecutor]:
    """Two workers for all tests of this file."""
    with executors.make(KINDS[1]) as executor:
        yield executor


@pytest.fixture(params=KINDS)
def executor(request) -> AbstractExecutor:
    """Each kind."""
    if request.param == "local":
        return executors.make("local")
    return request.getfixturevalue("pool")


def _rested(x: float) -> float:
    time.sleep(random.Random(x).uniform(0, 0.02))
    return x


def _picky(x: int) -> int:
    if x == 2:
        try:
            raise ValueError("the beam is off")
        except ValueError as error:
            raise errors.SimulationError("no hit") from error
    return x


def _pid(x: float) -> int:
    time.sleep(x)
    return os.getpid()


def _busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _poisoned(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return x


def test_order_is_kept(executor):
    items = [float(i) for i in range(50)]
    assert list(executor(_rested, items)) == items


def test_an_exception_comes_at_its_turn_with_its_cause(executor):
    found = executor(_picky, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(errors.SimulationError, match="no hit") as caught:
        next(found)
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "the beam is off"
    assert list(found) == [3, 4]
    with pytest.raises(errors.SimulationError, match="no hit"):
        executor.submit(_picky, 2).result(60)


def test_submitted_items_come_by_themselves(executor):
    futures = [executor.submit(_rested, float(i)) for i in range(10)]
    assert [future.result(60) for future in futures] == list(range(10))


def test_what_cannot_travel_is_refused(pool):
    lock = threading.Lock()
    with pytest.raises(errors.UnsupportedError, match="must be pickled"):
        pool(lambda x: lock, [1])


def _host_loss(a: float, b: float, seed: int) -> float:
    if a > 0.95:
        raise RuntimeError("too far out")
    return a + b**2 + np.random.default_rng(seed).normal()


def _host_problem() -> ky.Problem:
    domains = {"a": ky.Real(0, 1), "b": ky.Real(-1, 1)}
    return ky.from_function(_host_loss, domains, events=8)


SEARCHES = {
    "a host, populations": lambda: (_host_problem(), ky.Evolution(), None, 24),
    "blocks": lambda: (testing.noisy_sphere(), ky.RandomSearch(150), None, 150),
    "differences": lambda: (
        testing.noisy_sphere(events=2000), ky.adam(0.05), ky.FiniteDifference(), 3,
    ),
    "gradients in pieces": lambda: (
        telescope.problem(events=400),
        ky.adam(0.02),
        ky.Spread(ky.Pathwise(), 4),
        3,
    ),
    "a host in pieces": lambda: (
        _host_problem(), ky.RandomSearch(2), ky.Spread(parts=4), 4,
    ),
}  # fmt: skip


def _same_bits(name: str, executor: AbstractExecutor) -> None:
    problem, optimiser, estimator, trials = SEARCHES[name]()

    def search(**options) -> ky.Solution:
        return ky.optimise(
            problem,
            optimiser,
            estimator,
            key=KEY,
            max_trials=trials,
            report_events=problem.events,
            **options,
        )

    same(search(map=executor).trials, search().trials)


@pytest.mark.parametrize("name", ["a host, populations", "blocks"])
def test_two_workers_give_the_same_bits_as_this_process(name, pool):
    _same_bits(name, pool)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bits(workers):
    with executors.make(f"dask:workers={workers}") as executor:
        for name in SEARCHES:
            _same_bits(name, executor)


def test_float64_and_pieces_travel(pool, x64):
    _same_bits("gradients in pieces", pool)


def test_a_host_is_measured_anew_by_the_workers(pool):
    """In pieces, with the result of this process."""
    pids = ky.from_function(lambda x: os.getpid(), {"x": ky.Real(0, 1)})
    found = comparison.compare(pids, np.array([[0.2], [0.7]]), KEY, pool)
    assert os.getpid() not in found.loss["loss"]
    problem = _host_problem().replace(chunk=3)
    us = np.array([[0.2, 0.3], [0.7, 0.6]])
    here = comparison.compare(problem, us, KEY)
    there = comparison.compare(problem, us, KEY, pool)
    np.testing.assert_array_equal(here.loss["loss"], there.loss["loss"])
    np.testing.assert_array_equal(here.covariance, there.covariance)


def test_a_search_in_flight_is_replayed_without_workers(pool):
    problem, optimiser = _host_problem(), ky.Evolution()
    options = {"key": KEY, "max_trials": 20, "report_events": 8, "in_flight": 3}
    first = ky.optimise(problem, optimiser, map=pool, **options)
    again = ky.optimise(problem, optimiser, replay=first.trials, **options)
    same(first.trials, again.trials)


def _traces(item: tuple) -> int:
    """Programs that this process has traced, counted from the first call on."""
    import jax.monitoring

    if not hasattr(jax.monitoring, "kythera_traces"):
        jax.monitoring.kythera_traces = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, *_, **__: (
                jax.monitoring.kythera_traces.append(name)
                if "jaxpr_trace" in name
                else None
            )
        )
    measure.evaluate(testing.noisy_sphere(), "value", item)
    return len(jax.monitoring.kythera_traces)


def test_a_worker_compiles_once(pool):
    problem = testing.noisy_sphere().replace(events=17)
    problem = problem.replace(objective=_local_objective())
    us = np.random.default_rng(1).uniform(size=(40, 1, 4))
    items = [(u, jax.random.split(KEY, 1)) for u in us]

    def count(item: tuple) -> tuple[int, int]:
        before = _traces(item)
        measure.evaluate(problem, "value", item)
        return os.getpid(), _traces(item) - before

    found = list(pool(count, items))
    by_worker: dict[int, list[int]] = {}
    for pid, traced in found:
        by_worker.setdefault(pid, []).append(traced)
    assert len(by_worker) == 2
    for traced in by_worker.values():
        assert traced[0] > 0  # a problem that no worker has seen
        assert not any(traced[1:])


def _local_objective() -> ky.PerEventLoss:
    class Squares(ky.PerEventLoss):
        def loss(self, design, trace):
            return {"loss": (trace.signal**2).sum(-1)}

    return Squares()


def test_cpu_time_of_workers_is_counted(pool):
    before = pool.cpu_seconds
    list(pool(_busy, [0.3, 0.3]))
    assert 0.6 <= pool.cpu_seconds - before < 2
    assert executors.make("local").cpu_seconds == 0


def test_a_poisoned_task_fails_alone(pool):
    found = pool(_poisoned, range(8))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(errors.SimulationError, match="died each of the 3 times"):
        next(found)
    assert list(found) == [4, 5, 6, 7]


def _fatal(x: float) -> float:
    if x == 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.slow
def test_a_poisoned_design_is_a_failed_trial(pool):
    problem = ky.from_function(_fatal, {"x": ky.Real(0, 1)})
    for in_flight in (0, 2):
        found = ky.optimise(
            problem, ky.RandomSearch(4), key=KEY, max_trials=8, map=pool,
            in_flight=in_flight, enqueue=[{"x": np.array(0.25)}],
        )  # fmt: skip
        causes = [t.evaluation.cause for t in found.trials]
        assert "died each of the 3 times" in causes[0]  # the start, enqueued too
        assert sum(map(bool, causes)) <= 2
        assert "could not be measured anew: The worker died" in found.reason


def _slow_loss(a: float, seed: int) -> float:
    time.sleep(0.05)
    return a + np.random.default_rng(seed).normal()


def _killed_while_searching(pool: DaskExecutor, kills: int, trials: int) -> None:
    problem = ky.from_function(_slow_loss, {"a": ky.Real(0, 1)}, events=2)
    options = {"key": KEY, "max_trials": trials, "report_events": 2}
    lottery, dead = random.Random(4), []
    optimiser = ky.Evolution(population=16)  # not done before the last kill

    def kill(trial: ky.Trial) -> None:
        if trial.number >= trials * (len(dead) + 1) / (kills + 1):
            process, _ = lottery.choice([*pool._place._running.values()])
            dead.append(process.pid)
            threading.Timer(lottery.uniform(0, 0.2), process.kill).start()

    found = ky.optimise(problem, optimiser, map=pool, callbacks=[kill], **options)
    assert len(dead) == kills
    same(found.trials, ky.optimise(problem, optimiser, **options).trials)
    assert len(set(pool(_pid, [0.5] * 8))) == 2  # they came back


def test_workers_that_are_killed_are_no_loss(pool):
    _killed_while_searching(pool, 2, 40)


@pytest.mark.slow
def test_many_kills_are_no_loss(pool):
    _killed_while_searching(pool, 20, 600)
