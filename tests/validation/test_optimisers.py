"""Searches beat chance, at equal trials and by more than their error; published fronts."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import testing
from kythera.optimisers import pareto

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "optimisers.py"
BENCHMARK = runpy.run_path(str(SCRIPT))
CASES = ("sphere, 4", "Branin", "noisy sphere, 4", "mixed", "noisy mixed")

pytestmark = pytest.mark.slow


def _beats(name: str, label: str, trials: int, seeds: int) -> None:
    """The mean logarithm of the regret is lower by three standard errors."""
    case = BENCHMARK["cases"]()[label]
    logs = {}
    for each in (name, "random"):
        left = [
            BENCHMARK["regret"](case, BENCHMARK["OPTIMISERS"][each][0](), trials, seed)
            for seed in range(1000, 1000 + seeds)
        ]
        logs[each] = np.log(np.maximum(left, 1e-9))
    gap = logs["random"] - logs[name]
    error = np.std(gap, ddof=1) / np.sqrt(seeds)
    assert gap.mean() > 3 * error, (gap.mean(), error, logs)


@pytest.mark.parametrize("label", CASES)
def test_the_parzen_estimator_beats_chance(label):
    # After 100 trials of the last one the difference is 2.3 errors of 24 searches.
    _beats('Bayesian("tpe")', label, 200 if label == "noisy mixed" else 100, 12)


@pytest.mark.library("botorch")
@pytest.mark.parametrize("label", CASES)
def test_processes_beat_chance(label):
    _beats('Bayesian("gp")', label, 32, 5)


@pytest.mark.parametrize("label", CASES)
def test_evolution_beats_chance(label):
    _beats("Evolution", label, 200, 12)


def _found(problem, optimiser, trials, seed):
    return ky.optimise(problem, optimiser, key=jax.random.key(seed), max_trials=trials)


@pytest.mark.parametrize(
    ("n", "settings", "trials", "miss"),
    [
        pytest.param(
            10,
            {"model": "gp", "startup": 10},
            100,
            0.1,
            marks=pytest.mark.library("botorch"),
        ),
        (50, {"batch": 40}, 4000, 0.3),
    ],
)
def test_dtlz2_closes(n, settings, trials, miss):
    """Volumes of d = 10 (0.4246, worst 1.1) and d = 50 (24.215, worst 5).

    The closure test of the AID2E collaboration, which ends within 0.1 (10 first designs, 50
    batches of 4). The processes close ten coordinates in half of that; of fifty they leave 3.7
    after 200 designs.
    """
    problem, worst = testing.dtlz2(n, 2), max(1.1, n / 10)
    optimiser = ky.MultiObjective(
        ("f0", "f1"), reference={"f0": worst, "f1": worst}, **settings
    )
    solution = _found(problem, optimiser, trials, 1)
    goals = jax.vmap(problem.objective.function)(jnp.asarray(solution.state[0].us))
    values = np.stack([np.asarray(goals[name]) for name in ("f0", "f1")], 1)
    exact = worst**2 - np.pi / 4
    assert exact == pytest.approx({10: 0.4246, 50: 24.2146}[n], abs=1e-4)
    volume = pareto.hypervolume(values, np.full(2, worst))
    assert exact - miss < volume <= exact + 1e-6


@pytest.mark.library("botorch")
@pytest.mark.parametrize(
    ("radius", "chance", "published"), [(0.5, 0.331, 0.415), (1.0, 0.796, 0.887)]
)
def test_the_straw_tracker_is_searched_better_than_by_chance(radius, chance, published):
    """Efficiency after a hundred calls, six shifts free, median of three searches.

    Both published figures are of one search each. The median is above the middle of them; it
    is 0.41 and 0.87, where scikit-optimize (0.10.2) has 0.412 for a radius of 0.5.
    """
    problem = testing.straws("missed", radius=radius)
    found = [_found(problem, ky.Bayesian("gp"), 100, seed) for seed in (1717, 1, 2)]
    efficiency = 1 - np.median([solution.report.best.value for solution in found])
    assert efficiency > (chance + published) / 2


def test_the_straw_tracker_has_a_front():
    """Of three goals with eight parameters: nothing on it is beaten by the baseline."""
    problem = testing.straws()
    optimiser = ky.MultiObjective(batch=40)
    solution = _found(problem, optimiser, 800, 1)
    front = ky.front(solution, key=jax.random.key(2))
    base = testing.straw_tracker()
    baseline = np.array([base[name] for name in front.terms])
    assert not np.any(np.all(front.values > baseline, 1))
    assert np.any(np.all(front.values[:, :1] < 0.5, 1))
    assert len(front.us) > 20
