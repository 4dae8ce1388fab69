#!/usr/bin/env python3
"""Every engine on every problem at equal CPU seconds: loss reached, events, seconds.

    python benchmarks/engines.py --seeds 3 --seconds 10 --jobs 2 --json engines.json
    python benchmarks/engines.py --json engines.json --table docs/engine-table.md --plot docs

A pair of a problem and an engine is a process of its own, on one thread. A search ends with
the batch in which it has used its CPU seconds; imports, compilation and the measurements
are not counted: a search of one batch, with another key, goes before all. It is cut at an
eighth, a quarter and a half of them, where the design that it would build is measured
anew, on fresh events or exactly. Each search that has ended is in the file at once: the
same command goes on where it was cut off.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_views
from engine_cases import ENGINES, PARTS, PROBLEMS, Case

from kythera.errors import nearest

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
TRIALS = 20_000  # no search has more
SLACK = 900  # CPU seconds of a process beyond its searches
OVER = "the CPU seconds are used"
INTERRUPTED = "interrupted"


class Clock:
    """A callback that counts CPU seconds over the legs of a search.

    Args:
        used: before this leg.
        limit: after which it ends.
        known: trials of earlier legs.
    """

    def __init__(self, used: float, limit: float, known: int):
        self.used, self.limit, self.known = used, limit, known
        self.began = time.process_time() - used

    def __call__(self, trial: Any) -> str:
        """Why to stop after this trial; empty to go on."""
        if trial.number < self.known:
            return ""
        self.used = time.process_time() - self.began
        return OVER if self.used >= self.limit else ""


def search(
    case: Case, engines: tuple, seed: int, seconds: float, parts: Sequence[float]
) -> tuple[float, list[list[float]], str]:
    """One search, cut in legs.

    Returns:
        the start's loss; for each leg its part, CPU seconds, events, trials, loss of
        what would be built then and its error; and why it ended.
    """
    import jax

    import kythera as ky
    from kythera.optimise import Resume

    saved, used, curve, start, reason = None, 0.0, [], float("nan"), ""
    for part in parts:
        if curve and used >= part * seconds:
            continue
        clock = Clock(used, part * seconds, len(saved.trials) if saved else 0)
        found = ky.optimise(
            case.problem, *engines, key=jax.random.key(seed), max_trials=TRIALS,
            callbacks=[clock], report_events=case.rows, resume=saved,
        )  # fmt: skip
        used, reason = clock.used, found.reason
        start, loss, error = _losses(case, found)
        curve.append([part, used, found.events, len(found.trials), loss, error])
        if not reason.startswith(OVER):
            break
        saved = Resume(found.trials, (*found.state, ""))
    return start, curve, reason


def _losses(case: Case, found: Any) -> tuple[float, float, float]:
    """Of the start, of the best design, and its error; of both as they would be built."""
    if case.exact is not None:
        return case.exact(found.start), case.exact(found.best), 0.0
    report = found.report
    return report.start.value, report.best.value, report.best.stderr


def run(problem: str, engine: str, seeds: list[int], seconds: float) -> Iterator[dict]:
    """The searches of one pair, in this process: a record for each."""
    from kythera import errors

    case = PROBLEMS[problem]()
    try:
        engines = ENGINES[engine][1](case)
        search(case, engines, 1_000_000, 0.0, (1,))
    except errors.UnsupportedError as error:
        yield {"seed": None, "refused": str(error)}
        return
    first = time.process_time()
    for seed in seeds:
        try:
            start, curve, reason = search(case, engines, seed, seconds, PARTS)
        except errors.KytheraError as error:
            yield {"seed": seed, "error": f"{type(error).__name__}: {error}"}
            continue
        if reason.startswith(INTERRUPTED):
            sys.exit(130)
        yield {
            "seed": seed,
            "best": case.best,
            "start": start,
            "curve": [[float(f"{v:.6g}") for v in leg] for leg in curve],
            "reason": reason,
            "first": round(first, 1),
            "total": round(time.process_time(), 1),
            "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


class Book:
    """The file of all searches, written after each.

    Args:
        path: of the file.
        seconds: CPU seconds of a search, the same for all in it.

    Raises:
        SystemExit: the file holds searches of another length.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.lock = path, threading.Lock()
        self.data: dict[str, Any] = {"seconds": seconds, "runs": {}}
        if path.exists():
            self.data = json.loads(path.read_text(encoding="utf-8"))
        if self.data["seconds"] != seconds:
            sys.exit(
                f"{path} holds searches of {self.data['seconds']} CPU seconds, not of "
                f"{seconds}. Give --seconds {self.data['seconds']}, or another file."
            )

    def missing(self, problem: str, engine: str, seeds: int, again: bool) -> list[int]:
        """Seeds of a pair without a record (or, `again`, with an error)."""
        runs = self.data["runs"]

        def done(name: str) -> bool:
            return name in runs and not (again and "error" in runs[name])

        if done(f"{problem} | {engine}"):
            return []
        return [s for s in range(seeds) if not done(f"{problem} | {engine} | {s}")]

    def add(self, problem: str, engine: str, record: dict) -> None:
        """Keep one record; the file is whole at any time."""
        name = f"{problem} | {engine}"
        if (seed := record.pop("seed")) is not None:
            self.data["runs"].pop(name, None)  # an error that came before
            name += f" | {seed}"
        with self.lock:
            self.data["runs"][name] = record
            rows = [
                f" {json.dumps(k)}: {json.dumps(v)}"
                for k, v in self.data["runs"].items()
            ]
            text = ",\n".join(rows)
            fresh = self.path.with_suffix(".new")
            fresh.write_text(
                f'{{"seconds": {self.data["seconds"]}, "runs": {{\n{text}\n}}}}\n',
                encoding="utf-8",
            )
            os.replace(fresh, self.path)
        shown = record.get("refused") or record.get("error") or record["curve"][-1]
        print(f"{name}: {shown}", flush=True)


