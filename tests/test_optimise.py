"""The loop: budgets that are never exceeded, and batches that they cut."""

import concurrent.futures
import html
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors, testing
from kythera.core.evaluation import outcomes
from kythera.core.objective import AtMost
from kythera.report.page import report as write_report
from kythera.runs.describe import save
from kythera.runs.result import load
from kythera.testing.textbook import Point

from .laws.test_resume import Kept
from .laws.test_resume import same as same_trials

KEY = jax.random.key(3)


def _search(optimiser, **budget):
    problem = testing.noisy_sphere()
    return ky.optimise(problem, optimiser, key=KEY, report_events=16, **budget)


@pytest.mark.parametrize("budget", [{"max_trials": 20}, {"max_events": 16 * 20.5}])
def test_the_last_generation_is_cut_to_the_budget(budget):
    optimiser = ky.Evolution(population=6)
    cut, before, after = (
        _search(optimiser, **limits)
        for limits in (budget, {"max_trials": 18}, {"max_trials": 24})
    )
    assert len(cut.trials) == 20
    assert cut.events == 320
    assert cut.reason.endswith("(2 of the last batch of 6)")
    assert "last batch" not in before.reason
    for trial, same in zip(cut.trials, after.trials, strict=False):
        np.testing.assert_array_equal(trial.u, same.u)
        assert (trial.number, trial.sample) == (same.number, same.sample)
    # Two of six designs say nothing about the generation.
    np.testing.assert_array_equal(cut.u_best, before.u_best)
    assert not np.array_equal(cut.u_best, after.u_best)


@pytest.mark.parametrize("trials", [1, 3, 8, 9])
@pytest.mark.parametrize(
    "optimiser",
    [
        ky.Evolution(population=4),
        ky.Evolution(population=4, diagonal=True),
        ky.RandomSearch(4),
        ky.MultiStart(ky.Evolution(population=4), 2),
        ky.MultiStart(ky.sgd(0.02), 4),
    ],
    ids=["evolution", "diagonal", "random", "starts", "gradients"],
)
def test_no_optimiser_exceeds_its_trials(optimiser, trials):
    found = _search(optimiser, max_trials=trials, max_events=1e6)
    assert len(found.trials) == trials
    assert np.all(np.isfinite(found.u_best))


def test_the_best_of_a_cut_batch_is_kept():
    found = _search(ky.RandomSearch(16), max_trials=10)
    losses = [trial.evaluation.total.value for trial in found.trials]
    np.testing.assert_array_equal(found.u_best, found.trials[np.argmin(losses)].u)


def test_a_copy_without_answers_stays_where_it_is():
    found = _search(ky.MultiStart(ky.sgd(0.02), 3), max_trials=4)
    counts = [int(copy.count) for copy in found.state[0].copies]
    assert counts == [2, 1, 1]


def test_gradients_by_differences_keep_to_the_events():
    problem, engine = testing.noisy_sphere(), ky.FiniteDifference()
    price = engine.price(problem)
    found = ky.optimise(
        problem, ky.adam(), engine, key=KEY, max_events=3 * price - 1, report_events=16
    )
    assert [t.spent for t in found.trials] == [price, 2 * price]
    assert found.reason == "the budget of events is spent"


@pytest.mark.parametrize("budget", [{"max_trials": 2}, {"max_events": 47}])
def test_enqueued_designs_have_to_fit(budget):
    near, far = (Point(np.full(4, x)) for x in (0.2, 1.5))
    seen = []
    with pytest.raises(
        errors.InputError, match=r"3 trials of 16 events.*enqueue fewer"
    ):
        _search(ky.adam(), enqueue=[near, far], callbacks=[seen.append], **budget)
    assert not seen
    found = _search(ky.adam(), enqueue=[near, far], max_trials=3)
    assert len(found.trials) == 3
    np.testing.assert_allclose(found.u_best, 0.55)


def _host(function, **budget):
    """A search of a host function of x, from x = 0.5."""
    problem = ky.from_function(function, {"x": ky.Real(0, 1)})
    return ky.optimise(problem, ky.RandomSearch(4), key=KEY, **budget)


