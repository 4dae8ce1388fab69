"""Checks of design spaces and of whole instruments."""

import json
import os
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.evaluation import AbstractEstimator, AbstractOptimiser
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, Real, Space, _get
from kythera.core.types import Key
from kythera.optimise import optimise
from kythera.testing.law import require, require_equal
from kythera.testing.stages import check_source, check_stage


def check_space(space: Space, *, key: Key, points: int = 8, rtol: float = 1e-4) -> None:
    """The law of spaces.

    decode(encode(design)) = design; decoded values keep their bounds, hard ones are whole
    numbers and one-hot choices; names are unique; frozen leaves are untouched. (What
    `project` moves is exempt from the round trip and from the bounds.)

    Args:
        space: what is checked.
        key: of random points.
        points: how many of them.
        rtol: for the round trip in single precision.

    Raises:
        AssertionError: with the law and the values.
    """
    names = space.names
    require(
        len(set(names)) == len(names) == space.size,
        "Each coordinate must have a name of its own",
        f"{len(set(names))} different names stand for {space.size} coordinates",
    )
    us = np.asarray(jax.random.uniform(key, (points, space.size)))
    us = np.concatenate([us, np.zeros((1, space.size)), np.ones((1, space.size))])
    for u in us:
        soft = space.decode(jnp.asarray(u, float))
        if space.project is None:
            again = space.decode(space.encode(soft))
            require_equal(
                "decode(encode(design)) must be the design", soft, again, rtol
            )
            _check_bounds(space, soft, hard=False)
            _check_bounds(
                space, space.decode(jnp.asarray(u, float), hard=True), hard=True
            )
        _check_frozen(space, soft)


def _check_bounds(space: Space, design: Any, *, hard: bool) -> None:
    for path, domain in space.free.items():
        value = np.asarray(_get(design, path), float)
        law = f"'{path}' must stay in its domain, {domain.describe()}"
        if isinstance(domain, Real):
            low, up = np.asarray(domain.lower, float), np.asarray(domain.upper, float)
            slop = 1e-5 * np.maximum(np.abs(low), np.abs(up))
            inside = np.all((value >= low - slop) & (value <= up + slop))
        elif isinstance(domain, Integer):
            inside = np.all((value >= domain.lower) & (value <= domain.upper))
            inside &= not hard or np.all(value == np.round(value))
        elif isinstance(domain, Choice):
            inside = np.all(value >= 0) and np.allclose(value.sum(-1), 1, atol=1e-5)
            inside &= not hard or np.all(np.isin(value, (0, 1)))
        else:
            continue
        require(inside, law, f"it is {value.tolist()}")


def _check_frozen(space: Space, design: Any) -> None:
    kept = jax.tree.map(lambda v: v, design)
    for path in space.paths:
        kept = _with(kept, path, _get(space.template, path))
    require_equal("Frozen leaves must be untouched", space.template, kept)


def _with(tree: Any, path: str, leaf: Any) -> Any:
    return eqx.tree_at(lambda t: _get(t, path), tree, leaf)


def check_instrument(
    problem: Problem,
    *,
    key: Key,
    optimiser: AbstractOptimiser,
    factor: float,
    estimator: AbstractEstimator | None = None,
    max_events: float | None = None,
    max_trials: int | None = None,
    max_seconds: float = 30.0,
    report_events: int | None = None,
    reference: Path | None = None,
) -> None:
    """The law of instruments.

    It has a name, a space that keeps its law, a source and stages that keep theirs, a
    drawing that can be stored as JSON, and an answer to compare with; and from its start
    it is improved by the stated factor, significantly, in the stated time. What counts is
    the search with all that it compiles, to the end of its last trial; not the checks
    before it, nor the measurement of start and best after it.

    Args:
        problem: the instrument's default problem.
        key: of all of it.
        optimiser: with which it is improved.
        factor: loss at the start / loss at the end, at least, as built.
        estimator: by default what suits the problem.
        max_events: budget of the search; this one or the next must be given.
        max_trials: likewise.
        max_seconds: that the search may take on two cores: in wall time, or in half of its
            CPU seconds (the machine may be shared) and four times as long by the wall.
        report_events: rows of that measurement; by default those of `optimise`.
        reference: the file that holds the answer: source, table, tolerance.

    Raises:
        AssertionError: with the law and the values.
    """
    require(problem.name != "problem", "An instrument must have a name", "it has none")
    check_space(problem.space, key=key, points=2)
    design = problem.design(jnp.asarray(problem.space.start))
    pipeline = problem.pipeline
    check_source(pipeline.source, key=key, events=4)
    record = pipeline.source(4, key=key)
    for stage in (pipeline.simulator, pipeline.reconstruction, pipeline.inference):
        check_stage(stage, design, record, key=key)
        record = stage(design, record, key=key)
    if problem.draw is not None:
        figures = problem.draw(problem.hard(), {"start": design}, key)
        require(figures, "A drawing must hold figures", "it holds none")
        json.dumps(figures)
    if reference is not None:
        text = reference.read_text(encoding="utf-8") if reference.is_file() else ""
        require(
            len(text) > 200 and "|" in text,
            "An instrument must have an answer to compare with: source and table",
            f"{reference.name} has {len(text)} characters",
        )
    ends = [_clock()]
    solution = optimise(
        problem,
        optimiser,
        estimator,
        key=key,
        max_events=max_events,
        max_trials=max_trials,
        callbacks=[lambda trial: ends.append(_clock())],
        report_events=report_events,
    )
    wall, cpu = (end - begin for begin, end in zip(ends[0], ends[-1], strict=True))
    seconds = min(wall, max(cpu / 2, wall / 4))
    require(
        seconds <= max_seconds,
        f"The search of '{problem.name}' must end in {max_seconds:.3g} s",
        f"{len(solution.trials)} trials took {seconds:.3g} s; {solution.reason}",
    )
    report = solution.report
    reached = report.start.value / report.best.value
    require(
        reached >= factor and report.gain.value > 3 * report.gain.stderr,
        f"'{problem.name}' must be improved by a factor of {factor:.3g} in "
        f"{max_seconds:.0f} s",
        f"after {seconds:.1f} s the loss went from {report.start} to {report.best}",
    )


def _clock() -> tuple[float, float]:
    """Wall time, and CPU seconds of this process and its children."""
    return time.perf_counter(), sum(os.times()[:4])
