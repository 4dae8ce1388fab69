"""A learned reconstruction that is kept up to date with the design."""

import dataclasses
import functools
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kythera import errors
from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map, outcomes
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.stage import AbstractLearnedStage, has_host_stage
from kythera.core.types import Array, Float, Key, PyTree, Vector
from kythera.estimators.one_by_one import AbstractOneByOne

S = TypeVar("S")


class Learnt(NamedTuple):
    """Where a learned reconstruction stands.

    Args:
        weights: the real arrays of the learned stages, as they are now.
        first: point of the cube that was seen first, shape (n,); nan before there is one.
        last: that was seen last.
        inner: state of the inner engine.
    """

    weights: PyTree
    first: np.ndarray
    last: np.ndarray
    inner: Any


class Retrain(AbstractOneByOne[Learnt], Generic[S]):
    """Trains what a pipeline has learnt at each design, then evaluates with another engine.

    At each design `events` rows are simulated, through `map`, and all stages behind the
    simulator that are an `AbstractLearnedStage` take `steps` of Adam down the problem's own
    loss. The inner engine then evaluates on events of its own, with the weights held fixed:
    the derivative through them vanishes where the training has converged.

    Warm: training starts from the weights of the design before, and few steps and events
    keep them up to date. Cold: it starts anew at each design.

    For the report the weights are trained anew on start and last design together, from the
    same first weights, in ten times as many steps: start and best are judged by one and the
    same reconstruction, which sees the design if its features do.

    Args:
        estimator: the inner engine.
        events: rows that are simulated for training at each design.
        steps: of Adam at each design.
        batch: rows in each step.
        rate: of Adam.
        warm: whether weights are handed on.
    """

    estimator: AbstractEstimator[S]
    events: int = eqx.field(static=True, default=1000)
    steps: int = eqx.field(static=True, default=100)
    batch: int = eqx.field(static=True, default=256)
    rate: float = eqx.field(static=True, default=3e-3)
    warm: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        """Refuse counts below one."""
        for name in ("events", "steps", "batch"):
            value = getattr(self, name)
            if int(value) != value or value < 1:
                raise errors.InputError(
                    f"`{name}` must be a whole number >= 1, but is {value}. Try 100."
                )

    @property
    def gives_gradient(self) -> bool:
        """As the inner engine."""
        return self.estimator.gives_gradient

    def seen(self, problem: Problem) -> Problem:
        """As the inner engine."""
        return self.estimator.seen(problem)

    def check(self, problem: Problem) -> None:
        """Needs something to be trained, and JAX behind the simulator."""
        self.estimator.check(problem)
        pipeline = problem.pipeline
        rest = (pipeline.reconstruction, pipeline.inference)
        if not _learned(pipeline):
            raise errors.UnsupportedError(
                "`Retrain` needs a learned stage behind the simulator, but neither "
                f"`{type(rest[0]).__name__}` nor `{type(rest[1]).__name__}` is or holds an "
                "`AbstractLearnedStage`. Use the engine "
                f"`{type(self.estimator).__name__}` alone, or put a `Network` there."
            )
        if has_host_stage(rest):
            raise errors.UnsupportedError(
                "`Retrain` differentiates what is behind the simulator, but a stage there "
                "runs outside JAX. Train it outside, and use the engine "
                f"`{type(self.estimator).__name__}` alone."
            )

    def price(self, problem: Problem) -> int:
        """That of the inner engine, and the events of the training."""
        return self.estimator.price(problem) + self._data(problem).price

    def _data(self, problem: Problem) -> Problem:
        """The problem with as many events as the training sees."""
        return problem.replace(events=self.events)

    def init(self, problem: Problem, *, key: Key) -> Learnt:
        """Fresh weights."""
        own, inner = jax.random.split(key)
        nowhere = np.full(
            problem.space.size, np.nan, np.asarray(problem.space.start).dtype
        )
        weights = jax.device_get(_weights(_fresh(problem.pipeline, own)))
        state = self.estimator.init(problem, key=inner)
        return Learnt(weights, nowhere, nowhere, state)

    def evaluate(
        self, problem: Problem, u: np.ndarray, state: Learnt, key: Key, map: Map
    ) -> tuple[Evaluation, Learnt]:
        """Simulate, train, evaluate; weights that diverge are not kept."""
        simulate, train, fresh, evaluate = jax.random.split(key, 4)
        data, price = self._data(problem), self.price(problem)
        work = functools.partial(_simulated, data)
        [rows] = outcomes(map, work, [(u, simulate)])
        if isinstance(rows, errors.SimulationError):
            return Evaluation.failed(str(rows), price), state
        weights = state.weights
        if not self.warm:
            weights = _weights(_fresh(problem.pipeline, fresh))
        weights, course = self._trained(
            data, u[None], [rows], weights, train, self.steps
        )
        if not np.all(np.isfinite(course)):
            at = int(np.argmin(np.isfinite(course)))
            return Evaluation.failed(
                f"the training of the reconstruction diverged: its loss is {course[at]} at "
                f"step {at}. Lower `rate`, which is {self.rate}",
                price,
            ), state
        learnt = _with(problem, weights)
        [found], inner = self.estimator(
            learnt, jnp.asarray(u)[None], state.inner, key=evaluate[None], map=map
        )
        first = u if np.any(np.isnan(state.first)) else state.first
        state = Learnt(weights, np.asarray(first), np.asarray(u), inner)
        return dataclasses.replace(found, events=price), state

    def _trained(
        self,
        data: Problem,
        us: np.ndarray,
        rows: list[PyTree],
        weights: PyTree,
        key: Key,
        steps: int,
    ) -> tuple[PyTree, np.ndarray]:
        """Weights after some steps on the rows of one or more designs, and their losses."""
        stacked = jax.tree.map(lambda *v: jnp.stack(v), *rows)
        weights = jax.tree.map(jnp.asarray, weights)
        settings = (steps, self.batch, self.rate)
        return measure.fetch(
            _train(data, jnp.asarray(us, float), stacked, weights, key, settings)
        )

    def measured(self, problem: Problem, state: Learnt) -> Problem:
        """With weights that were trained for start and last design alike."""
        inner = self.estimator.measured(problem, state.inner)
        if np.any(np.isnan(state.first)):
            return inner
        key = jax.random.key(len(state.first))
        data, us = self._data(problem), np.stack([state.first, state.last])
        weights = _weights(_fresh(problem.pipeline, jax.random.fold_in(key, 2)))
        try:
            rows = [
                _simulated(data, (u, jax.random.fold_in(key, i)))
                for i, u in enumerate(us)
            ]
        except errors.SimulationError:  # the search is not lost for its report
            return _with(inner, state.weights)
        weights, course = self._trained(
            data, us, rows, weights, jax.random.fold_in(key, 3), 10 * self.steps
        )
        return _with(inner, weights if np.all(np.isfinite(course)) else state.weights)


