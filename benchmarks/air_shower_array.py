"""The air-shower array: what 500 showers cost, and layouts under SWGOLO's public utility.

    python benchmarks/air_shower_array.py --cases public full tanks fit
    python benchmarks/air_shower_array.py --layouts best.txt theirs.txt

The first prints milliseconds of one evaluation (value and gradient), wall time and CPU time,
median of `--repeats`, and the memory of the process. For comparison, the C++ code says of
itself that an iteration takes several minutes on one CPU (2000 + 2000 showers, 100 units).
The second prints the public utility of the initial layout and of those in the files (x and y in
m, a line for each unit; SWGOLO has its own in Python_Layouts/), all on the same fresh
showers, with an estimate that tells the same energy and angle for all. The published run went
from 7.58e3 (first 50 epochs) to 1.317e4 (last 50 of 1000).
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.measure import evaluate
from kythera.instruments import air_shower_array as array
from kythera.instruments.air_shower_array.design import Layout, rings
from kythera.instruments.air_shower_array.public import reconstructable
from kythera.instruments.air_shower_array.simulator import PublicArray, Sky, total
from kythera.physics.air_showers import PeV

CASES = {
    "public": {"utility": "public"},
    "full": {},
    "tanks": {"units": 6000, "tanks": 1},
}


def timed(name: str, call: Callable[[], Any], repeats: int) -> None:
    """Print what one call costs."""
    began = time.process_time()
    jax.block_until_ready(call())
    first = time.process_time() - began
    wall, cpu = [], []
    for _ in range(repeats):
        t = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        wall.append(time.perf_counter() - t[0])
        cpu.append(time.process_time() - t[1])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name:<8} wall {1e3 * statistics.median(wall):8.1f} ms  "
        f"CPU {1e3 * statistics.median(cpu):8.1f} ms  first call {first:5.1f} CPU s  "
        f"memory {memory:.2f} GB",
        flush=True,
    )


def evaluation(settings: dict[str, Any]) -> Callable[[], Any]:
    """Value and gradient of a problem at its start."""
    problem = array.problem(**settings)
    u = np.asarray(problem.space.start)[None]
    keys = jax.random.split(jax.random.key(1), 1)
    return lambda: evaluate(problem, "pathwise", (u, keys))[0].total.value


def fits(showers: int = 1000) -> Callable[[], Any]:
    """Both fits of some showers."""
    problem = array.problem()
    truth, hits = problem.pipeline.simulate(
        problem.space.template, showers, key=jax.random.key(2)
    )
    stage, key = problem.pipeline.inference, jax.random.key(3)
    fit = jax.jit(lambda hits: stage(problem.space.template, hits, key=key))
    return lambda: fit(hits)


def layouts(files: list[str], showers: int) -> None:
    """Print the public utility of some layouts, its estimate being blind."""
    sky = Sky(gammas=1.0, flat_in="theta")
    truth = sky(showers, key=jax.random.key(8))
    print("layout, reconstructable of 500, U: reach + energy + theta")
    for name in ("rings", *files):
        layout = rings()
        if name != "rings":
            x, y = np.loadtxt(name).T
            layout = Layout(jnp.asarray(x, float), jnp.asarray(y, float))
        counts = total(PublicArray()(layout, truth, key=jax.random.key(9)))
        r = np.asarray(reconstructable(counts))
        energy = _best(r, truth.energy / PeV, 0.01, np.linspace(0.1, 0.3, 41))
        theta = 0.01 * _best(r, truth.theta, 1e-5, np.linspace(0, 1.1, 111))
        reach = np.sqrt(np.mean(r) * sky.area)
        parts = reach, 500 * energy, 500 * theta
        words = " + ".join(f"{part:.0f}" for part in parts)
        print(f"{name:<30} {500 * np.mean(r):6.1f}  {sum(parts):8.0f}: {words}")


def _best(r: np.ndarray, values: Any, width: float, guesses: np.ndarray) -> float:
    """Mean of r / ((guess - value)^2 + width) with the best guess."""
    truth = np.asarray(values, float)
    return max(np.mean(r / ((guess - truth) ** 2 + width)) for guess in guesses)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="*", default=["public", "full", "fit"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layouts", nargs="*")
    parser.add_argument("--showers", type=int, default=50_000)
    args = parser.parse_args()
    if args.layouts is not None:
        layouts(args.layouts, args.showers)
        return
    for name in args.cases:
        call = fits() if name == "fit" else evaluation(CASES[name])
        timed(name, call, args.repeats)


if __name__ == "__main__":
    main()
