"""A network that reads the layers: absent ones, its loss, and that it learns to calibrate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera.core.compilation import jit
from kythera.core.measure import evaluate
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter.learned import EnergyNetwork, elements
from kythera.instruments.sampling_calorimeter.reconstruction import PredictedError
from kythera.instruments.sampling_calorimeter.simulator import Particles

KEY = jax.random.key(8)


def problem(**options):
    return sampling_calorimeter.problem(
        particles="gamma", reconstruction="network", **options
    )


def stack(spare=0):
    space = sampling_calorimeter.problem(spare=spare).space
    return space.decode(space.start, hard=True)


def deposits(pairs, events=6):
    rng = np.random.default_rng(1)
    known = rng.exponential(1.0, (events, 6))
    return jnp.asarray(np.pad(known, ((0, 0), (0, 2 * pairs - 6))))


def test_absent_pairs_change_nothing():
    network = EnergyNetwork(4)
    told = jit(lambda network, stack, x: network(stack, x, key=KEY))
    plain = np.asarray(told(network, stack(), deposits(3)))
    spare = np.asarray(told(network, stack(spare=2), deposits(5)))
    np.testing.assert_allclose(spare, plain, rtol=2e-5)
    assert plain.shape == (6,)
    # An active layer of thickness 0 is absent too, whatever it would be made of.
    thin = stack()
    thin = dataclasses.replace(thin, active=thin.active.at[1].set(0.0))
    other = dataclasses.replace(
        thin, active_material=thin.active_material.at[1].set(jnp.array([1.0, 0.0]))
    )
    empty = deposits(3).at[:, 3].set(0.0)
    np.testing.assert_allclose(
        told(network, other, empty), told(network, thin, empty), rtol=2e-5
    )


def test_elements_are_of_order_one():
    features, there = elements(stack(), 3 * deposits(3))
    assert features.shape == (6, 3, 11)
    np.testing.assert_array_equal(there, 1.0)
    assert np.max(np.abs(np.asarray(features))) < 5


@pytest.mark.parametrize("relative", [False, True])
def test_the_loss_is_that_of_the_formula(relative):
    rng = np.random.default_rng(2)
    energy, kind = rng.uniform(1, 20, 300), np.arange(300) % 2 * 2.0
    told = energy * rng.normal(1, 0.1, 300)
    trace = ky.Trace(
        Particles(jnp.asarray(energy), jnp.asarray(kind)), None, None, told
    )
    objective = PredictedError(("gamma", "pi+"), relative)
    mean = {
        kind: {name: jnp.mean(row) for name, row in rows.items()}
        for kind, rows in objective.tally(stack(), trace).items()
    }
    terms = objective.score(stack(), mean).loss
    for name, index in (("gamma", 0), ("pi+", 2)):
        here = kind == index
        if relative:
            want = np.sqrt(np.mean((told / energy - 1)[here] ** 2))
        else:
            want = np.mean(here * (told - energy) ** 2 / (energy + 1))
        assert float(terms[name]) == pytest.approx(want, rel=1e-4)


def linear(case, events):
    """Loss of the linear calibration on the same problem, its own events."""
    plain = sampling_calorimeter.problem(particles="gamma", events=events)
    u = np.asarray(case.space.start)[None]
    [found] = evaluate(plain, "value", (u, jax.random.key(77)[None]))
    return found.total


@pytest.mark.slow
def test_it_learns_to_calibrate():
    """On fresh events, from AIDO's start: at or below the best linear calibration."""
    case = problem(events=20_000)
    engine = ky.Retrain(ky.Direct(), events=8000, steps=2000)
    state = engine.init(case, key=KEY)
    [found], _ = engine(case, case.space.start[None], state, key=KEY[None], map=map)
    want = linear(case, 20_000)
    error = 3 * np.hypot(found.total.stderr, want.stderr)
    assert found.total.value < 1.02 * want.value + error


def followed(warm, designs, steps):
    """Losses along a path of designs."""
    case = problem(events=4000)
    engine = ky.Retrain(ky.Direct(), events=1000, steps=steps, warm=warm)
    state, losses = engine.init(case, key=KEY), []
    for i, u in enumerate(designs):
        keys = jax.random.fold_in(KEY, i)[None]
        [found], state = engine(case, u[None], state, key=keys, map=map)
        losses.append(found.total.value)
    return np.array(losses)
