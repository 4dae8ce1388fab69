#!/usr/bin/env python3
"""The table of the INFERNO paper: error of the signal's count, for what was trained on what.

    python benchmarks/inferno.py --json inferno.json
    python benchmarks/inferno.py --train 2 bce --json inferno.json     # some of the rows

Each row is trained by `ky.optimise` and judged on all five benchmarks, on the same events:
hard bins, templates, 500,000 events of each sample. Rows that are in the file are not trained
again. Seconds are those of the search with its compilation, of the wall and of the processor.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kythera as ky
from kythera.core.comparison import compare
from kythera.core.objective import Tangents
from kythera.instruments import inferno_toy
from kythera.instruments.inferno_toy import exact
from kythera.instruments.inferno_toy.problem import uncertainty

BENCHMARKS = range(5)
ROWS = ("bce", *map(str, BENCHMARKS))
EVENTS = 500_000  # of each sample, to judge
PAPER = {
    "bce": (14.99, 18.94, 23.94, 21.54, 26.71),
    "0": (15.51, 18.34, 23.24, 21.38, 26.38),
    "1": (15.80, 16.79, 21.41, 20.29, 24.26),
    "2": (15.71, 16.87, 16.95, 16.88, 18.67),
    "3": (15.70, 16.91, 16.97, 16.89, 18.69),
    "4": (15.71, 16.89, 16.95, 16.88, 18.68),
    "optimal classifier": (14.97, 19.12, 24.93, 22.13, 27.98),
    "full likelihood": (14.71, 15.52, 15.65, 15.62, 16.89),
}


class EveryBenchmark(ky.AbstractObjective):
    """Errors of the signal's count in all five benchmarks, from the same events."""

    def nuisances(self) -> dict[str, float]:
        """Those of the last one."""
        return uncertainty(4, "sigma", hard=True).nuisances()

    def templates(self) -> dict[str, float]:
        """The paper's."""
        return uncertainty(4, "sigma", hard=True).templates()

    def tally(self, design: Any, trace: Any) -> Any:
        """Rows of both samples."""
        return uncertainty(4, "sigma").tally(design, trace)

    def score(self, design: Any, tally: Any) -> ky.Score:
        """One term for each benchmark, by its number."""
        paths, terms = list(self.nuisances()), {}
        for number in BENCHMARKS:
            own = uncertainty(number, "sigma", hard=True)
            where = jnp.array([paths.index(path) for path in own.shifts], int)
            slopes = jax.tree.map(lambda v, w=where: v[w], tally.tangents)
            found = own.score(design, Tangents(tally.value, slopes))
            terms[str(number)] = found.loss["sigma"]
        return ky.Score(terms)


class Optimal(ky.AbstractStage):
    """The best classifier: logarithms of both densities instead of a network's outputs."""

    def __call__(self, design: Any, x: Any, *, key: Any) -> Any:
        """Sample -> (background, signal), shape (event, 2)."""
        return {name: exact.log_densities(features) for name, features in x.items()}


def judged(problem: ky.Problem, u: Any, events: int = EVENTS) -> list[ky.Measured]:
    """Errors in the five benchmarks of the summary at one point, as built.

    Args:
        problem: with its summary.
        u: point of the cube.
        events: of each sample.
    """
    hard = problem.replace(hard_objective=EveryBenchmark(), events=events).hard()
    found = compare(hard, np.asarray(u)[None], jax.random.key(12345))
    sigmas = np.sqrt(np.diag(found.covariance))
    return [
        ky.Measured(float(found.loss[name][0]), float(sigmas[i]))
        for i, name in enumerate(found.loss)
    ]


def train(row: str, seed: int = 1, steps: int | None = None) -> tuple[Any, Any, list]:
    """Train one row of the table.

    Args:
        row: "bce", or the number of a benchmark.
        seed: of the weights and the events.
        steps: of Adam; by default 4000 for the classifier, 3000 else.

    Returns:
        problem, solution, and seconds of the search: of the wall, of the processor.
    """
    if row == "bce":
        problem = inferno_toy.problem(objective="bce", events=500, seed=seed)
        rate, count = 1e-3, steps or 4000
    else:
        problem = inferno_toy.problem(int(row), seed=seed)
        rate, count = 3e-4, steps or 3000
    rule = ky.adam({"layers": rate}, schedule=count)
    ends: list[tuple[float, float]] = [_clock()]
    solution = ky.optimise(
        problem,
        rule,
        key=jax.random.key(seed),
        max_trials=count,
        callbacks=[lambda trial: ends.append(_clock())],
        report_events=20_000,
    )
    return problem, solution, [b - a for a, b in zip(ends[0], ends[-1])]


def _clock() -> tuple[float, float]:
    return time.perf_counter(), sum(os.times()[:2])


def limits() -> dict[str, list[float]]:
    """The rows that need no training."""
    problem = inferno_toy.problem(objective="bce")
    pipeline = problem.hard().pipeline
    best = ky.Pipeline(
        pipeline.source, pipeline.simulator, Optimal(), pipeline.inference
    )
    found = judged(problem.replace(hard_pipeline=best), problem.space.start)
    matrix = exact.information()
    return {
        "optimal classifier": [v.value for v in found],
        "full likelihood": [exact.analytical(n, matrix) for n in BENCHMARKS],
    }


def table(rows: dict[str, Any]) -> str:
    """Measured values beside the paper's, in Markdown."""
    lines = [
        "| trained on | 0 | 1 | 2 | 3 | 4 | seconds (CPU) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, published in PAPER.items():
        if name not in rows:
            continue
        row = rows[name]
        cells = [f"{a:.2f} ({b:.2f})" for a, b in zip(row["sigma"], published)]
        spent = row.get("seconds")
        time_ = f"{spent[0]:.0f} ({spent[1]:.0f})" if spent else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {time_} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: dict[str, Any] = {}
    if args.json and args.json.is_file():
        rows = json.loads(args.json.read_text())
    for name, values in limits().items():
        rows[name] = {"sigma": values}
    for name in args.train:
        if name not in rows:
            problem, solution, seconds = train(name, args.seed)
            found = judged(problem, solution.u_best)
            rows[name] = {
                "sigma": [v.value for v in found],
                "stderr": [v.stderr for v in found],
                "soft": float(np.exp(solution.soft.best.value)),
                "seconds": seconds,
            }
            print(name, rows[name], flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))
    print("measured (published)\n\n" + table(rows))


if __name__ == "__main__":
    main()
