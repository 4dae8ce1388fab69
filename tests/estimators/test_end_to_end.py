"""End-to-end surrogates: the region, choices outside JAX, warm starts, what is refused."""

import dataclasses
import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.core.stage import AbstractHostStage
from kythera.estimators import end_to_end
from kythera.runs import spec
from kythera.stages.simulators.host import repeated
from kythera.testing import published

KEY = jax.random.key(4)
SMALL = ky.Diffusion(width=24, steps=200, batch=256)
ENGINE = ky.EndToEndSurrogate(
    SMALL, designs=12, steps=2
)  # each shape compiles for 10 s
MIXED = ky.EndToEndSurrogate(SMALL, designs=16)
GAINS = {"dull": 3.0, "good": 1.0, "bad": 6.0}


def once(engine, problem, state=None, number=0, u=None):
    state = engine.init(problem, key=KEY) if state is None else state
    u = problem.space.start if u is None else u
    keys = jax.random.fold_in(KEY, number)[None]
    [found], state = engine(problem, jnp.asarray(u)[None], state, key=keys, map=map)
    return found, state


def loss(x, kind, count, seed):
    noise = 0.1 * np.random.default_rng(seed).normal()
    return (x - 0.7) ** 2 + GAINS[kind] + 0.2 * (count - 4) ** 2 + noise


@functools.cache
def mixed():
    """A program with a real, a whole number and a choice; best at 0.7, good, 4: 1."""
    domains = {
        "x": ky.Real(0, 1),
        "kind": ky.Choice(tuple(GAINS)),
        "count": ky.Integer(1, 6),
    }
    start = {"x": 0.3, "kind": "dull", "count": 2}
    return ky.from_function(loss, domains, start=start, events=40)


class Beam(ky.AbstractSource):
    """Numbers between 1 and 2."""

    primaries: int = 1

    def __call__(self, events, *, key):
        return jax.random.uniform(key, (events,), minval=1.0, maxval=2.0)


class Halved(AbstractHostStage):
    """A reconstruction outside JAX: two readings -> their mean."""

    def run(self, design, x, *, seed):
        return x.mean(1)

    def shapes(self, events):
        return repeated(0.0, events)


class Square(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"error": (trace.result - trace.truth) ** 2}


class Peeking(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"error": (trace.signal[:, 0] - trace.truth) ** 2}


def read(design, x, seed):
    noise = np.random.default_rng(seed).normal(size=(len(x), 2))
    return design["gain"] * x[:, None] + 0.2 * noise


def outside(objective=None, **slots):
    """Reading = gain * x + noise, twice; the loss is (gain - 1)^2 E[x^2] + sigma^2 / 2."""

    simulator = ky.HostSimulator(read, jax.ShapeDtypeStruct((2,), float))
    line = {"reconstruction": Halved()} | slots
    return ky.Problem(
        space=ky.Space({"gain": jnp.array(0.8)}, {"gain": ky.Real(0.0, 2.0)}),
        pipeline=ky.Pipeline(Beam(), simulator, **line),
        objective=objective or Square(),
        events=200,
    )


def test_simulator_and_reconstruction_outside_have_a_gradient():
    """2 (gain - 1) E[x^2] = -0.933 for each 1 of the gain: -1.867 in the cube."""
    problem, engine = outside(), ENGINE
    engine.check(problem)
    found, _ = once(engine, problem)
    assert found.total.value == pytest.approx(0.0933 + 0.02, abs=5 * found.total.stderr)
    assert found.events == engine.price(problem) == 13 * 200
    np.testing.assert_allclose(found.total.gradient, [-1.867], rtol=0.15)


def test_designs_around_are_as_built_and_stretched_along_the_move():
    problem, engine = mixed(), ky.EndToEndSurrogate(SMALL, designs=4000)
    space = problem.space
    spread, is_choice = end_to_end._spread(space, 0.05)
    names = dict(zip(space.names, range(space.size), strict=True))
    x, count = names["x"], names["count"]
    centre = np.asarray(space.start)
    move = np.zeros(space.size)
    move[[x, count]] = 0.8, 0.6  # a length of one standard deviation
    stretch = end_to_end._stretched(move, 0 * move)
    points = engine._draw(space, centre, spread, stretch, KEY)
    whole = 5 * points[:, count]
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-6)
    kinds = points[:, is_choice]
    assert set(np.unique(kinds)) == {0.0, 1.0}
    np.testing.assert_allclose(kinds.mean(0)[0], 0.8 + 0.2 / 3, atol=0.03)
    # Variance 4 along (0.8, 0.6) and 1 across: 1 + 3 * 0.64 of x.
    assert np.std(points[:, x]) / 0.05 == pytest.approx(np.sqrt(2.92), rel=0.05)
    np.testing.assert_array_equal(end_to_end._stretched(0 * move, stretch), stretch)
    # Two coordinates, two deviations in the mean: 8 in all, along the move 4 times as many.
    counts = ~is_choice
    assert engine._is_near(2.8 * move, counts)
    assert not engine._is_near(2.9 * move, counts)
    assert engine._is_near(5.6 * move, counts, stretch)
    assert not engine._is_near(5.7 * move, counts, stretch)


def test_what_is_far_is_not_used():
    """Designs outside of the region change nothing, whatever they gave."""
    problem = outside()
    engine = dataclasses.replace(ENGINE, warm=False)
    _, state = once(engine, problem, u=jnp.array([0.9]))
    kept = state.memory.kept
    kept = kept._replace(target=kept.target + 1e6)
    fresh, _ = once(engine, problem)
    memory = state.memory._replace(kept=kept)
    far, after = once(
        engine, problem, state._replace(memory=memory, at=state.at * 0 + 0.4)
    )
    np.testing.assert_allclose(far.total.gradient, fresh.total.gradient, rtol=1e-3)
    assert after.memory.filled.sum() == 26


