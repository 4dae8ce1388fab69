"""What a problem refuses before anything is simulated."""

import jax
import jax.numpy as jnp
import pytest

import kythera as ky
from kythera import errors
from kythera.core.objective import Cost
from kythera.core.stage import (
    AbstractHostStage,
    AbstractSimulator,
    AbstractTractableSimulator,
)
from kythera.testing import noisy_sphere

ENGINES = (ky.Direct(), ky.Pathwise(), ky.FiniteDifference(), ky.ScoreFunction())


class Shifted(Cost):
    """Any objective with a nuisance parameter."""

    def nuisances(self):
        return {"x": 0.1}


class Jumps(AbstractSimulator):
    def __call__(self, design, x, *, key):
        return jnp.round(design.x)


class Density(AbstractTractableSimulator):
    def __call__(self, design, x, *, key):
        return jax.random.normal(key, (x.shape[0], 4))

    def log_prob(self, design, x, y):
        return jnp.zeros(x.shape[0])


class Outside(AbstractHostStage):
    def run(self, design, x, *, seed):
        return x

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events, 4), float)


def _problem(simulator=None, reconstruction=None):
    problem = noisy_sphere()
    pipeline = ky.Pipeline(
        problem.pipeline.source,
        simulator or problem.pipeline.simulator,
        reconstruction or problem.pipeline.reconstruction,
    )
    objective = problem.objective + Shifted(lambda d: {})
    return problem.replace(pipeline=pipeline, objective=objective)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "problem",
    [
        _problem(Jumps()),
        _problem(Density()),
        _problem(None, Outside()),
        _problem().replace(hard_pipeline=_problem(Jumps()).pipeline),
    ],
    ids=["jumps", "density", "host", "as built"],
)
def test_nuisances_need_derivatives_of_the_simulator(problem, engine):
    with pytest.raises(errors.UnsupportedError) as caught:
        engine.check(problem)
    assert "nuisance" in str(caught.value) or "`Pathwise`" in str(caught.value)
    with pytest.raises(errors.UnsupportedError):
        ky.optimise(
            problem, ky.RandomSearch(2), engine, key=jax.random.key(1), max_trials=2
        )


def test_nuisances_are_not_for_the_score_function():
    with pytest.raises(errors.UnsupportedError, match=r"\['x'\].*Use `Pathwise`"):
        ky.ScoreFunction().check(_problem())
    for engine in ENGINES[:3]:
        engine.check(_problem())
