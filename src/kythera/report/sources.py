"""Whatever a run can be given as, as a result."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kythera import errors
from kythera.runs.result import Result, load


def as_result(what: Any, *, drawings: bool = False) -> Result:
    """A solution, a study or a folder as a result.

    Args:
        what: a `Solution`, a `Result`, the folder of a saved one, or a `Study` (anything
            with a method `result`).
        drawings: whether a solution's instrument is to be drawn, which may simulate.

    Raises:
        StoreError: the result cannot be read.
        InputError: it is none of these.
    """
    if isinstance(what, Result):
        return what
    if isinstance(what, str | Path):
        return load(what)
    if callable(getattr(what, "result", None)):
        return what.result()
    if hasattr(what, "u_best") and hasattr(what, "problem"):
        from kythera.runs.describe import describe

        if not drawings:
            what = dataclasses.replace(what, problem=what.problem.replace(draw=None))
        return describe(what)
    raise errors.InputError(
        "What is drawn or reported must be a solution, a result, its folder or a study, "
        f"but is of type {type(what).__name__}. Give what `ky.optimise` returned."
    )


def gradients(what: Any) -> np.ndarray | None:
    """d total / d u of each trial, nan where it is not known, shape (trials, n).

    A solution and a study know them; a saved result does not, and gives None.

    Args:
        what: as for `as_result`.
    """
    trials = getattr(what, "trials", None)
    trials = trials() if callable(trials) else trials
    if not isinstance(trials, list):
        return None
    known = [trial.evaluation.total.gradient for trial in trials]
    if all(gradient is None for gradient in known):
        return None
    nothing = np.full(len(trials[0].u), np.nan)
    return np.array([nothing if g is None else np.asarray(g, float) for g in known])