def _is_learned(node: Any) -> bool:
    return isinstance(node, AbstractLearnedStage)


def _learned(tree: Any) -> list[AbstractLearnedStage]:
    """All learned stages, in their order."""
    return [v for v in jax.tree.leaves(tree, is_leaf=_is_learned) if _is_learned(v)]


def _fresh(pipeline: Pipeline, key: Key) -> Pipeline:
    """With new weights in all learned stages."""
    count = 0

    def draw(node: Any) -> Any:
        nonlocal count
        if not _is_learned(node):
            return node
        count += 1
        return node.fresh(jax.random.fold_in(key, count))

    return jax.tree.map(draw, pipeline, is_leaf=_is_learned)


def _weights(pipeline: Pipeline) -> list[PyTree]:
    """The real arrays of the learned stages."""
    return [eqx.filter(stage, eqx.is_inexact_array) for stage in _learned(pipeline)]


def _with(problem: Problem, weights: list[PyTree]) -> Problem:
    """The problem with these weights in place, in both of its pipelines."""
    weights = jax.tree.map(jnp.asarray, weights)

    def put(pipeline: Pipeline) -> Pipeline:
        new = iter(weights)
        return jax.tree.map(
            lambda v: eqx.combine(next(new), v) if _is_learned(v) else v,
            pipeline,
            is_leaf=_is_learned,
        )

    hard = problem.hard_pipeline
    if hard is not None and len(_learned(hard)) == len(weights):
        problem = problem.replace(hard_pipeline=put(hard))
    return problem.replace(pipeline=put(problem.pipeline))


def _simulate(problem: Problem, u: Vector, key: Key) -> PyTree:
    """Truth and signal of all training events."""
    size = int(np.prod(problem.chunks))
    return problem.pipeline.simulate(problem.design(u), size, key=key)


_compiled = jit(_simulate)


def _simulated(problem: Problem, item: tuple) -> PyTree:
    """One design in this process, as NumPy arrays."""
    u, key = jnp.asarray(item[0], float), item[1]
    if has_host_stage(problem.pipeline.simulator):
        return jax.device_get(_simulate(problem, u, key))
    return measure.fetch(_compiled(problem, u, key))


@jit
def _train(
    problem: Problem,
    us: Float[Array, "design n"],
    rows: PyTree,
    weights: PyTree,
    key: Key,
    settings: tuple[int, int, float],
) -> tuple[PyTree, Vector]:
    """Steps of Adam down the mean loss over the designs."""
    steps, batch, rate = settings
    rule = optax.adam(rate)
    count = int(np.prod(problem.chunks))

    def loss(weights: PyTree, k: Key) -> Array:
        learnt = _with(problem, weights)

        def at(u: Vector, own: PyTree, k: Key) -> Array:
            choose, analyse = jax.random.split(k)
            where = jax.random.randint(choose, (batch,), 0, count)
            truth, signal = jax.tree.map(lambda v: v[where], own)
            design = learnt.design(u)
            trace = learnt.pipeline.analyse(design, truth, signal, key=analyse)
            tally = learnt.objective.tally(design, trace)
            mean = jax.tree.map(lambda v: jnp.mean(jnp.asarray(v, float), 0), tally)
            return learnt.total(learnt.score(design, mean).loss)

        return jnp.mean(jax.vmap(at)(us, rows, jax.random.split(k, us.shape[0])))

    def step(carry: tuple, k: Key) -> tuple[tuple, Array]:
        weights, state = carry
        value, slope = jax.value_and_grad(loss)(weights, k)
        update, state = rule.update(slope, state)
        return (eqx.apply_updates(weights, update), state), value

    first = (weights, rule.init(weights))
    (weights, _), course = jax.lax.scan(step, first, jax.random.split(key, steps))
    return weights, course
