"""The lorry portal with three engines at equal cost: gain on fresh cargoes, events spent.

    .venv/bin/python benchmarks/portal_engines.py [--cargoes 1024] [--only adam]

Each engine starts from the same stacked panels and the same budget; start and end are then
measured with hard panels on the same fresh cargoes.
"""

import argparse
import json

import jax

import kythera as ky
from kythera.instruments import muon_portal

# optimiser, trials, cargoes in each: quasi-Newton steps go on one fixed sample, whose
# accidents they fit unless it is large
ENGINES = {
    "adam": (ky.adam(0.05, schedule=60), 60, 32),
    "lbfgsb": (ky.LBFGSB(), 25, 128),
    "evolution": (ky.Evolution(sigma=0.1), 480, 16),
}


def run(name: str, cargoes: int, seed: int) -> dict:
    """One engine on the default problem.

    Args:
        name: of the engine.
        cargoes: rows of the final measurement.
        seed: of all random numbers.

    Returns:
        figures for one row of the table.
    """
    optimiser, trials, events = ENGINES[name]
    solution = ky.optimise(
        muon_portal.problem(events=events),
        optimiser,
        key=jax.random.key(seed),
        max_trials=trials,
        report_events=cargoes,
    )
    prices = muon_portal.Prices()
    start, best, gain = (
        (m.value, m.stderr)
        for m in (solution.hard.start, solution.hard.best, solution.hard.gain)
    )
    return {
        "engine": name,
        "trials": len(solution.trials),
        "muons": solution.events,
        "seconds": round(solution.seconds, 1),
        "start": start,
        "best": best,
        "gain": gain,
        "cost": [float(prices(d)) for d in (solution.start, solution.best)],
    }


def main() -> None:
    """Print a row for each engine, then all of them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cargoes", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--only", choices=ENGINES)
    args = parser.parse_args()
    rows = []
    print("engine     trials       muons  seconds   FN start       FN best        gain")
    for name in [args.only] if args.only else ENGINES:
        row = run(name, args.cargoes, args.seed)
        rows.append(row)
        pairs = "  ".join(
            f"{row[k][0]:.3f}+-{row[k][1]:.3f}" for k in ("start", "best", "gain")
        )
        print(
            f"{name:<10} {row['trials']:>6} {row['muons']:>11,} {row['seconds']:>8}  {pairs}",
            flush=True,
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
