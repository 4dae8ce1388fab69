"""The sampling calorimeter: what 10,000 showers cost, and what engines gain.

    python benchmarks/calorimeter.py speed
    python benchmarks/calorimeter.py engines [--only adam]

`speed` prints milliseconds of one evaluation (value; value and gradient; both with the
error), of wall time and of CPU time, median of `--repeats`. `engines` starts each engine
from AIDO's stack and measures start and end on the same fresh particles, with the materials
chosen.
"""

import argparse
import statistics
import time

import jax
import numpy as np

import kythera as ky
from kythera.core.measure import evaluate
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter.design import cost, length

# optimiser, trials, particles in each
ENGINES = {
    "adam": (ky.adam(0.03, schedule=80), 80, 8192),
    "lbfgsb": (ky.LBFGSB(), 40, 16384),
    "evolution": (ky.Evolution(sigma=0.15), 640, 2048),
    "random": (ky.RandomSearch(16), 640, 2048),
}


def speed(events: int, repeats: int) -> None:
    """Print what one evaluation costs."""
    problem = sampling_calorimeter.problem(events=events)
    block = (
        np.asarray(problem.space.start)[None],
        jax.random.split(jax.random.key(1), 1),
    )
    print(f"{events:,} showers, {problem.space.size} parameters")
    for mode in ("value", "pathwise"):
        began = time.process_time()
        evaluate(problem, mode, block)
        first = time.process_time() - began
        wall, cpu = [], []
        for _ in range(repeats):
            t = time.perf_counter(), time.process_time()
            evaluate(problem, mode, block)
            wall.append(time.perf_counter() - t[0])
            cpu.append(time.process_time() - t[1])
        print(
            f"{mode:<9} wall {1e3 * statistics.median(wall):6.1f} ms  "
            f"CPU {1e3 * statistics.median(cpu):6.1f} ms  first call {first:5.1f} CPU s"
        )


def engines(only: str | None, seed: int) -> None:
    """Print a row for each engine."""
    print(
        "engine      trials  particles  CPU s   start             best            gain"
    )
    for name in [only] if only else ENGINES:
        optimiser, trials, events = ENGINES[name]
        began = time.process_time()
        found = ky.optimise(
            sampling_calorimeter.problem(events=events),
            optimiser,
            key=jax.random.key(seed),
            max_trials=trials,
            report_events=40_000,
        )
        seconds = time.process_time() - began
        values = "  ".join(
            f"{m.value:.4f}+-{m.stderr:.4f}"
            for m in (found.hard.start, found.hard.best, found.hard.gain)
        )
        print(
            f"{name:<10} {len(found.trials):>7} {found.events:>10,} {seconds:>6.0f}   {values}"
        )
        layers = zip(found.best.chosen(), np.asarray(found.best.thickness), strict=True)
        print(
            "   ",
            ", ".join(f"{100 * d:.1f} cm {m}" for m, d in layers),
            f"; {100 * float(length(found.best)):.0f} cm, {float(cost(found.best)):,.0f}",
            flush=True,
        )


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speed", "engines"))
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", choices=ENGINES)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.what == "speed":
        speed(args.events, args.repeats)
    else:
        engines(args.only, args.seed)


if __name__ == "__main__":
    main()
