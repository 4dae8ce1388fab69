"""Gradients of black boxes from a model that is learnt around the present design."""

import functools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kythera import errors
from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, outcomes
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer
from kythera.core.stage import declared, has_host_stage
from kythera.core.types import Array, Float, Key, PyTree, Vector
from kythera.surrogates.base import AbstractSurrogate, Samples
from kythera.surrogates.quadratic import Quadratic

FAR = 1.0  # of the loss's spread: a model that misses it by more is none


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


class LocalSurrogate(AbstractEstimator[Memory]):
    """Local surrogate optimisation (L-GSO): simulate around a design, learn, differentiate.

    At each design u some more are drawn around it, in a Latin hypercube of half width
    `radius`; all are simulated through `map`. A model is trained from scratch on them and
    on those that are remembered from earlier steps within the ball around that cube, and
    its derivative at u is the gradient. Value and error are those of the simulation at u
    itself, never of the model. The score is linearised at the tally that was measured.

    The model knows nothing outside the region: let no step of the optimiser leave it. With
    `adam(step)`, a step of at most `radius`; or clip the length of the move with
    `from_optax(optax.chain(optax.adam(1.0), optax.clip_by_global_norm(2.0)), step)`.

    Works with every simulator and any number of parameters: where the loss depends on few
    directions, `designs` may be far below n. Biased by what the model cannot follow within
    the region. A model that does not train makes a failed evaluation, with the cause; what
    was simulated is remembered.

    Args:
        surrogate: the model: `Quadratic` of mean tallies, `Regressor` of tallies given
            (design, truth), `CramerGAN` or `Flow` of signals given (design, truth).
        radius: half width of the region, a fraction of each parameter's range.
        designs: simulated around each design, beside itself.
        steps: for which designs are remembered, at most.
    """

    surrogate: AbstractSurrogate = Quadratic()
    radius: float = 0.05
    designs: int = eqx.field(static=True, default=8)
    steps: int = eqx.field(static=True, default=8)
    gives_gradient: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = (
        "S. Shirobokov, V. Belavin, M. Kagan, A. Ustyuzhanin, A. G. Baydin, Black-box "
        "optimization with local generative surrogates, NeurIPS 2020, arXiv:2002.04632",
    )

    def __check_init__(self):
        """Refuse a region that is none, and counts below one."""
        if not 0 < self.radius <= 0.5:
            raise errors.InputError(
                f"`radius` must be in (0, 0.5] of the range, but is {self.radius}. "
                "Try 0.05."
            )
        for name, value in (("designs", self.designs), ("steps", self.steps)):
            if int(value) != value or value < 1:
                raise errors.InputError(
                    f"`{name}` must be a whole number >= 1, but is {value}. Try 8."
                )

    def check(self, problem: Problem) -> None:
        """Refuse what the model could not be differentiated through."""
        problem.check()
        nuisances = problem.objective.nuisances()
        if nuisances:
            raise errors.UnsupportedError(
                "`LocalSurrogate` learns how tallies move with the design, but the "
                f"nuisance parameters {list(nuisances)} need derivatives of their own. "
                "Use `Pathwise`, `FiniteDifference`, or an optimiser without gradients."
            )
        for path, domain in problem.space.free.items():
            if isinstance(domain, Integer | Choice) and problem.pipeline.is_host:
                raise errors.UnsupportedError(
                    f"`LocalSurrogate` needs a loss without jumps, but '{path}' is "
                    f"{domain.describe()} in a pipeline that runs outside JAX, which "
                    "gets whole values. Use `RandomisedDesign`, `Evolution`, or "
                    f"`space.freeze('{path}')`."
                )
        if self.surrogate.models == "signal":
            _check_signal(problem, type(self.surrogate).__name__)

    def price(self, problem: Problem) -> int:
        """Those of the design and of all around it."""
        return problem.price * (1 + self.designs)

    def init(self, problem: Problem, *, key: Key) -> Memory:
        """An empty memory."""
        count = self.steps * (1 + self.designs)

        def shapes(u: Vector, key: Key) -> PyTree:
            truth, target, _ = _rows(_without_host(problem), self.surrogate, u, key)
            return self.surrogate.keep(truth, target)

        one = jax.eval_shape(shapes, problem.space.start, jax.random.key(0))
        return Memory(
            u=np.zeros(
                (count, problem.space.size), np.asarray(problem.space.start).dtype
            ),
            kept=jax.tree.map(lambda s: np.zeros((count, *s.shape), s.dtype), one),
            filled=np.zeros(count, np.int32),
            next=np.zeros((), np.int32),
        )

    def __call__(
        self,
        problem: Problem,
        us: Float[Array, "q n"],
        state: Memory,
        *,
        key: Key,
        map: Map = map,
    ) -> tuple[list[Evaluation], Memory]:
        """See the base class; designs that come together are taken one after the other."""
        found = []
        for u, k in zip(np.asarray(us), key, strict=True):
            evaluation, state = self._evaluate(problem, u, state, k, map)
            found.append(evaluation)
        return found, state

    def _evaluate(
        self, problem: Problem, u: np.ndarray, state: Memory, key: Key, map: Map
    ) -> tuple[Evaluation, Memory]:
        """Simulate, remember, learn, differentiate."""
        around, simulate, learn = jax.random.split(key, 3)
        points = np.asarray(
            latin_hypercube(around, jnp.asarray(u), self.radius, self.designs)
        )
        items = list(zip(points, jax.random.split(simulate, len(points)), strict=True))
        work = functools.partial(_simulated, problem, self.surrogate)
        found = list(outcomes(map, work, items))
        price = self.price(problem)
        good = [_is_usable(answer) for answer in found]
        for point, answer, usable in zip(points, found, good, strict=True):
            if usable:
                state = _remembered(state, point, answer[0])
        if isinstance(found[0], errors.SimulationError):
            return Evaluation.failed(str(found[0]), price), state
        if not any(good[1:]):
            causes = [f for f in found if isinstance(f, errors.SimulationError)]
            cause = (
                str(causes[0]) if causes else "no design around gives finite numbers"
            )
            return Evaluation.failed(cause, price), state
        memory = jax.tree.map(jnp.asarray, (state.u, state.kept, state.filled))
        rows = jax.tree.map(jnp.asarray, found[0][1:])
        here = jnp.asarray(u, float)
        measured, course, miss = measure.fetch(
            _learnt(problem, self.surrogate, self.radius, here, memory, rows, learn)
        )
        evaluation = measure.finish(problem, measured, price)
        cause = _distrust(type(self.surrogate).__name__, course, float(miss))
        if cause and not evaluation.cause:
            return Evaluation.failed(cause, price), state
        return evaluation, state