def _dying_after(calls, value=None):
    """x, until so many calls are made; then `value`, or an exception."""
    made = []

    def function(x):
        made.append(x)
        if len(made) <= calls:
            return x
        if value is None:
            raise RuntimeError("no beam")
        return value

    return function


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "no beam"),
        (np.nan, "term 'loss' of the start is nan; term 'loss' of the best design is"),
        (np.inf, "term 'loss' of the start is inf"),
    ],
)
def test_a_final_measurement_that_fails_keeps_the_trials(value, cause, tmp_path):
    found = _host(_dying_after(8, value), max_trials=8)
    assert len(found.trials) == 8
    assert cause in found.failure
    assert found.reason.startswith("all trials are done; start and best could not be")
    assert cause in str(found)
    assert not np.isfinite(found.gain.value)
    saved = load(save(found, tmp_path / "run"))
    assert saved.trials["terms"].shape == (8, 1)
    assert np.all(np.isfinite(saved.trials["terms"]))
    assert html.escape(cause) in write_report(saved, tmp_path / "page.html").read_text()


def test_a_final_measurement_that_succeeds_has_no_cause():
    found = _host(lambda x: x, max_trials=4)
    assert found.failure == ""
    assert found.reason == "all trials are done"


@pytest.mark.parametrize(
    "engine", [(ky.Evolution(), None), (ky.adam(0.05), ky.Pathwise())]
)
def test_constraints_that_no_design_keeps_are_told(engine, tmp_path):
    """sum x <= -1 and sum x >= 0: the search goes on, and its answer says so."""
    problem = testing.sphere()
    low = AtMost("low", lambda d: 10 + jnp.sum(d.x), 9.0)
    high = AtMost("high", lambda d: 10 - jnp.sum(d.x), 10.0)
    both = problem.replace(objective=problem.objective + low + high)
    found = ky.optimise(both, *engine, key=jax.random.key(1), max_trials=16)
    assert len(found.trials) == 16
    said = re.search(r"the best design breaks (.*)", str(found))
    assert said is not None
    broken = {name for name, (_, best) in found.report.slack.items() if best.value < 0}
    assert broken == set(re.findall(r"'(\w+)' \(slack -", said[1]))
    assert broken
    assert said[0] in load(save(found, tmp_path / "run")).table()
    one = problem.replace(objective=problem.objective + low)
    kept = ky.optimise(one, *engine, key=jax.random.key(1), max_trials=16)
    assert "breaks" not in str(kept)  # the start has sum x = -4


@pytest.mark.parametrize(("rows", "fewer"), [(128, 32), (20, 16), (8, 8), (None, 32)])
def test_the_softened_detector_is_measured_with_a_quarter_of_the_rows(rows, fewer):
    """But with no fewer than one evaluation has, unless the report has fewer itself."""
    problem = testing.noisy_sphere()
    assert problem.events == 16
    problem = problem.replace(hard_pipeline=problem.pipeline)
    found = ky.optimise(problem, ky.sgd(0.1), key=KEY, max_trials=1, report_events=rows)
    assert found.hard is not None
    assert found.soft.events == 2 * fewer
    assert found.hard.events == 2 * (rows or 128)


def test_a_simulator_that_dies_ends_the_run_and_keeps_the_trials():
    found = _host(_dying_after(6), max_trials=100)
    assert len(found.trials) == 28  # the batch in which twenty in a row had failed
    assert found.reason.startswith("20 trials in a row failed, the last one because")
    assert "no beam" in found.reason


def test_a_simulator_that_never_works_is_an_error():
    with pytest.raises(errors.SimulationError, match="20 trials in a row.*no beam"):
        _host(_dying_after(0), max_trials=100)


def test_enqueued_designs_agree_in_what_is_frozen():
    problem = testing.noisy_sphere()
    design = {"x": np.zeros(2), "gap": np.array([1.0, 2.0])}
    space = ky.Space(design, {"x": ky.Real(-1, 1)})
    other = {"x": np.ones(2), "gap": np.array([1.0, 2.5])}
    with pytest.raises(errors.SpaceError, match=r"'gap' is \[1.  2.5\], not \[1. 2.\]"):
        ky.optimise(
            problem.replace(space=space),
            ky.adam(),
            key=KEY,
            max_trials=9,
            enqueue=[other],
        )


