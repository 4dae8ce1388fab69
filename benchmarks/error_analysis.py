"""Error analysis of Monte Carlo chains beside pyerrors: the same numbers, in how long.

    python benchmarks/error_analysis.py                 # 100 observables, 5,000 measurements
    python benchmarks/error_analysis.py --repeats 20

CPU milliseconds on one thread, median of `--repeats` turns in which both codes take theirs one
after the other, and the ratio of the medians; the largest relative difference of the errors.
Autoregressive chains with integrated autocorrelation times of 0.5 to 9.5. Functions of
observables are compiled anew in each turn, as where a notebook's cell runs once.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax.numpy as jnp
import numpy as np
from scipy.signal import lfilter

from kythera.physics.statistics.least_squares import least_squares
from kythera.physics.statistics.observables import observables
from kythera.physics.statistics.propagation import covariance, derive

X = np.arange(1.0, 9.0)


def chains(count: int, n: int) -> np.ndarray:
    """Means of 3, unit variance, shape (observable, configuration)."""
    noise = np.random.default_rng(1).standard_normal((count, n))
    rows = [
        lfilter([np.sqrt(1 - a * a)], [1, -a], row)
        for a, row in zip(np.linspace(0, 0.9, count), noise)
    ]
    return 3 + np.stack(rows)


def decays(n: int) -> np.ndarray:
    """Points of an exponential with common and separate noise, shape (point, n)."""
    noise = np.random.default_rng(2).standard_normal((9, n))
    slow = np.asarray(lfilter([0.6], [1, -0.8], noise))
    return 3 * np.exp(-0.35 * X)[:, None] * (1 + 0.05 * slow[8] + 0.1 * slow[:8])


def mine(rows: np.ndarray, task: str) -> np.ndarray:
    """One task with kythera: all observables are one array."""
    if task == "fit":
        y = observables(decays(rows.shape[1]).T, "B")
        fit = least_squares(lambda p, x: p[0] * jnp.exp(-p[1] * x), X, y, [1.0, 0.1])
        return fit.parameters.estimate().stderr
    a = observables(rows.T, "A")
    if task == "covariance":
        return covariance(a).ravel()
    if task == "ratios":
        a = a[1:] / a[:-1]
    if task == "functions":
        a = derive(lambda a: jnp.log(a[1:] / a[:-1]) * a[0], a)
    return a.estimate(**SETTINGS.get(task, {})).stderr


def theirs(rows: np.ndarray, task: str) -> np.ndarray:
    """The same with pyerrors: one object for each observable."""
    import autograd.numpy as anp
    import pyerrors as pe

    def analysed(found: list[Any], **settings: float) -> np.ndarray:
        for one in found:
            one.gamma_method(**settings)
        return np.array([one.dvalue for one in found])

    if task == "fit":
        y = [pe.Obs([row], ["B"]) for row in decays(rows.shape[1])]
        analysed(y)
        fit = pe.least_squares(
            X,
            y,
            lambda p, x: p[0] * anp.exp(-p[1] * x),  # type: ignore
            silent=True,
        )
        return analysed(list(fit))
    a: list[Any] = [pe.Obs([row], ["A"]) for row in rows]
    if task == "covariance":
        analysed(a)
        return pe.covariance(a).ravel()
    if task == "ratios":
        a = [p / q for p, q in zip(a[1:], a)]
    if task == "functions":
        a = [np.log(p / q) * a[0] for p, q in zip(a[1:], a)]
    return analysed(a, **SETTINGS.get(task, {}))


SETTINGS = {"independent": {"S": 0.0}, "tails": {"tau_exp": 5.0}}
TASKS = {
    "errors": "errors, automatic windows",
    "tails": "errors, tau_exp = 5",
    "independent": "errors, S = 0",
    "ratios": "ratios of neighbours, and errors",
    "functions": "logarithms of ratios by automatic differentiation, and errors",
    "covariance": "errors and covariance of all",
    "fit": "a fit of 8 points by 2 parameters",
}


def timed(call: Callable, rows: np.ndarray, task: str) -> tuple[float, np.ndarray]:
    began = time.process_time()
    found = call(rows, task)
    return time.process_time() - began, found


def main() -> None:
    """Print one line for each task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--observables", type=int, default=100)
    parser.add_argument("--measurements", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SciPy, about its ODR
        import pyerrors  # noqa: F401
    rows = chains(args.observables, args.measurements)
    print(f"{args.observables} observables of {args.measurements:,} measurements")
    print("| task | kythera, CPU ms | pyerrors, CPU ms | ratio | difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for task, name in TASKS.items():
        turns = [
            [timed(code, rows, task) for code in (mine, theirs)]
            for _ in range(args.repeats)
        ]
        own, other = (
            1e3 * statistics.median(turn[i][0] for turn in turns) for i in (0, 1)
        )
        found, expected = (found for _, found in turns[-1])
        gap = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        print(f"| {name} | {own:.1f} | {other:.1f} | {other / own:.1f} | {gap:.0e} |")


if __name__ == "__main__":
    main()
