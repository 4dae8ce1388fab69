"""Designs that a user wants to be looked at, as points of the cube."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kythera import errors
from kythera.core.problem import Problem
from kythera.core.space import _get, _leaf, leaf_paths


def points_of(problem: Problem, designs: Sequence[Any]) -> np.ndarray:
    """The problem's start, then the designs, shape (1 + designs, n).

    Raises:
        SpaceError: a design outside the bounds, or with another value of what is frozen.
    """
    space = problem.space
    for design in designs:
        _check_frozen(space.template, space.paths, design)
    spaces = [space, *(space.restart(design) for design in designs)]
    return np.stack([np.asarray(s.start) for s in spaces])


def _check_frozen(template: Any, free: Sequence[str], design: Any) -> None:
    """Refuse a design that could not be reached: only what is free would be taken of it."""
    for path in leaf_paths(template):
        ours, theirs = np.asarray(_get(template, path)), np.asarray(_leaf(design, path))
        same = ours.shape == theirs.shape and np.allclose(
            ours, theirs, 1e-6, 0, equal_nan=True
        )
        if path not in free and not same:
            raise errors.SpaceError(
                "An enqueued design must have the template's value of what is frozen, "
                f"but '{path}' is {theirs}, not {ours}. Free it, or start a problem "
                "from that design: `problem.space.restart(design)`."
            )