def test_a_copy_that_only_fails_gives_up_and_the_others_go_on():
    def loss(x):
        if x > 0.55:
            raise RuntimeError("no beam")
        return (x - 0.3) ** 2

    problem = ky.from_function(loss, {"x": ky.Real(0, 1)}, start={"x": 0.5})
    optimiser = ky.MultiStart(ky.sgd(0.02), 4)
    found = ky.optimise(problem, optimiser, key=KEY, max_trials=100)
    copies = found.state[0].copies
    ends = [optimiser.optimiser.finished(copy) for copy in copies]
    assert "20 evaluations in a row failed" in ends
    assert "" in ends
    assert found.reason == "all trials are done"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(True, "a callback asked to stop"), ("enough is gained", "enough is gained")],
)
def test_a_callback_stops_and_says_why(answer, reason):
    found = _search(ky.RandomSearch(1), max_trials=9, callbacks=[lambda t: answer])
    assert len(found.trials) == 1
    assert found.reason == reason


def test_one_lost_item_costs_only_itself():
    def work(x):
        if x == 1:
            raise errors.SimulationError("no beam")
        return x

    found = list(outcomes(map, work, [0, 1, 2]))
    assert [found[0], str(found[1]), found[2]] == [0, "no beam", 2]
    ended = (work(x) for x in [0, 1, 2])  # a generator ends with its first error
    with pytest.raises(errors.SimulationError, match="no beam"):
        list(outcomes(lambda *_: ended, work, [0, 1, 2]))


# Designs in flight.

FLYING = {
    "random": ky.RandomSearch(4),
    "evolution": ky.Evolution(population=5),
    "fresh": ky.Evolution(population=5, sample="fresh"),
    "diagonal": ky.Evolution(population=4, diagonal=True, sample="fixed"),
}


class Shuffled:
    """An executor that works in threads, each item after a random rest."""

    def __init__(self, seed: int, slowest: float = 0.02, first: float = 0.0) -> None:
        self._dice, self._slowest, self._first = random.Random(seed), slowest, first
        self._pool = concurrent.futures.ThreadPoolExecutor(4)

    def __call__(self, work, items):
        return self._pool.map(work, items)

    def submit(self, work, item):
        def late():
            time.sleep(rest)
            return work(item)

        rest, self._first = self._first or self._dice.uniform(0, self._slowest), 0.0
        return self._pool.submit(late)


def _flight(optimiser, problem=None, **options):
    return ky.optimise(
        problem or testing.noisy_sphere(),
        optimiser,
        **{"key": KEY, "report_events": 16, "max_trials": 30, "in_flight": 4} | options,
    )


@pytest.mark.parametrize("name", FLYING)
def test_a_search_in_flight_is_replayed_from_the_order_of_its_tells(name):
    optimiser = FLYING[name]
    ordered = _flight(optimiser)  # which compiles: nothing below takes long
    first = _flight(optimiser, map=Shuffled(1, first=0.5))
    assert [t.number for t in first.trials] == list(range(30))
    points = [tuple(t.u) for t in first.trials]
    assert points != [tuple(t.u) for t in ordered.trials]
    again = _flight(optimiser, map=Shuffled(2), replay=first.trials)
    same_trials(first.trials, again.trials)
    np.testing.assert_array_equal(first.u_best, again.u_best)
    assert first.reason == again.reason == "all trials are done"


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_a_search_in_flight_goes_on_with_what_was_pending(name):
    optimiser, kept = FLYING[name], Kept()
    whole = _flight(optimiser, map=Shuffled(1), recorder=kept)
    for number in (0, 11, 28):
        saved = kept.after(number)
        again = _flight(optimiser, resume=saved, replay=whole.trials)
        same_trials(whole.trials, again.trials)
        np.testing.assert_array_equal(whole.u_best, again.u_best)


