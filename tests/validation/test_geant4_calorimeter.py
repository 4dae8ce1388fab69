"""Geant4 with generated EM tables against a published calorimeter.

HepEmShow's documentation gives, for 10 GeV electrons in 50 layers of 2.3 mm of PbWO4 and
5.7 mm of liquid argon, 400 mm wide, Geant4's mean energies of 10^7 events: 6726.7 MeV in all
absorbers and 2568.8 MeV in all gaps.
"""

import jax
import numpy as np
import pytest

import kythera as ky
from kythera.stages.simulators.geant4 import layers
from kythera.units import GeV, MeV, mm

LAYERS, EVENTS = 50, 300
PUBLISHED = {"absorber": 6726.7, "gap": 2568.8}  # MeV


@pytest.mark.slow
@pytest.mark.library("calzone")
def test_mean_energies_within_1_5_percent(geant4):
    boxes = layers(("G4_PbWO4", "G4_lAr") * LAYERS, (2.3 * mm, 5.7 * mm) * LAYERS, 0.4)
    simulator = ky.Geant4Simulator(lambda design: boxes, 2 * LAYERS)
    gun = ky.ParticleGun(11, 10 * GeV, position=(0, 0, -10 * mm))
    x = gun(EVENTS, key=jax.random.key(1))
    deposits = np.asarray(simulator(None, x, key=jax.random.key(2))) / MeV
    for name, energy in (("absorber", deposits[:, ::2]), ("gap", deposits[:, 1::2])):
        total = energy.sum(1)
        error = total.std() / np.sqrt(EVENTS)
        assert error < 0.004 * PUBLISHED[name]
        assert total.mean() == pytest.approx(PUBLISHED[name], rel=0.015)
