"""One gradient of a black box by a learnt surrogate: seconds, compilation, memory.

    python benchmarks/surrogates.py [--only Quadratic,Flow]

A step of `LocalSurrogate` (and of `EndToEndSurrogate`) on the published ten-dimensional
valley: 16 designs of 3,000 events are simulated, a model is trained on them and on those of
the steps before, and its derivative taken. Median of five steps behind the first two; one
process for each engine. The peak is that of the process, its compilation included.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import jax
import numpy as np

import kythera as ky
from kythera.testing import published

ENGINES = {
    "Quadratic": lambda: ky.LocalSurrogate(radius=0.02, designs=15),
    "Regressor": lambda: ky.LocalSurrogate(ky.Regressor(), radius=0.02, designs=15),
    "CramerGAN": lambda: ky.LocalSurrogate(ky.CramerGAN(), radius=0.02, designs=15),
    "Flow": lambda: ky.LocalSurrogate(ky.Flow(), radius=0.02, designs=15),
    "Diffusion": lambda: ky.LocalSurrogate(ky.Diffusion(), radius=0.02, designs=15),
    "EndToEndSurrogate": lambda: ky.EndToEndSurrogate(radius=0.02, designs=15),
}


def step(name: str) -> None:
    """Print the row of one engine."""
    problem, engine = published.valley(), ENGINES[name]()
    state = engine.init(problem, key=jax.random.key(0))
    us, wall, cpu = np.asarray(problem.space.start)[None], [], []
    for i in range(7):
        began = time.perf_counter(), time.process_time()
        key = jax.random.fold_in(jax.random.key(1), i)[None]
        [found], state = engine(problem, us, state, key=key, map=map)
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
        assert not found.cause, found.cause
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {name} | {statistics.median(wall[2:]):.2f} | {statistics.median(cpu[2:]):.2f} "
        f"| {cpu[0]:.0f} | {peak:.0f} |",
        flush=True,
    )


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(ENGINES))
    parser.add_argument("--step", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(args.step)
        return
    print(
        "| model | step, s | CPU of a step, s | CPU of the first one, s | peak, MiB |\n"
        "| --- | ---: | ---: | ---: | ---: |",
        flush=True,
    )
    for name in args.only.split(","):
        subprocess.run([sys.executable, __file__, "--step", name], check=True)


if __name__ == "__main__":
    main()
