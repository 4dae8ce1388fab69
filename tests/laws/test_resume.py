"""The law of interruption: a search that goes on has the trials of one that never stopped."""

import jax
import numpy as np
import pytest

import kythera as ky
from kythera import errors, testing
from kythera.core.evaluation import Measured, Trial
from kythera.optimise import Resume
from kythera.runs import checkpoint

from .tables import ESTIMATORS, OPTIMISERS, labelled, searchers

KEY = jax.random.key(5)
SEARCHERS = labelled(OPTIMISERS)
ENGINES = labelled(ESTIMATORS)


class Kept:
    """A recorder that keeps each checkpoint as the bytes of a file."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.files: dict[int, bytes] = {}

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)

    def checkpoint(self, number: int, state: object, recommended: object) -> None:
        self.files[number] = checkpoint.encode(state, {"number": number})

    def after(self, number: int) -> Resume:
        leaves, about = checkpoint.decode(self.files[number], "memory")
        return Resume(self.trials[: about["number"] + 1], leaves)


def same(first: list[Trial], second: list[Trial]) -> None:
    """Bit for bit, but for the time that they took."""
    assert [t.number for t in first] == [t.number for t in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.u, b.u)
        np.testing.assert_array_equal(a.values, b.values)
        assert (a.sample, a.spent) == (b.sample, b.spent)
        x, y = a.evaluation, b.evaluation
        assert (x.events, x.cause) == (y.events, y.cause)
        np.testing.assert_array_equal(x.covariance, y.covariance)
        numbers(x.total, y.total)
        for first_named, second_named in ((x.terms, y.terms), (x.slack, y.slack)):
            assert list(first_named) == list(second_named)
            for name in first_named:
                numbers(first_named[name], second_named[name])


def numbers(first: Measured, second: Measured) -> None:
    """Value, error and gradient."""
    np.testing.assert_array_equal(
        [first.value, first.stderr], [second.value, second.stderr]
    )
    assert (first.gradient is None) == (second.gradient is None)
    if first.gradient is not None:
        np.testing.assert_array_equal(first.gradient, second.gradient)


def goes_on(problem, optimiser, estimator, trials: int) -> None:
    """From three of its checkpoints."""

    def search(**options):
        return ky.optimise(
            problem,
            optimiser,
            estimator,
            key=KEY,
            max_trials=trials,
            report_events=problem.events,
            **options,
        )

    kept = Kept()
    whole = search(recorder=kept)
    assert len(kept.files) >= 3
    places = sorted(kept.files)
    for number in {places[0], places[len(places) // 2], places[-1]}:
        again = search(resume=kept.after(number))
        same(again.trials, whole.trials)
        np.testing.assert_array_equal(again.u_best, whole.u_best)
        assert again.gain == whole.gain
        assert again.reason == whole.reason


@pytest.mark.parametrize("name", searchers())
def test_every_optimiser_goes_on(name):
    searcher = SEARCHERS[name]()
    goes_on(searcher.problem(), searcher.optimiser, None, searcher.trials)


@pytest.mark.parametrize("name", ENGINES)
def test_every_estimator_goes_on(name):
    engine = ENGINES[name]()
    estimator = engine.estimator
    optimiser = ky.adam(0.02) if estimator.gives_gradient else ky.RandomSearch(2)
    goes_on(engine.problem(events=20), optimiser, estimator, 6)


def test_a_cut_generation_is_measured_anew_where_the_limit_is_raised():
    """No state is kept that has seen part of a generation."""
    kept, problem = Kept(), testing.noisy_sphere()
    optimiser = ky.Evolution(population=6)
    options = {"key": KEY, "report_events": 16}
    ky.optimise(problem, optimiser, max_trials=20, recorder=kept, **options)
    assert max(kept.files) == 17
    longer = ky.optimise(
        problem, optimiser, max_trials=30, resume=kept.after(17), **options
    )
    whole = ky.optimise(problem, optimiser, max_trials=30, **options)
    same(longer.trials, whole.trials)


def test_a_search_that_a_callback_ended_has_ended():
    kept, seen = Kept(), []
    problem, optimiser = testing.noisy_sphere(), ky.RandomSearch(4)
    options = {"key": KEY, "report_events": 16, "max_trials": 40}

    def stop(trial: Trial) -> bool:
        seen.append(trial.number)
        return trial.number == 9  # in the middle of a batch

    whole = ky.optimise(problem, optimiser, recorder=kept, callbacks=[stop], **options)
    assert len(whole.trials) == 12
    again = ky.optimise(
        problem, optimiser, resume=kept.after(11), callbacks=[stop], **options
    )
    same(again.trials, whole.trials)
    assert again.reason == whole.reason == "a callback asked to stop"
    assert seen == [*range(12), *range(12)]  # a callback that remembers is told again


def test_what_does_not_fit_is_refused():
    kept, problem = Kept(), testing.noisy_sphere()
    options = {"key": KEY, "report_events": 16, "max_trials": 6}
    ky.optimise(problem, ky.adam(0.1), recorder=kept, **options)
    saved = kept.after(3)
    with pytest.raises(errors.InputError, match="must fit the problem"):
        ky.optimise(problem, ky.RandomSearch(2), resume=saved, **options)
    with pytest.raises(errors.InputError, match="must fit the problem"):
        ky.optimise(testing.noisy_sphere(n=7), ky.adam(0.1), resume=saved, **options)
    with pytest.raises(errors.InputError, match="first ones in order"):
        ky.optimise(
            problem,
            ky.adam(0.1),
            resume=Resume(saved.trials[1:], saved.state),
            **options,
        )
