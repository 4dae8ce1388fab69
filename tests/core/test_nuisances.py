"""Tangents of tallies: from derivatives or templates, inside JAX and outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.core.nuisances import with_tangents
from kythera.core.objective import Tangents
from kythera.core.stage import AbstractHostSimulator, AbstractSimulator

from ..laws.objectives import Fisher, Mean, problem


class Templates(Fisher):
    """The same histogram; the scale's derivative is taken from templates."""

    def templates(self):
        return {"scale": 0.02}


class Both(Templates):
    def templates(self):
        return {"scale": 0.02, "shift": 0.02}


class Outside(AbstractHostSimulator):
    """The normal numbers of `laws.objectives`, in NumPy."""

    def run(self, design, x, *, seed):
        noise = np.random.default_rng(seed).normal(size=len(x))
        return design.shift + design.x + design.scale * noise

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events,), jnp.float32)


class Jumps(AbstractSimulator):
    def __call__(self, design, x, *, key):
        return design.shift + design.x + design.scale * jax.random.normal(key, x.shape)


def _evaluated(engine, problem, key):
    [found], _ = engine(problem, problem.space.start[None], None, key=key[None])
    return found


@pytest.fixture(scope="module")
def smooth():
    """The derivatives, at some key: value, error, gradient."""
    return _evaluated(ky.Pathwise(), problem(Fisher()), jax.random.key(5)).total


def test_templates_give_the_derivative(smooth):
    found = _evaluated(ky.Pathwise(), problem(Templates()), jax.random.key(5))
    assert found.total.value == pytest.approx(smooth.value, rel=2e-3)
    assert found.total.value != smooth.value
    assert found.total.stderr == pytest.approx(smooth.stderr, rel=2e-2)
    np.testing.assert_allclose(found.total.gradient, smooth.gradient, rtol=0.03)
    assert found.events == 3 * 2000  # each template simulates anew


@pytest.mark.parametrize(("objective", "count"), [(Templates(), 3), (Both(), 5)])
def test_each_simulation_is_one_of_the_price(objective, count):
    """The nominal one once, whether derivatives or templates need it, two for a template."""
    base, calls = problem(objective), []

    def rows_of(design):
        jax.debug.callback(lambda: calls.append(1))
        trace = base.pipeline(design, 2, key=jax.random.key(1))
        return objective.tally(design, trace), ()

    jax.block_until_ready(with_tangents(objective, base.space.template, rows_of))
    jax.effects_barrier()
    assert len(calls) == count == base.price // base.events


@pytest.mark.parametrize("simulator", [Jumps(), Outside()])
def test_templates_need_no_derivative_and_no_jax(simulator, smooth, getkey):
    base = problem(Both())
    other = base.replace(pipeline=ky.Pipeline(base.pipeline.source, simulator))
    ky.Direct().check(other)
    found = _evaluated(ky.Direct(), other, getkey()).total
    assert abs(found.value - smooth.value) < 5 * smooth.stderr
    with pytest.raises(errors.UnsupportedError, match=r"\['shift'\].*`templates`"):
        ky.Direct().check(other.replace(objective=Templates()))


def test_sums_share_their_templates():
    both = Mean() + Both()
    assert both.templates() == {"scale": 0.02, "shift": 0.02}
    with pytest.raises(errors.UnsupportedError, match="same nuisance.*equal"):
        (Templates() + Both()).templates()


@pytest.mark.parametrize(
    ("steps", "match"),
    [({"x": 0.1}, "'x' has the step 0.1"), ({"scale": 0.0}, "a step > 0.*'scale'")],
)
def test_templates_of_nothing_are_refused(steps, match):
    class Wrong(Fisher):
        def templates(self):
            return steps

    with pytest.raises(errors.InputError, match=match):
        ky.Direct().check(problem(Wrong()))


def test_weights_cannot_be_retrained_with_nuisances():
    base = problem(Fisher())
    network = ky.Network(lambda design, y: y[:, None], 1)
    learned = base.replace(
        pipeline=ky.Pipeline(base.pipeline.source, base.pipeline.simulator, network)
    )
    with pytest.raises(errors.UnsupportedError, match="free leaf of the design"):
        ky.Retrain(ky.Pathwise()).check(learned)


def test_tangents_are_in_the_order_of_the_nuisances(getkey):
    seen = []

    class Look(Templates):
        def score(self, design, tally):
            assert isinstance(tally, Tangents)
            seen.append(tally.tangents.shape)
            return ky.Score({"slope": jnp.sum(jnp.abs(tally.tangents[0]))})

    value = _evaluated(ky.Direct(), problem(Look()), getkey()).total.value
    assert set(seen) == {(2, 14)}
    peak = 1 / np.sqrt(2 * np.pi)  # of the density, where it crosses zero
    assert value == pytest.approx(2 * peak, rel=0.05)  # of the shift; the scale's: 0.97
