#!/usr/bin/env python3
"""Time kythera and TomOpt on one problem, in one run, and print the ratios.

    python benchmarks/tomopt/environment.py        # once: TomOpt's own environment
    python benchmarks/portal.py [--quick] [--out FILE.md] [--skip-tomopt]

CPU seconds (``time.process_time``) of processes of their own, both programs on one
thread, median and minimum; a machine that does other things disturbs them little. Every
measurement runs in a fresh process: this script calls itself with ``--task``. Shapes,
events and seeds are those of `portal_problem.py`; what is timed is named in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
BATCH = 250  # muons; TomOpt's batches, of which its Jacobian grows with the square
AIMS = {  # row -> (what is aimed at, what it must not miss), and whether more is better
    "step, 1000 muons: TomOpt / kythera": (300, 150, True),
    "step, 10000 muons: TomOpt / kythera": (300, 150, True),
    "step, 1000 muons: TomOpt without its Jacobian / kythera": (25, 10, True),
    "step, 10000 muons: TomOpt without its Jacobian / kythera": (25, 10, True),
    "muons to hits, 10000 muons: TomOpt / kythera": (50, 30, True),
    "first call to first step, cold, CPU s": (10, 15, False),
    "first call to first step, cached, CPU s": (3, 4, False),
    "peak memory, most muons / fewest": (1.2, 1.2, False),
    "loop overhead per trial, CPU ms": (5, 5, False),
}


def repeated(task: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and minimum CPU seconds of `task`, after two calls that are not counted."""
    for _ in range(2):
        task()
    samples = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        samples.append(time.process_time() - start)
    return {"median_s": statistics.median(samples), "min_s": min(samples)}


def step_of(muons: int, rows: int = 1, chunk: int | None = None) -> Callable[[], Any]:
    """One optimisation step: fresh muons, value, gradient, error, Adam's update."""
    import jax
    import numpy as np
    from portal_problem import tomopt_like

    import kythera as ky

    problem = tomopt_like(muons, rows, chunk)
    estimator, optimiser = ky.Pathwise(), ky.adam(0.001)
    state = {
        "estimator": estimator.init(problem, key=jax.random.key(0)),
        "optimiser": optimiser.init(
            problem, np.asarray(problem.space.start), key=jax.random.key(1)
        ),
        "number": 0,
    }

    def serial(function: Callable, blocks: Any) -> list:
        return [function(block) for block in blocks]

    def step() -> Any:
        key = jax.random.fold_in(jax.random.key(2), state["number"])
        state["number"] += 1
        us, asked = optimiser.ask(state["optimiser"], key=key)
        found, state["estimator"] = estimator(
            problem, us, state["estimator"], key=key[None], map=serial
        )
        state["optimiser"] = optimiser.tell(asked, us, found)
        return found[0]

    return step


def task_step(muons: int, repeats: int) -> dict[str, Any]:
    """CPU time of one optimisation step."""
    return repeated(step_of(muons), repeats)


def task_forward(muons: int, repeats: int) -> dict[str, Any]:
    """CPU time of scattering and hits of muons that were drawn beforehand."""
    import jax
    from portal_problem import tomopt_like

    from kythera.core.compilation import jit

    problem = tomopt_like(muons)
    truth = problem.pipeline.source(1, key=jax.random.key(0))
    design = problem.space.template

    @jit
    def hits(design: Any, truth: Any, key: Any) -> Any:
        return problem.pipeline.simulator(design, truth, key=key)

    key = jax.random.key(1)
    return repeated(lambda: jax.block_until_ready(hits(design, truth, key)), repeats)


def task_first(muons: int, repeats: int) -> dict[str, Any]:
    """CPU time from the problem to the first step, imports apart, in a fresh process."""
    start = time.process_time()
    import jax.numpy as jnp
    import portal_problem  # noqa: F401

    import kythera as ky

    _ = ky.Pathwise, ky.adam  # loads what is loaded on first use
    jnp.zeros(1).block_until_ready()
    imported = time.process_time()
    step_of(muons)()
    return {"import_s": imported - start, "first_s": time.process_time() - imported}


