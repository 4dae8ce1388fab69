"""The laws of sources, stages and simulators."""

import jax
import pytest

from kythera import testing
from kythera.core.stage import AbstractPathwiseSimulator, AbstractTractableSimulator
from kythera.instruments import telescope

from .tables import LIBRARIES, SOURCES, STAGES

STAGE_NAMES = {cls.__name__: cls for cls in STAGES}
SLOW = {"LikelihoodFit"}  # to compile
PATHWISE = [
    name for name, c in STAGE_NAMES.items() if issubclass(c, AbstractPathwiseSimulator)
]
TRACTABLE = [
    name for name, c in STAGE_NAMES.items() if issubclass(c, AbstractTractableSimulator)
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda cls: cls.__name__)
def test_source(source, getkey, needs):
    needs(*LIBRARIES.get(source, "").split())
    testing.check_source(SOURCES[source](), key=getkey())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in STAGE_NAMES
    ],
)
def test_stage(name, getkey, needs, geant4):
    needs(*LIBRARIES.get(STAGE_NAMES[name], "").split())
    bench = STAGES[STAGE_NAMES[name]]()
    for design in bench.designs:
        record = bench.record(5, getkey())
        testing.check_stage(bench.stage, design, record, key=getkey())


@pytest.mark.parametrize("name", PATHWISE)
def test_pathwise_simulator(name, getkey, needs):
    needs(*LIBRARIES.get(STAGE_NAMES[name], "").split())
    bench = STAGES[STAGE_NAMES[name]]()
    for design in bench.designs:
        record = bench.record(bench.rows, getkey())
        testing.check_gradient(bench.stage, design, record, key=getkey())


@pytest.mark.parametrize("name", TRACTABLE)
def test_tractable_simulator(name, getkey):
    bench = STAGES[STAGE_NAMES[name]]()
    for design in bench.designs:
        record = bench.record(bench.many, getkey())
        testing.check_log_prob(bench.stage, design, record, key=getkey())  # type: ignore


def test_the_gradient_of_a_whole_problem(getkey):
    testing.check_problem_gradient(telescope.problem(events=50), key=getkey())


def test_float64_is_left_as_it_was(getkey):
    bench = STAGES[STAGE_NAMES["Readout"]]()
    record = bench.record(bench.rows, getkey())
    testing.check_gradient(bench.stage, bench.designs[0], record, key=getkey())
    assert not jax.config.read("jax_enable_x64")
