"""Fronts: which designs are on one, how much they dominate, and that they are found."""

import dataclasses

import jax
import numpy as np
import pytest

import kythera as ky
from kythera import errors, testing
from kythera.core.evaluation import Evaluation, Measured
from kythera.optimisers import pareto
from kythera.testing import fronts

from .cases import KEY, failure

SQUARE = 0.36  # worst value that counts, of the two spheres
EXACT = 0.108  # the volume that their front dominates


def _answer(values, slack=0.1):
    terms = {name: Measured(v, 0.01) for name, v in values.items()}
    total = Measured(sum(values.values()), 0.02)
    return Evaluation(total, terms, {"c": Measured(slack, 0.0)}, np.eye(2) * 1e-4, 1)


def test_nobody_beats_a_front():
    values = np.array([[1, 5], [2, 2], [5, 1], [2, 3], [1, 5], [6, 6.0]])
    keep = pareto.nondominated(values)
    assert keep.tolist() == [True, True, True, False, True, False]


def test_volumes_of_known_fronts():
    assert pareto.hypervolume(np.array([[1, 2], [2, 1.0]]), np.array([3, 3])) == 3
    assert pareto.hypervolume(np.array([[4, 4.0]]), np.array([3, 3])) == 0
    corners = np.array([[1, 2, 2], [2, 1, 2], [2, 2, 1.0]])
    # inclusion and exclusion: three boxes of 2, three overlaps of 1, one of 1
    assert pareto.hypervolume(corners, np.full(3, 3.0)) == 4
    t = np.linspace(-0.3, 0.3, 400)
    line = np.stack([(t + 0.3) ** 2, (t - 0.3) ** 2], 1)
    volume = pareto.hypervolume(line, np.full(2, SQUARE))
    assert volume == pytest.approx(EXACT, rel=0.01)


def test_the_volume_of_many_boxes_is_that_of_counted_points():
    rng = np.random.default_rng(3)
    values, points = rng.random((12, 3)), rng.random((40_000, 3))
    inside = np.any(np.all(points[:, None] >= values, -1), 1).mean()
    error = np.sqrt(inside * (1 - inside) / len(points))
    assert abs(pareto.hypervolume(values, np.ones(3)) - inside) < 4 * error


def test_dtlz2_has_the_front_that_it_is_known_for():
    for terms in (2, 3):
        problem = testing.dtlz2(10, terms)
        x = np.full(10, 0.5)
        x[: terms - 1] = 0.3
        found = problem.objective.function(x)
        assert sum(float(v) ** 2 for v in found.values()) == pytest.approx(1, rel=1e-5)
        x[-1] = 0.9
        worse = problem.objective.function(x)
        assert all(worse[k] > found[k] for k in found)


def test_the_straw_tracker_is_the_published_one():
    """Its baseline: efficiency 0.264, volume 62.8, residual 0.246139."""
    found = testing.straw_tracker()
    assert 1 - found["missed"] == 0.264
    assert found["volume"] == pytest.approx(62.8, abs=1e-9)
    assert found["residual"] == pytest.approx(0.246139, abs=5e-7)


def test_it_recommends_a_front():
    optimiser = ky.MultiObjective(batch=4)
    problem = testing.two_spheres()
    state = optimiser.init(problem, np.asarray(problem.space.start), key=KEY)
    us, state = optimiser.ask(state, key=KEY)
    told = [
        _answer({"far": 1.0, "near": 3.0}),
        _answer({"far": 2.0, "near": 1.0}),
        _answer({"far": 2.5, "near": 2.0}),
        _answer({"far": 0.1, "near": 0.1}, slack=-0.2),
    ]
    state = optimiser.tell(state, us, told)
    # the lowest sum first; what is beaten or breaks a constraint is not on it
    np.testing.assert_array_equal(optimiser.recommend(state), us[[1, 0]])
    nothing = optimiser.tell(
        optimiser.init(problem, us[0], key=KEY), us, [failure()] * 4
    )
    assert optimiser.recommend(nothing).shape == (1, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "nsga3"},
        {"batch": 3},
        {"terms": ("far",)},
        {"terms": ("far", "near"), "reference": {"far": 1.0}},
        {"reference": {"far": 1.0, "near": 1.0}},
    ],
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(errors.InputError):
        ky.MultiObjective(**settings)


