"""The laws of estimators and optimisers."""

import numpy as np
import pytest

from kythera import testing

from .tables import ESTIMATORS, OPTIMISERS, labelled, searchers

ENGINES = labelled(ESTIMATORS)
SEARCHERS = labelled(OPTIMISERS)


@pytest.mark.parametrize("name", ENGINES)
def test_estimator(name, getkey):
    engine = ENGINES[name]()
    testing.check_estimator(
        engine.estimator,
        engine.problem(events=100),
        np.array(engine.gradient) if engine.estimator.gives_gradient else None,
        value=engine.value,
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
