"""Gradients of programs that branch: what if one decision had gone the other way?"""

import functools
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import measure
from kythera.core.branching import AbstractBranchingSimulator, event_keys, step_keys
from kythera.core.compilation import jit
from kythera.core.evaluation import AbstractEstimator, Evaluation, Map
from kythera.core.problem import Problem
from kythera.core.stage import AbstractSimulator
from kythera.core.types import Array, Float, Key, PyTree, Vector
from kythera.estimators.direct import in_blocks

Method = Literal["alternatives", "score"]
METHODS = ("alternatives", "score")


class Branching(AbstractEstimator[None]):
    """Stochastic derivatives of a simulator whose decisions depend on the design.

    "alternatives": along each event runs one in which a single decision went the other way,
    with the same random numbers. A decision b of probability p that a parameter moves at
    the rate p' would go from no to yes with weight p' / (1 - p) if p' > 0, and from yes to
    no with |p'| / p if p' < 0. Of all that could have gone the other way one is kept,
    chosen in proportion to its weight, which becomes the sum of all. Then

        grad T = < d score / d tally, mean[ d tally + w (tally_alternative - tally) ] >

    and what else depends on the design; d tally is the derivative with all decisions as
    they are. Unbiased for means. Costs about three simulations for each parameter.

    "score": w (...) becomes (tally - its mean over the other events) times
    sum (b - p) p' / (p (1 - p)). Costs about two simulations; its noise grows with the
    number of decisions.

    Args:
        method: one of the two.

    Raises:
        InputError: another method.
    """

    method: Method = eqx.field(static=True, default="alternatives")
    gives_gradient: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = (
        "G. Arya, M. Schauer, F. Schaefer, C. Rackauckas, Automatic differentiation of "
        "programs with discrete randomness, NeurIPS 2022, arXiv:2210.08572",
        "M. Kagan, L. Heinrich, Branches of a tree: taking derivatives of programs with "
        "discrete and branching randomness in high energy physics, arXiv:2308.16680",
    )

    def __check_init__(self):
        """Refuse what is no method."""
        if self.method not in METHODS:
            raise errors.InputError(
                f"There is no method {self.method!r}. "
                f"{errors.nearest(str(self.method), METHODS)}"
            )

    def check(self, problem: Problem) -> None:
        """Needs a simulator that tells its decisions, and all stages inside JAX."""
        problem.check()
        simulator = problem.pipeline.simulator
        if not isinstance(simulator, AbstractBranchingSimulator):
            raise errors.UnsupportedError(
                "`Branching` needs a simulator that tells its decisions, but "
                f"`{type(simulator).__name__}` is not an `AbstractBranchingSimulator`. "
                "Use `Pathwise` if it can be differentiated, `ScoreFunction` if it has a "
                "density, `LocalSurrogate`, or an optimiser without gradients."
            )
        if problem.pipeline.is_host:
            raise errors.UnsupportedError(
                "`Branching` needs all stages inside JAX, but one of the pipeline runs "
                "outside. Use `LocalSurrogate`, or an optimiser without gradients."
            )

    def __call__(
        self,
        problem: Problem,
        us: Float[Array, "q n"],
        state: None,
        *,
        key: Key,
        map: Map = map,
    ) -> tuple[list[Evaluation], Any]:
        """See the base class."""
        work = functools.partial(_evaluate, problem, self.method)
        return in_blocks(problem, work, us, key, map), state


class _Followed(NamedTuple):
    """What an event gives; the last three have a leading axis `parameter` behind `event`.

    Args:
        signal: of the event.
        moved: its derivative at fixed decisions.
        other: that of the alternative.
        weight: of the alternative, shape (event, parameter).
        score: derivative of the log probability of all decisions, (event, parameter).
    """

    signal: PyTree
    moved: PyTree
    other: PyTree
    weight: Array
    score: Array


