"""The bias of a score that is no mean, from scores without one group of events each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera.core import measure
from kythera.core.checks import check_count
from kythera.core.compilation import jit
from kythera.core.evaluation import Measured
from kythera.core.problem import Problem
from kythera.core.types import Array, Key, PyTree, Vector


@dataclasses.dataclass(frozen=True)
class Jackknife:
    """Terms and constraints of one design, with and without their bias.

    Args:
        plain: the score of all events, by name.
        value: without its bias, and the error.
        events: rows that were simulated.
    """

    plain: dict[str, float]
    value: dict[str, Measured]
    events: int

    @property
    def bias(self) -> dict[str, float]:
        """What the scores are too large by, by name."""
        return {name: v - self.value[name].value for name, v in self.plain.items()}

    def __str__(self) -> str:
        """A line for each name."""
        width = max(len(name) for name in self.plain)
        lines = [
            f"{name:<{width}}  {value} (from {self.plain[name]:.6g}, whose bias is "
            f"{self.bias[name]:.2g})"
            for name, value in self.value.items()
        ]
        return "\n".join([*lines, f"{self.events:,} events"])


def jackknife(
    problem: Problem, design: Any = None, *, key: Key, groups: int = 50
) -> Jackknife:
    """Measure a design without the bias that a non-linear score of a finite sample has.

    With T of all events and T_g of all but group g of G, the bias is (G - 1) (mean T_g - T), and
    the variance (G - 1) / G sum (T_g - mean T_g)^2 (M. H. Quenouille, Biometrika 43 (1956) 353;
    J. W. Tukey, Ann. Math. Stat. 29 (1958) 614). The bias is that of one evaluation with the
    problem's `events`; what falls slower than 1/events, as at a kink of the score, stays.

    Args:
        problem: whose score, of the detector as searched.
        design: where; by default the start.
        key: root of all random numbers.
        groups: G, of events in equal parts, into which their number is rounded up.

    Returns:
        scores without their biases; `print` shows them.

    Raises:
        InputError: fewer than two groups.
        SpaceError: a design outside of the bounds.
        SimulationError: a stage outside JAX failed.
    """
    check_count("groups", groups, "Give 50", least=2)
    space = problem.space if design is None else problem.space.restart(design)
    part = dataclasses.replace(problem, events=-(-problem.events // groups))
    u, keys = jnp.asarray(space.start, float), jax.random.split(key, groups)
    find = _host_mean if problem.pipeline.is_host else _mean
    means = [measure.simulated(find, part, u, k) for k in keys]
    rows = jax.tree.map(lambda *v: np.stack(v), *means)
    whole = jax.tree.map(lambda v: v.mean(0), rows)
    without = jax.tree.map(lambda m, v: m + (m - v) / (groups - 1), whole, rows)
    plain = {name: float(v) for name, v in _scores(problem, u, whole).items()}
    left = [
        _scores(problem, u, jax.tree.map(lambda v, g=g: v[g], without))
        for g in range(groups)
    ]
    value = {}
    for name, score in plain.items():
        # Pseudovalues, whose mean is without bias.
        own = groups * score - (groups - 1) * np.array([float(v[name]) for v in left])
        stderr = float(own.std(ddof=1) / np.sqrt(groups))
        value[name] = Measured(float(own.mean()), stderr)
    return Jackknife(plain, value, groups * int(np.prod(part.chunks)))


@jit
def _mean(problem: Problem, u: Vector, key: Key) -> PyTree:
    """Mean tally of the events of a problem."""
    keys = measure.chunk_keys(key, 0, problem.chunks[0])
    return measure.add_tallies(problem, u, keys)


def _host_mean(problem: Problem, u: Vector, key: Key) -> PyTree:
    rows = measure.host_rows(problem, u, key)
    return jax.tree.map(lambda v: jnp.mean(v, 0), rows)


@jit
def _scores(problem: Problem, u: Vector, mean: PyTree) -> dict[str, Array]:
    """Terms and constraints by name."""
    score = problem.score(problem.design(u), mean)
    return {**score.loss, **score.slack}