def latin_hypercube(
    key: Key, u: Vector, radius: float, count: int
) -> Float[Array, "1+count n"]:
    """u itself, then points around it: in each coordinate one of every `count` slices.

    The box is u +- radius, cut at the faces of the cube.
    """
    order, within = jax.random.split(key)
    slices = jnp.tile(jnp.arange(count)[:, None], (1, u.size))
    slices = jax.random.permutation(order, slices, axis=0, independent=True)
    part = (slices + jax.random.uniform(within, slices.shape)) / count
    low, up = jnp.maximum(u - radius, 0), jnp.minimum(u + radius, 1)
    return jnp.concatenate([u[None], low + (up - low) * part])


def _check_signal(problem: Problem, name: str) -> None:
    """A model of signals takes the simulator's slot: what follows is differentiated."""
    rest = (problem.pipeline.reconstruction, problem.pipeline.inference)
    if has_host_stage(rest):
        raise errors.UnsupportedError(
            f"`{name}` takes the simulator's slot, so that all stages behind it are "
            "differentiated, but one of them runs outside JAX. Use `Quadratic` or "
            "`Regressor`, which learn the objective's tallies."
        )
    shapes = _signal_shapes(problem)
    kinds = {s.dtype.name for s in jax.tree.leaves(shapes)}
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise errors.UnsupportedError(
            f"`{name}` generates real numbers, but the simulator gives {sorted(kinds)}. "
            "Use `Quadratic` or `Regressor`, which learn the objective's tallies."
        )


def _without_host(problem: Problem) -> Problem:
    """The same shapes, without running anything outside JAX."""
    return problem.replace(pipeline=declared(problem.pipeline))


def _signal_shapes(problem: Problem) -> PyTree:
    """One row of the signal, a tree of shapes."""
    plain = _without_host(problem)

    def signal(u: Vector, key: Key) -> PyTree:
        _, found = plain.pipeline.simulate(problem.design(u), 1, key=key)
        return jax.tree.map(lambda v: v[0], found)

    return jax.eval_shape(signal, problem.space.start, jax.random.key(0))


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
    problem: Problem, surrogate: AbstractSurrogate, u: Vector, key: Key
) -> tuple[Array, Array, PyTree]:
    """Truth and target as flat rows, and the tally of one design; the key is of its events."""
    count, size = problem.chunks
    design = problem.design(u)

    def chunk(k: Key) -> tuple[Array, Array, PyTree]:
        truth, signal = problem.pipeline.simulate(design, size, key=k)
        trace = problem.pipeline.analyse(design, truth, signal, key=k)
        tally = problem.objective.tally(design, trace)
        tally = jax.tree.map(lambda v: jnp.asarray(v, float), tally)
        target = tally if surrogate.models == "tally" else signal
        return _flat(truth, size), _flat(target, size), tally

    if problem.pipeline.is_host:
        parts = [chunk(jax.random.fold_in(key, i)) for i in range(count)]
        return jax.tree.map(lambda *v: jnp.concatenate(v), *parts)
    parts = jax.lax.map(chunk, measure.chunk_keys(key, 0, count))
    return jax.tree.map(lambda v: v.reshape(count * size, *v.shape[2:]), parts)


