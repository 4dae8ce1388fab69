"""One entry for each member of a kind: how it is made, and what it is held to.

A new member needs an entry here, or the suite fails and says so.
"""

import dataclasses
import sys
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
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, Real
from kythera.core.stage import AbstractSource, AbstractStage
from kythera.core.types import Key
from kythera.estimators import branching
from kythera.estimators.branching import Branching
from kythera.estimators.direct import Direct
from kythera.estimators.end_to_end import EndToEndSurrogate
from kythera.estimators.finite_difference import FiniteDifference
from kythera.estimators.local_surrogate import LocalSurrogate
from kythera.estimators.pathwise import Pathwise
from kythera.estimators.randomised import RandomisedDesign
from kythera.estimators.retrain import Retrain
from kythera.estimators.score_function import ScoreFunction
from kythera.estimators.spread import Spread
from kythera.instruments import (
    air_shower_array,
    inferno_toy,
    muon_portal,
    sampling_calorimeter,
    telescope,
    three_blobs,
)
from kythera.instruments.air_shower_array import design as ground
from kythera.instruments.air_shower_array import objectives as worth
from kythera.instruments.air_shower_array import public as swgolo
from kythera.instruments.air_shower_array import simulator as tanks
from kythera.instruments.air_shower_array.reconstruction import LikelihoodFit
from kythera.instruments.inferno_toy import reconstruction as classifier
from kythera.instruments.inferno_toy import simulator as mixture
from kythera.instruments.muon_portal import (
    imaging,
    inference,
    scenes,
    simulator,
    x0_map,
)
from kythera.instruments.muon_portal.reconstruction import TrackFits
from kythera.instruments.sampling_calorimeter import geant4 as layers
from kythera.instruments.sampling_calorimeter import learned
from kythera.instruments.sampling_calorimeter import reconstruction as calibration
from kythera.instruments.sampling_calorimeter import simulator as stack
from kythera.instruments.telescope.design import Telescope
from kythera.instruments.telescope.problem import SlopeError
from kythera.instruments.telescope.reconstruction import LineFit
from kythera.instruments.telescope.simulator import Beam, Planes
from kythera.instruments.three_blobs import simulator as blobs
from kythera.optimisers.bayesian import Bayesian
from kythera.optimisers.evolution import Evolution
from kythera.optimisers.gradient import Gradient, adam, from_optax, sgd
from kythera.optimisers.lbfgsb import LBFGSB
from kythera.optimisers.multi_objective import MultiObjective
from kythera.optimisers.multi_start import MultiStart
from kythera.optimisers.policy import Policy
from kythera.optimisers.random_search import RandomSearch
from kythera.stages.inference import summaries
from kythera.stages.objectives.condensation import CondensationLoss
from kythera.stages.objectives.information import MutualInformation
from kythera.stages.objectives.limits import ExpectedInference
from kythera.stages.objectives.uncertainty import ExpectedUncertainty
from kythera.stages.reconstruction.deep_sets import DeepSets
from kythera.stages.reconstruction.gravnet import GravNet
from kythera.stages.reconstruction.lines import LineTracks
from kythera.stages.reconstruction.network import Network
from kythera.stages.reconstruction.object_condensation import FindObjects
from kythera.stages.reconstruction.weighted_neighbours import WeightedNeighbours
from kythera.stages.simulators import geant4, host, program, torch
from kythera.stages.sources import gun, pythia8
from kythera.surrogates.diffusion import Diffusion
from kythera.surrogates.regressor import Regressor
from kythera.testing import (
    Point,
    decisions,
    fronts,
    noisy_sphere,
    published,
    showers,
    textbook,
)

from . import array, calorimeter, hits, objectives, portal


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
    """An estimator on a problem whose gradient at its start is known.

    Args:
        estimator: what is tried.
        tolerance: the bias that it states, relative to the largest component.
        repeats: number of keys.
        problem: (events) -> problem; by default the telescope.
        gradient: in the cube.
        value: of the loss.
    """

    estimator: AbstractEstimator
    tolerance: float = 0.0
    repeats: int = 256
    problem: Callable[..., Problem] = telescope.problem
    gradient: tuple[float, ...] = (40.0, 20.0, -20.0, -40.0)  # 1/m
    value: float = 10.0


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


# Without site-packages and JAX it starts in 20 ms.
_PROGRAM = """
import json
from random import Random
given = json.load(open("design.json"))
events = iter(json.load(open("events.json"))["value"])
y = []
for run in given["runs"]:
    draw, x = Random(run["seed"]).gauss, run["design"]["x"]
    for _ in range(given["rows"]):
        y.append([a + b + draw(0, 1) for a, b in zip(next(events), x)])
json.dump(dict(y=y, total=[sum(row) for row in y]), open("output.json", "w"))
"""


