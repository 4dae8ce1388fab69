"""The laws of estimators and optimisers."""

import numpy as np
import pytest

from kythera import testing
from kythera.instruments import telescope

from .tables import ESTIMATORS, OPTIMISERS, labelled, searchers

EXACT = np.array([40.0, 20.0, -20.0, -40.0])  # of the telescope at its start, 1/m
ENGINES = labelled(ESTIMATORS)
SEARCHERS = labelled(OPTIMISERS)


@pytest.mark.parametrize("name", ENGINES)
def test_estimator(name, getkey):
    engine = ENGINES[name]()
    testing.check_estimator(
        engine.estimator,
        telescope.problem(events=100),
        EXACT if engine.estimator.gives_gradient else None,
        value=10.0,
        key=getkey(),
        repeats=engine.repeats,
        tolerance=engine.tolerance,
    )


@pytest.mark.parametrize("name", searchers())
def test_optimiser(name, getkey):
    searcher = SEARCHERS[name]()
    testing.check_optimiser(
        searcher.optimiser,
        reaches=searcher.reaches,
        key=getkey(),
        problem=searcher.problem(),
        trials=searcher.trials - 10,
    )