def _kept_rows(
    problem: Problem, surrogate: AbstractSurrogate, u: Vector, key: Key
) -> tuple[PyTree, Array, PyTree]:
    """What is kept, the flat truth, and the tally rows."""
    truth, target, tally = _rows(problem, surrogate, u, key)
    return surrogate.keep(truth, target), truth, tally


_compiled_rows = jit(_kept_rows)


def _simulated(problem: Problem, surrogate: AbstractSurrogate, item: tuple) -> PyTree:
    """One design in this process, as NumPy arrays."""
    u, key = jnp.asarray(item[0], float), item[1]
    if problem.pipeline.is_host:
        return jax.device_get(_kept_rows(problem, surrogate, u, key))
    return measure.fetch(_compiled_rows(problem, surrogate, u, key))


def _is_usable(answer: Any) -> bool:
    """Whether a simulation came back, with numbers that may be learnt from."""
    if isinstance(answer, errors.SimulationError):
        return False
    return all(bool(np.all(np.isfinite(v))) for v in jax.tree.leaves(answer[0]))


def _remembered(state: Memory, u: np.ndarray, kept: PyTree) -> Memory:
    """With one design more."""
    at = int(state.next)

    def put(old: Any, new: Any) -> np.ndarray:
        out = np.array(old)
        out[at] = new
        return out

    return Memory(
        u=put(state.u, u),
        kept=jax.tree.map(put, state.kept, kept),
        filled=put(state.filled, 1),
        next=np.asarray((at + 1) % len(state.filled), np.int32),
    )


@jit
def _learnt(
    problem: Problem,
    surrogate: AbstractSurrogate,
    radius: Any,
    u: Vector,
    memory: tuple[Array, PyTree, Array],
    rows: tuple[Array, PyTree],
    key: Key,
) -> tuple[measure.Measurement, Array, Array]:
    """The measurement with the model's gradients; course of the training; its miss at u.

    A design is in the region where the mean square of its coordinates, in radii, is at
    most one: the ball around the box that is drawn from.
    """
    points, kept, filled = memory
    truth, tally = rows
    train, generate = jax.random.split(key)
    z = (points - u) / radius
    weight = jnp.where((filled > 0) & (jnp.mean(z**2, -1) <= 1 + 1e-5), 1.0, 0.0)
    z = jnp.where(weight[:, None] > 0, z, 0.0)
    model, course = surrogate.fit(train, Samples(z, kept, weight))

    def mean_of(v: Vector) -> PyTree:
        made = model((v - u) / radius, truth, key=generate)
        if surrogate.models == "tally":
            return _unflat(jnp.mean(made, 0), tally)
        return _analysed(problem, v, truth, made, generate)

    found = measure.measure_rows(problem, u, tally)
    mean = jax.tree.map(lambda v: jnp.mean(v, 0), tally)
    gradients = measure.through_model(problem, u, mean, mean_of)
    found = eqx.tree_at(
        lambda m: m.gradients, found, gradients, is_leaf=lambda v: v is None
    )
    return found, course, _miss(problem, u, found, mean_of(u), radius)


def _miss(
    problem: Problem, u: Vector, found: measure.Measurement, mean: PyTree, radius: Any
) -> Array:
    """By how much the model misses the loss at u, in what one event or the region changes."""
    told = problem.total(problem.score(problem.design(u), mean).loss)
    terms = len(found.loss)
    weights = jnp.asarray(problem.weight(found.loss), told.dtype)
    event = (
        weights @ found.covariance[:terms, :terms] @ weights * np.prod(problem.chunks)
    )
    assert found.gradients is not None
    region = radius * jnp.sum(jnp.abs(found.gradients[0]))
    return jnp.abs(told - problem.total(found.loss)) / (
        jnp.sqrt(event) + region + 1e-30
    )


def _unflat(row: Vector, tally: PyTree) -> PyTree:
    """A flat row as the mean of tallies of this structure."""
    one = jax.tree.map(lambda v: jnp.zeros(v.shape[1:], row.dtype), tally)
    return ravel_pytree(one)[1](row)


def _analysed(
    problem: Problem, v: Vector, truth: Array, rows: Array, key: Key
) -> PyTree:
    """Mean tally of generated signals."""
    shapes = _signal_shapes(problem)
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


def _distrust(name: str, course: np.ndarray, miss: float) -> str:
    """Why a model is not to be believed; empty where it is."""
    if not np.all(np.isfinite(course)):
        at = int(np.argmin(np.isfinite(course)))
        return (
            f"the training of `{name}` diverged: its loss is {course[at]} at step {at}. "
            "Lower its learning rate, or use `Quadratic`"
        )
    if not miss <= FAR:
        return (
            f"`{name}` did not learn: at the present design it misses the measured loss by "
            f"{miss:.3g} times what one event and the region change it. Train it longer, or "
            "use `Quadratic`"
        )
    return ""
