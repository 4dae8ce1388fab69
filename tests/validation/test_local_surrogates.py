"""L-GSO's problems: calls until the loss is reached, medians over five seeds.

A call is one design with its 3000 events. The floors are those of exact gradients without
noise, with the same step rule (Adam 0.1, moves clipped to the region): 224, 294 and 105
calls. The loss is scored on 100,000 fresh events at each design.
"""

import logging

import jax
import numpy as np
import optax
import pytest

import kythera as ky
from kythera.core import measure
from kythera.testing import published

pytestmark = pytest.mark.slow
LOG = logging.getLogger(__name__)  # shown by --log-cli-level=INFO

CASES = {  # problem, goal, floor, designs, radius and longest move (of 10), steps
    "valley": (published.valley, 1.0, 224, 15, 0.02, 0.02, 25),
    "hidden valley": (published.hidden_valley, 1.0, 294, 20, 0.02, 0.02, 30),
    "hidden hump": (published.hidden_hump, -0.8, None, 10, 0.02, 0.02, 40),
    "three hump": (published.three_hump, -0.8, 105, 4, 0.05, 0.05, 60),
}


def calls(
    name: str, engine: ky.LocalSurrogate, seed: int, steps: int | None = None
) -> float:
    """Until a design is better than the goal; infinite where none is."""
    make, goal, _, designs, _, move, most = CASES[name]
    problem, steps = make(), steps or most
    rule = optax.chain(optax.adam(1.0), optax.clip_by_global_norm(move / 0.01))
    found = ky.optimise(
        problem, ky.from_optax(rule, 0.01), engine,
        key=jax.random.key(seed), max_trials=steps, report_events=3000,
    )  # fmt: skip
    fresh = problem.replace(events=100_000)
    key = jax.random.key(1000 + seed)
    for trial in found.trials:
        [scored] = measure.evaluate(
            fresh, "value", (trial.u[None], jax.random.fold_in(key, trial.number)[None])
        )
        if scored.total.value < goal:
            return trial.number * (designs + 1)
    return float("inf")


@pytest.mark.parametrize("name", ["valley", "hidden valley", "three hump"])
def test_calls_of_the_default_model(name):
    _, _, floor, designs, radius, _, _ = CASES[name]
    engine = ky.LocalSurrogate(radius=radius, designs=designs)
    needed = [calls(name, engine, seed) for seed in range(5)]
    LOG.info(f"{name}: {needed}, median {np.median(needed)}, floor {floor}")
    assert np.median(needed) <= 1.5 * floor, needed


def test_a_curved_submanifold_of_forty():
    """No floor is known here; the loss of the three hump problem is asked for."""
    engine = ky.LocalSurrogate(radius=0.02, designs=10)
    needed = [calls("hidden hump", engine, seed) for seed in range(3)]
    LOG.info(f"hidden hump: {needed}")
    assert np.median(needed) < float("inf")


@pytest.mark.parametrize(
    ("model", "most"), [(ky.Flow(), 3), (ky.Regressor(), 3.5), (ky.CramerGAN(), 4)]
)
def test_calls_of_the_other_models(model, most):
    """Of one seed. After 1.2 floors the latter two are within 0.3 of the goal.

    There their slopes are wrong by more than the valley bends, and Adam passes it once more.
    """
    engine = ky.LocalSurrogate(model, radius=0.02, designs=15)
    needed = calls("valley", engine, 0, steps=60)
    LOG.info(f"valley, {type(model).__name__}: {needed}")
    assert needed <= most * 224
