#!/usr/bin/env python3
"""What a call of `ProgramSimulator` costs beyond the program itself.

    python benchmarks/program.py [--calls 100] [--events 200]

The program copies its input to its output, once as a shell script with `cp`, which is as
short as a program can be. It is run by `ProgramSimulator` and, in turns with it, alone by
`subprocess.run` in a folder that has its files already; the difference is what kythera adds:
folder, files, process group, reading and checks. Medians of wall time in milliseconds.
"""

import argparse
import statistics
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp

import kythera as ky
from kythera.stages.simulators.files import NEEDS

AIM = 20.0  # ms


def clocked(call) -> float:
    """Wall time of a call, ms."""
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def measure(format: str, calls: int, events: int) -> tuple[float, float]:
    """Milliseconds of the program alone, and of a call of the simulator."""
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
        times = [(clocked(alone), clocked(called)) for _ in range(calls)]
    return tuple(statistics.median(column) for column in zip(*times))


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--events", type=int, default=200)
    args = parser.parse_args()
    print("| format | program alone, ms | call, ms | added, ms | aim |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for format in NEEDS:
        alone, called = measure(format, args.calls, args.events)
        print(
            f"| {format} | {alone:.1f} | {called:.1f} | {called - alone:.1f} | {AIM:g} |"
        )


if __name__ == "__main__":
    main()
