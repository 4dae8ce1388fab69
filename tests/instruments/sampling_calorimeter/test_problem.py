"""Limits that are kept exactly, the calibration, the gradient of the whole, pictures."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import testing
from kythera.core.compilation import jit
from kythera.core.measure import evaluate
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter.design import cost, length
from kythera.instruments.sampling_calorimeter.reconstruction import left_over
from kythera.units import cm


@pytest.fixture(scope="module")
def problem():
    return sampling_calorimeter.problem(events=500)


def test_limits_are_kept_exactly(problem):
    rng = np.random.default_rng(3)
    touched = set()
    for u in rng.uniform(size=(40, problem.space.size)):
        for hard in (False, True):
            stack = problem.space.decode(jnp.asarray(u), hard=hard)
            assert float(length(stack)) <= 2.0 * (1 + 1e-5)
            assert float(cost(stack)) <= 200_000 * (1 + 1e-5)
            touched.add("length" if float(length(stack)) > 1.99999 else "cost")
    assert touched == {"length", "cost"}
    start = problem.space.decode(problem.space.start)
    assert float(length(start)) == pytest.approx(1.498, abs=1e-3)  # left as it was


def test_prices_are_aidos(problem):
    stack = problem.space.decode(problem.space.start, hard=True)
    want = 9.030052 * 4.166 + 37.155209 * 2500 + 10.446664 * 25 + 29.665525 * 0.01
    want += 36 * 4.166 + 27.5 * 0.01
    assert float(cost(stack)) == pytest.approx(want, rel=1e-5)


def test_the_calibration_is_least_squares():
    rng = np.random.default_rng(1)
    x = np.concatenate([np.ones((200, 1)), rng.gamma(2, 1, (200, 3))], 1)
    x = np.concatenate([x, np.zeros((200, 1))], 1)  # a layer that is absent
    y = x @ [0.3, 1.0, -2.0, 0.5, 0.0] + rng.normal(size=200)
    w = rng.uniform(0.1, 1, 200)
    root = np.sqrt(w)
    fit, *_ = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)
    want = np.mean(w * (y - x @ fit) ** 2)
    got = left_over(
        jnp.asarray(np.mean(w * y**2)),
        jnp.asarray((w * y) @ x / 200),
        jnp.asarray((x * w[:, None]).T @ x / 200),
    )
    assert float(got) == pytest.approx(want, rel=1e-3)


@pytest.mark.slow
def test_objectives_measure_the_same_calibration(problem):
    """Both kinds of objective against NumPy's least squares on the same events."""
    key = jax.random.key(5)
    stack = problem.space.decode(problem.space.start)
    trace = jit(lambda k: problem.pipeline(stack, 500, key=jax.random.fold_in(k, 0)))(
        key
    )
    relative = sampling_calorimeter.problem(events=500, objective="resolution")
    u = np.asarray(problem.space.start)[None]
    for chosen in (problem, relative):
        [found] = evaluate(chosen, "value", (u, key[None]))
        for kind, index in (("gamma", 0), ("pi+", 2)):
            here = np.asarray(trace.truth.kind) == index
            energy = np.asarray(trace.truth.energy, float)[here]
            x = np.asarray(trace.result, float)[here]
            x = x[:, x.std(0) > 1e-3]  # no photon reaches the last layers
            x = np.concatenate([np.ones((len(x), 1)), x], 1)
            w = 1 / energy if chosen is relative else 1 / np.sqrt(energy + 1)
            fit, *_ = np.linalg.lstsq(x * w[:, None], energy * w, rcond=None)
            square = np.mean(((x @ fit - energy) * w) ** 2)
            want = np.sqrt(square) if chosen is relative else square / 2
            assert found.terms[kind].value == pytest.approx(want, rel=2e-3)


@pytest.mark.slow
def test_the_gradient_of_the_whole(problem, getkey):
    """At the start and in the middle of the cube.

    Where all weights of a choice are nearly 0 a step moves the mixture a hundred times as
    far, over places where a pion's interaction changes layers: kinks, no jumps.
    """
    start = np.asarray(problem.space.start, float)
    middle = np.random.default_rng(2).uniform(0.2, 0.8, start.size)
    testing.check_problem_gradient(
        problem.replace(events=60), [start, middle], key=getkey()
    )


def test_spare_pairs_are_free_and_absent(getkey):
    problem = sampling_calorimeter.problem(spare=2)
    assert "pairs" in problem.space.names
    stack = problem.space.decode(problem.space.start)
    assert float(stack.pairs) == pytest.approx(3)
    assert np.all(np.asarray(stack.thickness)[6:] == 0)
    assert len(sampling_calorimeter.problem(pairs=5).space.template.active) == 5
    testing.check_space(problem.space, key=getkey(), points=1)


def test_sketches_show_every_layer_that_is_there(problem):
    stack = problem.space.decode(problem.space.start, hard=True)
    stack = dataclasses.replace(stack, absorber=stack.absorber.at[1].set(0.0))
    drawn = problem.sketch(stack)
    json.dumps(drawn, allow_nan=False)
    boxes = [t for t in drawn["space"]["data"] if t["type"] == "mesh3d"]
    assert len(boxes) == 5
    side = drawn["side"]["data"]
    assert len(side) == 5
    assert side[0]["x"][:2] == pytest.approx([0, 9.03005], abs=1e-4)
    names = {t["name"] for t in side if t["name"]}
    assert names == {"iron", "lead_tungstate", "polystyrene"}


def test_axes_do_not_move_with_the_layers(problem):
    stack = problem.space.decode(problem.space.start, hard=True)
    small = dataclasses.replace(stack, active=stack.active / 3)
    drawn = [problem.sketch(s) for s in (stack, small)]
    for name, axes in (("side", ["xaxis", "yaxis"]), ("space", ["scene"])):
        for axis in axes:
            a, b = (figures[name]["layout"][axis] for figures in drawn)
            assert a == b
    assert drawn[0]["side"]["layout"]["xaxis"]["range"] == [-5, 205]
    assert float(length(stack)) / cm < 200


def test_the_report_compares_designs(problem, getkey):
    stack = problem.space.decode(problem.space.start, hard=True)
    figures = problem.draw(problem, {"start": stack, "best": stack}, getkey())
    json.dumps(figures, allow_nan=False)
    assert set(figures) == {"layout", "profile"}
    names = [t["name"] for t in figures["profile"]["data"]]
    assert names == ["start, gamma", "start, pi+", "best, gamma", "best, pi+"]
