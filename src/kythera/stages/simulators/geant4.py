"""Geant4 as a simulator: boxes of materials, particles in, deposited energies out."""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.stage import AbstractHostSimulator
from kythera.core.types import Float
from kythera.physics.geant4_tables import FOLDERS, MARK, NAME
from kythera.stages.sources.gun import Particles
from kythera.units import MeV, cm, mm

DEFAULT_DATA = (
    "~/.local/share/calzone/data"  # where `python -m calzone download` writes
)
# What it is started with, since there is no hadronic physics here.
KINDS = {11: "e-", -11: "e+", 22: "gamma", 13: "mu-", -13: "mu+"}
# The others would end the whole process where tables are generated.
GENERATED_MODELS = ("standard", "option1", "option2")
MODELS = (*GENERATED_MODELS, "option3", "option4", "livermore", "penelope")
TOUCH = 1e-7  # m: neighbours may overlap by the rounding of float32

_lock = threading.Lock()  # Geant4 is one for each process
_running_with: Path | None = None  # its data: read once


class Box(NamedTuple):
    """A block of one material; those of a geometry do not overlap.

    Args:
        material: by its name in Geant4's table, "G4_Pb", "G4_PbWO4", "G4_lAr".
        size: full widths in x, y and z, m; where one is 0 the box is left out.
        position: of the centre, m.
    """

    material: str
    size: tuple[float, float, float]
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)


def layers(
    materials: Sequence[str], thicknesses: Any, width: float, front: float = 0.0
) -> list[Box]:
    """Square layers one behind the other along z, the first one starts at `front`.

    Args:
        materials: one for each layer.
        thicknesses: m, one for each layer; 0 for one that is left out.
        width: in x and y, m.
        front: where the first one starts, m.
    """
    ends = front + np.cumsum(np.asarray(thicknesses, float))
    return [
        Box(name, (width, width, float(t)), (0.0, 0.0, float(end - t / 2)))
        for name, t, end in zip(materials, thicknesses, ends, strict=True)
    ]


def find_data(folder: str | None = None) -> Path:
    """The folder with Geant4's data, official or generated.

    Args:
        folder: by default that of the variable GEANT4_DATA_DIR, else where
            `python -m calzone download` writes.

    Raises:
        UnsupportedError: there are no data.
    """
    text = folder or os.environ.get("GEANT4_DATA_DIR") or DEFAULT_DATA
    path = Path(text).expanduser()
    missing = [name for name in FOLDERS if not (path / name).is_dir()]
    if missing:
        raise errors.UnsupportedError(
            f"Geant4 needs its data sets, but {str(path)!r} has no {missing[0]!r}. Make "
            f"tables from formulas, `kythera geant4 tables DIR` ({NAME}: an "
            "approximation, 6 MB), or get the official ones, `python -m calzone "
            "download DIR` (2 GB); then set GEANT4_DATA_DIR=DIR."
        )
    return path.resolve()


