"""One entry for each member of a kind: how it is made, and what it is held to.

A new member needs an entry here, or the suite fails and says so.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kythera.core import objective, stage
from kythera.core.evaluation import AbstractEstimator, AbstractOptimiser
from kythera.core.objective import AbstractObjective
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, Real
from kythera.core.stage import AbstractSource, AbstractStage
from kythera.core.types import Key
from kythera.estimators.direct import Direct
from kythera.estimators.finite_difference import FiniteDifference
from kythera.estimators.pathwise import Pathwise
from kythera.estimators.score_function import ScoreFunction
from kythera.estimators.spread import Spread
from kythera.instruments import muon_portal, telescope
from kythera.instruments.muon_portal import (
    imaging,
    inference,
    scenes,
    simulator,
    x0_map,
)
from kythera.instruments.muon_portal.reconstruction import TrackFits
from kythera.instruments.telescope.design import Telescope
from kythera.instruments.telescope.problem import SlopeError
from kythera.instruments.telescope.reconstruction import LineFit
from kythera.instruments.telescope.simulator import Beam, Planes
from kythera.optimisers.bayesian import Bayesian
from kythera.optimisers.evolution import Evolution
from kythera.optimisers.gradient import Gradient, adam, from_optax, sgd
from kythera.optimisers.lbfgsb import LBFGSB
from kythera.optimisers.multi_objective import MultiObjective
from kythera.optimisers.multi_start import MultiStart
from kythera.optimisers.policy import Policy
from kythera.optimisers.random_search import RandomSearch
from kythera.stages.simulators import host
from kythera.testing import Point, fronts, noisy_sphere, textbook

from . import objectives, portal


@dataclasses.dataclass(frozen=True)
class Bench:
    """A stage, designs to try it at (edges and symmetric points too), and its input.

    Args:
        stage: what is tried.
        designs: at which.
        record: (rows, key) -> a record that it takes.
        rows: for the law of gradients.
        many: for the law of densities.
    """

    stage: AbstractStage
    designs: tuple[Any, ...]
    record: Callable[[int, Key], Any]
    rows: int = 200
    many: int = 4000


@dataclasses.dataclass(frozen=True)
class Engine:
    """An estimator on the telescope, whose gradient at its start is known.

    Args:
        estimator: what is tried.
        tolerance: the bias that it states, relative to the largest component.
        repeats: number of keys.
    """

    estimator: AbstractEstimator
    tolerance: float = 0.0
    repeats: int = 256


@dataclasses.dataclass(frozen=True)
class Searcher:
    """An optimiser, and what it must reach.

    Args:
        optimiser: what is tried.
        reaches: textbook problem -> (trials, part of the start's loss that may be left).
        problem: for the laws on its state, and on searches that were interrupted.
        needs: Python packages of an extra; such an entry is slow.
        trials: of a search that is interrupted; ten fewer for the laws on its state.
    """

    optimiser: AbstractOptimiser
    reaches: Mapping[str, tuple[int, float]]
    problem: Callable[[], Problem] = noisy_sphere
    needs: tuple[str, ...] = ()
    trials: int = 50


def _normal(shape: tuple[int, ...]) -> Callable[[int, Key], Any]:
    return lambda events, key: jax.random.normal(key, (events, *shape))


def _rows(events: int, key: Key) -> Any:
    return jnp.arange(events, dtype=float)


def _telescopes() -> tuple[Telescope, ...]:
    layouts = ([0.3, 0.4, 0.6, 0.7], [0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    return tuple(Telescope(jnp.array(z), jnp.array(1e-3)) for z in layouts)


def _points() -> tuple[Point, ...]:
    return tuple(Point(jnp.array(x)) for x in ([0.3, -1.0, 2.0], [0.0, 0.0, 0.0]))


def _host(design: Any, x: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed).normal(size=(len(x), 3))
    return {"y": x + design.x + noise, "total": np.sum(noise, 1)}


def _host_simulator() -> host.HostSimulator:
    row = {
        "y": jax.ShapeDtypeStruct((3,), float),
        "total": jax.ShapeDtypeStruct((), float),
    }
    return host.HostSimulator(_host, row)


def _noisy(a: float, kind: str, seed: int) -> dict[str, float]:
    noise = float(np.random.default_rng(seed).normal())
    return {"loss": a**2 + noise, "kind": float(kind == "one")}


def _traced(a: Any, b: Any, key: Key) -> Any:
    return (a - 1) ** 2 + a * jnp.sin(b) * (1 + 0.1 * jax.random.normal(key))


def _function_problem() -> Problem:
    domains = {"a": Real(-1, 2), "kind": Choice(("one", "two"))}
    return host.from_function(_noisy, domains, terms=("loss", "kind"), events=200)


def _traced_problem() -> Problem:
    domains = {"a": Real(-1, 2), "b": Real(0, 3)}
    return host.from_function(_traced, domains, events=500, differentiable=True)


def _bench_of(problem: Problem, *more: Any) -> Bench:
    return Bench(problem.pipeline.simulator, (problem.space.template, *more), _rows)


def _portal_bench(stage: AbstractStage, rows: int = 2) -> Bench:
    return Bench(
        stage, portal.portals(), lambda n, k: portal.source()(n, key=k), rows=rows
    )


SOURCES: dict[type[AbstractSource], Callable[[], AbstractSource]] = {
    Beam: Beam,
    host.Rows: host.Rows,
    textbook.Nothing: textbook.Nothing,
    scenes.Scanned: portal.source,
}

STAGES: dict[type[AbstractStage], Callable[[], Bench]] = {
    stage.Identity: lambda: Bench(stage.Identity(), (None,), _normal((2,))),
    stage.Chain: lambda: Bench(
        stage.Chain(textbook.Readout(0.5), textbook.Readout(0.1), stage.Identity()),
        (Point(jnp.array([0.3, -1.0, 2.0])),),
        _normal(()),
    ),
    Planes: lambda: Bench(Planes(), _telescopes(), lambda n, k: Beam()(n, key=k)),
    LineFit: lambda: Bench(LineFit(), _telescopes(), _normal((4,))),
    textbook.Readout: lambda: Bench(textbook.Readout(0.5), _points(), _normal(())),
    host.HostSimulator: lambda: Bench(
        _host_simulator(), (Point(jnp.ones(3)),), _normal((3,))
    ),
    simulator.SoftPortal: lambda: _portal_bench(
        simulator.SoftPortal(portal.GRID, momentum_resolution=0.3), rows=1
    ),
    simulator.HardPortal: lambda: _portal_bench(simulator.HardPortal(portal.GRID)),
    TrackFits: lambda: Bench(TrackFits(portal.GRID), portal.portals()[:1], portal.hits),
    imaging.PocaImage: lambda: Bench(
        imaging.PocaImage(portal.GRID), (None,), portal.scatters
    ),
    imaging.LikelihoodImage: lambda: Bench(
        imaging.LikelihoodImage(portal.GRID, 3), (None,), portal.scatters
    ),
    x0_map.X0Map: lambda: Bench(x0_map.X0Map(portal.GRID), (None,), portal.scatters),
    inference.DenseStatistic: lambda: Bench(
        inference.DenseStatistic(), (None,), portal.image
    ),
    inference.FillLevel: lambda: Bench(
        inference.FillLevel(portal.GRID), (None,), portal.image
    ),
    host._HostCalls: lambda: _bench_of(_function_problem()),
    host._TracedCalls: lambda: _bench_of(
        _traced_problem(), {"a": jnp.array(0.0), "b": jnp.array(0.0)}
    ),
}


def _with(part: AbstractObjective) -> Problem:
    """The noisy sphere with another objective beside its own."""
    problem = noisy_sphere(n=2, events=1000)
    return problem.replace(objective=problem.objective + part)


def _length(design: Point) -> Any:
    return jnp.sum(design.x + 2)


OBJECTIVES: dict[type[AbstractObjective], Callable[[], Problem]] = {
    SlopeError: lambda: telescope.problem(events=2000),
    textbook.Textbook: lambda: noisy_sphere(n=3, events=2000),
    host._Losses: _traced_problem,
    fronts.Goals: lambda: fronts.two_spheres(3, 0.5, 2000),
    objective.Sum: lambda: objectives.problem(objectives.Mean() + objectives.Fisher()),
    objective.Cost: lambda: _with(objective.Cost(lambda d: {"cost": _length(d)})),
    objective.Budget: lambda: _with(objective.Budget(_length, 1.0)),
    objective.AtMost: lambda: _with(objective.AtMost("length", _length, 1.0)),
    **portal.GOALS,
}

ESTIMATORS: dict[type[AbstractEstimator], dict[str, Callable[[], Engine]]] = {
    Direct: {"": lambda: Engine(Direct())},
    Pathwise: {"": lambda: Engine(Pathwise())},
    ScoreFunction: {"": lambda: Engine(ScoreFunction())},
    Spread: {
        "value": lambda: Engine(Spread(parts=3), repeats=128),
        "pathwise": lambda: Engine(Spread(Pathwise(), 4), repeats=128),
    },
    # Truncation at the start: h^2 / 6 times the third derivative, 0.6% for h = 0.02.
    FiniteDifference: {"": lambda: Engine(FiniteDifference(), tolerance=0.01)},
}


def labelled(table: Mapping[type, Mapping[str, Any]]) -> dict[str, Any]:
    """Entries of a table of engines by the names of their tests."""
    return {
        f"{cls.__name__}-{label}".rstrip("-"): make
        for cls, entries in table.items()
        for label, make in entries.items()
    }


def searchers() -> list[Any]:
    """Names of the optimisers, as parameters of a test."""
    found = []
    for name, make in labelled(OPTIMISERS).items():
        needs = make().needs
        marks = [pytest.mark.slow, pytest.mark.library(*needs)] if needs else []
        found.append(pytest.param(name, marks=marks))
    return found


def mixed() -> Problem:
    """A number, a whole number, an option and a constraint, outside JAX."""

    def loss(gap: float, count: int, kind: str, seed: int) -> float:
        noise = 0.1 * np.random.default_rng(seed).normal()
        return (count - 7) ** 2 / 10 + 10 * (gap - 0.3) ** 2 + (kind != "iron") + noise

    options = {
        "gap": Real(0, 1),
        "count": Integer(0, 20),
        "kind": Choice(("lead", "iron", "absent")),
    }
    problem = host.from_function(loss, options, start={"count": 15.0}, events=4)
    room = objective.AtMost("room", lambda d: d["gap"] + d["count"] / 20, 1.2)
    return problem.replace(objective=problem.objective + room)


_CMA = {"sphere": (300, 5e-3), "rosenbrock": (500, 5e-3), "noisy sphere": (400, 0.03)}

OPTIMISERS: dict[type[AbstractOptimiser], dict[str, Callable[[], Searcher]]] = {
    Gradient: {
        "adam": lambda: Searcher(
            adam(0.02),
            {
                "sphere": (100, 1e-3),
                "rosenbrock": (200, 5e-3),
                "noisy sphere": (100, 0.02),
            },
        ),
        "sgd": lambda: Searcher(
            sgd(0.02, 0.5), {"sphere": (25, 1e-3), "noisy sphere": (50, 0.03)}
        ),
        "lion": lambda: Searcher(
            from_optax(
                optax.lion(1.0), 0.02, schedule=optax.cosine_decay_schedule(1.0, 100)
            ),
            {"sphere": (100, 1e-2), "noisy sphere": (100, 0.03)},
        ),
    },
    LBFGSB: {
        "": lambda: Searcher(
            LBFGSB(),
            {
                "sphere": (10, 1e-6),
                "rosenbrock": (60, 1e-4),
                "noisy sphere": (20, 0.04),
            },
        )
    },
    Evolution: {
        "": lambda: Searcher(Evolution(), _CMA),
        "lr_adapt": lambda: Searcher(
            Evolution(lr_adapt=True),
            {"sphere": (400, 5e-3), "noisy sphere": (400, 0.03)},
        ),
        "mixed": lambda: Searcher(Evolution(), {}, mixed),
        "diagonal": lambda: Searcher(
            Evolution(diagonal=True, sample="fresh"),
            {"sphere": (300, 5e-3), "noisy sphere": (400, 0.03)},
        ),
    },
    Bayesian: {
        "tpe": lambda: Searcher(
            Bayesian(), {"sphere": (100, 0.1), "noisy sphere": (100, 0.15)}
        ),
        "tpe mixed": lambda: Searcher(Bayesian(batch=3), {}, mixed),
        "gp": lambda: Searcher(
            Bayesian("gp"),
            {
                "sphere": (32, 1e-3),
                "rosenbrock": (40, 0.05),
                "noisy sphere": (40, 0.03),
            },
            needs=("botorch",),
            trials=26,
        ),
        "gp mixed": lambda: Searcher(
            Bayesian("gp", batch=2, startup=4),
            {},
            mixed,
            needs=("botorch",),
            trials=16,
        ),
    },
    MultiObjective: {
        "nsga2": lambda: Searcher(
            MultiObjective(batch=10), {}, lambda: fronts.two_spheres(3, 0.2, 8)
        ),
        "gp": lambda: Searcher(
            MultiObjective(model="gp", batch=2, startup=4),
            {},
            lambda: fronts.two_spheres(3, 0.2, 8),
            needs=("botorch",),
            trials=16,
        ),
    },
    Policy: {
        "": lambda: Searcher(
            Policy(batch=16), {"sphere": (1000, 5e-3), "noisy sphere": (1000, 0.05)}
        ),
        "mixed": lambda: Searcher(Policy(by_parts=True, batch=8), {}, mixed),
    },
    RandomSearch: {
        "": lambda: Searcher(
            RandomSearch(),
            {
                "sphere": (512, 0.15),
                "rosenbrock": (512, 0.1),
                "noisy sphere": (512, 0.2),
            },
        )
    },
    MultiStart: {
        "adam": lambda: Searcher(
            MultiStart(adam(0.02), 3),
            {"sphere": (200, 5e-3), "rosenbrock": (300, 1e-2)},
        ),
        "lbfgsb": lambda: Searcher(
            MultiStart(LBFGSB(), 3), {"rosenbrock": (150, 1e-4)}
        ),
        "evolution": lambda: Searcher(
            MultiStart(Evolution(), 2), {"sphere": (500, 5e-3)}
        ),
    },
}

INSTRUMENTS: dict[str, Callable[[], tuple[Problem, dict[str, Any]]]] = {
    "telescope": lambda: (
        telescope.problem(),
        {"optimiser": adam(0.02), "factor": 9.0, "max_trials": 100},
    ),
    "muon_portal": lambda: (
        # In 30 s little is gained, and 1024 cargoes cannot show so little in the counted
        # share of missed sources: both detectors are judged by its smooth estimate. The
        # share itself is held by tests/validation/test_portal_gain.py.
        muon_portal.problem().replace(hard_objective=None),
        {
            "optimiser": adam(0.1, schedule=12),
            "factor": 1.1,
            "max_trials": 12,
            "report_events": 1024,
        },
    ),
}
