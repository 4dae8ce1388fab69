#!/usr/bin/env python3
"""Muons through a slab, simulated by Geant4: how they scatter and what they lose.

    python tests/validation/geant4/muons.py --muons 200000 --out reference.json

Needs calzone (Geant4). The muons are negative, of 1, 3 and 10 GeV **kinetic** energy, and
enter a slab of 10 cm of lead or iron in vacuum at a right angle. For each case the
JSON gives, with standard errors,

- ``width_683_mrad``: half-width of the central 68.3 % of the projected exit angle;
- ``width_98_mrad``: the standard deviation of a Gaussian whose central 98 % has the
  same root mean square as that of the projected exit angle;
- ``loss_mean_mev``, ``loss_median_mev``: the lost energy.

Angles in x and y are one sample; errors come from splitting the muons into 50 groups,
which respects that x and y belong to one muon. Displacements are left out: for muons
Geant4's standard physics switches the lateral displacement within a step off.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kythera.physics import geant4_tables

MATERIALS = {"Pb": "G4_Pb", "Fe": "G4_Fe"}
ENERGIES = (1.0, 3.0, 10.0)  # kinetic [GeV]
THICKNESS = 10.0  # [cm]
CUT = 0.07  # production cut [cm]
GROUPS = 50
# Root mean square of the central 98 % of a unit Gaussian, which ends at 2.3263.
TRUNCATED_RMS = 0.93460


@contextmanager
def tables(
    folder: Path | None, elements: Sequence[int] = (1, 26, 82)
) -> Iterator[Path]:
    """The folder with Geant4's tables; without one, generate it for the while."""
    if folder is not None:
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as temporary:
        geant4_tables.write(Path(temporary), elements)
        yield Path(temporary)


def simulate(material: str, energy: float, muons: int, seed: int) -> np.ndarray:
    """Send muons through the slab; return a row for each that leaves it.

    Columns: projected angles x and y [rad], kinetic energy [GeV].
    """
    import calzone  # pyright: ignore[reportMissingImports]

    slab = {
        "box": [170, 170, THICKNESS],
        "material": MATERIALS[material],
        "role": "catch_outgoing",
    }
    world = {"box": [180, 180, 3 * THICKNESS], "material": "G4_Galactic", "Slab": slab}
    simulation = calzone.Simulation({"World": world})
    simulation.physics = calzone.Physics(em_model="standard", default_cut=CUT)
    simulation.random = calzone.Random(seed)
    simulation.sample_particles = True
    source = simulation.particles().pid("mu-").energy(1e3 * energy)
    source = source.position((0, 0, -THICKNESS)).direction((0, 0, 1))
    out = simulation.run(source.generate(muons)).particles["World.Slab"]
    out = out[(out["pid"] == 13) & (out["direction"][:, 2] > 0)]
    angle = np.arctan2(out["direction"][:, :2], out["direction"][:, 2:])
    return np.column_stack([angle, 1e-3 * out["energy"]])


def width_683(values: np.ndarray) -> float:
    """Half-width of the central 68.3 %."""
    return float(np.quantile(np.abs(values), 0.683))


def width_98(values: np.ndarray) -> float:
    """Standard deviation of the Gaussian with the same central 98 %."""
    size = np.abs(values).ravel()
    core = size[size <= np.quantile(size, 0.98)]
    return float(np.sqrt(np.mean(core**2)) / TRUNCATED_RMS)


def measure(rows: np.ndarray, energy: float) -> dict[str, dict[str, float]]:
    """Each figure with its standard error, from `GROUPS` groups of muons."""
    figures: dict[str, Callable[[np.ndarray], float]] = {
        "width_683_mrad": lambda r: 1e3 * width_683(r[:, :2]),
        "width_98_mrad": lambda r: 1e3 * width_98(r[:, :2]),
        "loss_mean_mev": lambda r: 1e3 * float(np.mean(energy - r[:, 2])),
        "loss_median_mev": lambda r: 1e3 * float(np.median(energy - r[:, 2])),
    }
    result = {}
    for name, figure in figures.items():
        parts = [figure(group) for group in np.array_split(rows, GROUPS)]
        error = np.std(parts, ddof=1) / np.sqrt(GROUPS)
        result[name] = {"value": round(figure(rows), 5), "stderr": round(error, 5)}
    return result


def provenance() -> dict[str, Any]:
    """What was simulated, by which programs, with which tables."""
    import calzone  # pyright: ignore[reportMissingImports]

    return {
        "title": geant4_tables.NAME,
        "geant4": calzone.GEANT4_VERSION,
        "calzone": importlib.metadata.version("calzone"),
        "em_model": "standard",
        "production_cut_cm": CUT,
        "particle": "mu-, kinetic energy, normal incidence",
        "thickness_cm": THICKNESS,
    }


def main() -> None:
    """Simulate the cases and write JSON; leave at once, before Geant4's teardown."""
    parser = argparse.ArgumentParser(description="Muons through a slab in Geant4.")
    parser.add_argument("--muons", type=int, default=20_000, help="for each case")
    parser.add_argument("--energies", type=float, nargs="+", default=ENERGIES)
    parser.add_argument("--materials", nargs="+", choices=MATERIALS, default=MATERIALS)
    parser.add_argument("--seed", type=int, default=1, help="of the first case")
    parser.add_argument("--tables", type=Path, help="made by `kythera geant4 tables`")
    parser.add_argument("--out", type=Path, help="file; the default is stdout")
    arguments = parser.parse_args()
    if arguments.muons < 20 * GROUPS:
        parser.error(f"--muons must be at least {20 * GROUPS}: errors come from groups")
    cases = []
    with tables(arguments.tables) as folder:
        os.environ["GEANT4_DATA_DIR"] = str(folder)
        result = provenance()
        for material in arguments.materials:
            for energy in arguments.energies:
                seed = arguments.seed + len(cases)
                start = time.process_time()
                rows = simulate(material, energy, arguments.muons, seed)
                case = {
                    "material": material,
                    "kinetic_gev": energy,
                    "muons": arguments.muons,
                    "muons_out": len(rows),
                    "seed": seed,
                    "cpu_s": round(time.process_time() - start, 1),
                }
                cases.append(case | measure(rows, energy))
    text = json.dumps(result | {"cases": cases}, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
