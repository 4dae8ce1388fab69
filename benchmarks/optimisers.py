"""Which optimiser suits what: regret after so many trials on problems with known optima.

    python benchmarks/optimisers.py --seeds 10 [--only bayesian] [--json regrets.json]

A regret is the exact loss of the recommended design, as it would be built, above that of the
optimum, as a part of that of the start. The table shows medians over seeds.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import kythera as ky
from kythera import errors, testing
from kythera.core.objective import AtMost
from kythera.testing.engines import _search


class Case(NamedTuple):
    """A problem with a known optimum.

    Args:
        problem: what is searched.
        exact: design as built -> its loss without noise.
        best: the lowest one.
        trials: budgets, rising.
    """

    problem: ky.Problem
    exact: Callable[[Any], float]
    best: float
    trials: tuple[int, ...]


def _branin(x: Any, y: Any) -> Any:
    """L. C. W. Dixon, G. P. Szego, Towards global optimisation 2, 1978."""
    valley = y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * np.pi)) * jnp.cos(x) + 10


WORTH = np.array([0.0, 1.0, 0.5])  # of the options of "mixed"


def _mixed(gap: Any, width: Any, count: Any, kind: Any, key: Any = None) -> Any:
    loss = 10 * (gap - 0.3) ** 2 + 10 * (width - 0.8) ** 2 + (count - 7) ** 2 / 10
    return loss + jnp.sum(jnp.asarray(WORTH) * kind)


def _noisy(gap: Any, width: Any, count: Any, kind: Any, key: Any) -> Any:
    # blurred, not shifted: what all designs share would not change their order
    blur = 0.2 * jax.random.normal(key, (2,))
    return _mixed(gap + blur[0], width + blur[1], count, kind) - 20 * 0.2**2


def _function(function: Callable, domains: dict, events: int = 1, **start: Any) -> Any:
    return ky.from_function(
        function, domains, start=start, events=events, differentiable=True
    )


MIXED = {
    "gap": ky.Real(0, 1),
    "width": ky.Real(0, 1),
    "count": ky.Integer(0, 20),
    "kind": ky.Choice(("iron", "lead", "steel")),
}
FROM = {"gap": 0.9, "width": 0.1, "count": 18.0, "kind": "lead"}


def _point(problem: ky.Problem) -> Callable[[Any], float]:
    parts = getattr(problem.objective, "parts", (problem.objective,))
    return lambda design: float(parts[0].function(design.x))


def cases() -> dict[str, Case]:
    """All of them by name."""
    length = AtMost("length", lambda d: jnp.sum(d.x + 2), 6.0)
    sphere = testing.sphere()
    held = sphere.replace(objective=sphere.objective + length)
    plane = {"x": ky.Real(-5, 10), "y": ky.Real(0, 15)}
    many = testing.sphere(50)
    exact = {"branin": lambda d: float(_branin(d["x"], d["y"]))}

    def built(design: Any) -> float:
        return float(_mixed(**design))

    quiet, noisy = testing.rosenbrock(), testing.noisy_sphere()
    return {
        "sphere, 4": Case(sphere, _point(sphere), 0.0, (40, 200, 1000)),
        "Rosenbrock, 4": Case(quiet, _point(quiet), 0.0, (40, 200, 1000)),
        "Branin": Case(_function(_branin, plane), exact["branin"], 0.397887, (40, 200)),
        "noisy sphere, 4": Case(noisy, _point(noisy), 0.0, (40, 200, 1000)),
        "constrained sphere, 4": Case(held, _point(held), 2.56, (40, 200)),
        "mixed": Case(_function(_mixed, MIXED, **FROM), built, 0.0, (40, 200, 1000)),
        "noisy mixed": Case(
            _function(_noisy, MIXED, 4, **FROM), built, 0.0, (40, 200, 1000)
        ),
        "sphere, 50": Case(many, _point(many), 0.0, (200, 1000)),
    }


OPTIMISERS: dict[str, tuple[Callable[[], Any], int]] = {
    "random": (lambda: ky.RandomSearch(4), 1000),
    "adam(0.02)": (lambda: ky.adam(0.02), 1000),
    "LBFGSB": (lambda: ky.LBFGSB(), 1000),
    "Evolution": (lambda: ky.Evolution(), 1000),
    'Bayesian("tpe")': (lambda: ky.Bayesian(), 200),
    'Bayesian("gp")': (lambda: ky.Bayesian("gp"), 40),
    "Policy": (lambda: ky.Policy(), 1000),
}


def regret(case: Case, optimiser: Any, trials: int, seed: int) -> float:
    """Part of the start's regret that is left; nan where the case is refused."""
    try:
        optimiser.check(case.problem)
        if optimiser.needs_gradient:
            ky.Pathwise().check(case.problem)
    except errors.UnsupportedError:
        return float("nan")
    found, _ = _search(optimiser, case.problem, jax.random.key(seed), trials)
    return _left(case, found)


def _left(case: Case, u: np.ndarray) -> float:
    space = case.problem.space
    losses = [
        case.exact(space.decode(jnp.asarray(v, float), hard=True))
        for v in (u, np.asarray(space.start))
    ]
    slack = case.problem.objective.constraints(
        space.decode(jnp.asarray(u, float), hard=True)
    )
    if any(float(s) < -1e-3 for s in slack.values()):
        return float("inf")
    return (losses[0] - case.best) / (losses[1] - case.best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="optimisers whose name holds this")
    parser.add_argument("--case", default="", help="cases whose name holds this")
    parser.add_argument("--most", type=int, default=1000, help="trials")
    parser.add_argument("--json", default="")
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    for label, case in cases().items():
        for name, (make, most) in OPTIMISERS.items():
            if chosen.only.lower() not in name.lower() or chosen.case not in label:
                continue
            for trials in case.trials:
                if trials > min(most, chosen.most):
                    continue
                began = time.process_time()
                left = [
                    regret(case, make(), trials, 100 + s) for s in range(chosen.seeds)
                ]
                seconds = (time.process_time() - began) / chosen.seeds
                found[f"{label} | {name} | {trials}"] = left
                print(
                    f"{label:22} {name:17} {trials:5} trials: median "
                    f"{np.median(left):.2e}, quartiles {np.quantile(left, 0.25):.1e} "
                    f"... {np.quantile(left, 0.75):.1e}; {seconds:.2f} CPU s",
                    flush=True,
                )
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
