"""The table of the INFERNO paper (arXiv:1806.04743), trained here (slow)."""

import importlib
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPTIMAL = (14.995, 19.396, 24.815, 22.220, 28.174)  # 4 million events of each class
SECONDS = 120.0  # on two cores


@pytest.fixture
def inferno(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("inferno")


def test_rows_without_training(inferno):
    rows = inferno.limits()
    # 500,000 events tell it to one percent
    np.testing.assert_allclose(rows["optimal classifier"], OPTIMAL, rtol=0.04)
    published = inferno.PAPER["full likelihood"]
    np.testing.assert_allclose(rows["full likelihood"], published, atol=0.02)


def test_a_classifier(inferno):
    problem, solution, _ = inferno.train("bce")
    found = [v.value for v in inferno.judged(problem, solution.u_best)]
    np.testing.assert_allclose(found, inferno.PAPER["bce"], rtol=0.03)


@pytest.mark.parametrize("benchmark", range(5))
def test_trained_on_its_own_benchmark(inferno, benchmark):
    problem, solution, (wall, cpu) = inferno.train(str(benchmark))
    found = inferno.judged(problem, solution.u_best)[benchmark]
    published = inferno.PAPER[str(benchmark)][benchmark]
    least = inferno.PAPER["full likelihood"][benchmark]
    assert least - 0.02 < found.value < 1.02 * published
    assert found.stderr < 0.005 * found.value
    # The machine may be shared: half of the CPU seconds stand for two cores.
    assert min(wall, max(cpu / 2, wall / 4)) < SECONDS