class Geant4Simulator(AbstractHostSimulator):
    """Electromagnetic showers, and muons, in boxes of matter, by Geant4 (calzone).

    Particles (`Particles`) go in, the energy that each box received comes out, GeV, shape
    (event, box). Electrons, positrons, photons and muons; there is no hadronic physics.
    Random numbers belong to events: event i of a seed is the same, bit for bit, whatever
    the others are. Several geometries take turns in one process; several threads wait for
    each other, so use processes as workers.

    With the official data sets it is Geant4 as published. With the tables of `kythera geant4
    tables` it is "Geant4 with generated EM tables", an approximation (see
    `kythera.physics.geant4_tables`), and `label` and the references of a result say so.

    Args:
        geometry: design (hard, NumPy) -> boxes; their number and order are always the
            same, and those with a width of 0 are left out.
        boxes: how many.
        model: of electromagnetic physics: "standard", "option1", "option2"; with
            official data also "option3", "option4", "livermore", "penelope".
        cut: range below which no secondaries are produced, m.
        world: the material around the boxes.
        data: folder of the data; by default GEANT4_DATA_DIR, or calzone's own.

    Raises:
        InputError: an unknown model, no boxes, a cut that is not positive.
    """

    geometry: Callable[[Any], Sequence[Box]] = eqx.field(static=True)
    boxes: int = eqx.field(static=True)
    model: str = eqx.field(static=True, default="standard")
    cut: float = eqx.field(static=True, default=0.7 * mm)
    world: str = eqx.field(static=True, default="G4_Galactic")
    data: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        """Refuse what no design could mend."""
        if self.model not in MODELS:
            raise errors.InputError(
                f"There is no model {self.model!r}. {errors.nearest(self.model, MODELS)}"
            )
        for name in ("boxes", "cut"):
            if not getattr(self, name) > 0:
                raise errors.InputError(
                    f"`{name}` must be positive, but is {getattr(self, name)}. Give the "
                    "number of boxes, and a cut in metres (default 0.0007)."
                )

    @property
    def label(self) -> str:
        """What has to be written beside every result."""
        try:
            generated = (find_data(self.data) / MARK).exists()
        except errors.UnsupportedError:
            return "Geant4"
        return NAME if generated else "Geant4"

    @property
    def references(self) -> tuple[str, ...]:
        """The label, with the paper."""
        paper = "S. Agostinelli et al., Nucl. Instrum. Meth. A 506 (2003) 250"
        return (f"{self.label}: {paper}",)

    def shapes(self, events: int) -> jax.ShapeDtypeStruct:
        """Energies in GeV, shape (event, box)."""
        return jax.ShapeDtypeStruct((events, self.boxes), jnp.result_type(float))

    def run(
        self, design: Any, x: Particles, *, seed: int
    ) -> Float[np.ndarray, "event box"]:
        """Simulate the particles, each with random numbers of its own.

        Raises:
            SimulationError: boxes overlap, or are others than declared; a material that
                Geant4 does not know; a particle that is not simulated.
            UnsupportedError: calzone or the data are missing.
        """
        boxes = [Box(*box) for box in self.geometry(design)]
        _check_boxes(boxes, self.boxes)
        rows, primaries = _primaries(x)
        indices = np.random.SeedSequence(seed).generate_state(2 * rows.size, np.uint64)
        indices = indices.reshape(-1, 2)[rows.ravel() >= 0]
        events = rows.ravel()[rows.ravel() >= 0]
        deposits = np.zeros((len(rows), self.boxes))
        if not len(events):
            return deposits
        with _lock:
            calzone = _started(self.data, self.model)
            for name in {self.world, *(box.material for box in boxes)}:
                _check_material(calzone, name)
            world = _world(boxes, self.world, primaries["position"])
            simulation = calzone.Simulation({"World": world})
            simulation.physics = calzone.Physics(
                em_model=self.model, default_cut=self.cut / cm
            )
            # The streams are named by indices; this is the generator they are of.
            simulation.random = calzone.Random(1)
            given = calzone.particles(len(events), **primaries)
            found = simulation.run(given, random_indices=indices).deposits
        for name, rows_of_box in (found or {}).items():
            box = int(name.rpartition("Box")[2])
            where = events[rows_of_box["event"].astype(int)]
            np.add.at(deposits[:, box], where, rows_of_box["value"] * MeV)
        return deposits


def _started(data: str | None, model: str) -> Any:
    """calzone, with its data in place.

    Raises:
        UnsupportedError: it is not installed, has no data or other ones already, or the
            model cannot work with them.
    """
    global _running_with
    folder = find_data(data)
    generated = (folder / MARK).exists()
    if generated and model not in GENERATED_MODELS:
        raise errors.UnsupportedError(
            f"The model {model!r} needs the official data sets, but {str(folder)!r} holds "
            f"generated tables. Use one of {GENERATED_MODELS}, or get the data with "
            "`python -m calzone download`."
        )
    if _running_with not in (None, folder):
        raise errors.UnsupportedError(
            f"Geant4 reads its data once in a process, and has those of "
            f"{str(_running_with)!r}, not of {str(folder)!r}. Use another process."
        )
    before = os.environ.get("GEANT4_DATA_DIR")
    os.environ["GEANT4_DATA_DIR"] = str(folder)
    try:
        import calzone  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        if before is None:
            del os.environ["GEANT4_DATA_DIR"]
        raise errors.UnsupportedError(
            "`Geant4Simulator` needs calzone, which is not installed. Run "
            "`pip install 'kythera[geant4]'`."
        ) from error
    _running_with = folder
    return calzone


