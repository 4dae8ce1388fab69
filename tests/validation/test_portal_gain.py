"""The portal really gets better: at equal cost, on fresh cargoes, with hard panels."""

import jax
import pytest

import kythera as ky
from kythera.instruments import muon_portal

ENGINES = {
    "adam": (ky.adam(0.05), 30),
    "lbfgsb": (ky.LBFGSB(), 30),
    "evolution": (ky.Evolution(), 300),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_false_negatives_fall_at_equal_cost(name):
    """Five standard errors on 512 fresh cargoes, and not a square metre more."""
    optimiser, trials = ENGINES[name]
    problem = muon_portal.problem()
    solution = ky.optimise(
        problem,
        optimiser,
        key=jax.random.key(3),
        max_trials=trials,
        report_events=512,
    )
    prices = muon_portal.Prices()
    start, best = prices(solution.start), prices(solution.best)
    assert float(best) <= float(start) * (1 + 1e-5)
    gain = solution.hard.gain
    assert gain.value > 5 * gain.stderr, str(gain)
