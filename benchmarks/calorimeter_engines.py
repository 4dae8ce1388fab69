"""All engines on the sampling calorimeter, from AIDO's start, on either simulator.

    python benchmarks/calorimeter_engines.py --json engines.json
    python benchmarks/calorimeter_engines.py --simulator geant4 --json engines.json
    python benchmarks/calorimeter_engines.py --json engines.json --table --figure all.svg

Parametrised showers: photons and positive pions, a million particles for each engine. Geant4
(GEANT4_DATA_DIR): photons, 4,000 for each. Energies of 1 to 20 GeV, the loss of AIDO,
(E_pred - E)^2 / (E + 1 GeV), a linear calibration; length and cost are kept exactly. Start and
final design are built with the materials chosen, and measured on fresh particles, the same
for all engines: parametrised ones, and photons in Geant4 with a cut of 0.7 mm. Each row is
written as soon as it is there; a row that the file has already is not made again.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import kythera as ky
from kythera.core import measure
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter import Stack
from kythera.instruments.sampling_calorimeter.design import cost, length
from kythera.instruments.sampling_calorimeter.drawings import COLOURS
from kythera.units import cm, mm

BUDGET = {"parametrised": 1_000_000, "geant4": 4_000}  # particles of one search
PARTICLES = {"parametrised": "gamma,pi+", "geant4": "gamma"}
FRESH = 40_000  # parametrised particles of the final measurement
CUT = 5 * mm  # of Geant4 in a search; at the end it is 0.7 mm
MATERIALS = ("absorber_material", "active_material")


class Search(NamedTuple):
    """How an engine is used.

    Args:
        optimiser: with a schedule of `trials` steps where it has one.
        estimator: the default where None.
        events: particles in one evaluation.
        freeze: parameters that the engine cannot vary.
    """

    optimiser: Any
    estimator: Any
    events: int
    freeze: tuple[str, ...] = ()


def pathwise(simulator: str) -> Search:
    steps = BUDGET[simulator] // 8192
    return Search(ky.adam(0.03, schedule=steps), ky.Pathwise(), 8192)


def local_surrogate(simulator: str) -> Search:
    """Nothing between two materials exists in Geant4, so that they stay as at the start."""
    if simulator == "geant4":
        steps = BUDGET[simulator] // (7 * 40)
        local = ky.LocalSurrogate(radius=0.1, designs=6)
        return Search(ky.adam(0.08, schedule=steps), local, 40, MATERIALS)
    steps = BUDGET[simulator] // (25 * 1024)
    local = ky.LocalSurrogate(radius=0.05, designs=24)
    return Search(ky.adam(0.05, schedule=steps), local, 1024)


def end_to_end(simulator: str) -> Search:
    events, designs, step = 1024, 16, 0.04
    if simulator == "geant4":
        events, designs, step = 40, 7, 0.05
    steps = BUDGET[simulator] // ((1 + designs) * events)
    engine = ky.EndToEndSurrogate(designs=designs)
    return Search(ky.adam(step, schedule=steps), engine, events)


def bayesian(simulator: str) -> Search:
    """Where a shower costs little, a Gaussian process costs more than all of them."""
    if simulator == "geant4":
        return Search(ky.Bayesian("gp"), None, 40)
    return Search(ky.Bayesian(), None, 2048)


def evolution(simulator: str) -> Search:
    events = 2048 if simulator == "parametrised" else 40
    return Search(ky.Evolution(sigma=0.15), None, events)


def policy(simulator: str) -> Search:
    return Search(ky.Policy(), None, 512)


ENGINES: dict[str, Callable[[str], Search]] = {
    "adam, Pathwise": pathwise,
    "adam, LocalSurrogate": local_surrogate,
    "adam, EndToEndSurrogate": end_to_end,
    "Bayesian": bayesian,
    "Evolution": evolution,
    "Policy": policy,
}
NOT_ON_GEANT4 = ("adam, Pathwise", "Policy")  # no derivatives; thousands of designs


def problem(simulator: str, **options: Any) -> ky.Problem[Stack]:
    """The task of a simulator."""
    return sampling_calorimeter.problem(
        simulator=simulator, particles=PARTICLES[simulator], **options
    )


def measured(simulator: str, stack: Stack, events: int) -> dict[str, list[float]]:
    """Loss of AIDO and relative resolutions of a stack, with errors, on fresh particles."""
    key, found = jax.random.key(2026), {}
    line = problem(simulator).pipeline
    truth, signal = line.simulate(stack, events, key=key)
    for objective in ("aido", "resolution"):
        case = problem(simulator, objective=objective, events=events)
        trace = line.analyse(stack, truth, signal, key=key)
        rows = case.objective.tally(stack, trace)
        u = case.space.encode(stack)
        told = jax.device_get(measure.rows_measured(case, u, rows))
        evaluation = measure.finish(case, told, events)
        if objective == "aido":
            found["loss"] = [evaluation.total.value, evaluation.total.stderr]
        else:
            for kind, term in evaluation.terms.items():
                found[f"resolution, {kind}"] = [term.value, term.stderr]
    return found


def described(stack: Stack, photons: int) -> dict[str, Any]:
    """A stack, and how well it measures, as numbers for the file."""
    sizes = np.asarray(stack.thickness, float) / cm
    row: dict[str, Any] = {
        "layers": [
            [name, round(float(t), 2)] for name, t in zip(stack.chosen(), sizes)
        ],
        "length_cm": float(length(stack)) / cm,
        "cost": float(cost(stack)),
        "parametrised": measured("parametrised", stack, FRESH),
    }
    if photons:
        row["geant4"] = measured("geant4", stack, photons) | {"photons": photons}
    return row


def run(name: str, simulator: str, seed: int, budget: int) -> tuple[dict, Stack]:
    """One engine's search.

    Returns:
        what it spent, and the design that it would build.
    """
    search = ENGINES[name](simulator)
    options = {"cut": CUT} if simulator == "geant4" else {}
    case = problem(simulator, events=search.events, **options)
    if search.freeze:
        case = case.replace(space=case.space.freeze(*search.freeze))
    began = time.process_time()
    found = ky.optimise(
        case,
        search.optimiser,
        search.estimator,
        key=jax.random.key(seed),
        max_events=budget,
        report_events=100,
    )
    failed = sum(bool(trial.evaluation.cause) for trial in found.trials)
    spent = {
        "particles": found.events,
        "evaluations": len(found.trials),
        "failed": failed,
        "cpu_s": round(time.process_time() - began, 1),
        "seed": seed,
        "frozen": list(search.freeze),
    }
    u = case.space.encode(found.best)
    return spent, case.space.decode(u, hard=True)


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [
        "| simulator | engine | evaluations | particles | CPU s | loss, parametrised "
        "| loss, Geant4 photons | resolution, Geant4 photons |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spent = [f"{row.get(k, 0):,.0f}" for k in ("evaluations", "particles", "cpu_s")]
        figures = [row["parametrised"]["loss"]]
        if "geant4" in row:
            figures += [row["geant4"]["loss"], row["geant4"]["resolution, gamma"]]
        words = [f"{value:.4f} +- {error:.4f}" for value, error in figures]
        words += ["-"] * (3 - len(words))
        first = [row["simulator"], row["engine"]]
        lines.append("| " + " | ".join(first + spent + words) + " |")
    return "\n".join(lines)


def figure(rows: list[dict]) -> str:
    """All stacks as an SVG, one above the other, 4 units to the centimetre."""
    left, high, parts = 330, 40, []
    names = list(dict.fromkeys(name for row in rows for name, _ in row["layers"]))
    for i, row in enumerate(rows):
        top, end = 10 + high * i, float(left)
        title = (
            f"{row['engine']} ({row['simulator']})"
            if row["engine"] != "start"
            else "start"
        )
        parts.append(
            f'<text x="{left - 10}" y="{top + 18}" text-anchor="end">{title}</text>'
        )
        for name, thickness in row["layers"]:
            shape = f'x="{end:.1f}" y="{top}" width="{4 * thickness:.1f}" height="28"'
            parts.append(f'<rect {shape} fill="{COLOURS[name]}" fill-opacity="0.75"/>')
            end += 4 * thickness
    bottom = 10 + high * len(rows)
    for tick in range(0, 201, 50):
        parts.append(f'<text x="{left + 4 * tick}" y="{bottom + 12}">{tick} cm</text>')
    for i, name in enumerate(names):
        x, y, words = left + 190 * i, bottom + 26, name.replace("_", " ")
        parts.append(
            f'<rect x="{x}" y="{y}" width="14" height="14" fill="{COLOURS[name]}" '
            f'fill-opacity="0.75"/><text x="{x + 20}" y="{y + 12}">{words}</text>'
        )
    size = f'viewBox="0 0 {left + 860} {bottom + 50}" font-family="sans-serif" font-size="14"'
    back = '<rect width="100%" height="100%" fill="white"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{back}{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Run the engines that the file does not have, and write it after each."""
    parser = argparse.ArgumentParser(description="Engines on the sampling calorimeter.")
    parser.add_argument("--simulator", choices=BUDGET, default="parametrised")
    parser.add_argument("--engine", choices=ENGINES, help="by default all")
    parser.add_argument("--budget", type=int, help="particles, by default as above")
    parser.add_argument(
        "--photons", type=int, default=500, help="in Geant4, at the end"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="read, and written after each row")
    parser.add_argument(
        "--table", action="store_true", help="print it, and run nothing"
    )
    parser.add_argument("--figure", type=Path, help="SVG of all rows of the file")
    args = parser.parse_args()
    rows = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    wanted = (
        [args.engine]
        if args.engine
        else [
            name
            for name in ENGINES
            if args.simulator == "parametrised" or name not in NOT_ON_GEANT4
        ]
    )
    for name in [] if args.table else ["start", *wanted]:
        there = {(row["engine"], row["simulator"]) for row in rows}
        if (name, args.simulator) in there or (name == "start" and rows):
            continue
        if name == "start":
            space = problem("parametrised").space
            spent, stack = {}, space.decode(space.start, hard=True)
        else:
            budget = args.budget or BUDGET[args.simulator]
            spent, stack = run(name, args.simulator, args.seed, budget)
        row = {"engine": name, "simulator": args.simulator} | spent
        rows.append(row | described(stack, args.photons))
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    rows.sort(key=lambda row: [*BUDGET].index(row["simulator"]))
    if args.table:
        print(table(rows))
    if args.figure:
        args.figure.write_text(figure(rows))


if __name__ == "__main__":
    main()
