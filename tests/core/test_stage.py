"""Stages, chains, pipelines, and stages outside JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.pipeline import Pipeline
from kythera.core.stage import (
    AbstractHostStage,
    AbstractStage,
    Chain,
    Identity,
    has_host_stage,
)
from kythera.testing import Point
from kythera.testing.textbook import Nothing, Readout

KEY = jax.random.key(3)
DESIGN = Point(jnp.array([1.0, 2.0]))


class Times(AbstractStage):
    factor: float

    def __call__(self, design, x, *, key):
        return self.factor * x + jax.random.normal(key, x.shape)


class Host(AbstractHostStage):
    """Returns what it is told to, or raises."""

    answer: object = None

    def run(self, design, x, *, seed):
        assert isinstance(x, np.ndarray)
        assert isinstance(design.x, np.ndarray)
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer is not None:
            return self.answer
        return x + np.random.default_rng(seed).normal(size=x.shape)

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events, 2), jnp.float32)


def test_a_chain_feeds_each_stage_with_a_key_of_its_own():
    x = jnp.ones((3, 2))
    first = Times(2.0)(DESIGN, x, key=jax.random.fold_in(KEY, 0))
    second = Times(3.0)(DESIGN, first, key=jax.random.fold_in(KEY, 1))
    chained = Chain(Times(2.0), Times(3.0))(DESIGN, x, key=KEY)
    np.testing.assert_array_equal(chained, second)
    assert Chain()(DESIGN, x, key=KEY) is x


def test_the_pipeline_keeps_what_each_slot_gave():
    pipeline = Pipeline(Nothing(), Readout(0.5), Times(2.0))
    trace = pipeline(DESIGN, 5, key=KEY)
    assert trace.truth.shape == (5,)
    assert trace.signal.shape == trace.reco.shape == (5, 2)
    np.testing.assert_array_equal(trace.result, trace.reco)  # an empty slot
    truth, signal = pipeline.simulate(DESIGN, 5, key=KEY)
    again = pipeline.analyse(DESIGN, truth, signal, key=KEY)
    np.testing.assert_array_equal(trace.reco, again.reco)


def test_a_reconstruction_does_not_change_the_simulated_events():
    signal = Pipeline(Nothing(), Readout(0.5))(DESIGN, 5, key=KEY).signal
    other = Pipeline(Nothing(), Readout(0.5), Times(2.0))(DESIGN, 5, key=KEY).signal
    np.testing.assert_array_equal(signal, other)


def test_a_host_stage_anywhere_makes_the_pipeline_a_host_one():
    assert not Pipeline(Nothing(), Readout()).is_host
    assert Pipeline(Nothing(), Readout(), Chain(Identity(), Host())).is_host
    assert has_host_stage({"a": [Host()]})


def test_a_host_stage_converts_and_is_seeded_by_the_key():
    x = jnp.ones((4, 2))
    out = Host()(DESIGN, x, key=KEY)
    assert isinstance(out, jax.Array)
    np.testing.assert_array_equal(out, Host()(DESIGN, x, key=KEY))
    assert not np.array_equal(out, Host()(DESIGN, x, key=jax.random.key(4)))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.ones((3, 2)), ("declares, ['float32[4, 2]']", "['float64[3, 2]']")),
        (np.ones((4, 2), complex), ("['complex128[4, 2]']",)),
        (np.full((4, 2), None), ("['object[4, 2]']",)),
        ([np.ones((4, 2))], ("what `shapes` declares",)),
        (ValueError("no beam"), ("`Host` failed with ValueError: no beam", "mend")),
        (SystemExit(3), ("`Host` failed with SystemExit: 3",)),
    ],
)
def test_a_host_stage_is_held_to_its_shapes(answer, words):
    with pytest.raises(errors.SimulationError) as caught:
        Host(answer)(DESIGN, jnp.ones((4, 2)), key=KEY)
    for word in words:
        assert word in str(caught.value)


def test_whole_numbers_are_not_cut_out_of_real_ones():
    class Counts(Host):
        def shapes(self, events):
            return jax.ShapeDtypeStruct((events, 2), jnp.int32)

    x = jnp.ones((4, 2))
    assert Counts(np.ones((4, 2), np.int64))(DESIGN, x, key=KEY).dtype == jnp.int32
    with pytest.raises(errors.SimulationError, match=r"int32.*float64"):
        Counts(np.full((4, 2), 0.7))(DESIGN, x, key=KEY)


def test_a_host_stage_refuses_to_be_compiled():
    with pytest.raises(errors.UnsupportedError, match="FiniteDifference"):
        jax.jit(lambda x: Host()(DESIGN, x, key=KEY))(jnp.ones((4, 2)))
