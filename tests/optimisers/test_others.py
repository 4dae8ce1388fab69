"""L-BFGS-B by replay, evolution, random search, several starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import kythera as ky
from kythera import errors, testing
from kythera.optimisers import constraints
from kythera.optimisers.random_search import sobol
from kythera.stages.simulators.host import from_function

from .cases import BEST, KEY, START, answer, bounded, failure, recommended, search


def _quartic(u):
    x = 4 * np.asarray(u) - 2
    gradient = 4 * np.array([4 * x[0] ** 3 - 2 * x[1], 2 * x[1] - 2 * x[0]])
    return float(x[0] ** 4 - 2 * x[0] * x[1] + x[1] ** 2), gradient


def _plane():
    return ky.Space({"x": jnp.array([0.5, 0.5])}, {"x": ky.Real(0, 1)})


class Plane:
    """All that an optimiser sees of a problem."""

    space = _plane()


def _run(optimiser, function, u0, most=100, fails=lambda u: False):
    state = optimiser.init(Plane(), np.asarray(u0), key=KEY)
    asked = []
    while not optimiser.finished(state) and len(asked) < most:
        us, state = optimiser.ask(state, key=KEY)
        asked.append(us[0])
        bad = fails(us[0])
        told = failure() if bad else answer(*function(us[0]))
        state = optimiser.tell(state, us, [told])
    return state, np.array(asked)


def test_the_replay_asks_what_scipy_asks():
    seen = []

    def recorded(u):
        seen.append(u.copy())
        return _quartic(u)

    u0 = np.array([0.9, 0.2])
    found = scipy.optimize.minimize(
        recorded,
        u0,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, 1)] * 2,
        options={"ftol": 1e-6, "gtol": 1e-6},
    )
    state, asked = _run(ky.LBFGSB(), _quartic, u0)
    np.testing.assert_array_equal(asked, np.unique(seen, axis=0)[_order(seen)])
    np.testing.assert_array_equal(ky.LBFGSB().recommend(state)[0], found.x)
    assert "convergence" in state.reason


def _order(seen):
    unique = np.unique(seen, axis=0)
    first = [
        next(i for i, s in enumerate(seen) if np.array_equal(s, u)) for u in unique
    ]
    return np.argsort(first)


def test_lbfgsb_in_a_corner():
    state, asked = _run(
        ky.LBFGSB(), lambda u: (float(u[0] - u[1]), [1, -1]), [0.3, 0.3]
    )
    assert ky.LBFGSB().recommend(state).tolist() == [[0.0, 1.0]]
    assert len(asked) <= 3


def test_lbfgsb_comes_back_from_failures():
    state, asked = _run(
        ky.LBFGSB(), _quartic, [0.9, 0.2], fails=lambda u: u[0] < 0.6 and u[1] > 0.5
    )
    loss = _quartic(ky.LBFGSB().recommend(state)[0])[0]
    assert np.isnan(state.losses).any()
    assert loss < _quartic([0.9, 0.2])[0] / 4
    assert len(asked) < 100


def test_lbfgsb_ends_where_the_start_fails():
    state, asked = _run(ky.LBFGSB(), _quartic, [0.9, 0.2], fails=lambda u: True)
    assert len(asked) == 1
    assert state.reason == "the evaluation at the start failed"
    assert ky.LBFGSB().recommend(state).tolist() == [[0.9, 0.2]]


def test_lbfgsb_meets_constraints_from_the_safe_side():
    problem = bounded(testing.sphere())
    optimiser = ky.LBFGSB()
    state = search(optimiser, problem, 200)
    loss, slack = recommended(optimiser, problem, state)
    assert "convergence" in optimiser.finished(state)
    assert 0 <= slack < 1e-3
    assert BEST * 0.999 < loss < BEST * 1.01


@pytest.mark.parametrize("field", ["max_iterations", "tolerance", "memory"])
def test_lbfgsb_refuses_no_work(field):
    with pytest.raises(errors.InputError, match=field):
        ky.LBFGSB(**{field: 0})


def test_generations_share_their_events():
    assert ky.Evolution().sample == "batch"
    assert ky.Evolution(sample="fresh").sample == "fresh"
    assert ky.LBFGSB().sample == ky.MultiStart(ky.LBFGSB()).sample == "fixed"
    assert ky.adam().sample == ky.RandomSearch().sample == "fresh"


def test_fitness_puts_feasible_designs_first_and_failures_last():
    evaluations = [
        answer(5.0, slack=[(0.1, None)]),
        answer(-9.0, slack=[(-0.2, None), (0.3, None)]),
        failure(),
        answer(-9.0, slack=[(-0.1, None)]),
        answer(7.0),
    ]
    orders = np.array([constraints.order(e) for e in evaluations])
    values = constraints.fitness(orders)
    assert np.all(np.isfinite(values))
    assert np.argsort(values).tolist() == [0, 4, 3, 1, 2]
    assert values[[0, 4]].tolist() == [5.0, 7.0]
    best = constraints.best(np.arange(5.0)[:, None], orders)
    assert best.tolist() == [[0.0]]


def test_evolution_honours_constraints():
    problem = bounded(testing.sphere())
    state = search(ky.Evolution(), problem, 400)
    loss, slack = recommended(ky.Evolution(), problem, state)
    assert slack > -1e-3
    assert loss < 1.1 * BEST


def test_evolution_finds_whole_numbers_and_options():
    def loss(n, gap, kind):
        return (n - 7) ** 2 + 10 * (gap - 0.3) ** 2 + (kind != "iron")

    domains = {
        "n": ky.Integer(0, 20),
        "gap": ky.Real(0, 1),
        "kind": ky.Choice(("lead", "iron", "absent")),
    }
    problem = from_function(loss, domains, start={"n": 18.0})
    optimiser = ky.Evolution()
    state = search(optimiser, problem, 240)
    u = optimiser.recommend(state)[0]
    values = problem.space.values(u, hard=True)
    assert values[0] == 7
    assert values[1] == pytest.approx(0.3, abs=0.02)
    assert values[2:].tolist() == [0, 1, 0]
    # A whole number is asked for where soft and hard designs are the same.
    us, _ = optimiser.ask(state, key=KEY)
    np.testing.assert_allclose(us[:, 0] * 20, np.round(us[:, 0] * 20), atol=1e-6)


def test_part_of_a_generation_is_kept():
    optimiser = ky.Evolution(population=6)
    problem = testing.sphere()
    state = optimiser.init(problem, START, key=KEY)
    us, asked = optimiser.ask(state, key=KEY)
    losses = [answer(testing.exact_loss(problem, u)) for u in us]
    whole = optimiser.tell(asked, us, losses)
    part = optimiser.tell(asked, us[:4], losses[:4])
    rest, _ = optimiser.ask(part, key=KEY)
    assert rest.shape == (2, 4)
    both = optimiser.tell(part, us[4:], losses[4:])
    np.testing.assert_array_equal(optimiser.recommend(whole), optimiser.recommend(both))
    assert not np.array_equal(optimiser.recommend(whole)[0], START)


def test_whole_numbers_of_a_part_stand_where_they_were_drawn():
    problem = from_function(
        lambda n, gap: n + gap,
        {"n": ky.Integer(0, 20), "gap": ky.Real(0, 1)},
        start={"n": 18.0},
    )
    optimiser = ky.Evolution(population=6)
    state = optimiser.init(problem, np.asarray(problem.space.start), key=KEY)
    us, asked = optimiser.ask(state, key=KEY)
    assert not np.allclose(asked.raw, us)
    part = optimiser.tell(asked, us[:4], [answer(1.0)] * 4)
    np.testing.assert_array_equal(part.us, asked.raw[:4])


def test_evolution_draws_with_the_key():
    optimiser = ky.Evolution()
    state = optimiser.init(testing.sphere(), START, key=KEY)
    first, _ = optimiser.ask(state, key=jax.random.key(1))
    other, _ = optimiser.ask(state, key=jax.random.key(2))
    assert not np.array_equal(first, other)


def test_a_full_covariance_of_thousands_is_refused():
    space = ky.Space({"x": jnp.full(3000, 0.5)}, {"x": ky.Real(0, 1)})
    problem = testing.sphere().replace(space=space)
    with pytest.raises(errors.UnsupportedError, match=r"3,000.*diagonal=True.*adam"):
        ky.Evolution().check(problem)
    ky.Evolution(diagonal=True).check(problem)
    ky.RandomSearch().check(problem)


@pytest.mark.parametrize(
    "settings",
    [
        {"sigma": 0.0},
        {"population": 2},
        {"lr_adapt": True, "diagonal": True},
        {"sample": "new"},
    ],
)
def test_evolution_refuses_values_out_of_range(settings):
    with pytest.raises(errors.InputError):
        ky.Evolution(**settings)


def test_sobol_points_continue_where_they_stopped():
    whole = sobol(5, 0, 48, 9)
    parts = np.concatenate([sobol(5, 0, 15, 9), sobol(5, 15, 33, 9)])
    np.testing.assert_array_equal(whole, parts)
    assert not np.array_equal(whole, sobol(5, 0, 48, 10))
    counts = np.histogram(sobol(2, 0, 64, 1)[:, 0], 8, (0, 1))[0]
    assert counts.tolist() == [8] * 8


def test_random_search_starts_at_the_start_and_keeps_the_best():
    optimiser = ky.RandomSearch(4)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    assert us.shape == (4, 4)
    np.testing.assert_array_equal(us[0], START)
    told = [
        answer(3.0),
        failure(),
        answer(1.0, slack=[(-0.1, None)]),
        answer(2.0, slack=[(0.1, None)]),
    ]
    state = optimiser.tell(state, us, told)
    np.testing.assert_array_equal(optimiser.recommend(state)[0], us[3])
    more, _ = optimiser.ask(state, key=KEY)
    assert not set(map(tuple, more)) & set(map(tuple, us))
    with pytest.raises(errors.InputError, match="batch"):
        ky.RandomSearch(0)


def test_copies_hear_the_answers_to_their_own_questions():
    optimiser = ky.MultiStart(ky.sgd(0.1), starts=3)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    assert us.shape == (3, 4)
    np.testing.assert_array_equal(us[0], START)
    slopes = np.eye(4)[:3]
    answers = [answer(float(3 - i), g) for i, g in enumerate(slopes)]
    state = optimiser.tell(state, us, answers)
    after, _ = optimiser.ask(state, key=KEY)
    np.testing.assert_allclose(after, np.clip(us - 0.1 * slopes, 0, 1), atol=1e-6)
    assert optimiser.leader(state) == 2
    np.testing.assert_array_equal(optimiser.recommend(state)[0], after[2])


def test_the_best_copy_is_feasible_first():
    optimiser = ky.MultiStart(ky.sgd(0.1), starts=2)
    state = optimiser.init(testing.sphere(), START, key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    g = np.zeros(4)
    answers = [answer(9.0, g, [(0.1, g)]), answer(1.0, g, [(-0.1, g)])]
    assert optimiser.leader(optimiser.tell(state, us, answers)) == 0


def test_copies_that_have_finished_ask_nothing_more():
    optimiser = ky.MultiStart(ky.LBFGSB(), starts=3)
    problem = testing.rosenbrock()
    state = search(optimiser, problem, 400)
    assert optimiser.finished(state).startswith("all 3 searches ended")
    counts = [len(copy.us) for copy in state.copies]
    assert len(set(counts)) > 1
    assert testing.exact_loss(problem, optimiser.recommend(state)[0]) < 0.01
    with pytest.raises(errors.InputError, match="starts"):
        ky.MultiStart(ky.adam(), 1)


@pytest.mark.parametrize(
    "optimiser",
    [
        ky.adam(),
        ky.LBFGSB(),
        ky.Evolution(),
        ky.RandomSearch(),
        ky.MultiStart(ky.adam()),
    ],
    ids=lambda o: type(o).__name__,
)
def test_references_are_given(optimiser):
    assert all(len(reference) > 30 for reference in optimiser.references)
    assert optimiser.references
