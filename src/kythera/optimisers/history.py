"""All that was asked and told: the state of optimisers that are rebuilt from it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kythera import errors
from kythera.core.evaluation import Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints
from kythera.optimisers.coordinates import Coordinates
from kythera.optimisers.random_search import seed_of, sobol


class History(NamedTuple):
    """Designs in the order of their tells, and those that were asked for since.

    Args:
        coordinates: what each coordinate of the cube is.
        u0: the start, the first point asked for, shape (n,).
        seed: of the first points.
        us: points that were told, shape (N, n).
        values: what is minimised, shape (N, terms); nan where it failed.
        stderr: of the values, nan where unknown.
        slack: constraints, shape (N, constraints).
        slack_stderr: of the slacks.
        totals: the weighted loss, shape (N,); infinite where it failed.
        generation: that a point was asked in, shape (N,).
        asked: questions that were not answered yet, shape (q, n).
        asked_generation: likewise, shape (q,).
    """

    coordinates: Coordinates
    u0: np.ndarray
    seed: int
    us: np.ndarray
    values: np.ndarray
    stderr: np.ndarray
    slack: np.ndarray
    slack_stderr: np.ndarray
    totals: np.ndarray
    generation: np.ndarray
    asked: np.ndarray
    asked_generation: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Whether a point gave a finite loss, shape (N,)."""
        return np.isfinite(self.totals)

    @property
    def violation(self) -> np.ndarray:
        """Sum of the amounts by which constraints are broken, shape (N,)."""
        return np.nansum(np.maximum(0.0, -np.asarray(self.slack)), -1)

    @property
    def orders(self) -> np.ndarray:
        """Rows as `constraints.order` gives them, shape (N, 3)."""
        bad = ~self.good
        violation = np.where(bad, np.inf, self.violation)
        return np.stack([bad.astype(float), violation, self.totals], -1)


def fresh(problem: Problem, u0: np.ndarray, key: Key) -> History:
    """Nothing asked, nothing told."""
    kinds = Coordinates.of(problem.space)
    start = kinds.hard(np.asarray(u0, float))
    points, none = np.zeros((0, start.size)), np.zeros((0, 0))
    numbers = np.zeros(0, int)
    return History(
        kinds, start, seed_of(key), points, none, none, none, none, np.zeros(0),
        numbers, points, numbers,
    )  # fmt: skip


def asking(history: History, us: np.ndarray, generation: np.ndarray) -> History:
    """With further questions."""
    return history._replace(
        asked=np.concatenate([history.asked, us]),
        asked_generation=np.concatenate([history.asked_generation, generation]),
    )


def first_points(history: History, count: int) -> np.ndarray:
    """The next of the start and of the Sobol points behind it, shape (count, n)."""
    done = len(history.us) + len(history.asked)
    points = sobol(history.u0.size, max(0, done - 1), count - (done == 0), history.seed)
    first = [] if done else [history.u0[None]]
    return np.concatenate([*first, history.coordinates.hard(points)])


def told(
    history: History,
    us: np.ndarray,
    evaluations: Sequence[Evaluation],
    terms: Sequence[str] | None,
) -> History:
    """With the answers to some questions.

    Args:
        history: before.
        us: points, shape (q, n).
        evaluations: what was learnt there.
        terms: which are minimised; None for the weighted total.

    Raises:
        InputError: there is no such term.
    """
    asked, tags = np.asarray(history.asked), np.asarray(history.asked_generation)
    generation = []
    for u in us:
        same = np.flatnonzero(np.all(asked == u, axis=1))[:1]
        generation.append(int(tags[same[0]]) if len(same) else 0)
        asked, tags = np.delete(asked, same, axis=0), np.delete(tags, same)
    rows = [_row(e, terms) for e in evaluations]
    totals = [e.total.value if constraints.is_good(e) else np.inf for e in evaluations]
    return history._replace(
        us=np.concatenate([history.us, np.asarray(us, float)]),
        values=_joined(history.values, [row[0] for row in rows]),
        stderr=_joined(history.stderr, [row[1] for row in rows]),
        slack=_joined(history.slack, [row[2] for row in rows]),
        slack_stderr=_joined(history.slack_stderr, [row[3] for row in rows]),
        totals=np.concatenate([history.totals, totals]),
        generation=np.concatenate([history.generation, np.array(generation, int)]),
        asked=asked,
        asked_generation=tags,
    )


def _row(evaluation: Evaluation, terms: Sequence[str] | None) -> tuple[list, ...]:
    """Values, their errors, slacks, their errors; empty lists where it failed."""
    if not constraints.is_good(evaluation):
        return [], [], [], []
    for name in terms or ():
        if name not in evaluation.terms:
            raise errors.InputError(
                f"The loss has no term {name!r}. "
                f"{errors.nearest(name, evaluation.terms)}"
            )
    wanted = [evaluation.terms[t] for t in terms] if terms else [evaluation.total]
    slacks = list(evaluation.slack.values())
    return (
        [m.value for m in wanted],
        [m.stderr for m in wanted],
        [m.value for m in slacks],
        [m.stderr for m in slacks],
    )


def _joined(table: np.ndarray, rows: list[list[float]]) -> np.ndarray:
    """More rows below a table; nan in those that are empty."""
    width = max([np.shape(table)[1], *map(len, rows)])
    old = np.full((len(table), width), np.nan)
    if np.shape(table)[1]:
        old = np.asarray(table, float)
    new = [row if len(row) == width else [np.nan] * width for row in rows]
    return np.concatenate([old, np.array(new, float).reshape(len(rows), width)])
