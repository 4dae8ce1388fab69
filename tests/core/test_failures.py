"""A stage that JAX calls back fails: a failed trial, whichever call it is, with any engine."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors

KEY = jax.random.key(5)


@dataclasses.dataclass(eq=False)
class Program:
    """Doubles numbers; the calls named in `bad` fail."""

    bad: tuple[int, ...]
    error: type[Exception] = errors.SimulationError
    calls: int = 0

    def __call__(self, x):
        self.calls += 1
        if self.calls in self.bad:
            raise self.error(f"call {self.calls} broke")
        return 2 * np.asarray(x)


class CalledBack(ky.AbstractPathwiseSimulator):
    program: Program

    def __call__(self, design, x, *, key):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x = jax.lax.stop_gradient(x)
        x = jax.pure_callback(self.program, shape, x, vmap_method="sequential")
        return x + design["a"]


class Hits(ky.AbstractSource):
    primaries: int = 1

    def __call__(self, events, *, key):
        return jax.random.normal(key, (events, 1))


class Square(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"loss": jnp.sum((trace.result - 1) ** 2, 1)}


def network():
    return ky.Network(lambda design, x: x, 1, 1, width=4)


def searched(engine, *stages):
    problem = ky.Problem(
        ky.Space({"a": jnp.array(0.5)}, {"a": ky.Real(0, 1)}),
        ky.Pipeline(Hits(), *stages),
        Square(),
        events=8,
    )
    slopes = engine is not None and engine.gives_gradient
    optimiser = ky.adam(0.05) if slopes else ky.RandomSearch(1)
    engines = [engine] if engine else []
    return ky.optimise(problem, optimiser, *engines, key=KEY, max_trials=6)


@pytest.mark.parametrize(
    ("engine", "learned"),
    [
        (None, False),
        (ky.Pathwise(), False),
        (ky.LocalSurrogate(designs=2), False),
        (ky.Retrain(ky.FiniteDifference(), events=16, steps=2), True),
    ],
    ids=["Direct", "Pathwise", "LocalSurrogate", "Retrain"],
)
@pytest.mark.parametrize("call", [1, 5])
def test_a_call_that_fails_is_a_failed_trial(engine, learned, call):
    stages = [CalledBack(Program((call,))), *([network()] if learned else [])]
    found = searched(engine, *stages)
    assert len(found.trials) == 6
    told = [t.evaluation.cause for t in found.trials if t.evaluation.cause]
    assert len(told) <= 1  # a neighbour of a local surrogate is missed by nobody
    assert all(f"call {call} broke" in cause for cause in told)
    if engine is None:
        assert len(told) == 1


def test_a_mistake_of_the_user_is_no_failed_trial():
    for error in (ValueError, KeyError):
        with pytest.raises(Exception, match="call 5 broke"):
            searched(None, CalledBack(Program((5,), error)))


class Outside(ky.AbstractHostSimulator):
    def shapes(self, events):
        return jax.ShapeDtypeStruct((events, 1), jnp.float32)

    def run(self, design, x, *, seed):
        return np.asarray(x) * float(design["a"])


@pytest.mark.parametrize(
    "engine",
    [
        None,
        ky.Spread(parts=2),
        ky.LocalSurrogate(designs=2),
        pytest.param(
            ky.LocalSurrogate(ky.CramerGAN(steps=2, width=4), designs=2),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ky.EndToEndSurrogate(ky.Diffusion(steps=2, width=4), designs=2),
            marks=pytest.mark.slow,
        ),
        ky.Retrain(ky.Direct(), events=16, steps=2),
    ],
    ids=["Direct", "Spread", "tallies", "signals", "EndToEndSurrogate", "Retrain"],
)
def test_so_is_a_call_behind_a_simulator_outside(engine):
    learned = isinstance(engine, ky.Retrain)
    stages = [
        Outside(),
        CalledBack(Program((5,))),
        *([network()] if learned else []),
    ]
    found = searched(engine, *stages)
    assert len(found.trials) == 6
    told = [t.evaluation.cause for t in found.trials if t.evaluation.cause]
    told = [cause for cause in told if "did not learn" not in cause]  # in two steps
    assert len(told) <= 1
    assert all("call 5 broke" in cause for cause in told)


class Together(ky.AbstractHostSimulator):
    """Several designs in a call, which fails."""

    batch = 4

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events, 1), jnp.float32)

    def run(self, design, x, *, seed):
        return np.asarray(x) + float(design["a"])

    def run_batch(self, designs, xs, *, seeds):
        raise errors.SimulationError("the batch broke")


def test_designs_are_tried_alone_where_the_simulation_of_all_fails_only():
    problem = ky.Problem(
        ky.Space({"a": jnp.array(0.5)}, {"a": ky.Real(0, 1)}),
        ky.Pipeline(Hits(), Together()),
        Square(),
        events=8,
    )
    found = ky.optimise(problem, ky.RandomSearch(4), key=KEY, max_trials=4)
    assert not any(t.evaluation.cause for t in found.trials)
