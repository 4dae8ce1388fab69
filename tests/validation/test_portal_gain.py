"""The portal really gets better: at equal cost, on fresh cargoes, with hard panels."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "portal_engines.py"
BENCHMARK = runpy.run_path(str(SCRIPT))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARK["ENGINES"])
def test_false_negatives_fall_at_equal_cost(name):
    """Five standard errors on 1024 fresh cargoes, and not a square metre more."""
    row = BENCHMARK["run"](name, cargoes=1024, seed=3)
    start, best = row["cost"]
    assert best <= start * (1 + 1e-5)
    gain, error = row["gain"]
    assert gain > 5 * error, row
