"""Designs that stay good when they are not built exactly as they were drawn."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.objective import AbstractObjective, Score
from kythera.core.pipeline import Pipeline, Trace
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, _array, _get, _leaf
from kythera.core.stage import AbstractPathwiseSimulator, AbstractSimulator
from kythera.core.types import Array, Design, Key, Scalar
from kythera.stages.simulators.host import Rows

SETS = 4  # of builds, of which each gives a quantile: for its error


def Toleranced(
    problem: Problem,
    tolerances: Mapping[str, Any],
    *,
    builds: int = 16,
    quantile: float | None = None,
    events: int | None = None,
) -> Problem:
    """The same problem, of which the loss is that of instruments as they will be built.

    Each evaluation measures `builds` instruments, of which the leaves named in
    `tolerances` are moved at random, and takes the mean of their losses: for small
    tolerances the loss plus half the trace of its Hessian times their covariance, so that
    narrow optima lose against broad ones. Engines see a problem like any other. Its
    gradients are pathwise where those of the problem are; its densities are lost
    (`ScoreFunction`).

    Each build has events of its own, so that the quoted error knows of both. With few events
    in a build, a loss that is no mean over events is biased as 1 / events. Constraints on
    results are averaged likewise; those that a design alone decides stay those of the
    design as drawn.

    Args:
        problem: what is optimised.
        tolerances: path of a leaf, free or frozen -> standard deviation of its error, in
            native units, a number or an array that broadcasts to it; every entry moves
            on its own, normally distributed. A moved design may leave the bounds.
        builds: instruments in one evaluation.
        quantile: instead of the mean, that quantile of each term over the builds, 0.9 for
            the loss that nine of ten keep below (of constraints the opposite one). An
            evaluation then has four such sets of builds, which give its error.
        events: rows for each build; by default as many as keep the price of an evaluation
            with the mean, but two at least.

    Raises:
        SpaceError: an unknown leaf, or one that holds a choice or a whole number.
        InputError: a negative or infinite tolerance, no builds, a quantile outside (0, 1).
        UnsupportedError: an objective with nuisance parameters.
    """
    _check(problem, tolerances, builds, quantile)
    rows = int(events or max(2, problem.events // builds))
    known = {path: jnp.asarray(v, float) for path, v in tolerances.items()}

    def built(inner: Problem) -> Pipeline:
        bare = inner.replace(
            events=rows, hard_pipeline=None, hard_objective=None, draw=None, sketch=None
        )
        smooth = isinstance(inner.pipeline.simulator, AbstractPathwiseSimulator)
        kind = _SmoothBuilds if smooth else _Builds
        each = rows * (builds if quantile else 1)
        source = Rows(each * inner.pipeline.source.primaries)
        return Pipeline(source, kind(bare, known, builds, quantile))

    hard = problem.hard() if problem.hard_pipeline or problem.hard_objective else None
    draw = problem.draw
    return problem.replace(
        pipeline=built(problem),
        objective=_AsBuilt(problem.objective),
        hard_pipeline=built(hard) if hard else None,
        hard_objective=_AsBuilt(hard.objective) if hard else None,
        events=SETS if quantile else builds,
        chunk=None,
        draw=draw and (lambda _, designs, key: draw(problem, designs, key)),
        name=f"{problem.name}, with tolerances",
    )


def _check(
    problem: Problem, tolerances: Mapping[str, Any], builds: int, quantile: float | None
) -> None:
    """Refuse what cannot be built."""
    if not tolerances:
        raise errors.InputError(
            "Tolerances name at least one leaf of the design, but none was given. "
            'Write {"z": 0.1 * mm}.'
        )
    if int(builds) != builds or builds < 2:
        raise errors.InputError(
            f"`builds` must be a whole number >= 2, but is {builds}. Try 16."
        )
    if quantile is not None and not 0 < quantile < 1:
        raise errors.InputError(
            f"`quantile` must be in (0, 1), but is {quantile}. Try 0.9."
        )
    if problem.objective.nuisances():
        raise errors.UnsupportedError(
            "`Toleranced` cannot differentiate with respect to nuisance parameters, but "
            f"the objective has {list(problem.objective.nuisances())}. Use an objective "
            "without them, or make them tolerances."
        )
    for path, value in tolerances.items():
        leaf = _array(path, _leaf(problem.space.template, path))
        if isinstance(problem.space.free.get(path), Choice | Integer):
            raise errors.SpaceError(
                f"'{path}' holds whole numbers or a choice, which have no tolerance. "
                "Leave it out."
            )
        sigma = np.asarray(value, float)
        fits = _broadcasts(sigma.shape, leaf.shape)
        if not (fits and np.all(np.isfinite(sigma)) and np.all(sigma >= 0)):
            raise errors.InputError(
                f"The tolerance of '{path}' must be finite, >= 0 and broadcast to the "
                f"shape {leaf.shape}, but is {sigma.tolist()}. Give one number."
            )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


class _Builds(AbstractSimulator):
    """Instruments as they are built: each row is one of them, or a set of them.

    Args:
        problem: what one of them measures, and how it is judged.
        tolerances: path -> standard deviation.
        builds: in a set.
        quantile: of a set; without it a row is one build.
    """

    problem: Problem
    tolerances: dict[str, Array]
    builds: int = eqx.field(static=True)
    quantile: float | None = eqx.field(static=True)

    def __call__(self, design: Any, x: Array, *, key: Key) -> dict[str, Any]:
        """Terms and slacks of each row, shape (event,) each."""
        sets = self.builds if self.quantile else 1
        keys = jax.random.split(key, x.shape[0] * sets)
        if self.problem.pipeline.is_host:
            found = [self._one(design, k) for k in keys]
            rows = jax.tree.map(lambda *v: jnp.stack(v), *found)
        else:
            rows = jax.vmap(lambda k: self._one(design, k))(keys)
        if self.quantile is None:
            return rows
        q = self.quantile

        def over(named: dict[str, Array], part: float) -> dict[str, Array]:
            return {
                name: jnp.quantile(v.reshape(x.shape[0], sets), part, axis=1)
                for name, v in named.items()
            }

        return {"loss": over(rows["loss"], q), "slack": over(rows["slack"], 1 - q)}

    def _one(self, design: Any, key: Key) -> dict[str, dict[str, Scalar]]:
        """Terms and slacks of one instrument."""
        errors_, events = jax.random.split(key)
        moved = self._moved(design, errors_)
        trace = self.problem.pipeline(moved, self.problem.events, key=events)
        rows = self.problem.objective.tally(moved, trace)
        mean = jax.tree.map(lambda v: jnp.mean(jnp.asarray(v, float), 0), rows)
        score = self.problem.objective.score(moved, mean)
        return {
            "loss": {k: jnp.asarray(v, float) for k, v in score.loss.items()},
            "slack": {k: jnp.asarray(v, float) for k, v in score.slack.items()},
        }

    def _moved(self, design: Any, key: Key) -> Any:
        paths = list(self.tolerances)
        keys = jax.random.split(key, len(paths))
        new = []
        for path, k in zip(paths, keys, strict=True):
            leaf = jnp.asarray(_get(design, path), float)
            new.append(leaf + self.tolerances[path] * jax.random.normal(k, leaf.shape))
        return eqx.tree_at(lambda d: [_get(d, path) for path in paths], design, new)


class _SmoothBuilds(_Builds, AbstractPathwiseSimulator):
    """The same where the detector can be differentiated."""


class _AsBuilt(AbstractObjective):
    """Means over builds.

    Args:
        drawn: the objective of the design as drawn, for its constraints.
    """

    drawn: AbstractObjective

    def tally(self, design: Design, trace: Trace) -> Any:
        """Terms and slacks of each row."""
        return trace.signal

    def score(self, design: Design, tally: Any) -> Score:
        """Their means."""
        return Score(dict(tally["loss"]), dict(tally["slack"]))

    def constraints(self, design: Design) -> dict[str, Scalar]:
        """Those of the design as drawn."""
        return self.drawn.constraints(design)
