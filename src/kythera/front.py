"""A front of designs measured anew: every term of every design, with its error."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors, text
from kythera.core.evaluation import Evaluation, Map
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.estimators.direct import evaluate_all
from kythera.optimisers import pareto
from kythera.solution import Solution

DRAWS = 400  # of the measured values, for the error of the hypervolume


@dataclasses.dataclass(frozen=True)
class Front:
    """Designs that no other one beats in all terms, as measured on fresh events.

    All designs saw the same events.

    Args:
        problem: as it was measured.
        terms: their names.
        us: points of the cube, shape (m, n), by the first term.
        values: of the terms, shape (m, terms).
        covariance: of the terms of each design, shape (m, terms, terms).
        slack: constraints of each design by name, each of shape (m,).
        beaten: whether another one that keeps all constraints is no worse in any term and
            better in one, as measured: designs that were on the front of the search by
            luck, shape (m,).
        events: primaries that this measurement simulated.
    """

    problem: Problem
    terms: tuple[str, ...]
    us: np.ndarray
    values: np.ndarray
    covariance: np.ndarray
    slack: dict[str, np.ndarray]
    beaten: np.ndarray
    events: int

    @property
    def stderr(self) -> np.ndarray:
        """One standard deviation of each value, shape (m, terms)."""
        diagonal = np.diagonal(self.covariance, axis1=1, axis2=2)
        return np.sqrt(np.maximum(diagonal, 0))

    @property
    def designs(self) -> list[Any]:
        """The designs, as they would be built."""
        space = self.problem.space
        return [space.decode(jnp.asarray(u, float), hard=True) for u in self.us]

    @property
    def breaks(self) -> np.ndarray:
        """Whether a constraint is broken, as measured, shape (m,)."""
        return _broken(self.slack, len(self.us))

    def hypervolume(self, reference: dict[str, float]) -> tuple[float, float]:
        """Volume between the front and the worst values that count, with its error.

        Designs that break constraints do not count.

        The error is the spread over draws of the measured values from their errors; noise
        enlarges the volume a little, as the largest of several is enlarged.

        Args:
            reference: name of each term -> the worst value that counts.

        Raises:
            InputError: the names are not those of the terms.
        """
        if set(reference) != set(self.terms):
            raise errors.InputError(
                f"The reference must name the terms {list(self.terms)}, but names "
                f"{list(reference)}. Name each of them."
            )
        worst = np.array([float(reference[name]) for name in self.terms])
        values = self.values[~self.breaks]
        value = pareto.hypervolume(values, worst)
        known = np.nan_to_num(self.covariance[~self.breaks])
        if not known.any():
            return value, 0.0
        rng = np.random.default_rng(0)
        draws = [
            pareto.hypervolume(
                np.stack(
                    [
                        rng.multivariate_normal(v, c)
                        for v, c in zip(values, known, strict=True)
                    ]
                ),
                worst,
            )
            for _ in range(DRAWS)
        ]
        return value, float(np.std(draws))

    def table(self, rows: int = 40) -> str:
        """The terms of each design with their errors; at most `rows` of them."""
        lines = [["", *self.terms, ""]]
        for i in range(min(rows, len(self.us))):
            shown = [
                text.format_measured(v, s)
                for v, s in zip(self.values[i], self.stderr[i], strict=True)
            ]
            broken = [f"breaks '{n}'" for n, v in self.slack.items() if v[i] < 0]
            beaten = ["beaten"] * bool(self.beaten[i])
            lines.append([str(i), *shown, ", ".join(broken + beaten)])
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        shown = "\n".join(
            "  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths)).rstrip()
            for line in lines
        )
        more = len(self.us) - rows
        return shown + (f"\n... and {more:,} more" if more > 0 else "")

    def __str__(self) -> str:
        """The table."""
        return self.table()


def _broken(slack: dict[str, np.ndarray], count: int) -> np.ndarray:
    return np.any([np.zeros(count, bool), *(v < 0 for v in slack.values())], axis=0)


def front(
    solution: Solution,
    *,
    key: Key,
    terms: tuple[str, ...] | None = None,
    events: int | None = None,
    map: Map = map,
) -> Front:
    """Measure the designs that an optimiser recommends, all on the same fresh events.

    Args:
        solution: of `MultiObjective`; of another optimiser it has a single design.
        key: of the events.
        terms: which to show; by default those of the optimiser, or all.
        events: rows; by default eight times those of one evaluation.
        map: executor.

    Returns:
        the front, as built where the search saw a softened detector.

    Raises:
        InputError: no such term.
        SimulationError: a design could not be measured.
    """
    problem = solution.problem
    problem = problem.hard() if problem.softened else problem
    problem = problem.replace(events=events or 8 * problem.events)
    us = np.asarray(solution.optimiser.recommend(solution.state[0]), float)
    keys = jax.vmap(lambda _: key)(jnp.arange(len(us)))
    found: list[Evaluation] = evaluate_all(problem, "value", us, keys, map)
    for i, evaluation in enumerate(found):
        if evaluation.cause:
            raise errors.SimulationError(
                f"Design {i} of the front could not be measured: {evaluation.cause}. "
                "Mend the simulator, or leave that design out."
            )
    known = tuple(found[0].terms)
    names = terms or getattr(solution.optimiser, "terms", None) or known
    for name in names:
        if name not in known:
            raise errors.InputError(
                f"The loss has no term {name!r}. {errors.nearest(name, known)}"
            )
    places = [known.index(name) for name in names]
    values = np.array([[e.terms[name].value for name in names] for e in found])
    covariance = np.stack([e.covariance[np.ix_(places, places)] for e in found])
    order = np.argsort(values[:, 0], kind="stable")
    slack = {
        n: np.array([found[i].slack[n].value for i in order]) for n in found[0].slack
    }
    rivals = np.where(_broken(slack, len(us))[:, None], np.inf, values[order])
    better = pareto.dominated(values[order], rivals)
    return Front(
        problem,
        tuple(names),
        us[order],
        values[order],
        covariance[order],
        slack,
        better,
        sum(e.events for e in found),
    )
