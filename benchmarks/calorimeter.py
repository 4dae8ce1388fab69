"""The sampling calorimeter: what 10,000 showers cost.

    python benchmarks/calorimeter.py

Prints milliseconds of one evaluation (value; value and gradient; both with the error), of
wall time and of CPU time, median of `--repeats`. What engines gain from AIDO's start:
`calorimeter_engines.py`.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from kythera.core.measure import evaluate
from kythera.instruments import sampling_calorimeter


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


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    speed(args.events, args.repeats)


if __name__ == "__main__":
    main()
