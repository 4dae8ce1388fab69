"""Error propagation of what a problem simulates."""

import jax
import numpy as np
import pytest

import kythera as ky
from kythera.core.measure import evaluate
from kythera.instruments import telescope
from kythera.physics.statistics.observables import Observables
from kythera.physics.statistics.propagation import derive
from kythera.stages.inference.outputs import outputs

KEY = jax.random.key(4)


def test_the_loss_has_the_error_of_an_evaluation():
    """The same events in three chunks; the plain standard error, since it is a mean."""
    problem = telescope.problem(events=900).replace(chunk=300)
    [evaluation] = evaluate(
        problem, "value", (np.asarray(problem.space.start)[None], KEY[None])
    )
    design = problem.space.template
    tally = outputs(problem, key=KEY)
    loss = derive(lambda t: problem.score(design, t).loss["slope"], tally)
    assert loss.value == pytest.approx(evaluation.total.value, rel=1e-5)
    assert loss.estimate(S=0).stderr == pytest.approx(evaluation.total.stderr, rel=1e-4)
    gamma = loss.estimate()
    assert gamma.stderr == pytest.approx(evaluation.total.stderr, rel=0.15)
    assert gamma.ensembles["events"].tau == pytest.approx(0.5, abs=0.15)


def walk(z: float, seed: int) -> float:
    return z + np.random.default_rng(seed).normal()


def test_quantities_of_ones_own_of_simulators_outside_jax():
    problem = ky.from_function(walk, {"z": ky.Real(0, 1)}, start={"z": 0.5}, events=9)

    def both(design, trace):
        assert design["z"] == 0.25
        value = trace.signal["loss"]
        return {"square": value**2, "plain": value}

    found = outputs(problem, both, design={"z": 0.25}, events=50, key=KEY)
    assert isinstance(found["plain"], Observables)
    spread = (found["square"] - found["plain"] ** 2).estimate(S=0)
    assert spread.value == pytest.approx(1, abs=4 * spread.stderr)
    # of the variance of a normal distribution: sqrt(2 / n)
    assert spread.stderr == pytest.approx(np.sqrt(2 / 50), rel=0.5)
