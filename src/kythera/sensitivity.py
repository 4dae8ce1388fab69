"""Which parameters matter at the start, before anything is optimised."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors, text
from kythera.core.evaluation import AbstractEstimator, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimise import gradient_estimator


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Effect of each parameter on the loss, linearised at the start.

    Args:
        names: of the coordinates.
        units: of the coordinates.
        start: native values, shape (n,).
        ranges: the allowed range of each coordinate as text, in its unit.
        effect: d loss / d u: change of the loss along the whole range of the parameter, if
            it went on as it begins, shape (n,).
        stderr: of the effect, from the scatter of the replicas, shape (n,).
        loss: at the start, mean of the replicas.
        replicas: independent repetitions that gave a gradient.
        events: primaries that were simulated.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    start: np.ndarray
    ranges: tuple[str, ...]
    effect: np.ndarray
    stderr: np.ndarray
    loss: float
    replicas: int
    events: int

    @property
    def order(self) -> np.ndarray:
        """Indices of the coordinates, the largest effect first, shape (n,)."""
        return np.argsort(-np.abs(self.effect), kind="stable")

    def table(self, rows: int = 40) -> str:
        """Parameter, start, range, unit, effect with error; the largest effects first."""
        lines = [
            ("parameter", "start", "range", "unit", "change of loss over the range")
        ]
        for i in self.order[:rows]:
            effect = text.format_measured(float(self.effect[i]), float(self.stderr[i]))
            weak = abs(self.effect[i]) < 2 * self.stderr[i]
            lines.append(
                (
                    self.names[i],
                    f"{float(text.in_unit(self.start[i], self.units[i])):.5g}",
                    self.ranges[i],
                    self.units[i],
                    effect + ("  (not significant)" if weak else ""),
                )
            )
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        shown = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d:<{widths[3]}}  {e}"
            for a, b, c, d, e in lines
        ]
        more = len(self.names) - (len(lines) - 1)
        if more > 0:
            shown.append(f"... and {more:,} more")
        shown.append(
            f"loss {self.loss:.6g} at the start; linearised there; errors from "
            f"{self.replicas} replicas; {self.events:,} events"
        )
        return "\n".join(shown)

    def __str__(self) -> str:
        """The table."""
        return self.table()


def sensitivity(
    problem: Problem,
    estimator: AbstractEstimator | None = None,
    *,
    key: Key,
    replicas: int = 8,
    events: int | None = None,
) -> Sensitivity:
    """Rank the parameters by what they would change, from gradients at the start.

    The gradient with respect to the cube is the derivative times the range. It is measured
    `replicas` times on independent events; the scatter gives the error.

    Args:
        problem: what is to be optimised.
        estimator: an engine with gradients; by default the one that suits the problem.
        key: root of all random numbers.
        replicas: independent repetitions, at least two.
        events: rows of one evaluation; by default the problem's.

    Returns:
        the effects; `print` shows them ranked.

    Raises:
        InputError: fewer than two replicas.
        UnsupportedError: an engine without gradients, or one that cannot work here.
        SimulationError: fewer than two replicas gave a gradient.
    """
    if replicas < 2:
        raise errors.InputError(
            f"`replicas` must be at least 2 to give an error, but is {replicas}. Try 8."
        )
    problem = problem.replace(events=events or problem.events)
    estimator = estimator or gradient_estimator(problem)
    if not estimator.gives_gradient:
        raise errors.UnsupportedError(
            f"A sensitivity needs gradients, but `{type(estimator).__name__}` gives "
            "none. Use `Pathwise`, `ScoreFunction` or `FiniteDifference`."
        )
    estimator.check(problem)
    found = _replicas(problem, estimator, key, replicas)
    good = [f.total for f in found if f.total.gradient is not None and not f.cause]
    if len(good) < 2:
        causes = "; ".join(sorted({f.cause for f in found if f.cause}))
        raise errors.SimulationError(
            f"{len(found) - len(good)} of {replicas} replicas failed at the start: "
            f"{causes}. Mend the simulator or move the start."
        )
    space, gradients = problem.space, np.array([t.gradient for t in good], float)
    return Sensitivity(
        names=space.names,
        units=space.units,
        start=space.values(space.start),
        ranges=_ranges(problem),
        effect=gradients.mean(0),
        stderr=gradients.std(0, ddof=1) / np.sqrt(len(good)),
        loss=float(np.mean([t.value for t in good])),
        replicas=len(good),
        events=sum(f.events for f in found),
    )


def _replicas(
    problem: Problem, estimator: AbstractEstimator, key: Key, replicas: int
) -> list[Evaluation]:
    """The start evaluated so many times, each on events of its own."""
    init, *keys = jax.random.split(key, replicas + 1)
    us = jnp.tile(problem.space.start, (replicas, 1))
    state = estimator.init(problem, key=init)
    return estimator(problem, us, state, key=jnp.stack(keys), map=map)[0]


def _ranges(problem: Problem) -> tuple[str, ...]:
    """The domain of each coordinate in words."""
    space = problem.space
    return tuple(
        domain.describe()
        for domain, where in zip(space.domains, space.groups.values(), strict=True)
        for _ in range(where.stop - where.start)
    )