def test_what_is_no_front_is_refused_before_anything_is_simulated():
    def counted(x, seed):
        raise AssertionError("simulated")

    one = ky.from_function(counted, {"x": ky.Real(0, 1)})
    with pytest.raises(errors.UnsupportedError, match="two terms"):
        ky.optimise(one, ky.MultiObjective(), key=KEY, max_trials=4)
    two = ky.from_function(counted, {"x": ky.Real(0, 1)}, terms=("a", "b"))
    with pytest.raises(errors.InputError, match="Did you mean 'b'"):
        ky.optimise(two, ky.MultiObjective(("a", "bb")), key=KEY, max_trials=4)


def test_designs_that_break_constraints_are_on_no_front():
    problem = testing.two_spheres(2, 0.0, 8)
    room = ky.AtMost("room", lambda d: 1 + d.x[0], 1.1)
    solution = ky.optimise(problem, ky.MultiObjective(batch=8), key=KEY, max_trials=16)
    held = problem.replace(objective=problem.objective + room)
    front = ky.front(dataclasses.replace(solution, problem=held), key=KEY)
    x = np.stack([design.x for design in front.designs])
    assert front.breaks.tolist() == (x[:, 0] > 0.1).tolist()
    assert 0 < front.breaks.sum() < len(x)
    worst = {"far": 2.0, "near": 2.0}
    kept = pareto.hypervolume(front.values[~front.breaks], np.full(2, 2.0))
    assert front.hypervolume(worst)[0] == kept
    lines = str(front).splitlines()[1:]
    assert [("breaks 'room'" in line) for line in lines] == front.breaks.tolist()


def test_a_design_that_breaks_constraints_beats_nobody():
    values = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    rivals = np.where([[True], [False], [False]], np.inf, values)
    assert pareto.dominated(values, values).tolist() == [False, True, True]
    assert pareto.dominated(values, rivals).tolist() == [False, False, True]


def test_a_single_term_is_no_front():
    with pytest.raises(errors.UnsupportedError, match="two terms"):
        ky.optimise(testing.sphere(), ky.MultiObjective(), key=KEY, max_trials=40)
    with pytest.raises(errors.InputError, match="near"):
        ky.optimise(
            testing.two_spheres(),
            ky.MultiObjective(("near", "fair")),
            key=KEY,
            max_trials=40,
        )


def test_a_front_is_measured_anew_with_errors():
    problem = testing.two_spheres(2, 0.2, 64)
    solution = ky.optimise(
        problem, ky.MultiObjective(batch=16), key=KEY, max_trials=160
    )
    front = ky.front(solution, key=jax.random.key(9), events=2000)
    assert front.terms == ("far", "near")
    assert len(front.us) == len(front.designs) > 4
    assert np.all(np.diff(front.values[:, 0]) >= 0)
    x = np.stack([design.x for design in front.designs])
    exact = np.stack([((x + 0.3) ** 2).mean(1), ((x - 0.3) ** 2).mean(1)], 1)
    z = (front.values - exact) / front.stderr
    assert np.abs(z).max() < 5
    volume, error = front.hypervolume({"far": SQUARE, "near": SQUARE})
    assert 0 < error < 0.02
    assert 0.5 * EXACT < volume < EXACT + 4 * error
    assert front.events == len(front.us) * 2000
    assert "near" in str(front)
    with pytest.raises(errors.InputError, match="near"):
        front.hypervolume({"far": 1.0})


def _volume(problem, optimiser, trials, seed):
    """What the recommended front dominates, exactly."""
    solution = ky.optimise(
        problem, optimiser, key=jax.random.key(seed), max_trials=trials
    )
    us = solution.optimiser.recommend(solution.state[0])
    x = np.stack([np.asarray(problem.space.decode(u).x) for u in us])
    exact = np.stack([((x + 0.3) ** 2).mean(1), ((x - 0.3) ** 2).mean(1)], 1)
    return pareto.hypervolume(exact, np.full(2, SQUARE))


def test_nsga2_closes_in_on_the_front():
    problem = testing.two_spheres(3)
    assert _volume(problem, ky.MultiObjective(batch=20), 400, 1) > 0.8 * EXACT


@pytest.mark.slow
@pytest.mark.library("botorch")
def test_processes_close_in_with_few_designs():
    problem = testing.two_spheres(4, 0.1, 64)
    optimiser = ky.MultiObjective(
        ("far", "near"), "gp", reference={"far": SQUARE, "near": SQUARE}
    )
    assert _volume(problem, optimiser, 50, 1) > 0.85 * EXACT
    assert fronts.CENTRE == 0.3
