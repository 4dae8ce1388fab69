"""Steps in physical units, schedules, clipping, failures, constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kythera as ky
from kythera import errors, testing
from kythera.optimisers.gradient import from_optax, steps
from kythera.stages.simulators.host import from_function
from kythera.units import cm, m, mm

from .cases import BEST, KEY, answer, bounded, failure, recommended, search


def _space():
    design = {
        "upper": {"z": jnp.array([0.1, 0.2]), "gap": jnp.array(0.01)},
        "lower": {"z": jnp.array([0.1])},
        "count": jnp.array(2.0),
        "material": jnp.array([1.0, 0.0]),
    }
    free = {
        "upper.z": ky.Real(0, 0.5 * m, "cm"),
        "upper.gap": ky.Real(1 * mm, 1 * m, "mm", log=True),
        "lower.z": ky.Real(0, [2 * m], "cm"),
        "count": ky.Integer(1, 5),
        "material": ky.Choice(("lead", "iron")),
    }
    return ky.Space(design, free)


def test_one_step_for_all_is_a_fraction_of_the_range():
    np.testing.assert_array_equal(steps(_space(), 0.02), np.full(7, 0.02))


def test_steps_in_native_units():
    found = steps(
        _space(),
        {"upper.z": 1 * cm, "lower": 1 * cm, "upper.gap": 0.05, "count": 1, "*": 0.1},
    )
    expected = [0.02, 0.02, 0.05 / np.log(1e3), 0.005, 0.25, 0.1, 0.1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_longest_name_counts():
    found = steps(_space(), {"upper": 0.1, "upper.z": 1 * cm, "*": 0.5})
    np.testing.assert_allclose(found[:3], [0.02, 0.02, 0.1 / np.log(1e3)], rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"upper.z": 0.01}, "'upper.gap' has none.*Name it, or give"),
        ({"uper.z": 0.01, "*": 0.1}, "no free parameter 'uper.z'.*'upper.z'"),
    ],
)
def test_steps_that_fit_no_parameter(step, words):
    with pytest.raises(errors.SpaceError, match=words):
        steps(_space(), step)


@pytest.mark.parametrize("step", [0, -0.1, float("nan"), {}, {"x": 0.0}])
def test_steps_must_be_positive(step):
    with pytest.raises(errors.InputError):
        ky.adam(step)
    with pytest.raises(errors.InputError):
        ky.adam(0.1, clip=-1.0)


def _told(optimiser, gradient, times=1, u0=0.5):
    state = optimiser.init(testing.sphere(), np.full(4, u0), key=KEY)
    for _ in range(times):
        us, state = optimiser.ask(state, key=KEY)
        state = optimiser.tell(state, us, [answer(1.0, gradient)])
    return state


def test_adam_moves_by_its_step():
    state = _told(ky.adam(0.02), [1e-3, 1.0, -1e3, 0.0])
    np.testing.assert_allclose(state.u, [0.48, 0.48, 0.52, 0.5], atol=1e-6)


def test_gradient_descent_with_a_step_for_each_coordinate():
    state = _told(ky.sgd({"x": 0.4}), [1.0, 2.0, 0.0, -1.0])
    np.testing.assert_allclose(state.u, [0.4, 0.3, 0.5, 0.6], atol=1e-6)


def test_clipping_keeps_the_direction():
    state = _told(ky.sgd(0.1, clip=0.5), [3.0, 4.0, 0.0, 0.0])
    np.testing.assert_allclose(state.u, [0.47, 0.46, 0.5, 0.5], atol=1e-6)


def test_schedules_scale_the_step():
    schedule = optax.piecewise_constant_schedule(1.0, {2: 0.1})
    state = _told(ky.sgd(0.1, schedule=schedule), [1.0, 0, 0, 0], times=3)
    assert state.u[0] == pytest.approx(0.5 - 0.1 - 0.1 - 0.01)


def test_a_schedule_of_so_many_steps():
    """Half a cosine from 1 to 0.1: half way down in the middle, then it stays."""
    moves = -np.diff(
        [
            0.5,
            *(
                _told(ky.sgd(1e-3, schedule=4), [1.0, 0, 0, 0], times=n).u[0]
                for n in range(1, 7)
            ),
        ]
    )
    np.testing.assert_allclose(
        moves[[0, 2, 4, 5]] / 1e-3, [1, 0.55, 0.1, 0.1], rtol=1e-4
    )
    for wrong in (0, -3, 40.5, True, "cosine"):
        with pytest.raises(errors.InputError, match="at least 1 step"):
            ky.adam(0.1, schedule=wrong)
    for count in (4.0, np.int64(4)):
        told = _told(ky.sgd(1e-3, schedule=count), [1.0, 0, 0, 0], times=6)  # type: ignore
        assert told.u[0] == pytest.approx(0.5 - moves.sum())


def test_any_rule_of_optax():
    state = _told(from_optax(optax.sign_sgd(1.0), 0.05), [5.0, -3.0, 0, 0])
    np.testing.assert_allclose(state.u, [0.45, 0.55, 0.5, 0.5], atol=1e-6)


def test_the_cube_is_kept():
    state = _told(ky.sgd(1.0), [10.0, -10.0, 0, 0], times=2)
    assert state.u.tolist() == [0.0, 1.0, 0.5, 0.5]


def test_failures_go_halfway_back_with_half_the_step():
    optimiser = ky.sgd(0.1)
    state = _told(optimiser, [1.0, 0, 0, 0])
    us, state = optimiser.ask(state, key=KEY)
    state = optimiser.tell(state, us, [failure()])
    assert state.u[0] == pytest.approx(0.45)
    state = optimiser.tell(state, state.u[None], [answer(1.0, [np.nan, 0, 0, 0])])
    assert state.u[0] == pytest.approx(0.475)
    state = optimiser.tell(state, state.u[None], [answer(1.0, [1.0, 0, 0, 0])])
    assert state.u[0] == pytest.approx(0.475 - 0.025)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(state))
    for _ in range(20):
        assert not optimiser.finished(state)
        state = optimiser.tell(state, state.u[None], [failure()])
    assert optimiser.finished(state) == "20 evaluations in a row failed"
    assert state.factor == 2.0**-10


def test_a_search_that_fails_often_still_arrives():
    problem = testing.sphere()
    state = search(ky.adam(0.05), problem, 150, fails=lambda i: i % 5 == 2)
    left = testing.exact_loss(problem, state.u)
    assert left < 0.01 * testing.exact_loss(problem, np.asarray(problem.space.start))


def test_an_estimator_without_gradients_is_refused():
    optimiser = ky.adam()
    state = optimiser.init(testing.sphere(), np.full(4, 0.5), key=KEY)
    with pytest.raises(errors.UnsupportedError, match="gradient of the loss"):
        optimiser.tell(state, state.u[None], [answer(1.0)])
    with pytest.raises(errors.UnsupportedError, match="constraint 'c0'"):
        optimiser.tell(state, state.u[None], [answer(1.0, np.ones(4), [(0.1, None)])])


def test_choices_of_programs_are_refused():
    problem = from_function(lambda n: float(n), {"n": ky.Integer(1, 4)})
    for optimiser in (ky.adam(), ky.LBFGSB()):
        with pytest.raises(errors.UnsupportedError, match="'n' is .*Evolution"):
            optimiser.check(problem)


@pytest.mark.parametrize(
    "optimiser",
    [ky.adam(0.05, schedule=optax.cosine_decay_schedule(1.0, 200)), ky.sgd(0.003)],
    ids=["adam", "sgd"],
)
def test_constraints_hold_at_the_recommended_design(optimiser):
    problem = bounded(testing.sphere())
    state = search(optimiser, problem, 200)
    loss, slack = recommended(optimiser, problem, state)
    assert slack > -1e-5
    assert loss < 1.1 * BEST


def test_constraints_that_are_far_away_do_not_pull():
    optimiser = ky.sgd(0.1)
    state = optimiser.init(testing.sphere(), np.full(4, 0.5), key=KEY)
    far = [(0.8, [-1.0, 0, 0, 0])]
    state = optimiser.tell(state, state.u[None], [answer(1.0, [0, 1.0, 0, 0], far)])
    np.testing.assert_allclose(state.u, [0.5, 0.4, 0.5, 0.5], atol=1e-6)


def test_the_pull_of_a_broken_constraint_is_bounded():
    optimiser = ky.sgd(0.1)
    state = optimiser.init(testing.sphere(), np.full(4, 0.5), key=KEY)
    broken = [(-100.0, [-1.0, 0, 0, 0])]
    state = optimiser.tell(state, state.u[None], [answer(1.0, [0, 0.5, 0, 0], broken)])
    np.testing.assert_allclose(state.u, [0.5 - 0.2, 0.45, 0.5, 0.5], atol=1e-6)


def test_nothing_is_compiled_per_trial():
    from kythera.optimisers import gradient

    optimiser, traces = ky.adam(0.011), 0

    def counting(count):
        nonlocal traces
        traces += 1
        return 1.0

    optimiser = ky.adam(0.011, schedule=counting)
    state = _told(optimiser, np.ones(4), times=5)
    assert traces == 1
    assert state.count == 5
    assert gradient._adam(0.9, 0.999) is optimiser.direction