def _program_simulator() -> program.ProgramSimulator:
    return program.ProgramSimulator(
        (sys.executable, "-S", "-c", _PROGRAM),
        _host_simulator().row,
        events_format="json",
        output_format="json",
        batch=2,
    )


def _torch_stage() -> torch.TorchStage:
    from torch import cat, nn, randn, tanh

    class Smeared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 1)

        def forward(self, point: Any, x: Any) -> Any:
            z = cat([point.expand(len(x), 3), x + point[0] * randn(len(x), 1)], 1)
            return self.second(tanh(self.first(z)))

    return torch.TorchStage(Smeared(), jax.ShapeDtypeStruct((1,), float))


_HADRONIC_Z = (
    "Beams:idA = 11",
    "Beams:idB = -11",
    "Beams:eCM = 91.188",
    "PDF:lepton = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "23:onMode = off",
    "23:onIfAny = 1 2 3 4 5",
)


def _geant4_simulator() -> geant4.Geant4Simulator:
    def boxes(design: Telescope) -> list[geant4.Box]:
        widths = (
            0.01 * np.asarray(design.z)[:2]
        )  # at an edge of the space nothing is left
        return geant4.layers(("G4_Pb", "G4_lAr"), widths, 0.1)

    return geant4.Geant4Simulator(boxes, 2)


def _electrons(events: int, key: Key) -> gun.Particles:
    return gun.ParticleGun(11, (0.005, 0.02), position=(0, 0, -0.01))(events, key=key)


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


def _observables() -> tuple[three_blobs.Observable, ...]:
    problem = three_blobs.problem(units=2)
    return (problem.design(problem.space.start),)


def _placed(events: int, key: Key) -> Any:
    points = blobs.Points()(events, key=key)
    return blobs.Blobs()(_observables()[0], points, key=key)


def _problem_bench(problem: Problem, *more: list[float]) -> Bench:
    """At the start of a problem of points, and at some others."""
    designs = [Point(jnp.array(x)) for x in more]
    return Bench(
        problem.pipeline.simulator,
        (problem.space.template, *designs),
        lambda n, k: problem.pipeline.source(n, key=k),
    )


def _portal_bench(stage: AbstractStage, rows: int = 2) -> Bench:
    return Bench(
        stage, portal.portals(), lambda n, k: portal.source()(n, key=k), rows=rows
    )


# What a member needs that is an extra.
LIBRARIES: dict[type, str] = {
    geant4.Geant4Simulator: "calzone",
    layers.Geant4Showers: "calzone",
    pythia8.Pythia8: "pythia8mc",
    torch.TorchStage: "torch",
}

