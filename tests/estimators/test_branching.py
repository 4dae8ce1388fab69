"""Stochastic derivatives against exact cases, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.estimators.branching import METHODS
from kythera.instruments import telescope
from kythera.testing import decisions, showers

KEY = jax.random.key(9)

# Value and slope in the cube: exact, of the documentation of StochasticAD.jl.
EXACT = {
    "crazy": (decisions.crazy, {}, 21.024, 47.76),
    "walk": (decisions.walk, {}, 31.403421330525, 47.7808726868),
    "walk squared": (decisions.walk, {"squared": True}, 1007.7989352662, 3029.49888198),
    "poisson": (decisions.poisson, {}, 20.0, 90.0),
}


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("walk squared", "poisson")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["crazy", "walk", *SLOW])
def test_exact_cases(name, method):
    make, options, value, slope = EXACT[name]
    problem = make(events=100, **options)
    engine = ky.Branching(method)
    engine.check(problem)
    repeats = 64
    us = jnp.tile(problem.space.start, (repeats, 1))
    keys = jax.random.split(jax.random.fold_in(KEY, len(name)), repeats)
    found, _ = engine(problem, us, None, key=keys, map=map)
    for numbers, exact in (
        ([f.total.value for f in found], value),
        ([f.total.gradient[0] for f in found], slope),
    ):
        z = (np.mean(numbers) - exact) / (np.std(numbers, ddof=1) / np.sqrt(repeats))
        assert abs(z) < 3.5, (np.mean(numbers), exact)


def test_the_value_is_that_of_the_simulator():
    """The same key gives the same events with and without alternatives."""
    problem = decisions.walk(events=50)
    us, keys = problem.space.start[None], KEY[None]
    [one], _ = ky.Branching()(problem, us, None, key=keys, map=map)
    [other], _ = ky.Direct()(problem, us, None, key=keys, map=map)
    assert one.total.value == pytest.approx(other.total.value, rel=1e-6)
    assert one.total.stderr == pytest.approx(other.total.stderr, rel=1e-5)


def test_chunks_add_up():
    problem = decisions.walk(events=4000).replace(chunk=500)
    [found], _ = ky.Branching("score")(
        problem, problem.space.start[None], None, key=KEY[None], map=map
    )
    assert abs(found.total.gradient[0] - 47.78) < 20


def test_a_particle_that_splits_has_slots_of_its_own():
    """Each of 63 splits makes one of the 64 slots alive, once."""
    shower = showers.Shower("split")
    design = showers.Point(jnp.array([2.5]))
    state = shower.begin(design, jnp.array([0.3]))
    for alive in (1, 2, 4, 8, 16, 32, 64):
        assert state.alive.sum() == alive
        np.testing.assert_allclose(state.energy.sum(), 25.0, rtol=1e-6)
        lengths = np.linalg.norm(state.direction, axis=1)
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
        state = shower.advance(design, state, state.alive, key=KEY)
    assert state.alive.sum() == 0  # 0.39 is too little to go on
    assert state.hits == 63 + 64


def test_bad_input_is_refused():
    with pytest.raises(
        errors.InputError, match="no method 'scores'. Did you mean 'score'"
    ):
        ky.Branching("scores")
    with pytest.raises(errors.UnsupportedError, match="tells its decisions"):
        ky.Branching().check(telescope.problem())
    with pytest.raises(errors.InputError, match="no mode 'splits'"):
        showers.Shower("splits")
