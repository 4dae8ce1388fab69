"""The same calorimeter in Geant4: layers as boxes, photons and electrons as particles."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from kythera import errors
from kythera.core.stage import AbstractHostSimulator
from kythera.core.types import Float
from kythera.instruments.sampling_calorimeter.design import Stack
from kythera.instruments.sampling_calorimeter.simulator import KINDS, PION, Particles
from kythera.stages.simulators.geant4 import Box, Geant4Simulator, layers
from kythera.stages.sources import gun
from kythera.units import m, mm

# Names in Geant4's NIST table of what `design.PRICES` offers.
NIST = {
    "lead": "G4_Pb",
    "iron": "G4_Fe",
    "copper": "G4_Cu",
    "tungsten": "G4_W",
    "lead_tungstate": "G4_PbWO4",
    "polystyrene": "G4_POLYSTYRENE",
    "bgo": "G4_BGO",
    "lead_glass": "G4_GLASS_LEAD",
    "caesium_iodide": "G4_CESIUM_IODIDE",
}
PDG = np.array([22, 11, 211])  # of `simulator.KINDS`
GAP = 1 * mm  # of vacuum, from where particles start to the first layer


class Geant4Showers(AbstractHostSimulator[Stack, Particles, np.ndarray]):
    """Energy deposited in each layer, GeV, shape (event, layer), by Geant4.

    Takes and gives what `ShowerModel` does, so that either may stand in a pipeline: absorbers
    and active layers in turn, those of thickness 0 left out. Layers are squares around the
    beam, in vacuum. Photons and electrons only: `Geant4Simulator` has no hadronic physics.
    A layer is made of the material with the largest weight.

    Args:
        pairs: rows of the stack, the absent ones included.
        width: of the layers across the beam, m; what leaves them sideways is lost.
        cut: range below which no secondaries are produced, m. A coarser one is faster and
            sees less of the fluctuations in thin layers.
        model: of electromagnetic physics, as in `Geant4Simulator`.
        data: folder of Geant4's data; by default GEANT4_DATA_DIR.
    """

    pairs: int = eqx.field(static=True)
    width: float = eqx.field(static=True, default=1 * m)
    cut: float = eqx.field(static=True, default=0.7 * mm)
    model: str = eqx.field(static=True, default="standard")
    data: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        """Refuse what Geant4 would refuse, and layers without a width."""
        if not self.width > 0:
            raise errors.InputError(
                f"Layers must be wider than 0, but `width` is {self.width} m. Try 1 m."
            )
        _ = self.geant4

    @property
    def geant4(self) -> Geant4Simulator:
        """The simulator of boxes that does the work."""
        return Geant4Simulator(
            self.boxes, 2 * self.pairs, self.model, self.cut, data=self.data
        )

    @property
    def label(self) -> str:
        """What has to be written beside every result."""
        return self.geant4.label

    @property
    def references(self) -> tuple[str, ...]:
        """Those of Geant4, with its label."""
        return self.geant4.references

    def boxes(self, stack: Stack) -> list[Box]:
        """The layers along z, the front face at 0."""
        materials = [NIST[name] for name in stack.chosen()]
        return layers(materials, np.asarray(stack.thickness, float), self.width)

    def shapes(self, events: int) -> jax.ShapeDtypeStruct:
        """Energies in GeV, shape (event, layer)."""
        return self.geant4.shapes(events)

    def run(
        self, design: Stack, x: Particles, *, seed: int
    ) -> Float[np.ndarray, "event layer"]:
        """Simulate every particle from the middle of the front face.

        Raises:
            SimulationError: pions among the particles, and as `Geant4Simulator`.
            UnsupportedError: calzone or the data are missing.
        """
        kind, energy = np.asarray(x.kind, int), np.asarray(x.energy, float)
        check_kinds({KINDS[i] for i in np.unique(kind)}, errors.SimulationError)
        along = np.broadcast_to([0.0, 0.0, 1.0], (len(kind), 3))
        columns: Any = PDG[kind], energy, -GAP * along, along, np.ones(len(kind))
        return self.geant4.run(design, gun.Particles(*columns), seed=seed)


def check_kinds(
    kinds: set[str] | tuple[str, ...], refusal: type[errors.KytheraError]
) -> None:
    """Refuse pions.

    Args:
        kinds: names out of `KINDS`.
        refusal: the error that is raised.
    """
    if KINDS[PION] in kinds:
        raise refusal(
            "Geant4 is used for electromagnetic showers, without hadronic physics, but the "
            f"particles are {sorted(kinds)}. Give particles='gamma', 'e-' or 'gamma,e-', "
            "or keep simulator='parametrised' for pions."
        )