SOURCES: dict[type[AbstractSource], Callable[[], AbstractSource]] = {
    Beam: Beam,
    blobs.Points: blobs.Points,
    host.Rows: host.Rows,
    textbook.Nothing: textbook.Nothing,
    published.Uniform: lambda: published.Uniform((-1.0, 0.0), (2.0, 5.0)),
    scenes.Scanned: portal.source,
    pythia8.Pythia8: lambda: pythia8.Pythia8(_HADRONIC_Z, particles=150),
    gun.ParticleGun: lambda: gun.ParticleGun(22, (1.0, 20.0)),
    mixture.Pairs: mixture.Pairs,
    stack.ParticleBeam: calorimeter.beam,
    stack.Recorded: calorimeter.recorded,
    tanks.Sky: lambda: array.SKY,
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
    blobs.Blobs: lambda: Bench(
        blobs.Blobs(), _observables(), lambda n, k: blobs.Points()(n, key=k)
    ),
    blobs.Observed: lambda: Bench(blobs.Observed(), _observables(), _placed),
    Network: lambda: Bench(
        Network(lambda design, x: x + design.x, 3), _points(), _normal((3,))
    ),
    DeepSets: lambda: Bench(
        DeepSets(lambda design, x: (x[..., :3] + design.x, x[..., 3]), 3),
        _points(),
        _normal((6, 4)),
    ),
    summaries.Summary: lambda: Bench(
        summaries.Summary(
            lambda design, x: summaries.softmax_bins(x + design.x, 0.1),
            lambda design, x: summaries.largest_bin(x + design.x),
            "straight_through",
        ),
        _points(),
        _normal((3,)),
    ),
    GravNet: lambda: Bench(hits.finder(), _points(), _normal((6, 4))),
    WeightedNeighbours: lambda: Bench(hits.regressor(), _points(), _normal((3,))),
    LineTracks: lambda: Bench(LineTracks(hits.planes), _points(), _normal((2, 4))),
    FindObjects: lambda: Bench(FindObjects(), (None,), hits.condensed),
    textbook.Readout: lambda: Bench(textbook.Readout(0.5), _points(), _normal(())),
    host.HostSimulator: lambda: Bench(
        _host_simulator(), (Point(jnp.ones(3)),), _normal((3,))
    ),
    program.ProgramSimulator: lambda: Bench(
        _program_simulator(), (Point(jnp.ones(3)),), _normal((3,))
    ),
    torch.TorchStage: lambda: Bench(_torch_stage(), _points(), _normal((2,)), rows=50),
    geant4.Geant4Simulator: lambda: Bench(
        _geant4_simulator(), _telescopes(), _electrons
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
    mixture.Mixture: lambda: _problem_bench(_small_inferno(200)),
    classifier.Logits: lambda: Bench(
        classifier.Logits(),
        (_small_inferno(200).space.template,),
        lambda n, key: {"signal": jax.random.normal(key, (n, 3))},
    ),
    published.Valley: lambda: _problem_bench(published.hidden_valley(12), [0.1] * 12),
    # Its start has |a2| = 0, where the second component appears with a kink.
    published.ThreeHump: lambda: Bench(
        published.ThreeHump(),
        tuple(Point(jnp.array(a)) for a in ([1.0, -0.5], [-2.0, 0.3])),
        lambda n, k: published.three_hump().pipeline.source(n, key=k),
    ),
    decisions.Crazy: lambda: _problem_bench(decisions.crazy(), [1.0]),
    decisions.Walk: lambda: _problem_bench(decisions.walk(), [1.0]),
    decisions.Poisson: lambda: _problem_bench(decisions.poisson(), [9.0]),
    showers.Shower: lambda: _problem_bench(showers.shower("split"), [0.0]),
    stack.ShowerModel: lambda: Bench(
        stack.ShowerModel(), calorimeter.stacks(), calorimeter.particles, rows=60
    ),
    stack.Resummed: lambda: Bench(
        stack.Resummed(0.0075), calorimeter.stacks()[:1], calorimeter.block, rows=60
    ),
    calibration.ActiveDeposits: lambda: Bench(
        calibration.ActiveDeposits(), calorimeter.stacks()[:1], _normal((4,))
    ),
    learned.EnergyNetwork: lambda: Bench(
        learned.EnergyNetwork(4), calorimeter.stacks(), calorimeter.deposits
    ),
    layers.Geant4Showers: lambda: Bench(
        layers.Geant4Showers(2), calorimeter.stacks(), calorimeter.photons
    ),
    tanks.SmoothArray: lambda: Bench(
        tanks.SmoothArray(), array.layouts(), array.showers, rows=50
    ),
    tanks.PublicArray: lambda: Bench(
        tanks.PublicArray(), array.layouts()[:1], array.showers, rows=50
    ),
    tanks.CountingArray: lambda: Bench(
        tanks.CountingArray(), array.layouts()[:1], array.showers
    ),
    swgolo.ShowerNetwork: lambda: Bench(
        swgolo.ShowerNetwork(width=8), array.layouts()[:1], array.hits
    ),
    swgolo.Averages: lambda: Bench(swgolo.Averages(), array.layouts()[:1], array.hits),
    LikelihoodFit: lambda: Bench(LikelihoodFit(2), array.layouts()[:1], array.hits),
    host._HostCalls: lambda: _bench_of(_function_problem()),
    host._TracedCalls: lambda: _bench_of(
        _traced_problem(), {"a": jnp.array(0.0), "b": jnp.array(0.0)}
    ),
}


def _with(part: AbstractObjective) -> Problem:
    """The noisy sphere with another objective beside its own."""
    problem = noisy_sphere(n=2, events=1000)
    return problem.replace(objective=problem.objective + part)


def _informed() -> Problem:
    """What three blurred numbers tell of a truth that is always zero."""
    problem = noisy_sphere(n=3, events=2000)
    line = problem.pipeline
    critic = Network(lambda design, y: y, 3, 1)
    return problem.replace(
        pipeline=Pipeline(line.source, line.simulator, inference=critic),
        objective=MutualInformation(
            lambda x: x[:, None] + 1, jnp.linspace(0, 2, 9)[:, None]
        ),
    )


def _length(design: Point) -> Any:
    return jnp.sum(design.x + 2)


def _small_inferno(events: int = 2000, objective: str = "inferno") -> Problem:
    """Everything unknown, with a network of eight units."""
    return inferno_toy.problem(4, objective, events, width=8, temperature=1.0)


OBJECTIVES: dict[type[AbstractObjective], Callable[[], Problem]] = {
    SlopeError: lambda: telescope.problem(events=2000),
    textbook.Textbook: lambda: noisy_sphere(n=3, events=2000),
    host._Losses: _traced_problem,
    fronts.Goals: lambda: fronts.two_spheres(3, 0.5, 2000),
    MutualInformation: _informed,
    ExpectedUncertainty: _small_inferno,
    classifier.CrossEntropy: lambda: _small_inferno(2000, "bce"),
    ExpectedInference: lambda: three_blobs.problem(events=2000, units=2),
    CondensationLoss: hits.problem,
    objective.Sum: lambda: objectives.problem(objectives.Mean() + objectives.Fisher()),
    objective.Cost: lambda: _with(objective.Cost(lambda d: {"cost": _length(d)})),
    objective.Budget: lambda: _with(objective.Budget(_length, 1.0)),
    objective.AtMost: lambda: _with(objective.AtMost("length", _length, 1.0)),
    **portal.GOALS,
    calibration.CalibratedError: calorimeter.calibrated,
    calibration.PredictedError: calorimeter.predicted,
    swgolo.PublicUtility: array.public,
    worth.ArrayUtility: array.full,
    ground.LandAndCable: array.costs,
}

ESTIMATORS: dict[type[AbstractEstimator], dict[str, Callable[[], Engine]]] = {
    Direct: {"": lambda: Engine(Direct())},
    Pathwise: {"": lambda: Engine(Pathwise())},
    ScoreFunction: {"": lambda: Engine(ScoreFunction())},
    Spread: {
        "value": lambda: Engine(Spread(parts=3), repeats=128),
        "pathwise": lambda: Engine(Spread(Pathwise(), 4), repeats=128),
    },
    # With 100 noisy events of each design the prior shrinks the slopes.
    LocalSurrogate: {
        "quadratic": lambda: Engine(LocalSurrogate(), tolerance=0.3, repeats=32),
        "regressor": lambda: Engine(
            LocalSurrogate(Regressor(steps=50, batch=256)), tolerance=0.4, repeats=24
        ),
    },
    # Widths that a few hundred noisy events tell, by a network that starts without slopes.
    EndToEndSurrogate: {
        "": lambda: Engine(
            EndToEndSurrogate(
                Diffusion(width=16, steps=100, batch=128, passes=5), designs=8, steps=3
            ),
            tolerance=0.5,
            repeats=24,
        )
    },
    # Smoothed by 0.03 of the range, which is 4: (4 * 0.03)^2 more in each of 4 directions.
    RandomisedDesign: {
        "": lambda: Engine(
            RandomisedDesign(),
            problem=noisy_sphere,
            gradient=(-10.4,) * 4,
            value=6.76 + 4 * 0.12**2,
        )
    },
    Branching: {
        method: lambda method=method: Engine(
            Branching(method),
            repeats=64,
            problem=decisions.crazy,
            gradient=(47.76,),
            value=21.024,
        )
        for method in branching.METHODS
    },
    # A factor w on the fitted slope, learnt: w = 1 / 1.1 where the variance of the fit is a
    # tenth of that of the slopes. The loss becomes 10 w, its gradient that of 10 times w^2.
    Retrain: {
        "": lambda: Engine(
            Retrain(Pathwise(), events=2000, steps=100),
            tolerance=0.05,
            repeats=64,
            problem=_shrunk,
            gradient=tuple(g / 1.21 for g in (40.0, 20.0, -20.0, -40.0)),
            value=10 / 1.1,
        )
    },
    # Truncation at the start: h^2 / 6 times the third derivative, 0.6% for h = 0.02.
    FiniteDifference: {"": lambda: Engine(FiniteDifference(), tolerance=0.01)},
}


class Shrink(stage.AbstractLearnedStage):
    """A factor that is learnt."""

    factor: Any

    def fresh(self, key: Key) -> "Shrink":
        return Shrink(jnp.array(1.0))

    def __call__(self, design: Any, x: Any, *, key: Key) -> Any:
        return self.factor * x


def _shrunk(events: int) -> Problem:
    problem = telescope.problem(events=events)
    chain = stage.Chain(LineFit(), Shrink(jnp.array(1.0)))
    line = problem.pipeline
    return problem.replace(pipeline=Pipeline(line.source, line.simulator, chain))


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
    "inferno_toy": lambda: (
        inferno_toy.problem(width=30),
        {
            "optimiser": adam({"layers": 1e-3}, schedule=100),
            "factor": 1.4,
            "max_trials": 100,
            "report_events": 10_000,
        },
    ),
    "three_blobs": lambda: (
        three_blobs.problem(),
        {"optimiser": adam(0.02), "factor": 100.0, "max_trials": 100},
    ),
    "sampling_calorimeter": lambda: (
        sampling_calorimeter.problem(events=4096),
        {
            "optimiser": adam(0.03, schedule=60),
            "factor": 1.5,
            "max_trials": 60,
            "report_events": 20_000,
        },
    ),
    "air_shower_array": lambda: (
        air_shower_array.problem("public", "averages"),
        {
            "optimiser": adam(0.03, schedule=100),
            "factor": 1.4,
            "max_trials": 100,
            "report_events": 10_000,
        },
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