def task_memory(muons: int, repeats: int) -> dict[str, Any]:
    """Peak memory of one step of `muons` muons in scans of 10 000."""
    step_of(10_000, muons // 10_000, chunk=1)()
    return {"rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def task_loop(muons: int, repeats: int) -> dict[str, Any]:
    """CPU time per trial of `optimise` on a cheap problem, and that of the estimator."""
    import jax
    import numpy as np

    import kythera as ky
    from kythera.instruments import telescope

    problem, estimator = telescope.problem(events=100), ky.Pathwise()

    def run(trials: int) -> float:
        start = time.process_time()
        ky.optimise(
            problem,
            ky.adam(0.01),
            estimator,
            max_trials=trials,
            key=jax.random.key(1),
        )
        return time.process_time() - start

    def serial(function: Callable, blocks: Any) -> list:
        return [function(block) for block in blocks]

    state = estimator.init(problem, key=jax.random.key(0))
    us, keys = np.asarray(problem.space.start)[None], jax.random.key(2)[None]
    alone = repeated(
        lambda: estimator(problem, us, state, key=keys, map=serial), 20 * repeats
    )
    run(5)
    few, many = 50, 50 + repeats * 20
    whole = (run(many) - run(few)) / (many - few)
    return {"per_trial_s": whole, "overhead_s": whole - alone["median_s"]}


def task_cores(muons: int, repeats: int) -> dict[str, Any]:
    """CPU over wall time of steps with all threads."""
    step = step_of(muons)
    step()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        step()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu_over_wall": cpu / wall, "cores": os.cpu_count()}


TASKS = {
    name.removeprefix("task_"): task
    for name, task in list(globals().items())
    if name.startswith("task_")
}


def measure(
    task: str,
    muons: int = 0,
    repeats: int = 9,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run one task in a fresh process, on one thread unless told otherwise."""
    cleared = {
        k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))
    }
    command = [sys.executable, __file__, "--task", task, str(muons), str(repeats)]
    done = subprocess.run(
        command,
        env=cleared
        | {"XLA_FLAGS": ONE_THREAD, "JAX_PLATFORMS": "cpu"}
        | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"`{' '.join(command)}` failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"  {task} {muons or ''}: {found}", file=sys.stderr, flush=True)
    return found


def tomopt(sizes: list[int], repeats: int) -> dict[str, Any]:
    """TomOpt's timings, from its own environment and process."""
    sys.path.insert(0, str(HERE / "tomopt"))
    import environment  # type: ignore[import-not-found]

    if not environment.works(environment.DEFAULT):
        sys.exit(
            "TomOpt's environment is not there. Make it with `python "
            "benchmarks/tomopt/environment.py`, or give --skip-tomopt."
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tomopt.json"
        subprocess.run(
            [
                environment.python_of(environment.DEFAULT),
                HERE / "tomopt" / "measure.py",
                *("--only", "timing", "--batch", str(BATCH)),
                *("--repeats", str(repeats), "--out", str(out)),
                *("--muons", *map(str, sizes)),
            ],
            check=True,
        )
        return json.loads(out.read_text())["timing"]


def first_calls(muons: int) -> dict[str, float]:
    """Cold, and with a cache of compiled programs that a run before filled."""
    runs = [measure("first", muons) for _ in range(3)]
    cold = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    with tempfile.TemporaryDirectory() as folder:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        measure("first", muons, environment=cache)
        runs = [measure("first", muons, environment=cache) for _ in range(3)]
        warm = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {
        "imports, CPU s": cold["import_s"],
        "first call to first step, cold, CPU s": cold["first_s"],
        "first call to first step, cached, CPU s": warm["first_s"],
    }


def figures(arguments: argparse.Namespace) -> dict[str, float]:
    """Everything that the table shows, by name."""
    sizes, repeats = arguments.muons, arguments.repeats
    last = max(sizes)
    steps = {n: measure("step", n, repeats) for n in sizes}
    forward = measure("forward", last, repeats)
    table: dict[str, float] = {}
    for n in sizes:
        for kind in ("median_s", "min_s"):
            name = f"step, {n} muons: kythera, {kind[:-2]}, CPU ms"
            table[name] = 1e3 * steps[n][kind]
    table[f"muons to hits, {last} muons: kythera, median, CPU ms"] = (
        1e3 * forward["median_s"]
    )
    if not arguments.skip_tomopt:
        theirs = tomopt(sizes, 3)
        for row in theirs["optimisation_step"]:
            n = row["muons"]
            ours = steps[n]["median_s"]
            whole = row["step"]["median_s"]
            rest = row["step_without_jacobian"]["median_s"]
            table[f"step, {n} muons: TomOpt, batches of {BATCH}, CPU s"] = whole
            table[f"step, {n} muons: TomOpt / kythera"] = whole / ours
            name = f"step, {n} muons: TomOpt without its Jacobian / kythera"
            table[name] = rest / ours
        row = next(r for r in theirs["forward"] if r["muons"] == last)
        table[f"muons to hits, {last} muons: TomOpt / kythera"] = (
            row["median_s"] / forward["median_s"]
        )
    table |= first_calls(sizes[0])
    peaks = {n: measure("memory", n)["rss_mib"] for n in arguments.memory}
    table |= {f"peak memory, {n:.0e} muons, MiB": v for n, v in peaks.items()}
    ratio = peaks[max(peaks)] / peaks[min(peaks)]
    table["peak memory, most muons / fewest"] = ratio
    loop = measure("loop", repeats=repeats)
    table["a trial of the telescope, CPU ms"] = 1e3 * loop["per_trial_s"]
    table["loop overhead per trial, CPU ms"] = 1e3 * loop["overhead_s"]
    cores = measure("cores", last, repeats, {"XLA_FLAGS": ""})
    table[f"CPU / wall on {cores['cores']} cores"] = cores["cpu_over_wall"]
    return table


def markdown(table: dict[str, float]) -> str:
    """The table, with what was aimed at."""
    lines = ["| quantity | measured | aim | limit |", "| --- | ---: | ---: | ---: |"]
    for name, value in table.items():
        aim, limit, more = AIMS.get(name, ("", "", True))
        missed = limit != "" and (value < limit if more else value > limit)
        shown = f"{value:.3g}" + (" (missed)" if missed else "")
        lines.append(f"| {name} | {shown} | {aim} | {limit} |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python "
    return "\n".join([*lines, "", machine + platform.python_version() + "."])


def main() -> None:
    """Measure all, or one task in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", nargs=3, metavar=("TASK", "MUONS", "REPEATS"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it")
    parser.add_argument("--skip-tomopt", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the table there")
    arguments = parser.parse_args()
    if arguments.task:
        sys.path.insert(0, str(HERE))
        name, muons, repeats = arguments.task
        print(json.dumps(TASKS[name](int(muons), int(repeats))))
        return
    quick = arguments.quick
    arguments.muons = [250, 500] if quick else [1000, 10_000]
    arguments.memory = [10_000, 20_000] if quick else [10**4, 10**5, 10**6, 10**7]
    arguments.repeats = 3 if quick else 15
    text = markdown(figures(arguments))
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