def start_pair(
    book: Book, problem: str, engine: str, seeds: list[int], seconds: float
) -> None:
    """Run a pair in a process of its own; its death is an error of the pair."""
    chosen = ["--pair", problem, engine, "--only", ",".join(map(str, seeds))]
    threads = {
        "XLA_FLAGS": ONE_THREAD,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, __file__, *chosen, "--seconds", str(seconds)],
        env=os.environ | threads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(process.stderr,))
        reader.start()
        for line in process.stdout:
            if line.startswith("{"):
                book.add(problem, engine, json.loads(line))
        reader.join()
    if process.returncode not in (0, 130, -2, -15):
        why = (said or ["nothing was said"])[-1].strip()
        cause = f"ended with {process.returncode}: {why}"
        if process.returncode == -signal.SIGXCPU:
            cause = f"not done after {_most(seconds, seeds)} CPU seconds"
        book.add(problem, engine, {"seed": None, "error": cause})


def _most(seconds: float, seeds: list[int]) -> int:
    """CPU seconds after which the process of a pair is ended."""
    return int(SLACK + 4 * seconds * len(seeds))


def _chosen(names: str, known: Mapping[str, Any]) -> list[str]:
    """All that is known, or some, in the order given."""
    wanted = names.split(";") if names else list(known)
    for name in wanted:
        if name not in known:
            sys.exit(f"There is no {name!r}. {nearest(name, known)}")
    return wanted


def main() -> None:
    """Run what is missing, then show all."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU, each search")
    parser.add_argument("--jobs", type=int, default=2, help="0: run nothing")
    parser.add_argument("--json", type=Path, default=Path("engines.json"))
    parser.add_argument("--problems", default="", help="some of them, by ';'")
    parser.add_argument("--engines", default="", help="some of them, by ';'")
    parser.add_argument("--again", action="store_true", help="what ended with an error")
    parser.add_argument("--table", type=Path, help="Markdown, from its mark on")
    parser.add_argument("--plot", type=Path, help="a folder for pictures")
    parser.add_argument("--pair", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.pair:
        seeds = [int(s) for s in chosen.only.split(",")]
        limit = _most(chosen.seconds, seeds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        problem, engine = chosen.pair
        for record in run(problem, engine, seeds, chosen.seconds):
            print(json.dumps(record), flush=True)
        return
    book = Book(chosen.json, chosen.seconds)
    problems = _chosen(chosen.problems, PROBLEMS)
    engines = _chosen(chosen.engines, ENGINES)
    todo = [
        (problem, engine, seeds)
        for problem in problems
        for engine in engines
        if (seeds := book.missing(problem, engine, chosen.seeds, chosen.again))
    ]
    with ThreadPoolExecutor(max(1, chosen.jobs)) as pool:
        for done in [
            pool.submit(start_pair, book, problem, engine, seeds, chosen.seconds)
            for problem, engine, seeds in todo * (chosen.jobs > 0)
        ]:
            done.result()
    if chosen.table:
        engine_views.write(book.data, chosen.table)
    if chosen.plot:
        engine_views.draw(book.data, chosen.plot)


if __name__ == "__main__":
    main()
