#!/usr/bin/env python3
"""What a call of `ProgramSimulator` costs beyond the program itself.

    python benchmarks/program.py [--calls 100] [--events 200]

The program is `cp` in a shell, which is as short as one can be: it copies its input to its
output. It is run by `ProgramSimulator` and, in turns with it, alone by `subprocess.run` in a
folder that has its files already; the difference is what kythera adds: folder, files, process
group, reading and checks. Medians in milliseconds, of wall time and of CPU time (of this
process and the program; its mean), which other programs on the machine change little.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import kythera as ky
from kythera.stages.simulators.files import NEEDS

AIM = 20.0  # ms


def clocked(call: Callable[[], None]) -> list[float]:
    """Wall time and CPU time of a call, ms."""

    def now() -> list[float]:
        spent = os.times()
        return [time.perf_counter(), sum(spent[2:4]) + time.process_time()]

    began = now()
    call()
    return [1e3 * (b - a) for a, b in zip(began, now())]


def measure(format: str, calls: int, events: int) -> list[float]:
    """Wall and CPU time of the program alone, and those of a call of the simulator."""
    command = ["sh", "-c", f"cp events.{format} output.{format}"]
    simulator = ky.ProgramSimulator(
        command,
        {"x": jax.ShapeDtypeStruct((3,), float), "e": jax.ShapeDtypeStruct((), float)},
        events_format=format,
        output_format=format,
    )
    design = {"gap": jnp.array(1.0), "layers": jnp.ones(50)}
    record = {"x": jnp.ones((events, 3)), "e": jnp.ones(events)}
    key = jax.random.key(1)
    with tempfile.TemporaryDirectory() as folder:
        given = f"{folder}/events.{format}"
        with open(given, "wb") as file:
            file.write(b"0" * 16 * events)

        def alone() -> None:
            subprocess.run(command, cwd=folder, check=True)

        def called() -> None:
            jax.block_until_ready(simulator(design, record, key=key))

        called()  # what compiles, and what is imported
        times = [clocked(alone) + clocked(called) for _ in range(calls)]
    # CPU times of children come in ticks of 10 ms: their mean, not their median.
    wall, cpu = statistics.median, statistics.fmean
    return [f(column) for f, column in zip((wall, cpu, wall, cpu), zip(*times))]


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--events", type=int, default=200)
    args = parser.parse_args()
    print("| format | program alone, ms | call, ms | added, ms | added, CPU ms | aim |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for format in NEEDS:
        alone, alone_cpu, called, called_cpu = measure(format, args.calls, args.events)
        print(
            f"| {format} | {alone:.1f} | {called:.1f} | {called - alone:.1f} | "
            f"{called_cpu - alone_cpu:.1f} | {AIM:g} |"
        )


if __name__ == "__main__":
    main()