class _Follower(AbstractSimulator):
    """A branching simulator together with its derivatives along n directions.

    Args:
        inner: the simulator.
        tangents: derivatives of the design's real numbers, with a leading axis `parameter`.
        method: alternatives are followed only where they are needed.
    """

    inner: AbstractBranchingSimulator
    tangents: PyTree
    method: Method = eqx.field(static=True)

    def __call__(self, design: Any, x: Any, *, key: Key) -> _Followed:
        """All events."""
        return jax.vmap(lambda x, k: self._run(design, x, k))(x, event_keys(x, key))

    def _run(self, design: Any, x: Any, key: Key) -> _Followed:
        numbers, rest = eqx.partition(design, eqx.is_inexact_array)
        step = functools.partial(_step, self.inner, (numbers, rest), self.tangents)

        def more(carry: tuple) -> Array:
            count, event = carry
            active = self.inner.active(event.state)
            if self.method == "alternatives":  # which may outlive the event
                others = jax.vmap(self.inner.active)(event.other)
                active = active | jnp.any(others & (event.weight > 0))
            return (count < self.inner.steps) & active

        def go(carry: tuple) -> tuple:
            count, event = carry
            return count + 1, step(event, step_keys(key, count), self.method)

        def begin(d: PyTree) -> tuple:
            state = self.inner.begin(eqx.combine(d, rest), x)
            return eqx.partition(state, eqx.is_inexact_array)

        moved = jax.vmap(lambda t: jax.jvp(begin, (numbers,), (t,), has_aux=True)[1])
        state = eqx.combine(*begin(numbers))
        count = jax.tree.leaves(self.tangents)[0].shape[0]
        first = _Event(
            state=state,
            moved=moved(self.tangents),
            other=jax.tree.map(lambda v: jnp.stack([v] * count), state),
            weight=jnp.zeros(count),
            score=jnp.zeros(count),
        )
        last = jax.lax.while_loop(more, go, (jnp.asarray(0), first))[1]
        real, other = eqx.partition(last.state, eqx.is_inexact_array)

        def finish(d: PyTree, s: PyTree) -> PyTree:
            signal = self.inner.finish(eqx.combine(d, rest), eqx.combine(s, other))
            return eqx.filter(signal, eqx.is_inexact_array)

        along = jax.vmap(lambda t, m: jax.jvp(finish, (numbers, real), (t, m))[1])
        return _Followed(
            signal=self.inner.finish(design, last.state),
            moved=along(self.tangents, last.moved),
            other=jax.vmap(lambda s: self.inner.finish(design, s))(last.other),
            weight=last.weight,
            score=last.score,
        )


class _Event(NamedTuple):
    """An event on its way; all but the state have a leading axis `parameter`.

    Args:
        state: of the event.
        moved: derivative of its real numbers.
        other: state of the alternative.
        weight: of the alternative.
        score: so far.
    """

    state: PyTree
    moved: PyTree
    other: PyTree
    weight: Array
    score: Array


def _step(
    simulator: AbstractBranchingSimulator,
    design: tuple[PyTree, PyTree],
    tangents: PyTree,
    event: _Event,
    keys: Key,
    method: Method,
) -> _Event:
    """One step of an event, of its derivatives, and of its alternatives."""
    numbers, rest = design
    real, other = eqx.partition(event.state, eqx.is_inexact_array)
    decide, go_on, choose = keys

    def probability(d: PyTree, s: PyTree) -> Array:
        return simulator.probability(eqx.combine(d, rest), eqx.combine(s, other))

    def advance(d: PyTree, s: PyTree) -> PyTree:
        new = simulator.advance(
            eqx.combine(d, rest), eqx.combine(s, other), yes, key=go_on
        )
        return eqx.partition(new, eqx.is_inexact_array)

    p = probability(numbers, real)
    draw = jax.random.uniform(decide, p.shape)
    yes = draw < p
    new = eqx.combine(*advance(numbers, real))

    def along(tangent: PyTree, moved: PyTree, alternative: PyTree, weight: Array):
        rate = jax.jvp(probability, (numbers, real), (tangent, moved))[1]
        forth = jax.jvp(advance, (numbers, real), (tangent, moved), has_aux=True)[1]
        odds = jnp.where(yes, p, p - 1)  # (b - p) / (p (1 - p)) = 1 / odds
        gain = jnp.where(rate == 0, 0.0, rate / jnp.where(rate == 0, 1.0, odds))
        if method == "score":
            return forth, alternative, weight, jnp.sum(gain)
        # A rising p turns no into yes, a falling one yes into no: where the score is < 0.
        turns = jnp.maximum(-gain, 0.0)
        fresh = jnp.sum(turns)
        slot_key, keep_key = jax.random.split(choose)
        slot = jax.random.categorical(slot_key, jnp.log(turns))
        turned = yes ^ (jnp.arange(yes.size) == slot).reshape(yes.shape)
        whole = eqx.combine(numbers, rest)
        started = simulator.advance(whole, event.state, turned, key=go_on)
        its_yes = draw < simulator.probability(whole, alternative)
        went_on = simulator.advance(whole, alternative, its_yes, key=go_on)
        total = weight + fresh
        anew = jax.random.uniform(keep_key) * total < fresh
        alternative = jax.tree.map(lambda a, b: jnp.where(anew, a, b), started, went_on)
        return forth, alternative, total, jnp.sum(gain)

    moved, alternative, weight, gain = jax.vmap(along)(
        tangents, event.moved, event.other, event.weight
    )
    return _Event(new, moved, alternative, weight, event.score + gain)


