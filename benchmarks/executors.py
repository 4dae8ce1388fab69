"""How well workers are kept busy, how many small tasks pass, and where a scheduler saturates.

    .venv/bin/python benchmarks/executors.py                  # two processes; two minutes
    .venv/bin/python benchmarks/executors.py --simulate 1000  # a study of 1000 workers; ten minutes

The simulated study is real up to the work itself: the scheduler and the executor of a
search, and workers of Dask that connect, are met, sleep for times that are drawn from a
log-normal distribution, and die; but many of them live in one process. What a thousand
machines cost the process that steers them is what it takes here.
"""

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time

from kythera.runs import executors
from kythera.runs.executors import places
from kythera.runs.executors.pool import DaskExecutor

SHARED = 250  # fake workers in one process
SPREAD = 0.5  # of the logarithm of a task's time


def rest(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def busy(seconds: float) -> float:
    """Half a second of a core, whatever else runs on it."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def nothing(x: int) -> int:
    return x


def two_workers(tasks: int) -> None:
    """The table of the efficiency and the throughput at two workers."""
    rows = []
    with executors.make("dask:workers=2") as executor:
        list(executor(rest, [1.0] * 4))  # both are there
        for work, label in ((rest, "sleeping"), (busy, "computing")):
            began = time.perf_counter()
            list(executor(work, [0.5] * tasks))
            ideal = 0.5 * tasks / 2
            ratio = ideal / (time.perf_counter() - began)
            rows.append(
                (f"efficiency, {tasks} tasks of 0.5 s, {label}", f"{ratio:.2f}")
            )
        for count, label in ((20_000, "by `map`"), (2_000, "by `submit`, one by one")):
            began, cpu = time.perf_counter(), time.process_time()
            if count > 5_000:
                list(executor(nothing, range(count)))
            else:
                for future in [executor.submit(nothing, i) for i in range(count)]:
                    future.result()
            wall, spent = time.perf_counter() - began, time.process_time() - cpu
            rows.append((f"empty tasks a second, {label}", f"{count / wall:,.0f}"))
            rows.append(
                (
                    f"CPU of this process for each, {label}, ms",
                    f"{1e3 * spent / count:.2f}",
                )
            )
        began = time.perf_counter()
        for i in range(200):
            executor.submit(nothing, i).result()
        trip = (time.perf_counter() - began) / 200
        rows.append(("one task there and back, ms", f"{1e3 * trip:.1f}"))
    print("| two workers | measured |\n| --- | ---: |")
    for name, value in rows:
        print(f"| {name} | {value} |")


def cpu_of_all(executor: executors.AbstractExecutor) -> float:
    """CPU seconds of this process, its scheduler in it, and of the workers."""
    import psutil

    place = executor._place  # type: ignore[attr-defined]
    ids = [process.pid for process, _ in place._running.values()]
    times = [psutil.Process(pid).cpu_times() for pid in ids]
    return time.process_time() + sum(t.user + t.system for t in times)


class Fakes(places.Processes):
    """Processes with many workers each, which sleep and die."""

    def __init__(self, count: int, lifetime: float):
        super().__init__(-(-count // SHARED))
        self.each, self.lifetime = count // self.size, lifetime

    def _started(self) -> subprocess.Popen:
        address = self._cluster.scheduler_address
        words = [str(self.each), str(self.lifetime), str(time.monotonic_ns())]
        return subprocess.Popen(
            [sys.executable, __file__, "--fake", address, *words],
            stderr=subprocess.DEVNULL,
        )


async def fake(address: str, count: int, lifetime: float, seed: str) -> None:
    """Workers of one process: each works, dies some day, and is followed by another."""
    import dask
    from distributed import Worker

    # What watches a worker watches the whole process here, as often as there are workers.
    dask.config.set(
        {
            "distributed.worker.profile.enabled": False,
            "distributed.admin.system-monitor.interval": "1h",
            "distributed.admin.tick.interval": "1h",
        }
    )
    lottery = random.Random(seed)

    async def lives(i: int) -> None:
        await asyncio.sleep(i * 0.05)
        parent = os.getppid()
        while os.getppid() == parent:
            with contextlib.suppress(Exception):  # one that is not let in comes again
                worker = await Worker(
                    address, nthreads=1, memory_limit=0, dashboard=False, name=None,
                    heartbeat_interval="10s",
                )  # fmt: skip
                await asyncio.sleep(lottery.expovariate(1 / lifetime))
                await worker.close(timeout=1, executor_wait=False, reason="spot")

    await asyncio.gather(*(lives(i) for i in range(count)))


def simulate(count: int, means: list[float], seconds: float, lifetime: float) -> None:
    """The table of a study with many workers, for tasks of several mean times."""
    places._temporary_security = lambda: None  # as many connections, less to compute
    place = Fakes(count, lifetime)
    rows = []
    with DaskExecutor("simulated", place, attempts=20) as executor:
        while executor.workers < 0.98 * count:
            list(executor(nothing, range(10)))
            print(f"{executor.workers} workers", end="\r", file=sys.stderr)
            time.sleep(1)
        began, cpu = time.perf_counter(), time.process_time()
        time.sleep(10)
        idle = (time.process_time() - cpu) / (time.perf_counter() - began)
        for mean in means:
            rate, used, spent, deaths = study(executor, mean, count, seconds)
            rows.append((mean, rate, used, (spent - idle) / max(rate, 1e-9), deaths))
            print(rows[-1], file=sys.stderr)
    print(f"\n{count} workers without work: {idle:.2f} of a core.\n")
    print(
        "| mean time of a task, s | tasks/s wanted | tasks/s done | workers busy | "
        "CPU for a task, ms | deaths |\n| ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for mean, rate, used, spent, deaths in rows:
        print(
            f"| {mean:g} | {count / mean:.0f} | {rate:.0f} | {used:.2f} | "
            f"{1e3 * spent:.2f} | {deaths} |"
        )
    cost, each = rows[-1][3], idle / count
    words = (
        f"tasks of {name} keep {1 / (each + cost / mean):,.0f} workers busy"
        for name, mean in (("10 s", 10), ("1 minute", 60), ("10 minutes", 600))
    )
    print(
        f"\nOn paper, one core that spends {1e3 * cost:.2f} ms on a task and "
        f"{1e3 * each:.2f} ms a second on a worker: {'; '.join(words)}."
    )


def study(
    executor: DaskExecutor, mean: float, count: int, seconds: float
) -> tuple[float, float, float, int]:
    """As many tasks as workers are under way for a while.

    Returns:
        tasks/s, share of the workers' time that finished tasks took, cores that this
        process used, and tasks that were lost with a worker.
    """
    lottery = random.Random(1)

    def drawn() -> float:
        return mean * lottery.lognormvariate(-(SPREAD**2) / 2, SPREAD)

    deaths = 0
    original = executor._died

    def died(*arguments) -> None:
        nonlocal deaths
        deaths += 1
        original(*arguments)

    executor._died = died  # type: ignore[assignment]
    warm = time.perf_counter() + 1.5 * mean  # the first ones all begin at once
    end = warm + seconds
    waiting = {executor.submit(rest, drawn()) for _ in range(count + count // 10)}
    done, work, cpu, began = 0, 0.0, None, warm
    while (now := time.perf_counter()) < end:
        if cpu is None and now >= warm:
            done, work, cpu, began = 0, 0.0, time.process_time(), now
        ready = {future for future in waiting if future.done()}
        for future in ready:
            work += future.result()
            done += 1
        waiting -= ready
        waiting |= {executor.submit(rest, drawn()) for _ in ready}
        time.sleep(0.05)
    spent = time.process_time() - (cpu or 0.0)
    wall = time.perf_counter() - began
    for future in waiting:
        future.cancel()
    # The longest ones may take an hour, death after death: leave them.
    while sum(future.running() for future in waiting) > count // 100:
        time.sleep(0.1)
    executor._died = original
    return done / wall, work / wall / count, spent / wall, deaths


def main() -> None:
    """One of the two tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--simulate", type=int, metavar="WORKERS")
    parser.add_argument("--means", type=float, nargs="+", default=[20, 10, 5, 2])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--lifetime", type=float, default=600.0)
    parser.add_argument("--fake", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fake:
        address, count, lifetime, seed = args.fake
        asyncio.run(fake(address, int(count), float(lifetime), seed))
    elif args.simulate:
        simulate(args.simulate, args.means, args.seconds, args.lifetime)
    else:
        two_workers(args.tasks)


if __name__ == "__main__":
    main()
