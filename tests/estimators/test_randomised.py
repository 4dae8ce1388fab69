"""The score of a randomised design: exact smoothed losses, choices, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.estimators.randomised import mirrored

KEY = jax.random.key(2)
COSTS = {"a": 1.0, "b": 3.0, "c": 7.0}


def _cost(x, kind, seed):
    return COSTS[kind] + (x > 0.5) + 0.1 * np.random.default_rng(seed).normal()


def _problem():
    domains = {"x": ky.Real(0, 1), "kind": ky.Choice(tuple(COSTS))}
    start = {"x": 0.55}
    return ky.from_function(_cost, domains, events=2, start=start)


def _traced(x, kind, key):
    """The same in JAX, which would see no slope of the jump and mixtures of the options."""
    assert kind.shape == (3,)
    noise = 0.1 * jax.random.normal(key)
    return kind @ jnp.array([*COSTS.values()]) + (x > 0.5) + noise


def test_points_outside_are_mirrored():
    found = mirrored(np.array([-0.1, 0.0, 0.4, 1.0, 1.2, 2.3, -1.2]))
    np.testing.assert_allclose(found, [0.1, 0.0, 0.4, 1.0, 0.8, 0.3, 0.8])


@pytest.mark.parametrize(
    "weights", [[0.5, 0.25, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
)
def test_a_jump_and_a_choice_have_exact_slopes(weights):
    """J = Phi((x - 1/2) / s) + sum q c, q = 0.9 w + 0.1 / 3."""
    domains = {"x": ky.Real(0, 1), "kind": ky.Choice(tuple(COSTS))}
    problem = ky.from_function(_traced, domains, events=2, differentiable=True)
    engine = ky.RandomisedDesign(spread=0.1, samples=4000)
    u = np.array([0.55, *weights])
    [found], _ = engine(problem, jnp.asarray(u)[None], None, key=KEY[None], map=map)
    costs, total = np.array([*COSTS.values()]), sum(weights)
    w = np.array(weights) / total if total else np.full(3, 1 / 3)
    q = 0.9 * w + 0.1 / 3
    slopes = 0.9 * (costs - w @ costs) / (total or 1)
    step = np.exp(-0.125) / np.sqrt(2 * np.pi) / 0.1
    assert found.total.value == pytest.approx(0.691 + q @ costs, abs=0.15)
    np.testing.assert_allclose(found.total.gradient, [step, *slopes], atol=1.2)
    assert found.events == 2 * 4000


def test_a_gradient_search_finds_the_option():
    found = ky.optimise(
        _problem(), ky.adam(0.05), ky.RandomisedDesign(spread=0.1, samples=16),
        key=KEY, max_trials=30, report_events=100,
    )  # fmt: skip
    best = found.problem.hard().design(jnp.asarray(found.u_best))
    np.testing.assert_array_equal(best["kind"], [1, 0, 0])
    assert best["x"] < 0.5
    with pytest.raises(errors.UnsupportedError, match="without jumps"):
        ky.optimise(_problem(), ky.adam(0.05), key=KEY, max_trials=2)


def test_pairs_that_fail_are_left_out():
    def loss(a, seed):
        if a > 0.62:
            raise RuntimeError("too far out")
        return a

    problem = ky.from_function(loss, {"a": ky.Real(0, 1)}, events=1, start={"a": 0.5})
    engine = ky.RandomisedDesign(spread=0.1, samples=32)
    [found], _ = engine(
        problem, problem.space.start[None], None, key=KEY[None], map=map
    )
    assert not found.cause
    np.testing.assert_allclose(found.total.gradient, [1.0], atol=0.7)
    [lost], _ = engine(problem, jnp.array([[0.95]]), None, key=KEY[None], map=map)
    assert "too far out" in lost.cause
    assert lost.events == 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"spread": 0.0}, "spread.*Try 0.03"),
        ({"samples": 7}, "samples.*even"),
        ({"samples": 2}, "samples.*two pairs"),
        ({"explore": 1.5}, "explore.*Try 0.1"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(errors.InputError, match=words):
        ky.RandomisedDesign(**settings)
