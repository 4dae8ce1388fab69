"""Checks of objectives: functions of additive tallies, with honest errors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.compilation import jit
from kythera.core.measure import host_rows, measure, measure_rows
from kythera.core.problem import Problem
from kythera.core.types import Array, Key
from kythera.testing.law import arrays, require, require_equal


def check_objective(
    problem: Problem,
    *,
    key: Key,
    u: np.ndarray | None = None,
    resamples: int = 400,
    rtol: float = 1e-3,
    slack: float = 0.02,
) -> None:
    """The law of objectives, at one design.

    Rows belong to events: the tally of a part of the events is that part of the tally.
    Rows add up: events in two chunks give the value, error and terms of all at once. The
    standard error (from influences) is that of the bootstrap within the bootstrap's own
    error, four times 1 / sqrt(2 resamples), and `slack`.

    Args:
        problem: with the objective, some thousand events of which each may be a row.
        key: of the events.
        u: point of the cube; by default the start.
        resamples: of the bootstrap.
        rtol: by how much the chunked and the whole may differ by rounding.
        slack: further relative difference of the errors that is allowed, O(1 / events).

    Raises:
        AssertionError: with the law and the values.
    """
    name = f"`{type(problem.objective).__name__}`"
    point = jnp.asarray(problem.space.start if u is None else u, float)
    problem = problem.replace(chunk=-(-problem.events // 2))
    _check_row_wise(name, problem, point, key)
    if problem.pipeline.is_host:
        rows = host_rows(problem, point, key)
    else:
        rows = jit(host_rows)(problem, point, key)
    if not jax.tree.leaves(rows):
        return  # nothing depends on events
    whole = _whole(problem, point, rows)
    law = f"{name} must give the same in chunks as at once"
    if not problem.pipeline.is_host:
        chunked = jit(measure)(problem, point, key)
        require_equal(
            law, (whole.loss, whole.slack), (chunked.loss, chunked.slack), rtol
        )
        require_equal(law, whole.covariance, chunked.covariance, 10 * rtol)
    _check_order(law, problem, point, rows, whole, rtol)
    _check_bootstrap(name, problem, point, rows, whole, key, resamples, slack)


@jit
def _whole(problem: Problem, point: Array, rows: Any) -> Any:
    return measure_rows(problem, point, rows)


def _check_row_wise(name: str, problem: Problem, point: Array, key: Key) -> None:
    design = problem.design(point)
    run = problem.pipeline if problem.pipeline.is_host else jit(problem.pipeline)
    trace = run(design, 8, key=key)
    part = jax.tree.map(lambda v: v[2:5] if eqx.is_array(v) else v, trace)
    rows = problem.objective.tally(design, trace)
    for path, value in arrays(rows):
        require(
            value.ndim >= 1 and value.shape[0] == 8,
            f"The tally of {name} must have one row for each event",
            f"{path} has shape {value.shape} for 8 events",
        )
    require_equal(
        f"The tally of {name} must be made event by event",
        jax.tree.map(lambda v: v[2:5], rows),
        problem.objective.tally(design, part),
        1e-5,
    )


def _check_order(
    law: str, problem: Problem, point: Array, rows: Any, whole: Any, rtol: float
) -> None:
    reverse = jax.tree.map(lambda v: v[::-1], rows)
    again = _whole(problem, point, reverse)
    require_equal(law, (whole.loss, whole.slack), (again.loss, again.slack), rtol)


def _check_bootstrap(
    name: str,
    problem: Problem,
    point: Array,
    rows: Any,
    whole: Any,
    key: Key,
    resamples: int,
    slack: float,
) -> None:
    events = jax.tree.leaves(rows)[0].shape[0]
    rng = np.random.default_rng(int(jax.random.bits(key, dtype=jnp.uint32)))
    counts = rng.multinomial(events, np.full(events, 1 / events), resamples)

    @jit
    def outputs(counts: Array, rows: Any) -> Array:
        def output(mean: Any) -> Array:
            score = problem.score(problem.design(point), mean)
            named = [*sorted(score.loss.items()), *sorted(score.slack.items())]
            return jnp.stack([value for _, value in named])

        means = jax.tree.map(lambda v: jnp.tensordot(counts, v, 1) / events, rows)
        return jax.vmap(output)(means)

    drawn = np.asarray(outputs(jnp.asarray(counts, float), rows))
    boot = drawn.std(0, ddof=1)
    quoted = np.sqrt(np.diag(np.asarray(whole.covariance)))
    allowed = 4 / np.sqrt(2 * (resamples - 1)) + slack
    rounding = 1e-6 * np.max(np.abs(drawn), 0)  # of what depends on no event, too
    labels = [*whole.loss, *whole.slack]
    for label, b, q, r in zip(labels, boot, quoted, rounding, strict=True):
        require(
            abs(q - b) <= allowed * b + r,
            f"The standard error of {name} must be the bootstrap's within "
            f"{100 * allowed:.0f}%",
            f"that of '{label}' is {q:.4g} and the bootstrap's {b:.4g}",
        )
