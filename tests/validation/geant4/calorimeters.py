#!/usr/bin/env python3
"""Photons in sampling calorimeters, simulated by Geant4: what each layer gets.

    python tests/validation/geant4/calorimeters.py --out calorimeters.json

Needs calzone (Geant4); without ``--tables`` they are generated. Photons of 1,
5, 10 and 20 GeV hit stacks of 1 x 1 m2 at a right angle. For each case the JSON gives,
with standard errors,

- ``active``: mean part of the energy in all active layers;
- ``resolution``: the standard deviation of that part, in units of its mean;
- ``layers``: mean part of the energy in each layer, without errors;
- ``lost``: photons of which less than half of the energy is deposited in all layers; they are
  left out of the rest.

``calorimeters.json`` was put together from three runs: ``--events 2000 --energies 1 5``,
``--events 8000 --energies 10 20 --seed 101``, and ``--stacks fine iron --events 8000
--energies 20 --seed 102``; where ``lost`` is missing, nothing was left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from muons import CUT, provenance, tables

MATERIALS = {
    "lead": "G4_Pb",
    "iron": "G4_Fe",
    "lead_tungstate": "G4_PbWO4",
    "polystyrene": "G4_POLYSTYRENE",
}
# material and thickness [cm] of each layer, absorber and active in turn
STACKS: dict[str, list[tuple[str, float]]] = {
    "fine": [("lead", 0.2), ("polystyrene", 0.4)] * 60,
    "coarse": [("lead", 1.0), ("polystyrene", 2.0)] * 14,
    "iron": [("iron", 1.0), ("polystyrene", 0.5)] * 40,
    "aido_start": [
        *(("iron", 9.030052), ("lead_tungstate", 37.155209)),
        *(("lead", 10.446664), ("polystyrene", 29.665525)),
        *(("iron", 36.0), ("polystyrene", 27.5)),
    ],
}
ELEMENTS = (1, 6, 8, 26, 74, 82)
ENERGIES = (1.0, 5.0, 10.0, 20.0)  # [GeV]
SIDE = 100.0  # [cm]
GROUPS = 20


def simulate(name: str, energy: float, events: int, seed: int) -> np.ndarray:
    """Part of the energy in each layer, shape (event, layer)."""
    import calzone  # pyright: ignore[reportMissingImports]

    layers = STACKS[name]
    length = sum(thickness for _, thickness in layers)
    world: dict[str, Any] = {
        "box": [SIDE + 10, SIDE + 10, length + 10],
        "material": "G4_Galactic",
    }
    front = -length / 2
    for i, (material, thickness) in enumerate(layers):
        world[f"L{i}"] = {
            "box": [SIDE, SIDE, thickness],
            "position": [0, 0, front + thickness / 2],
            "material": MATERIALS[material],
            "role": "record_deposits",
        }
        front += thickness
    simulation = calzone.Simulation({"World": world})
    simulation.physics = calzone.Physics(em_model="standard", default_cut=CUT)
    simulation.random = calzone.Random(seed)
    source = simulation.particles().pid("gamma").energy(1e3 * energy)
    source = source.position((0, 0, -length / 2 - 1)).direction((0, 0, 1))
    found = simulation.run(source.generate(events)).deposits
    parts = np.zeros((events, len(layers)))
    for i in range(len(layers)):
        rows = found.get(f"World.L{i}")
        if rows is not None:
            index = rows["event"].astype(int)
            np.add.at(parts[:, i], index, rows["value"] / (1e3 * energy))
    return parts


def measure(parts: np.ndarray) -> dict[str, Any]:
    """The figures of one case, errors from `GROUPS` groups of photons."""
    kept = parts.sum(1) > 0.5
    lost, parts = int((~kept).sum()), parts[kept]
    active = parts[:, 1::2].sum(1)
    groups = np.array_split(active, GROUPS)

    def figure(value: float, of_groups: list[float]) -> dict[str, float]:
        error = np.std(of_groups, ddof=1) / np.sqrt(GROUPS)
        return {"value": round(float(value), 6), "stderr": round(float(error), 6)}

    return {
        "active": figure(active.mean(), [g.mean() for g in groups]),
        "resolution": figure(
            active.std(ddof=1) / active.mean(),
            [g.std(ddof=1) / g.mean() for g in groups],
        ),
        "layers": parts.mean(0).round(6).tolist(),
        "lost": lost,
    }


def main() -> None:
    """Simulate the cases and write JSON; leave at once, before Geant4's teardown."""
    parser = argparse.ArgumentParser(description="Photons in calorimeters in Geant4.")
    parser.add_argument(
        "--events", type=int, default=2000, help="at 1 GeV; fewer above"
    )
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=STACKS)
    parser.add_argument("--energies", type=float, nargs="+", default=ENERGIES)
    parser.add_argument("--seed", type=int, default=1, help="of the first case")
    parser.add_argument(
        "--tables", type=Path, help="folder made by `kythera geant4 tables`"
    )
    parser.add_argument("--out", type=Path, help="file; the default is stdout")
    arguments = parser.parse_args()
    cases = []
    with tables(arguments.tables, ELEMENTS) as folder:
        os.environ["GEANT4_DATA_DIR"] = str(folder)
        origin = provenance() | {"particle": "gamma, normal incidence"}
        origin.pop("thickness_cm")
        for name in arguments.stacks:
            for energy in arguments.energies:
                seed = arguments.seed + len(cases)
                events = max(3 * GROUPS, round(arguments.events / energy))
                start = time.process_time()
                parts = simulate(name, energy, events, seed)
                case = {"stack": name, "energy_gev": energy, "events": events}
                seconds = round(time.process_time() - start, 1)
                cases.append(case | {"seed": seed, "cpu_s": seconds} | measure(parts))
    text = json.dumps(origin | {"cases": cases}, indent=1) + "\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
