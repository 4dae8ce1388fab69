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


def sketch(what: Any, number: int) -> dict[str, dict[str, Any]]:
    """The instrument as it was in one trial, figures by name.

    Args:
        what: a solution, whose problem has a `sketch`, or a study, which keeps drawings.
        number: of the trial.

    Raises:
        InputError: there is no such trial, or nothing that could draw it.
    """
    if callable(getattr(what, "drawing", None)):
        return what.drawing(number)
    draw = getattr(getattr(what, "problem", None), "sketch", None)
    if draw is None:
        raise errors.InputError(
            "A trial can be drawn of a solution whose problem has a `sketch`, or of a "
            f"study, but not of this {type(what).__name__}. Draw start and best instead."
        )
    if not 0 <= number < len(what.trials):
        raise errors.InputError(
            f"There is no trial {number}: the search has {len(what.trials)}, from 0 on."
        )
    return draw(what.problem.space.decode(what.trials[number].u, hard=True))
