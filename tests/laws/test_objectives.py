"""The laws of objectives: rows add up, and errors are those of the bootstrap."""

import pytest

from kythera import testing

from . import objectives
from .tables import OBJECTIVES

SLOW = {"ArrayUtility"}  # to compile


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(cls, marks=[pytest.mark.slow] if cls.__name__ in SLOW else [])
        for cls in OBJECTIVES
    ],
    ids=lambda cls: cls.__name__,
)
def test_objective(objective, getkey):
    testing.check_objective(OBJECTIVES[objective](), key=getkey())


@pytest.mark.parametrize("shape", objectives.SHAPES, ids=lambda cls: cls.__name__)
def test_shapes_of_goals(shape, getkey):
    # A quantile's error needs the density there, which few events tell to some percent.
    events, slack = (8000, 0.1) if shape is objectives.Quantile else (2000, 0.02)
    problem = objectives.problem(shape(), events)
    testing.check_objective(problem, key=getkey(), slack=slack)
