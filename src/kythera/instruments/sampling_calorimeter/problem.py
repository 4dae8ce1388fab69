"""How thick to make each layer of a calorimeter, and of what, at a given length and cost."""

import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, Real, Space
from kythera.core.types import Array
from kythera.instruments.sampling_calorimeter.design import (
    Stack,
    WithinLimits,
    check_materials,
)
from kythera.instruments.sampling_calorimeter.drawings import draw, sketch
from kythera.instruments.sampling_calorimeter.geant4 import Geant4Showers, check_kinds
from kythera.instruments.sampling_calorimeter.learned import EnergyNetwork
from kythera.instruments.sampling_calorimeter.reconstruction import (
    ActiveDeposits,
    CalibratedError,
    PredictedError,
)
from kythera.instruments.sampling_calorimeter.simulator import ParticleBeam, ShowerModel
from kythera.units import GeV, cm, mm

# AIDO's start: thicknesses in cm, and the materials that it gives 99%.
ABSORBER = (9.030052, 10.446664, 36.0)
ACTIVE = (37.155209, 29.665525, 27.5)
ABSORBER_MATERIAL = ("iron", "lead", "iron")
ACTIVE_MATERIAL = ("lead_tungstate", "polystyrene", "polystyrene")
OBJECTIVES = ("aido", "resolution")
SIMULATORS = ("parametrised", "geant4")
RECONSTRUCTIONS = ("linear", "network")


def start(
    pairs: int = 3,
    spare: int = 0,
    absorbers: tuple[str, ...] = ("lead", "iron"),
    actives: tuple[str, ...] = ("lead_tungstate", "polystyrene"),
) -> Stack:
    """AIDO's three pairs; of another number, pairs of equal thickness and the same sum.

    Args:
        pairs: that are built.
        spare: further pairs, absent at the start, like the last one.
        absorbers: materials to choose from.
        actives: likewise.
    """
    if pairs == len(ABSORBER):
        order = np.minimum(np.arange(pairs + spare), pairs - 1)
        absorber, active = np.array(ABSORBER)[order], np.array(ACTIVE)[order]
        words = [ABSORBER_MATERIAL[i] for i in order]
        active_words = [ACTIVE_MATERIAL[i] for i in order]
    else:
        count = pairs + spare
        absorber = np.full(count, sum(ABSORBER) / pairs)
        active = np.full(count, sum(ACTIVE) / pairs)
        words, active_words = ["iron"] * count, ["polystyrene"] * count
    return Stack(
        jnp.asarray(absorber * cm, float),
        jnp.asarray(active * cm, float),
        _nearly(words, absorbers),
        _nearly(active_words, actives),
        jnp.asarray(pairs, float),
        absorbers,
        actives,
    )


def _nearly(words: list[str], names: tuple[str, ...]) -> Array:
    """Weights of 99% for a material (the first of `names` where it is none of them)."""
    index = [names.index(word) if word in names else 0 for word in words]
    chosen = np.eye(len(names))[index]
    rest = 0.01 / (len(names) - 1)
    return jnp.asarray(rest + (0.99 - rest) * chosen, float)


def space(stack: Stack, limits: WithinLimits, spare: int = 0) -> Space[Stack]:
    """Thicknesses and materials of all layers; the number of pairs where some are spare.

    Args:
        stack: the start.
        limits: of length and cost.
        spare: pairs that are absent at the start.
    """
    free: dict[str, Real | Integer | Choice] = {
        "absorber": Real(0 * cm, 60 * cm, "cm"),
        "active": Real(0 * cm, 100 * cm, "cm"),
        "absorber_material": Choice(stack.absorbers),
        "active_material": Choice(stack.actives),
    }
    if spare:
        free["pairs"] = Integer(1, stack.absorber.shape[0])
    return Space(stack, free, limits)


def problem(
    pairs: int = 3,
    spare: int = 0,
    events: int = 8192,
    particles: str = "gamma,pi+",
    low: float = 1 * GeV,
    high: float = 20 * GeV,
    objective: str = "aido",
    max_length: float = 200 * cm,
    max_cost: float = 200_000.0,
    absorbers: str = "lead,iron",
    actives: str = "lead_tungstate,polystyrene",
    simulator: str = "parametrised",
    cut: float = 0.7 * mm,
    reconstruction: str = "linear",
) -> Problem[Stack]:
    """AIDO's calorimeter (arXiv:2502.02152), with parametrised showers or with Geant4.

    Args:
        pairs: of an absorber and an active layer at the start.
        spare: how many more may be built; their number is then free.
        events: particles in one evaluation.
        particles: "gamma", "e-", "pi+", in equal numbers, separated by commas.
        low: least energy, GeV.
        high: largest energy, GeV.
        objective: "aido", mean of (E_pred - E)^2 / (E + 1 GeV); or "resolution", the
            relative resolution of each kind of particle.
        max_length: of the stack, m.
        max_cost: in AIDO's currency (`design.PRICES`).
        absorbers: materials to choose from, separated by commas, names in
            `design.PRICES`.
        actives: likewise.
        simulator: "parametrised"; or "geant4", for photons and electrons.
        cut: range below which Geant4 produces no secondaries, m.
        reconstruction: "linear", a calibration fitted inside the objective; or "network",
            which is trained under `Retrain`.

    Returns:
        6 thicknesses and 6 choices of two (18 coordinates) by default. Length and cost are
        kept exactly.

    Raises:
        InputError: unknown particle, material or option, or numbers out of range.
        UnsupportedError: pions in Geant4.
    """
    _check_words(objective, simulator, reconstruction)
    _check_numbers(pairs, spare, max_length, max_cost)
    kinds, absorber_names, active_names = map(_words, (particles, absorbers, actives))
    check_materials(absorber_names, "absorber")
    check_materials(active_names, "active")
    beam, showers = ParticleBeam(kinds, low, high), ShowerModel()
    if simulator == "geant4":
        check_kinds(kinds, errors.UnsupportedError)
        showers = Geant4Showers(pairs + spare, cut=cut)
    stack = start(pairs, spare, absorber_names, active_names)
    relative = objective == "resolution"
    energies, error = ActiveDeposits(), CalibratedError(kinds, relative)
    if reconstruction == "network":
        energies = EnergyNetwork(len(absorber_names) + len(active_names))
        error = PredictedError(kinds, relative)
    return Problem(
        space=space(stack, WithinLimits(max_length, max_cost), spare),
        pipeline=Pipeline(beam, showers, energies),
        objective=error,
        events=events,
        draw=draw,
        sketch=sketch,
        name="sampling_calorimeter",
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _check_words(objective: str, simulator: str, reconstruction: str) -> None:
    """Refuse options that are not known."""
    for word, known in (
        (objective, OBJECTIVES),
        (simulator, SIMULATORS),
        (reconstruction, RECONSTRUCTIONS),
    ):
        if word not in known:
            raise errors.InputError(
                f"{word!r} is not known. {errors.nearest(word, known)}"
            )


def _check_numbers(pairs: int, spare: int, max_length: float, max_cost: float) -> None:
    """Refuse a stack without layers, and limits that nothing keeps."""
    if pairs < 1 or spare < 0:
        raise errors.InputError(
            "A calorimeter needs at least one pair of layers, and spare ones >= 0, but "
            f"`pairs` is {pairs} and `spare` {spare}. Try 3 and 0."
        )
    if not (max_length > 0 and max_cost > 0):
        raise errors.InputError(
            f"Limits must be > 0, but `max_length` is {max_length} m and `max_cost` "
            f"{max_cost}. AIDO's are 2 m and 200000."
        )
