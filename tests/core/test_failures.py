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


class CalledBack(ky.AbstractSimulator):
    program: Program

    def __call__(self, design, x, *, key):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x = jax.pure_callback(self.program, shape, x, vmap_method="sequential")
        return x + design["a"]


class Hits(ky.AbstractSource):
    primaries: int = 1

    def __call__(self, events, *, key):
        return jax.random.normal(key, (events, 1))


class Square(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"loss": jnp.sum((trace.result - 1) ** 2, 1)}


def searched(program, engine=None, learned=False):
    network = ky.Network(lambda design, x: x, 1, 1, width=4) if learned else None
    stages = [Hits(), CalledBack(program), *([network] if network else [])]
    problem = ky.Problem(
        ky.Space({"a": jnp.array(0.5)}, {"a": ky.Real(0, 1)}),
        ky.Pipeline(*stages),
        Square(),
        events=8,
    )
    optimiser = ky.adam(0.05) if engine else ky.RandomSearch(1)
    engines = [engine] if engine else []
    return ky.optimise(problem, optimiser, *engines, key=KEY, max_trials=6)


@pytest.mark.parametrize(
    ("engine", "learned"),
    [
        (None, False),
        (ky.LocalSurrogate(designs=2), False),
        (ky.Retrain(ky.FiniteDifference(), events=16, steps=2), True),
    ],
    ids=["Direct", "LocalSurrogate", "Retrain"],
)
@pytest.mark.parametrize("call", [1, 5])
def test_a_call_that_fails_is_a_failed_trial(engine, learned, call):
    found = searched(Program((call,)), engine, learned)
    assert len(found.trials) == 6
    told = [t.evaluation.cause for t in found.trials if t.evaluation.cause]
    assert len(told) <= 1  # a neighbour of a local surrogate is missed by nobody
    assert all(f"call {call} broke" in cause for cause in told)
    if engine is None:
        assert len(told) == 1


def test_a_mistake_of_the_user_is_no_failed_trial():
    for error in (ValueError, KeyError):
        with pytest.raises(Exception, match="call 5 broke"):
            searched(Program((5,), error))


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
