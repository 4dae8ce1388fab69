"""Parametrised showers of photons against Geant4 with generated EM tables.

`geant4/calorimeters.json` holds the energy in the layers of four stacks, of 400 to 2000
photons each; `geant4/calorimeters.py` makes it.
"""

import importlib.util
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.compilation import jit
from kythera.instruments.sampling_calorimeter import Stack
from kythera.instruments.sampling_calorimeter.simulator import Particles, ShowerModel
from kythera.units import cm

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "geant4"
CASES = json.loads((FOLDER / "calorimeters.json").read_text())["cases"]
ABSORBERS, ACTIVES = ("lead", "iron"), ("lead_tungstate", "polystyrene")
PAIRS, EVENTS = 60, 4000
# 5 X0 of iron before a crystal: half of the shower is over before the medium is the mean one.
WORSE = {("aido_start", 1.0): 0.13}
simulate = jit(lambda stack, x, key: ShowerModel()(stack, x, key=key))


@pytest.fixture(scope="module")
def stacks():
    """Name -> material and thickness (cm) of each layer, as Geant4 had them."""
    spec = importlib.util.spec_from_file_location("calo", FOLDER / "calorimeters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.STACKS


def stack_of(layers):
    """The same for kythera, absent pairs behind it (one shape compiles once)."""
    count = len(layers) // 2
    rows = [layers[2 * min(i, count - 1) :][:2] for i in range(PAIRS)]

    def part(side, names):
        thickness = jnp.array([row[side][1] * cm for row in rows], float)
        index = np.array([names.index(row[side][0]) for row in rows])
        return thickness, jnp.asarray(np.eye(len(names))[index], float)

    absorber, absorbers = part(0, ABSORBERS)
    active, actives = part(1, ACTIVES)
    pairs = jnp.array(float(count))
    return Stack(absorber, active, absorbers, actives, pairs, ABSORBERS, ACTIVES)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c['stack']}-{c['energy_gev']:g}GeV"
)
def test_response_and_resolution_of_photons(case, stacks, getkey):
    energy, layers = case["energy_gev"], stacks[case["stack"]]
    x = Particles(jnp.full(EVENTS, energy), jnp.zeros(EVENTS))
    parts = np.asarray(simulate(stack_of(layers), x, getkey()), float) / energy
    active = parts[:, 1::2].sum(1)
    known = case["active"]
    part, error = WORSE.get((case["stack"], energy), 0.09), 2 * known["stderr"]
    assert active.mean() == pytest.approx(
        known["value"], abs=part * known["value"] + error
    )
    known = case["resolution"]
    error = 2 * known["stderr"]
    assert active.std() / active.mean() == pytest.approx(
        known["value"], abs=0.15 * known["value"] + error
    )
