"""Designs around the present one: simulated, remembered, and trust in what they taught."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kythera import errors
from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import Evaluation, Map, outcomes
from kythera.core.problem import Problem
from kythera.core.stage import declared
from kythera.core.types import Array, Float, Key, PyTree, Vector
from kythera.estimators.chunks import over_chunks
from kythera.surrogates.base import AbstractSurrogate

FAR = 1.0  # of the loss's spread: a model that misses it by more is none

Target = Literal["tally", "signal", "reco"]  # of what a model is learnt


class Memory(NamedTuple):
    """What was simulated lately; arrays of fixed shapes, the oldest are overwritten.

    Args:
        u: points of the cube, shape (memory, n).
        kept: what the surrogate keeps of the rows of each, a tree with that leading axis.
        filled: 1 where there is something, shape (memory,).
        next: where the next design goes.
    """

    u: np.ndarray
    kept: PyTree
    filled: np.ndarray
    next: np.ndarray


def empty(
    problem: Problem, surrogate: AbstractSurrogate, target: Target, count: int
) -> Memory:
    """A memory for so many designs, without running anything outside JAX.

    Raises:
        UnsupportedError: a stage in JAX or the objective does not stay there.
    """

    def shapes(u: Vector, key: Key) -> PyTree:
        truth, rows, _ = _rows(without_host(problem), target, u, key)
        return surrogate.keep(truth, rows)

    try:
        one = jax.eval_shape(shapes, problem.space.start, jax.random.key(0))
    except (
        jax.errors.TracerArrayConversionError,
        jax.errors.ConcretizationTypeError,
    ) as error:
        raise errors.UnsupportedError(
            "A model of what a simulator gives needs an objective, and stages that do not "
            "say that they run outside, in JAX, but one calls NumPy or needs a value: "
            f"{str(error).partition('.')[0]}. Write it with `jax.numpy`, or use "
            "`FiniteDifference` or an optimiser without gradients."
        ) from error
    start = np.asarray(problem.space.start)
    return Memory(
        u=np.zeros((count, problem.space.size), start.dtype),
        kept=jax.tree.map(lambda s: np.zeros((count, *s.shape), s.dtype), one),
        filled=np.zeros(count, np.int32),
        next=np.zeros((), np.int32),
    )


def simulate(
    problem: Problem,
    surrogate: AbstractSurrogate,
    target: Target,
    points: np.ndarray,
    memory: Memory,
    key: Key,
    map: Map,
) -> tuple[tuple[Array, PyTree], Memory, str]:
    """Simulate some designs through the executor, and remember those that succeed.

    Args:
        problem: what is simulated.
        surrogate: says what is kept.
        target: of what.
        points: of the cube, the present design first, shape (designs, n).
        memory: of earlier designs.
        key: of all events.
        map: the executor.

    Returns:
        flat truths (row, k) and tally rows of the first; the memory; and why nothing can be
        learnt, empty where it can.
    """
    items = list(zip(points, jax.random.split(key, len(points)), strict=True))
    work = functools.partial(_simulated, problem, surrogate, target)
    found = list(outcomes(map, work, items))
    good = [_is_usable(answer) for answer in found]
    for point, answer, usable in zip(points, found, good, strict=True):
        if usable:
            memory = _remembered(memory, point, answer[0])
    cause = ""
    if isinstance(found[0], errors.SimulationError):
        cause = str(found[0])
    elif not any(good[1:]):
        causes = [f for f in found if isinstance(f, errors.SimulationError)]
        cause = str(causes[0]) if causes else "no design around gives finite numbers"
    rows = () if cause else jax.tree.map(jnp.asarray, found[0][1:])
    return rows, memory, cause  # type: ignore[return-value]


def refuse_nuisances(problem: Problem, name: str) -> None:
    """Refuse objectives that need derivatives which no model of events has.

    Raises:
        UnsupportedError: names the nuisance parameters.
    """
    nuisances = problem.objective.nuisances()
    if nuisances:
        raise errors.UnsupportedError(
            f"`{name}` learns how tallies move with the design, but the "
            f"nuisance parameters {list(nuisances)} need derivatives of their own. "
            "Use `Pathwise`, `FiniteDifference`, or an optimiser without gradients."
        )


def refuse_whole_numbers(
    problem: Problem, name: str, target: Literal["signal", "reco"], instead: str
) -> None:
    """Refuse records that no generator of real numbers could give.

    Args:
        problem: whose records they are.
        name: of the model.
        target: what it generates.
        instead: what to use.

    Raises:
        UnsupportedError: names the kinds of numbers.
    """
    source = {"signal": "simulator", "reco": "reconstruction"}[target]
    leaves = jax.tree.leaves(shapes_of(problem, target))
    kinds = {s.dtype.name for s in leaves}
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise errors.UnsupportedError(
            f"`{name}` generates real numbers, but the {source} gives {sorted(kinds)}. "
            f"Use {instead}."
        )


def without_host(problem: Problem) -> Problem:
    """The same shapes, without running anything outside JAX."""
    return problem.replace(pipeline=declared(problem.pipeline))


def shapes_of(problem: Problem, target: Literal["signal", "reco"]) -> PyTree:
    """One row of what the pipeline gives there, a tree of shapes."""
    plain = without_host(problem)

    def first(u: Vector, key: Key) -> PyTree:
        found = getattr(plain.pipeline(plain.design(u), 1, key=key), target)
        return jax.tree.map(lambda v: v[0], found)

    return jax.eval_shape(first, problem.space.start, jax.random.key(0))


def _flat(tree: PyTree, rows: int) -> Float[Array, "row k"]:
    """All numbers of a record, a row for each event."""
    leaves = [v for v in jax.tree.leaves(tree) if eqx.is_array(v)]
    return jnp.concatenate(
        [
            jnp.zeros((rows, 0)),
            *[jnp.asarray(v, float).reshape(rows, -1) for v in leaves],
        ],
        -1,
    )


def _rows(
    problem: Problem, target: Target, u: Vector, key: Key
) -> tuple[Array, Array, PyTree]:
    """Truth and target as flat rows, and the tally of one design; the key is of its events."""
    size, design = problem.chunks[1], problem.design(u)

    def chunk(k: Key) -> tuple[Array, Array, PyTree]:
        truth, signal = problem.pipeline.simulate(design, size, key=k)
        trace = problem.pipeline.analyse(design, truth, signal, key=k)
        tally = problem.objective.tally(design, trace)
        tally = jax.tree.map(lambda v: jnp.asarray(v, float), tally)
        found = tally if target == "tally" else getattr(trace, target)
        return _flat(truth, size), _flat(found, size), tally

    return over_chunks(problem, key, chunk)


def _kept_rows(
    problem: Problem,
    surrogate: AbstractSurrogate,
    target: Target,
    u: Vector,
    key: Key,
) -> tuple[PyTree, Array, PyTree]:
    """What is kept, the flat truth, and the tally rows."""
    truth, found, tally = _rows(problem, target, u, key)
    return surrogate.keep(truth, found), truth, tally


_compiled_rows = jit(_kept_rows)


def _simulated(
    problem: Problem, surrogate: AbstractSurrogate, target: Target, item: tuple
) -> PyTree:
    """One design in this process, as NumPy arrays."""
    u, key = jnp.asarray(item[0], float), item[1]
    rows = _kept_rows if problem.pipeline.is_host else _compiled_rows
    return measure.simulated(rows, problem, surrogate, target, u, key)


def _is_usable(answer: Any) -> bool:
    """Whether a simulation came back, with numbers that may be learnt from."""
    if isinstance(answer, errors.SimulationError):
        return False
    return all(bool(np.all(np.isfinite(v))) for v in jax.tree.leaves(answer[0]))


def _remembered(memory: Memory, u: np.ndarray, kept: PyTree) -> Memory:
    """With one design more."""
    at = int(memory.next)

    def put(old: Any, new: Any) -> np.ndarray:
        out = np.array(old)
        out[at] = new
        return out

    return Memory(
        u=put(memory.u, u),
        kept=jax.tree.map(put, memory.kept, kept),
        filled=put(memory.filled, 1),
        next=np.asarray((at + 1) % len(memory.filled), np.int32),
    )


def generated(
    problem: Problem, v: Vector, truth: Array, rows: Array, shapes: PyTree, key: Key
) -> PyTree:
    """Mean tally of generated events.

    Args:
        problem: whose simulator is not called.
        v: point of the cube, shape (n,).
        truth: flat, shape (row, k).
        rows: what stands for the signal, flat, shape (row, m).
        shapes: of one row of it.
        key: of the stages that follow.
    """
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    signal = jax.vmap(ravel_pytree(zero)[1])(rows)
    design = problem.design(v)
    record = _truth_of(problem, truth)
    trace = problem.pipeline.analyse(design, record, signal, key=key)
    tally = problem.objective.tally(design, trace)
    return jax.tree.map(lambda t: jnp.mean(jnp.asarray(t, float), 0), tally)


def _truth_of(problem: Problem, truth: Float[Array, "row k"]) -> PyTree:
    """The record of truth that was laid flat."""
    rows = truth.shape[0]
    record = jax.eval_shape(
        lambda k: problem.pipeline.source(rows, key=k), jax.random.key(0)
    )
    leaves, tree = jax.tree.flatten(record)
    sizes = np.cumsum([int(np.prod(leaf.shape[1:])) for leaf in leaves])[:-1]
    cut = jnp.split(truth, sizes, -1)
    back = [
        c.reshape(leaf.shape).astype(leaf.dtype)
        for c, leaf in zip(cut, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, back)


def with_gradients(
    problem: Problem,
    u: Vector,
    found: measure.Measurement,
    mean: PyTree,
    pull: Callable,
) -> measure.Measurement:
    """A measurement with gradients from a model of the mean tally.

    Args:
        problem: whose score counts.
        u: point of the cube, shape (n,).
        found: what was measured there.
        mean: tally at which the score is linearised.
        pull: of `jax.vjp`, from the model's mean tally to the point of the cube.
    """
    gradients = measure.through_model(problem, u, mean, lambda c: pull(c)[0])
    return eqx.tree_at(
        lambda m: m.gradients, found, gradients, is_leaf=lambda v: v is None
    )


def miss(
    problem: Problem,
    u: Vector,
    found: measure.Measurement,
    mean: PyTree,
    region: float | Vector,
) -> Array:
    """By how much a model misses the loss at u, in what one event or the region changes.

    Args:
        problem: whose score counts.
        u: point of the cube, shape (n,).
        found: what was measured there, with gradients.
        mean: tally that the model tells there.
        region: half width of the region in each coordinate.
    """
    told = problem.total(problem.score(problem.design(u), mean).loss)
    terms = len(found.loss)
    weights = jnp.asarray(problem.weight(found.loss), told.dtype)
    event = (
        weights @ found.covariance[:terms, :terms] @ weights * np.prod(problem.chunks)
    )
    event = jnp.where(jnp.isfinite(event), event, 0.0)  # unknown for a single event
    assert found.gradients is not None
    change = jnp.sum(jnp.abs(region * found.gradients[0]))
    return jnp.abs(told - problem.total(found.loss)) / (
        jnp.sqrt(event) + change + 1e-30
    )


def concluded(
    problem: Problem,
    found: measure.Measurement,
    course: np.ndarray,
    missed: float,
    price: int,
    name: str,
    instead: str,
) -> Evaluation:
    """The evaluation of a model; failed, with the cause, where the model is none.

    Args:
        problem: what was evaluated.
        found: measurement with the model's gradients.
        course: of the training's loss.
        missed: see `miss`.
        price: primaries that were simulated.
        name: of the model.
        instead: what to use.
    """
    other = "" if name == instead else f", or use `{instead}`"
    if not np.all(np.isfinite(course)):
        at = int(np.argmin(np.isfinite(course)))
        remedy = f"Lower its learning rate{other}" if other else "Scale what it learns"
        return Evaluation.failed(
            f"the training of `{name}` diverged: its loss is {course[at]} at step {at}. "
            f"{remedy}",
            price,
        )
    evaluation = measure.finish(problem, found, price)
    if evaluation.cause or missed <= FAR:
        return evaluation
    remedy = f"Train it longer{other}" if other else "Simulate more `designs`"
    return Evaluation.failed(
        f"`{name}` did not learn: at the present design it misses the measured loss by "
        f"{missed:.3g} times what one event and the region change it. {remedy}",
        price,
    )
