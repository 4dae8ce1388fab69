"""A learned reconstruction that is kept up to date with the design."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
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
from kythera.estimators.chunks import over_chunks
from kythera.estimators.direct import Direct
from kythera.estimators.end_to_end import EndToEndSurrogate
from kythera.estimators.local_surrogate import LocalSurrogate
from kythera.estimators.one_by_one import AbstractOneByOne
from kythera.estimators.pathwise import Pathwise

S = TypeVar("S")


class Learnt(NamedTuple):
    """Where a learned reconstruction stands.

    Args:
        weights: the real arrays of the learned stages, as they are now.
        adam: what Adam remembers of their slopes.
        inner: state of the inner engine.
    """

    weights: PyTree
    adam: PyTree
    inner: Any


class Retrain(AbstractOneByOne[Learnt], Generic[S]):
    """Trains what a pipeline has learnt at each design, then evaluates with another engine.

    At each design `events` rows are simulated, through `map`, and all stages behind the
    simulator that are an `AbstractLearnedStage` take `steps` of Adam down the problem's own
    loss. The inner engine then evaluates on events of its own, with the weights held fixed:
    the derivative through them vanishes where the training has converged.

    Warm: training goes on from the weights of the design before, and few steps and events
    keep them up to date. Cold: it starts anew at each design.

    Simultaneous (`events=None`, with `Pathwise` or `Direct`): no further events are
    simulated. Each evaluation sees the weights as they are, and they then learn from its
    own events, so that design and reconstruction move together. The first designs are
    judged by weights that know little.

    For the report the weights are trained anew on start and best design together, from fresh
    ones, in ten times as many steps: both are judged by one and the same reconstruction,
    which sees the design if its features do. Where choices were relaxed in the search, the
    designs as built are learnt beside them. Its events count as the report's.

    Args:
        estimator: the inner engine.
        events: rows that are simulated for training at each design; None: those of the
            evaluation, after it.
        steps: of Adam at each design.
        batch: rows in each step.
        rate: of Adam.
        warm: whether weights are handed on.
    """

    estimator: AbstractEstimator[S]
    events: int | None = eqx.field(static=True, default=1000)
    steps: int = eqx.field(static=True, default=100)
    batch: int = eqx.field(static=True, default=256)
    rate: float = eqx.field(static=True, default=3e-3)
    warm: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        """Refuse counts below one."""
        counts = {"steps": self.steps, "batch": self.batch}
        if self.events is not None:
            counts["events"] = self.events
        for name, value in counts.items():
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
        if nuisances := list(problem.objective.nuisances()):
            raise errors.UnsupportedError(
                "`Retrain` trains on stored signals, but the nuisance parameters "
                f"{nuisances} need derivatives of the signals. Make the weights a free "
                "leaf of the design, and use `Pathwise` (as `inferno_toy` does)."
            )
        if self.events is None and not isinstance(self.estimator, Pathwise | Direct):
            raise errors.UnsupportedError(
                "With `events=None` the weights learn from the events of the evaluation, "
                "which `Pathwise` and `Direct` can tell, but not "
                f"`{type(self.estimator).__name__}`. Give the number of `events`."
            )
        pipeline, hard = problem.pipeline, problem.hard_pipeline
        rest = _behind(pipeline)
        count = len(_learned(pipeline))
        if hard is not None and len(_learned(hard)) != count:
            raise errors.UnsupportedError(
                "`Retrain` puts its weights into the detector as built as well, but that "
                f"has {len(_learned(hard))} learned stages behind its simulator, the "
                f"softened one {count}. Give both the same ones."
            )
        if not count:
            raise errors.UnsupportedError(
                "`Retrain` needs a learned stage behind the simulator, but neither "
                f"`{type(rest[0]).__name__}` nor `{type(rest[1]).__name__}` is or holds an "
                "`AbstractLearnedStage`. Use the engine "
                f"`{type(self.estimator).__name__}` alone, or put a `Network` there "
                "(`Toleranced` takes it into the simulator, where it is not trained)."
            )
        if _remembers(self.estimator):
            raise errors.UnsupportedError(
                "`Retrain` changes the reconstruction from design to design, but "
                f"`{type(self.estimator).__name__}` remembers what earlier weights gave, "
                "and would take their progress for that of the design. Give it `steps=1`, "
                "or a model of signals (`CramerGAN`, `Flow`)."
            )
        if has_host_stage(rest):
            raise errors.UnsupportedError(
                "`Retrain` differentiates what is behind the simulator, but a stage there "
                "runs outside JAX. Train it outside, and use the engine "
                f"`{type(self.estimator).__name__}` alone."
            )

    def price(self, problem: Problem) -> int:
        """That of the inner engine, and the events of the training."""
        further = 0 if self.events is None else self._data(problem).price
        return self.estimator.price(problem) + further

    def _data(self, problem: Problem) -> Problem:
        """The problem with as many events as the training sees."""
        return problem.replace(events=self.events or problem.events)

    def init(self, problem: Problem, *, key: Key) -> Learnt:
        """Fresh weights."""
        own, inner = jax.random.split(key)
        weights = _weights(_fresh(problem.pipeline, own))
        weights, adam = jax.device_get((weights, optax.adam(self.rate).init(weights)))
        state = self.estimator.init(problem, key=inner)
        return Learnt(weights, adam, state)

    def evaluate(
        self, problem: Problem, u: np.ndarray, state: Learnt, key: Key, map: Map
    ) -> tuple[Evaluation, Learnt]:
        """Simulate, train, evaluate; weights that diverge are not kept."""
        simulate, train, fresh, evaluate = jax.random.split(key, 4)
        if self.events is None:
            return self._simultaneous(problem, u, state, (train, fresh, evaluate), map)
        data, price = self._data(problem), self.price(problem)
        work = functools.partial(_simulated, data)
        [rows] = outcomes(map, work, [(u, simulate)])
        if isinstance(rows, errors.SimulationError):
            return Evaluation.failed(str(rows), price), state
        learnt, cause = self._learnt(data, u, rows, state, train, fresh)
        if cause:
            return Evaluation.failed(cause, price), state
        [found], inner = self.estimator(
            _with(problem, learnt.weights),
            jnp.asarray(u)[None],
            state.inner,
            key=evaluate[None],
            map=map,
        )
        return dataclasses.replace(found, events=price), learnt._replace(inner=inner)

    def _simultaneous(
        self,
        problem: Problem,
        u: np.ndarray,
        state: Learnt,
        keys: tuple[Key, Key, Key],
        map: Map,
    ) -> tuple[Evaluation, Learnt]:
        """Evaluate, then train on the same events."""
        train, fresh, evaluate = keys
        [found], inner = self.estimator(
            _with(problem, state.weights),
            jnp.asarray(u)[None],
            state.inner,
            key=evaluate[None],
            map=map,
        )
        if found.cause:
            return found, state
        work = functools.partial(_simulated, problem)
        [rows] = outcomes(map, work, [(u, evaluate)])
        if isinstance(rows, errors.SimulationError):
            return Evaluation.failed(str(rows), found.events), state
        learnt, cause = self._learnt(problem, u, rows, state, train, fresh)
        if cause:
            return Evaluation.failed(cause, found.events), state
        return found, learnt._replace(inner=inner)

    def _learnt(
        self,
        data: Problem,
        u: np.ndarray,
        rows: PyTree,
        state: Learnt,
        train: Key,
        fresh: Key,
    ) -> tuple[Learnt, str]:
        """After some steps on the rows of one design; why that failed, else empty."""
        weights, adam = state.weights, state.adam
        if not self.warm:
            weights = _weights(_fresh(data.pipeline, fresh))
            adam = optax.adam(self.rate).init(weights)
        try:
            weights, adam, course = self._trained(
                data, u[None], [rows], (weights, adam), train, self.steps
            )
        except errors.SimulationError as error:  # of a stage behind the simulator
            return state, str(error)
        if not np.all(np.isfinite(course)):
            at = int(np.argmin(np.isfinite(course)))
            return state, (
                f"the training of the reconstruction diverged: its loss is {course[at]} at "
                f"step {at}. Lower `rate`, which is {self.rate}"
            )
        return Learnt(weights, adam, state.inner), ""

    def _trained(
        self,
        data: Problem,
        us: np.ndarray,
        rows: list[PyTree],
        begin: tuple[PyTree, PyTree],
        key: Key,
        steps: int,
    ) -> tuple[PyTree, PyTree, np.ndarray]:
        """Weights and Adam after some steps on the rows of some designs, and the losses."""
        stacked = jax.tree.map(lambda *v: jnp.stack(v), *rows)
        begin = jax.tree.map(jnp.asarray, begin)
        settings = (steps, self.batch, self.rate)
        return measure.simulated(
            _train, data, jnp.asarray(us, float), stacked, begin, key, settings
        )

    def measured(
        self,
        problem: Problem,
        state: Learnt,
        us: Float[Array, "2 n"],
        *,
        key: Key,
        map: Map,
    ) -> tuple[Problem, int]:
        """With weights that were trained for start and best design alike."""
        own, fresh, simulate, train = jax.random.split(key, 4)
        inner, spent = self.estimator.measured(
            problem, state.inner, us, key=own, map=map
        )
        data = self._data(problem)
        points = _as_reported(problem, np.asarray(us))
        items = list(zip(points, jax.random.split(simulate, len(points)), strict=True))
        rows = list(outcomes(map, functools.partial(_simulated, data), items))
        spent += len(points) * data.price
        weights = _weights(_fresh(problem.pipeline, fresh))
        begin = (weights, optax.adam(self.rate).init(weights))
        lost = any(isinstance(found, errors.SimulationError) for found in rows)
        with contextlib.suppress(errors.SimulationError):
            if not lost:  # else no search is lost for its report
                new, _, course = self._trained(
                    data, points, rows, begin, train, 10 * self.steps
                )
                if np.all(np.isfinite(course)):
                    return _with(inner, new), spent
        return _with(inner, state.weights), spent


def _as_reported(problem: Problem, us: np.ndarray) -> np.ndarray:
    """The points, and those of the designs as built where that differs."""
    if not problem.softened:
        return us
    space = problem.space
    built = [space.encode(space.decode(jnp.asarray(u), hard=True)) for u in us]
    return np.concatenate([us, np.asarray(built)])


def _remembers(estimator: AbstractEstimator) -> bool:
    """Whether it learns from what the reconstruction gave at earlier designs."""
    if isinstance(estimator, LocalSurrogate):
        return estimator.steps > 1 and estimator.surrogate.models == "tally"
    return isinstance(estimator, EndToEndSurrogate) and estimator.steps > 1


def _is_learned(node: Any) -> bool:
    return isinstance(node, AbstractLearnedStage)


def _behind(pipeline: Pipeline) -> tuple:
    """What is behind the simulator, where stages are trained."""
    return (pipeline.reconstruction, pipeline.inference)


def _learned(pipeline: Pipeline) -> list[AbstractLearnedStage]:
    """All learned stages behind the simulator, in their order."""
    leaves = jax.tree.leaves(_behind(pipeline), is_leaf=_is_learned)
    return [v for v in leaves if _is_learned(v)]


def _replaced(pipeline: Pipeline, change: Callable[[Any], Any]) -> Pipeline:
    """With every learned stage behind the simulator changed."""
    new = jax.tree.map(
        lambda v: change(v) if _is_learned(v) else v,
        _behind(pipeline),
        is_leaf=_is_learned,
    )
    return eqx.tree_at(_behind, pipeline, new, is_leaf=lambda v: v is None)


def _fresh(pipeline: Pipeline, key: Key) -> Pipeline:
    """With new weights in all learned stages."""
    keys = iter(jax.random.split(key, max(1, len(_learned(pipeline)))))
    return _replaced(pipeline, lambda stage: stage.fresh(next(keys)))


def _weights(pipeline: Pipeline) -> list[PyTree]:
    """The real arrays of the learned stages."""
    return [eqx.filter(stage, eqx.is_inexact_array) for stage in _learned(pipeline)]


def _with(problem: Problem, weights: list[PyTree]) -> Problem:
    """The problem with these weights in place, in both of its pipelines."""
    weights = jax.tree.map(jnp.asarray, weights)

    def put(pipeline: Pipeline) -> Pipeline:
        new = iter(weights)
        return _replaced(pipeline, lambda stage: eqx.combine(next(new), stage))

    if problem.hard_pipeline is not None:
        problem = problem.replace(hard_pipeline=put(problem.hard_pipeline))
    return problem.replace(pipeline=put(problem.pipeline))


def _simulate(problem: Problem, u: Vector, key: Key) -> PyTree:
    """Truth and signal of all training events."""
    design, size = problem.design(u), problem.chunks[1]
    return over_chunks(
        problem, key, lambda k: problem.pipeline.simulate(design, size, key=k)
    )


_compiled = jit(_simulate)


def _simulated(problem: Problem, item: tuple) -> PyTree:
    """One design in this process, as NumPy arrays."""
    u, key = jnp.asarray(item[0], float), item[1]
    rows = _simulate if problem.pipeline.is_host else _compiled
    return measure.simulated(rows, problem, u, key)


@jit
def _train(
    problem: Problem,
    us: Float[Array, "design n"],
    rows: PyTree,
    begin: tuple[PyTree, PyTree],
    key: Key,
    settings: tuple[int, int, float],
) -> tuple[PyTree, PyTree, Vector]:
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

    (weights, adam), course = jax.lax.scan(step, begin, jax.random.split(key, steps))
    return weights, adam, course