@pytest.mark.parametrize("weights", [[0.4, 0.3, 0.3], [0.0, 0.0, 0.0]])
def test_a_choice_outside_jax_has_a_gradient(weights):
    """Of sum w c with w = u / sum u: slopes (c_i - w c) / sum u, seen from the options."""
    problem = mixed()
    u = np.asarray(problem.space.start).copy()
    u[problem.space.groups["kind"]] = weights
    found, _ = once(MIXED, problem, u=u)
    assert found.total.value == pytest.approx(0.16 + 3.0 + 0.8, abs=0.08)
    slopes = found.total.gradient[problem.space.groups["kind"]]
    costs = np.array([*GAINS.values()])
    total = sum(weights)
    w = np.array(weights) / total if total else np.full(3, 1 / 3)
    wanted = (costs - w @ costs) / total if total else np.zeros(3)
    np.testing.assert_allclose(slopes, wanted, atol=1.0)


def test_a_program_with_choices_is_improved():
    """Re-measured on fresh events: from 3.96 to near 1, the good kind and about four."""
    problem, optimiser = mixed(), ky.adam(0.05)
    with pytest.raises(errors.UnsupportedError, match="without jumps"):
        ky.optimise(problem, optimiser, ky.LocalSurrogate(), key=KEY, max_trials=2)
    found = ky.optimise(problem, optimiser, MIXED, key=KEY, max_trials=25)
    assert found.report.start.value == pytest.approx(3.96, abs=0.1)
    assert found.report.best.value < 1.4
    assert np.argmax(found.best["kind"]) == 1
    assert found.best["count"] in (3, 4, 5)


def test_nothing_compiles_after_the_first_step(caplog):
    """Cold or warm, two or more remembered: one program."""
    problem, engine = outside(), ENGINE
    _, state = once(engine, problem)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for i in range(1, 4):
            u = jnp.array([0.4 + 0.02 * i])
            _, state = once(engine, problem, state, i, u)
    compiled = re.findall(r"Compiling (?:jit\()?(\w+)", caplog.text)
    assert not compiled
    assert state.trained == 1
    assert np.any(state.stretch)


def test_training_that_diverges_fails_the_trial_and_loses_nothing():
    """From weights that are too large; the next training starts anew, on all designs."""
    problem = outside()
    _, state = once(ENGINE, problem)
    wild = jax.tree.map(lambda v: 1e20 * v, state.weights)
    found, state = once(ENGINE, problem, state._replace(weights=wild), 1)
    assert "training of `Diffusion` diverged" in found.cause
    assert "or use `LocalSurrogate`" in found.cause
    assert found.events == 13 * 200
    assert state.memory.filled.sum() == 26
    assert state.trained == 0
    found, state = once(ENGINE, problem, state, 2)
    assert not found.cause
    assert state.trained == 1


def lost(a, seed):
    """Cannot be simulated above 0.52, and gives nonsense below 0.48."""
    if a > 0.52:
        raise RuntimeError("too far out")
    return a if a > 0.48 else float("nan")


@pytest.mark.slow
def test_lost_simulations_are_no_loss():
    problem = ky.from_function(lost, {"a": ky.Real(0, 1)}, events=2, start={"a": 0.5})
    found, state = once(ENGINE, problem)
    assert not found.cause
    assert 2 < state.memory.filled.sum() < 12
    np.testing.assert_allclose(found.total.gradient, [1.0], atol=0.2)
    found, _ = once(ENGINE, problem, u=jnp.array([0.6]))
    assert "too far out" in found.cause
    assert found.events == 26


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"radius": 0.0}, "`radius` must be > 0 and at most 0.5"),
        ({"later": 2.0}, "`later` must be > 0 and at most 1"),
        ({"reach": 0.0}, "`reach`.*Try 2"),
        ({"explore": 1.5}, "`explore` must be in"),
        ({"designs": 0}, "`designs`.*Try 8"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(errors.InputError, match=words):
        ky.EndToEndSurrogate(**settings)
    with pytest.raises(errors.InputError, match="must be a `Diffusion`"):
        ky.EndToEndSurrogate(ky.Quadratic())


def test_bad_problems_are_refused():
    engine = ky.EndToEndSurrogate()
    with pytest.raises(errors.UnsupportedError, match="the inference `Halved` runs"):
        engine.check(outside(inference=Halved()))
    with pytest.raises(errors.UnsupportedError, match="`Peeking` needs `trace.signal`"):
        engine.check(outside(Peeking()))

    class Counted(Halved):
        def shapes(self, events):
            return jax.ShapeDtypeStruct((events,), jnp.int32)

    with pytest.raises(errors.UnsupportedError, match="the reconstruction gives"):
        engine.check(outside(reconstruction=Counted()))


def test_a_text_names_the_model():
    made = spec.make(
        "estimator", "end_to_end_surrogate:designs=4,surrogate=(diffusion:steps=9)"
    )
    assert made.designs == 4
    assert made.surrogate.steps == 9


@pytest.mark.slow
def test_the_gradient_of_a_published_problem():
    """45 at psi = 2, slopes (180, 140, ..., -40) in the cube, by the default model."""
    problem = published.valley()
    found, _ = once(ky.EndToEndSurrogate(radius=0.02, designs=30), problem)
    exact = np.array([180, *[140] * 8, -40])
    cosine = found.total.gradient @ exact
    cosine /= np.linalg.norm(found.total.gradient) * np.linalg.norm(exact)
    assert cosine > 0.9
