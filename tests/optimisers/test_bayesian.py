"""Bayesian optimisation: what it models, what it refuses, and that it beats chance."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors, testing
from kythera.optimisers import gaussian_process, history
from kythera.optimisers.coordinates import Coordinates

from .cases import BEST, KEY, START, answer, bounded, failure, recommended, search
from .test_mixed import Layers


def test_it_begins_with_the_start_and_spreads_out():
    optimiser = ky.Bayesian(batch=4, startup=6)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    assert us.shape == (4, 4)
    np.testing.assert_array_equal(us[0], START)
    more, state = optimiser.ask(state, key=KEY)
    assert more.shape == (2, 4)  # the last two of the first six
    assert len({tuple(u) for u in np.concatenate([us, more])}) == 6
    assert len(state.asked) == 6


def test_what_is_told_is_no_longer_asked():
    optimiser = ky.Bayesian(batch=4)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    state = optimiser.tell(state, us[2:3], [answer(1.0)])
    np.testing.assert_array_equal(state.asked, us[[0, 1, 3]])
    np.testing.assert_array_equal(state.us, us[2:3])


def test_questions_under_way_are_not_asked_again():
    optimiser = ky.Bayesian(batch=2, startup=4)
    state = search(optimiser, testing.sphere(), 20)
    first, pending = optimiser.ask(state, key=KEY)
    again, _ = optimiser.ask(pending, key=KEY)
    assert not set(map(tuple, first)) & set(map(tuple, again))


def test_failures_and_broken_constraints_come_last():
    optimiser = ky.Bayesian(batch=4)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    told = [
        failure(),
        answer(1.0, slack=[(-0.1, None)]),
        answer(3.0, slack=[(0.1, None)]),
        answer(2.0, slack=[(0.0, None)]),
    ]
    state = optimiser.tell(state, us, told)
    np.testing.assert_array_equal(optimiser.recommend(state)[0], us[3])
    assert state.slack.shape == (4, 1)
    assert np.isnan(state.slack[0]).all()
    assert state.violation.tolist() == [0, 0.1, 0, 0]


def test_all_failed():
    optimiser = ky.Bayesian(batch=8, startup=8)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    for _ in range(2):
        us, state = optimiser.ask(state, key=KEY)
        state = optimiser.tell(state, us, [failure()] * len(us))
    np.testing.assert_array_equal(optimiser.recommend(state)[0], START)


def test_constraints_are_met():
    problem = bounded(testing.sphere())
    optimiser = ky.Bayesian()
    loss, slack = recommended(optimiser, problem, search(optimiser, problem, 100))
    assert slack >= 0
    assert loss < 1.6 * BEST


def test_rows_of_a_process_are_points():
    """One column for each parameter, and back."""
    kinds = Coordinates.of(Layers.space)
    us = kinds.hard(np.random.default_rng(2).random((9, Layers.space.size)))
    x = gaussian_process.compact(kinds, us)
    assert x.shape == (9, kinds.variables)
    np.testing.assert_array_equal(gaussian_process.expand(kinds, x), us)


@pytest.mark.parametrize(
    "settings", [{"model": "bayes"}, {"batch": 0}, {"startup": 1}, {"batch": 1.5}]
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(errors.InputError):
        ky.Bayesian(**settings)


def test_many_parameters_are_refused():
    space = ky.Space({"x": jnp.full(300, 0.5)}, {"x": ky.Real(0, 1)})
    problem = testing.sphere().replace(space=space)
    for optimiser in (ky.Bayesian(), ky.Bayesian("gp"), ky.MultiObjective(model="gp")):
        with pytest.raises(errors.UnsupportedError, match=r"300.*sensitivity.*adam"):
            optimiser.check(problem)
    ky.MultiObjective().check(problem)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch", None)
    for optimiser in (ky.Bayesian("gp"), ky.MultiObjective(model="gp")):
        with pytest.raises(errors.UnsupportedError, match=r"kythera\[bo\]"):
            optimiser.check(testing.two_spheres())
    ky.Bayesian().check(testing.sphere())


@pytest.mark.slow
@pytest.mark.library("botorch")
def test_a_process_is_not_deceived_by_luck():
    """Noise of a third of the range: it recommends better than the luckiest design."""
    recommended, luckiest, missed = [], [], []
    for seed in range(12):
        rng, key = np.random.default_rng(seed), jax.random.fold_in(KEY, seed)
        optimiser = ky.Bayesian("gp", batch=40, startup=40)
        state = optimiser.init(testing.sphere(), START, key=key)
        us, state = optimiser.ask(state, key=key)
        truth = 0.3 * us[:, 0]
        losses = truth + 0.1 * rng.normal(size=40)
        state = optimiser.tell(state, us, [answer(v) for v in losses])
        values, _ = gaussian_process.fitted(state).means()
        missed.append(np.std(values[:, 0] - truth))
        recommended.append(optimiser.recommend(state)[0][0])
        luckiest.append(us[np.argmin(losses), 0])
    assert np.mean(recommended) < min(0.15, np.mean(luckiest))
    assert np.mean(missed) < 0.05  # half of the noise


@pytest.mark.slow
@pytest.mark.library("botorch")
def test_processes_meet_constraints():
    problem = bounded(testing.sphere())
    optimiser = ky.Bayesian("gp")
    loss, slack = recommended(optimiser, problem, search(optimiser, problem, 40))
    assert slack > -1e-3
    assert loss < 1.05 * BEST


def test_a_failed_trial_leaves_a_row_without_numbers():
    state = history.fresh(testing.sphere(), START, KEY)
    state = history.told(state, START[None], [failure()], None)
    assert state.values.shape == (1, 0)
    state = history.told(state, START[None] / 2, [answer(2.0)], None)
    np.testing.assert_array_equal(state.values, [[np.nan], [2.0]])
    assert state.good.tolist() == [False, True]
    assert jax.tree.structure(state) == jax.tree.structure(
        history.fresh(testing.sphere(), START, KEY)
    )