def _sums(
    problem: Problem, method: Method, u: Vector, key: Key
) -> tuple[PyTree, PyTree, Array, PyTree]:
    """Of one chunk: tally rows; for each parameter sums of d tally, score, score x tally."""
    design = problem.design(u)
    pipeline = problem.pipeline

    def numbers_of(v: Vector) -> PyTree:
        return eqx.filter(problem.design(v), eqx.is_inexact_array)

    def along(direction: Vector) -> PyTree:
        return jax.jvp(numbers_of, (u,), (direction,))[1]

    basis = jnp.eye(u.size)
    tangents = jax.vmap(along)(basis)
    follower = _Follower(pipeline.simulator, tangents, method)  # type: ignore[arg-type]
    follow = eqx.tree_at(lambda p: p.simulator, pipeline, follower)
    truth, found = follow.simulate(design, problem.chunks[1], key=key)

    def tally(v: Vector, signal: PyTree) -> PyTree:
        here = problem.design(v)
        trace = pipeline.analyse(here, truth, signal, key=key)
        rows = problem.objective.tally(here, trace)
        return jax.tree.map(lambda t: jnp.asarray(t, float), rows)

    rows = tally(u, found.signal)
    moved = _parameter_first(found.moved)
    real = eqx.partition(found.signal, eqx.is_inexact_array)

    def drift(direction: Vector, signal: PyTree) -> PyTree:
        def of(v: Vector, s: PyTree) -> PyTree:
            return tally(v, eqx.combine(s, real[1]))

        return jax.jvp(of, (u, real[0]), (direction, signal))[1]

    change = jax.vmap(drift)(basis, moved)
    if method == "alternatives":
        others = jax.vmap(lambda s: tally(u, s))(_parameter_first(found.other))
        change = jax.tree.map(
            lambda c, other, row: c + _times(found.weight.T, other - row),
            change, others, rows,
        )  # fmt: skip
    summed = jax.tree.map(lambda c: jnp.sum(c, 1), change)
    both = jax.tree.map(lambda r: jnp.tensordot(found.score, r, ((0,), (0,))), rows)
    return rows, summed, jnp.sum(found.score, 0), both


def _parameter_first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0), tree)


def _times(weight: Float[Array, "parameter event"], rows: Array) -> Array:
    return weight.reshape(*weight.shape, *[1] * (rows.ndim - 2)) * rows


def _measure(problem: Problem, method: Method, u: Vector, key: Key) -> Any:
    """One evaluation with its gradients inside JAX."""
    keys = measure.chunk_keys(key, 0, problem.chunks[0])
    found = jax.lax.map(lambda k: _sums(problem, method, u, k), keys)
    rows = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found[0])
    change, score, both = jax.tree.map(lambda v: jnp.sum(v, 0), found[1:])
    events = int(np.prod(problem.chunks))
    mean = jax.tree.map(lambda v: jnp.mean(v, 0), rows)
    change = jax.tree.map(lambda c: c / events, change)
    if method == "score":  # the mean of the other events is the baseline
        change = jax.tree.map(
            lambda c, b, m: c
            + (b - jnp.tensordot(score, m, 0)) / max(events - 1, 1),
            change, both, mean,
        )  # fmt: skip

    def pull(weights: PyTree) -> Vector:
        parts = jax.tree.map(lambda w, c: jnp.tensordot(c, w, w.ndim), weights, change)
        return sum(jax.tree.leaves(parts), jnp.zeros(u.shape))

    measured = measure.measure_rows(problem, u, rows)
    gradients = measure.through_model(problem, u, mean, pull)
    return eqx.tree_at(
        lambda m: m.gradients, measured, gradients, is_leaf=lambda v: v is None
    )


@jit
def _compiled(problem: Problem, method: Method, us: Array, keys: Key) -> Any:
    return jax.vmap(lambda u, k: _measure(problem, method, u, k))(us, keys)


def _evaluate(problem: Problem, method: Method, block: tuple) -> list[Evaluation]:
    """Evaluate the designs of one block, in this process."""
    us, keys = jnp.asarray(block[0], float), block[1]
    try:
        found = measure.simulated(_compiled, problem, method, us, keys)
    except errors.SimulationError as error:
        return [Evaluation.failed(str(error), problem.price) for _ in us]
    return [
        measure.finish(problem, jax.tree.map(lambda v, i=i: v[i], found), problem.price)
        for i in range(us.shape[0])
    ]
