"""kythera: end-to-end optimisation of instruments that measure radiation.

    theta* = argmin_theta  1/n sum_i  L[ A( R( z_i ) ), c(theta) ],   z_i ~ p(z | x_i, theta)

The names below load on first use, so that reading a result never imports JAX.
"""

import importlib
import sys
import types
from typing import Any

__version__ = "0.1.0.dev0"

_HOME = {
    "core.space": ("Choice", "Integer", "Real", "Space"),
    "core.stage": (
        "AbstractHostSimulator",
        "AbstractHostStage",
        "AbstractLearnedStage",
        "AbstractPathwiseSimulator",
        "AbstractSimulator",
        "AbstractSource",
        "AbstractStage",
        "AbstractTractableSimulator",
        "Chain",
        "Identity",
    ),
    "core.branching": ("AbstractBranchingSimulator",),
    "core.pipeline": ("Pipeline", "Trace"),
    "core.objective": (
        "AbstractObjective",
        "AtMost",
        "Budget",
        "Cost",
        "PerEventLoss",
        "Score",
    ),
    "core.problem": ("Problem",),
    "core.evaluation": (
        "AbstractEstimator",
        "AbstractOptimiser",
        "Evaluation",
        "Measured",
        "Trial",
    ),
    "stages.inference.summaries": ("Summary",),
    "stages.objectives.condensation": ("CondensationLoss",),
    "stages.objectives.information": ("MutualInformation",),
    "stages.objectives.limits": ("ExpectedInference",),
    "stages.objectives.uncertainty": ("ExpectedUncertainty",),
    "stages.reconstruction.deep_sets": ("DeepSets",),
    "stages.reconstruction.gravnet": ("GravNet",),
    "stages.reconstruction.lines": ("LineTracks",),
    "stages.reconstruction.network": ("Network",),
    "stages.reconstruction.object_condensation": ("FindObjects",),
    "stages.reconstruction.weighted_neighbours": ("WeightedNeighbours",),
    "stages.simulators.host": ("HostSimulator", "from_function"),
    "stages.simulators.program": ("ProgramSimulator",),
    "stages.simulators.geant4": ("Geant4Simulator",),
    "stages.simulators.torch": ("TorchStage",),
    "stages.sources.gun": ("ParticleGun", "Particles"),
    "stages.sources.pythia8": ("Pythia8",),
    "stages.tolerances": ("Toleranced",),
    "estimators.direct": ("Direct",),
    "estimators.pathwise": ("Pathwise",),
    "estimators.finite_difference": ("FiniteDifference",),
    "estimators.score_function": ("ScoreFunction",),
    "estimators.spread": ("Spread",),
    "estimators.local_surrogate": ("LocalSurrogate",),
    "estimators.end_to_end": ("EndToEndSurrogate",),
    "estimators.branching": ("Branching",),
    "estimators.randomised": ("RandomisedDesign",),
    "estimators.retrain": ("Retrain",),
    "surrogates.quadratic": ("Quadratic",),
    "surrogates.regressor": ("Regressor",),
    "surrogates.gan": ("CramerGAN",),
    "surrogates.flow": ("Flow",),
    "surrogates.diffusion": ("Diffusion",),
    "optimisers.gradient": ("Gradient", "adam", "from_optax", "sgd"),
    "optimisers.lbfgsb": ("LBFGSB",),
    "optimisers.evolution": ("Evolution",),
    "optimisers.bayesian": ("Bayesian",),
    "optimisers.multi_objective": ("MultiObjective",),
    "optimisers.policy": ("Policy",),
    "optimisers.random_search": ("RandomSearch",),
    "optimisers.multi_start": ("MultiStart",),
    "optimise": ("optimise",),
    "solution": ("Solution",),
    "stopping": ("Converged",),
    "sensitivity": ("Sensitivity", "sensitivity"),
    "jackknife": ("Jackknife", "jackknife"),
    "front": ("Front", "front"),
    "environment": ("environment",),
    "runs.describe": ("save",),
    "runs.result": ("Result", "load"),
    "runs.store": ("Store",),
    "runs.study": ("Study",),
    "report.landscape": ("landscape",),
    "report.page": ("report",),
    "report.plot": ("plot",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'kythera' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kythera.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)


class _FrontDoor(types.ModuleType):
    """`kythera.optimise` is the function, also after its module was imported.

    So are the other names that a module and what it is for share.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