def _check_boxes(boxes: list[Box], declared: int) -> None:
    """Geant4 ends the whole process where a size is negative, and overlooks overlaps."""
    if len(boxes) != declared:
        raise errors.SimulationError(
            f"A geometry must always have {declared} boxes, as declared, but has "
            f"{len(boxes)}. Give those that are left out a width of 0."
        )
    low, high = _edges(boxes)
    if not (np.all(np.isfinite([low, high])) and np.all(low <= high)):
        bad = int(np.argmin(np.all(np.isfinite(low) & (low <= high), axis=1)))
        raise errors.SimulationError(
            f"Sizes of boxes must be finite and not negative, but box {bad} is "
            f"{boxes[bad]}. Narrow the bounds."
        )
    there = [i for i in range(len(boxes)) if np.all(low[i] < high[i])]
    for i, j in itertools.combinations(there, 2):
        shared = np.minimum(high[i], high[j]) - np.maximum(low[i], low[j])
        if np.all(shared > TOUCH):
            raise errors.SimulationError(
                f"Boxes must not overlap, but {i} and {j} share a volume of "
                f"{np.array2string(shared, precision=3)} m. Move them apart, or use the "
                "space's `project`."
            )


def _edges(boxes: list[Box]) -> tuple[np.ndarray, np.ndarray]:
    size = np.array([box.size for box in boxes], float)
    centre = np.array([box.position for box in boxes], float)
    return centre - size / 2, centre + size / 2


def _world(boxes: list[Box], material: str, positions: np.ndarray) -> dict[str, Any]:
    """calzone's description, in cm; the world encloses boxes and starting points."""
    reach = np.max(np.abs([*_edges(boxes)]), axis=(0, 1)) / cm
    reach = np.maximum(reach, np.max(np.abs(positions), axis=0)) + 1.0
    world: dict[str, Any] = {"box": (2 * reach).tolist(), "material": material}
    for i, box in enumerate(boxes):
        if min(box.size) <= 0:
            continue
        world[f"Box{i}"] = {
            "box": [float(v) / cm for v in box.size],
            "position": [float(v) / cm for v in box.position],
            "material": box.material,
            "role": "record_deposits",
        }
    return world


def _check_material(calzone: Any, name: str) -> None:
    if calzone.describe(material=name) is None:
        raise errors.SimulationError(
            f"Geant4 knows no material {name!r}. Its names are those of the NIST table: "
            "'G4_Pb', 'G4_Fe', 'G4_PbWO4', 'G4_POLYSTYRENE', 'G4_lAr', 'G4_Galactic'."
        )


def _primaries(x: Particles) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The row of each particle, -1 where there is none, shape (event, particle).

    And what calzone is given of those that are there, in MeV and cm.
    """
    weight = np.asarray(x.weight)
    count = weight.reshape(len(weight), -1)
    rows = np.where(count != 0, np.arange(len(weight))[:, None], -1)
    there = weight != 0
    pdg, energy = np.asarray(x.pdg)[there], np.asarray(x.energy, float)[there]
    others = sorted(set(pdg.tolist()) - set(KINDS))
    if others:
        raise errors.SimulationError(
            f"`Geant4Simulator` knows {KINDS}, but was given the PDG numbers {others}. "
            "Give the others a weight of 0, or simulate them by other means."
        )
    direction = np.asarray(x.direction, float)[there]
    length = np.linalg.norm(direction, axis=1)
    position = np.asarray(x.position, float)[there] / cm
    finite = np.isfinite(position).all(1) & np.isfinite(energy) & np.isfinite(length)
    bad = ~(finite & (energy > 0) & (length > 0))
    if np.any(bad):
        first = int(np.argmax(bad))
        raise errors.SimulationError(
            "Particles must have a positive energy, a position and a direction, but "
            f"{int(np.sum(bad))} have not; the first has {energy[first]} GeV, direction "
            f"{direction[first]}. Mend the source."
        )
    return rows, {
        "pid": pdg.astype(np.int32),
        "energy": energy / MeV,
        "position": position,
        "direction": direction / length[:, None],
    }
