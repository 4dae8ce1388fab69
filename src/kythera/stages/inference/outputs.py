"""What a problem simulates, as means with errors that pass on to anything derived."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from kythera.core.compilation import jit
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.physics.statistics.observables import observables


def outputs(
    problem: Problem,
    rows: Callable[[Any, Any], Any] | None = None,
    *,
    design: Any = None,
    events: int | None = None,
    key: Key,
    ensemble: str = "events",
    allow_constant: bool = False,
) -> Any:
    """Means over events of any quantities of a problem, at one design.

    `derive(lambda tally: problem.score(design, tally).loss, outputs(problem, key=key))` is
    the loss with the error of an evaluation; `derive` makes anything else of them, and
    `least_squares` fits to them. Events are independent and stand in one chain, so that
    `estimate(S=0)` is exact; where a simulator walks along a Markov chain, `estimate()`
    finds how far it remembers.

    Args:
        problem: what is simulated, in its chunks; an evaluation with this key has the same
            events.
        rows: (design, trace) -> arrays of shape (event, ...), or a tree of them; by default
            the objective's tally, without derivatives in nuisance parameters.
        design: by default the problem's start.
        events: rows; by default those of the problem.
        key: of the events.
        ensemble: a name; results at other designs with other keys need another one, and
            with the same key, so that they share their events, the same.
        allow_constant: accept quantities that do not vary.

    Returns:
        the tree of `rows`, each array as observables of shape (...).

    Raises:
        InputError: as of `observables`.
    """
    if events is not None:
        problem = problem.replace(events=events)
    if design is None:
        design = problem.space.template
    chosen = problem.objective.tally if rows is None else rows
    count, size = problem.chunks

    def chunk(design: Any, key: Any) -> Any:
        return chosen(design, problem.pipeline(design, size, key=key))

    simulate = chunk if problem.pipeline.is_host else jit(chunk)
    parts = [
        jax.device_get(simulate(design, jax.random.fold_in(key, i)))
        for i in range(count)
    ]
    return jax.tree.map(
        lambda *v: observables(
            np.concatenate(v), ensemble, allow_constant=allow_constant
        ),
        *parts,
    )