def test_a_slow_design_keeps_nobody_waiting():
    held = threading.Event()

    def loss(x, seed):
        if x == 0.5:  # the start
            held.wait(20)
        return x

    def release(trial):
        if trial.number == 10:
            held.set()

    problem = ky.from_function(loss, {"x": ky.Real(0, 1)})
    options = {"max_trials": 16, "in_flight": 2, "callbacks": [release]}
    found = _flight(ky.RandomSearch(4), problem, map=Shuffled(1), **options)
    numbers = {trial.sample: trial.number for trial in found.trials}
    assert numbers[0] > 9
    assert sorted(numbers) == list(range(16))


@pytest.mark.parametrize("budget", [{"max_trials": 7}, {"max_events": 16 * 7.9}])
def test_a_search_in_flight_keeps_to_its_budget(budget):
    optimiser = FLYING["evolution"]
    found = _flight(optimiser, map=Shuffled(3), **{"max_trials": None} | budget)
    assert len(found.trials) == 7
    assert found.events == 16 * 7


def test_a_search_in_flight_learns():
    found = _flight(ky.Evolution(), map=Shuffled(3, 0.002), max_trials=300)
    problem = testing.noisy_sphere()
    exact = [testing.exact_loss(problem, u) for u in (found.u_start, found.u_best)]
    assert exact[1] < 0.03 * exact[0]


class _Learning(ky.Direct):
    def init(self, problem, *, key):
        return np.zeros(3)


@pytest.mark.parametrize(
    ("optimiser", "options", "cause"),
    [
        (ky.adam(), {}, "`Gradient` needs the answers to all its questions"),
        (ky.RandomSearch(), {"estimator": _Learning()}, "`_Learning` learns from one"),
        (ky.RandomSearch(), {"in_flight": -1}, "whole number >= 1, but is -1"),
    ],
)
def test_what_cannot_be_in_flight_is_refused(optimiser, options, cause):
    with pytest.raises(errors.KytheraError, match=cause):
        _flight(optimiser, **options)


def test_a_replay_needs_the_same_search():
    first = _flight(ky.RandomSearch(4), map=Shuffled(1))
    with pytest.raises(errors.InputError, match="not among the 4 under way"):
        _flight(ky.RandomSearch(4), replay=first.trials, key=jax.random.key(4))


# Signals.

STUCK = """
import hashlib, sys, time
import jax, jax.numpy as jnp
import kythera as ky

def sleeps(x):
    print("running", flush=True)
    time.sleep(60)
    return x

def deaf(x):
    print("running", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    return x

def compiled(x):
    print("running", flush=True)
    return jnp.mean(jax.lax.fori_loop(
        0, 10**7, lambda i, y: jnp.sin(y) + x, x * jnp.ones(50_000)
    ))

class Nowhere:
    def add(self, trial): ...
    def checkpoint(self, *state): ...

name = sys.argv[1]
problem = ky.from_function(
    globals()[name], {"x": ky.Real(0, 1)}, differentiable=name == "compiled"
)
found = ky.optimise(
    problem, ky.RandomSearch(2), key=jax.random.key(1), max_trials=4, patience=1.0,
    recorder=Nowhere(),
)
print(found.reason, len(found.trials), found.soft.cause, sep="; ", flush=True)
"""
LEFT = "interrupted; 0; interrupted before that was done\n"


@pytest.mark.parametrize(
    ("kind", "said", "code"),
    [
        ("sleeps", LEFT, 0),
        # At its exit the process would wait for XLA: an alarm ends it.
        pytest.param("compiled", LEFT, -signal.SIGALRM, marks=pytest.mark.slow),
        # It hears nothing, and its trials are kept elsewhere.
        pytest.param("deaf", "", 130, marks=pytest.mark.slow),
    ],
)
def test_sigterm_leaves_a_long_trial(kind, said, code):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, kind],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert (out, process.returncode) == (said, code)


def test_sigterm_waits_for_a_short_trial():
    def loss(x):
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.2)
        seen.append(x)
        return x

    seen: list[float] = []
    problem = ky.from_function(loss, {"x": ky.Real(0, 1)})
    found = ky.optimise(problem, ky.RandomSearch(2), key=KEY, max_trials=40)
    assert found.reason == "interrupted"
    assert len(found.trials) == 4
    assert np.isfinite(found.gain.value)
