"""Optuna's samplers behind ask and tell, their studies rebuilt from a history each time.

Nothing of Optuna's storage outlives a question: the history and a seed decide all.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from kythera.optimisers.history import History

GENERATION = "NSGAIISampler:generation"


def tpe(history: History, count: int, seed: int, startup: int) -> np.ndarray:
    """Points of a tree-structured Parzen estimator, shape (count, n).

    Args:
        history: with one column of values.
        count: points wanted.
        seed: of all that is drawn.
        startup: told points below which it would draw at random.
    """
    import optuna

    with _quiet():
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
        )
        return _asked(history, sampler, count)[0]


def nsga2(
    history: History, count: int, seed: int, population: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points of NSGA-II and their generations, shapes (count, n) and (count,).

    Simulated binary crossover; what mutates is drawn anew.

    Args:
        history: with a column of values for each term.
        count: points wanted.
        seed: of all that is drawn.
        population: of a generation.
    """
    import optuna

    with _quiet():
        sampler = optuna.samplers.NSGAIISampler(
            population_size=population,
            crossover=optuna.samplers.nsgaii.SBXCrossover(),
            seed=seed,
        )
        return _asked(history, sampler, count)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's messages about studies that nobody sees."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _asked(history: History, sampler: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    import optuna

    domains = _distributions(history)
    minimise = [optuna.study.StudyDirection.MINIMIZE]
    width = max(1, history.values.shape[1])
    study = optuna.create_study(sampler=sampler, directions=minimise * width)
    study.add_trials(_trials(history, domains))
    found, generations = [], []
    for _ in range(count):
        trial = study.ask(domains)
        found.append(_point(history, trial.params))
        kept = study.get_trials(deepcopy=False)[trial.number]
        generations.append(int(kept.system_attrs.get(GENERATION, 0)))
    return np.stack(found), np.array(generations, int)


def _distributions(history: History) -> dict[str, Any]:
    """A name for each parameter: "00003" of coordinate 3, of a choice its first."""
    from optuna import distributions as domains

    kinds = history.coordinates
    unit = domains.FloatDistribution(0.0, 1.0)
    found: dict[int, Any] = {int(i): unit for i in kinds.real}
    for i in kinds.whole:
        found[int(i)] = domains.IntDistribution(0, len(kinds.values(i)) - 1)
    for where in kinds.choices:
        options = tuple(range(len(where)))
        found[int(where[0])] = domains.CategoricalDistribution(options)
    return {f"{i:05d}": found[i] for i in sorted(found)}


def _params(history: History, u: np.ndarray) -> dict[str, Any]:
    kinds = history.coordinates
    found: dict[str, Any] = {f"{i:05d}": float(u[i]) for i in kinds.real}
    for i in kinds.whole:
        found[f"{i:05d}"] = round(float(u[i]) / float(kinds.grid[i]))
    for where in kinds.choices:
        found[f"{where[0]:05d}"] = int(np.argmax(u[where]))
    return found


def _point(history: History, params: dict[str, Any]) -> np.ndarray:
    kinds = history.coordinates
    u = np.zeros(len(kinds.grid))
    for i in kinds.real:
        u[i] = params[f"{i:05d}"]
    for i in kinds.whole:
        u[i] = kinds.values(i)[params[f"{i:05d}"]]
    for where in kinds.choices:
        u[where[params[f"{where[0]:05d}"]]] = 1.0
    return u


def _trials(history: History, domains: dict[str, Any]) -> list[Any]:
    """What was told as complete or failed trials, what was asked as running ones."""
    from optuna.trial import TrialState, create_trial

    found = []
    for i, u in enumerate(history.us):
        good = bool(history.good[i])
        slacks = np.asarray(history.slack[i]) if good else np.zeros(0)
        found.append(
            create_trial(
                state=TrialState.COMPLETE if good else TrialState.FAIL,
                values=np.asarray(history.values[i]).tolist() if good else None,
                params=_params(history, u),
                distributions=domains,
                constraints={str(j): -float(s) for j, s in enumerate(slacks)},
                system_attrs={GENERATION: int(history.generation[i])},
            )
        )
    for u in history.asked:
        found.append(
            create_trial(
                state=TrialState.RUNNING,
                params=_params(history, u),
                distributions=domains,
            )
        )
    return found
