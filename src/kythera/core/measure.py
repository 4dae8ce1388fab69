"""Value, error and gradient of T = score(mean tally), with memory that does not grow.

One chunk of events is simulated once. Several are simulated twice: the first pass sums the
tallies; with the mean m known, the second pulls the weights d score / d m back through each
chunk and collects the influence of each event, psi_i = <d score / d m, tally_i - m>, whose
spread is the standard error.
"""

import functools
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.evaluation import Evaluation, Measured
from kythera.core.nuisances import with_tangents
from kythera.core.problem import Problem
from kythera.core.types import Array, Design, Float, Key, PyTree, Vector

Mode = Literal["value", "pathwise", "score"]

# The last is what JAX makes of a callback's error from the third call on.
FAILURES = (errors.SimulationError, jax.errors.JaxRuntimeError, ValueError)


class Measurement(eqx.Module):
    """What one evaluation yields inside JAX; outputs are the terms, then the slacks.

    Args:
        loss: named terms.
        slack: named constraints.
        covariance: of all outputs, shape (outputs, outputs).
        gradients: of the weighted loss, then of each slack, shape (1 + slacks, n); None
            where only the value was asked for.
    """

    loss: dict[str, Array]
    slack: dict[str, Array]
    covariance: Float[Array, "outputs outputs"]
    gradients: Float[Array, "wanted n"] | None


def _tally(problem: Problem, design: Design, trace: Any) -> PyTree:
    rows = problem.objective.tally(design, trace)
    return jax.tree.map(lambda v: jnp.asarray(v, float), rows)


def _sample(problem: Problem, u: Vector, key: Key, mode: Mode) -> tuple[PyTree, Any]:
    """Rows of tallies of one chunk, and log p of the signals where it is asked for."""
    size = problem.chunks[1]
    pipeline = problem.pipeline

    def rows_of(design: Design) -> tuple[PyTree, Any]:
        truth, signal = pipeline.simulate(design, size, key=key)
        log_prob = ()
        if mode == "score":
            signal = jax.lax.stop_gradient(signal)
            log_prob = pipeline.simulator.log_prob(design, truth, signal)  # type: ignore
        trace = pipeline.analyse(design, truth, signal, key=key)
        return _tally(problem, design, trace), log_prob

    return with_tangents(
        problem.objective, problem.design(u), rows_of, is_host=pipeline.is_host
    )


def _outputs(problem: Problem, u: Vector, mean: PyTree) -> Vector:
    score = problem.score(problem.design(u), mean)
    values = [*_sorted(score.loss).values(), *_sorted(score.slack).values()]
    return jnp.stack(values)


def _sorted(named: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(named.items()))


def _mean(rows: PyTree) -> PyTree:
    return jax.tree.map(lambda v: jnp.mean(v, 0), rows)


def _slopes(problem: Problem, u: Vector, mean: PyTree) -> PyTree:
    """d outputs / d mean row, with a leading axis `outputs`; empty where the row is."""
    if not jax.tree.leaves(mean):
        return mean
    return jax.jacrev(lambda m: _outputs(problem, u, m))(mean)


def _influences(
    rows: PyTree, mean: PyTree, slopes: PyTree, shape: tuple[int, int]
) -> Float[Array, "e k"]:
    """psi for each event and output; zeros of this shape where nothing is counted."""
    parts = [
        jnp.tensordot(
            (r - m).reshape(r.shape[0], -1), s.reshape(s.shape[0], -1), ((1,), (1,))
        )
        for r, m, s in zip(
            jax.tree.leaves(rows),
            jax.tree.leaves(mean),
            jax.tree.leaves(slopes),
            strict=True,
        )
        if m.size
    ]
    return functools.reduce(jnp.add, parts, jnp.zeros(shape))


def _wanted(
    problem: Problem, u: Vector, mean: PyTree
) -> tuple[Float[Array, "w k"], list[bool]]:
    """Cotangents on the outputs (the weighted loss, each slack), and which need events."""
    design = problem.design(u)
    score = problem.score(design, mean)
    free = problem.objective.constraints(design)
    terms, slacks = len(score.loss), len(score.slack)
    weights = problem.weight(_sorted(score.loss))
    matrix = np.zeros((1 + slacks, terms + slacks))
    matrix[0, :terms] = weights
    matrix[1:, terms:] = np.eye(slacks)
    needs = [True, *(name not in free for name in _sorted(score.slack))]
    return jnp.asarray(matrix, float), needs


def chunk_keys(key: Key, first: Any, count: int) -> Key:
    """Keys of chunks first ... first + count - 1 of an evaluation, shape (count,)."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(
        first + jnp.arange(count)
    )


def add_tallies(problem: Problem, u: Vector, keys: Key) -> PyTree:
    """What some chunks add to the mean tally of an evaluation: its first pass.

    Args:
        problem: a problem whose pipeline runs in JAX.
        u: point of the cube, shape (n,).
        keys: of the chunks, one by one.
    """
    count = problem.chunks[0]

    def part(k: Key) -> PyTree:
        return _mean(_sample(problem, u, k, "value")[0])

    def add(total: PyTree, k: Key) -> tuple[PyTree, None]:
        return jax.tree.map(lambda a, b: a + b / count, total, part(k)), None

    shape = jax.eval_shape(part, keys[0])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    return jax.lax.scan(add, zero, keys)[0]


def add_influences(
    problem: Problem, u: Vector, keys: Key, mean: PyTree, mode: Mode
) -> tuple[Float[Array, "k k"], Float[Array, "w n"] | None]:
    """What some chunks add to spread and gradients of an evaluation: its second pass.

    Args:
        problem: a problem whose pipeline runs in JAX.
        u: point of the cube, shape (n,).
        keys: of the chunks, one by one.
        mean: tally of the whole evaluation.
        mode: as for `measure`.
    """
    slopes = _slopes(problem, u, mean)
    wanted, _ = _wanted(problem, u, mean)
    sample = functools.partial(_sample, problem, mode=mode)

    def add(carry: Any, k: Key) -> tuple[Any, None]:
        spread, gradients = carry
        if mode == "value":
            rows, _ = sample(u, k)
        else:
            (rows, _), pull = jax.vjp(lambda v: sample(v, k), u)
            gradients = gradients + _pulled(problem, u, rows, mean, slopes, pull, mode)
        psi = _psi(problem, rows, mean, slopes, wanted)
        return (spread + psi.T @ psi, gradients), None

    k, w = wanted.shape[1], wanted.shape[0]
    zero = None if mode == "value" else jnp.zeros((w, u.shape[0]))
    return jax.lax.scan(add, (jnp.zeros((k, k)), zero), keys)[0]


def conclude(
    problem: Problem,
    u: Vector,
    mean: PyTree,
    spread: Float[Array, "k k"],
    gradients: Float[Array, "w n"] | None,
) -> Measurement:
    """From sums over all events to what an evaluation yields."""
    events = int(np.prod(problem.chunks))
    if gradients is not None:  # what the score and the constraints see of the design
        wanted, _ = _wanted(problem, u, mean)
        _, direct = jax.vjp(lambda v: _outputs(problem, v, mean), u)
        gradients = gradients + jnp.stack([direct(c)[0] for c in wanted])
    score = problem.score(problem.design(u), mean)
    covariance = spread / events / (events - 1) if events > 1 else spread * jnp.nan
    return Measurement(_sorted(score.loss), _sorted(score.slack), covariance, gradients)


def _psi(
    problem: Problem, rows: PyTree, mean: PyTree, slopes: PyTree, wanted: Array
) -> Float[Array, "e k"]:
    """Influences of the events of one chunk on the outputs."""
    return _influences(rows, mean, slopes, (problem.chunks[1], wanted.shape[1]))


def _pulled(
    problem: Problem,
    u: Vector,
    rows: PyTree,
    mean: PyTree,
    slopes: PyTree,
    pull: Any,
    mode: Mode,
) -> Float[Array, "w n"]:
    """What the events of one chunk add to the gradients."""
    events = int(np.prod(problem.chunks))
    wanted, has_events = _wanted(problem, u, mean)

    def one(cotangent: Vector) -> Vector:
        weights = jax.tree.map(
            lambda s, r: jnp.broadcast_to(
                jnp.tensordot(cotangent, s, 1) / events, r.shape
            ),
            slopes,
            rows,
        )
        psi = _psi(problem, rows, mean, slopes, wanted) @ cotangent
        psi = psi / max(events - 1, 1)
        return pull((weights, psi if mode == "score" else ()))[0]

    return jnp.stack(
        [
            one(cotangent) if sampled else jnp.zeros(u.shape)
            for cotangent, sampled in zip(wanted, has_events, strict=True)
        ]
    )


def measure(problem: Problem, u: Vector, key: Key, mode: Mode = "value") -> Measurement:
    """One evaluation inside JAX.

    Args:
        problem: a problem whose pipeline runs in JAX.
        u: point of the cube, shape (n,).
        key: of the events.
        mode: "value"; "pathwise" differentiates the pipeline at a fixed key; "score" holds
            the signals fixed and weights d log p with the influences, of which the mean is
            left out event by event: E[(psi_i n / (n - 1)) d log p_i].
    """
    count = problem.chunks[0]
    keys = chunk_keys(key, 0, count)
    if count > 1:
        mean = add_tallies(problem, u, keys)
        sums = add_influences(problem, u, keys, mean, mode)
        return conclude(problem, u, mean, *sums)
    pull = None
    if mode == "value":
        rows, _ = _sample(problem, u, keys[0], mode)
    else:
        (rows, _), pull = jax.vjp(lambda v: _sample(problem, v, keys[0], mode), u)
    mean = _mean(rows)
    slopes = _slopes(problem, u, mean)
    wanted, _ = _wanted(problem, u, mean)
    psi = _psi(problem, rows, mean, slopes, wanted)
    gradients = None
    if pull is not None:
        gradients = _pulled(problem, u, rows, mean, slopes, pull, mode)
    return conclude(problem, u, mean, psi.T @ psi, gradients)


def measure_rows(problem: Problem, u: Vector, rows: PyTree) -> Measurement:
    """Score and error of tallies of all events that are at hand, with an axis `event`."""
    mean = _mean(rows)
    slopes = _slopes(problem, u, mean)
    wanted, _ = _wanted(problem, u, mean)
    shape = (int(np.prod(problem.chunks)), wanted.shape[1])
    psi = _influences(rows, mean, slopes, shape)
    return conclude(problem, u, mean, psi.T @ psi, None)


def through_model(
    problem: Problem, u: Vector, mean: PyTree, pull: Callable[[PyTree], Vector]
) -> Float[Array, "w n"]:
    """Gradients where a differentiable model tells how the mean tally moves.

    Args:
        problem: whose score counts.
        u: point of the cube, shape (n,).
        mean: tally as it was measured there, at which the score is linearised.
        pull: cotangent of the model's mean tally -> that of the point of the cube.
    """
    slopes = _slopes(problem, u, mean)
    wanted, _ = _wanted(problem, u, mean)
    _, direct = jax.vjp(lambda v: _outputs(problem, v, mean), u)

    def one(cotangent: Vector) -> Vector:
        on_mean = jax.tree.map(lambda s: jnp.tensordot(cotangent, s, 1), slopes)
        return direct(cotangent)[0] + pull(on_mean)

    return jnp.stack([one(cotangent) for cotangent in wanted])


rows_measured = jit(measure_rows)


def host_rows(problem: Problem, u: Vector, key: Key) -> PyTree:
    """Tallies of all events of a pipeline that leaves JAX, chunk by chunk, eagerly."""
    count, _ = problem.chunks
    return join_rows([chunk_rows(problem, u, key, i) for i in range(count)])


def chunk_rows(problem: Problem, u: Vector, key: Key, chunk: int) -> PyTree:
    """Tallies of the events of one chunk of an evaluation, eagerly."""
    return _sample(problem, u, jax.random.fold_in(key, chunk), "value")[0]


def join_rows(parts: list[PyTree]) -> PyTree:
    """Tallies of some chunks, one after the other."""
    return jax.tree.map(lambda *v: jnp.concatenate(v), *parts)


@jit
def _compiled(
    problem: Problem, us: Float[Array, "q n"], keys: Key, mode: Mode
) -> Measurement:
    if us.shape[0] == 1:  # a batch of one costs more than none
        one = measure(problem, us[0], keys[0], mode)
        return jax.tree.map(lambda v: v[None], one)
    return jax.vmap(lambda u, k: measure(problem, u, k, mode))(us, keys)


def evaluate(
    problem: Problem, mode: Mode, block: tuple[np.ndarray, Key]
) -> list[Evaluation]:
    """Evaluate the designs of one block, in this process.

    Args:
        problem: what to evaluate.
        mode: as for `measure`.
        block: points of the cube (q, n), and one key for each (q,).

    Returns:
        one evaluation for each design; failed where a stage failed or a number is not
        finite, with the cause.
    """
    us, keys = jnp.asarray(block[0], float), block[1]
    if problem.pipeline.is_host:
        return _evaluate_hosts(problem, list(us), list(keys))
    try:
        found = simulated(_compiled, problem, us, keys, mode)
    except errors.SimulationError as error:
        return [Evaluation.failed(str(error), problem.price) for _ in us]
    return [
        finish(problem, jax.tree.map(lambda v, i=i: v[i], found), problem.price)
        for i in range(us.shape[0])
    ]


def _cause(error: Exception) -> str:
    """Why a simulation failed; of what JAX calls back it keeps the text only.

    Raises:
        Exception: the error itself, where it is no failed simulation.
    """
    if isinstance(error, errors.SimulationError):
        return str(error)
    found = re.search(r"\bSimulationError: (.*)", str(error), re.DOTALL)
    if not found:
        raise error
    return found[1].strip()


def simulated(simulation: Callable[..., PyTree], *arguments: Any) -> PyTree:
    """What a simulation gives, compiled or not, as NumPy arrays.

    Raises:
        SimulationError: a stage that JAX calls back failed.
    """
    try:
        return fetch(simulation(*arguments))
    except FAILURES as error:
        raise errors.SimulationError(_cause(error)) from error


def fetch(tree: PyTree) -> PyTree:
    """Arrays as NumPy's, once they are computed.

    Python hears no signal while it waits inside of JAX; where signals arrive, in the main
    thread, it looks every now and then (in 2% of the time that passed).
    """
    if threading.current_thread() is threading.main_thread():
        began = time.perf_counter()
        for leaf in jax.tree.leaves(tree):
            while not leaf.is_ready():
                waited = time.perf_counter() - began
                time.sleep(min(max(waited / 50, 1e-4), 0.02))
    return jax.device_get(tree)


def _evaluate_hosts(
    problem: Problem, us: list[Vector], keys: list[Key]
) -> list[Evaluation]:
    """Evaluate designs outside JAX: together where the simulator can, else one by one.

    A failure that several designs share is that of one of them: each is tried alone.
    """
    together = problem.pipeline.batch > 1 and not problem.objective.nuisances()
    if len(us) > 1 and together:
        try:
            rows = _host_rows_of_all(problem, us, keys)
            found = [rows_measured(problem, u, r) for u, r in zip(us, rows)]
            return [finish(problem, jax.device_get(f), problem.price) for f in found]
        except FAILURES as error:
            _cause(error)  # any other error is raised
    return [_evaluate_host(problem, u, key) for u, key in zip(us, keys, strict=True)]


def _host_rows_of_all(
    problem: Problem, us: list[Vector], keys: list[Key]
) -> list[PyTree]:
    """`host_rows` of several designs, each chunk of all of them in one call."""
    pipeline, (count, size) = problem.pipeline, problem.chunks
    designs = [problem.design(u) for u in us]
    parts: list[list[PyTree]] = [[] for _ in us]
    for chunk in range(count):
        own = [jax.random.fold_in(key, chunk) for key in keys]
        drawn = pipeline.simulate_batch(designs, size, keys=own)
        for part, design, key, record in zip(parts, designs, own, drawn, strict=True):
            trace = pipeline.analyse(design, *record, key=key)
            part.append(_tally(problem, design, trace))
    return [join_rows(part) for part in parts]


def _evaluate_host(problem: Problem, u: Vector, key: Key) -> Evaluation:
    try:
        found = rows_measured(problem, u, host_rows(problem, u, key))
    except FAILURES as error:
        return Evaluation.failed(_cause(error), problem.price)
    return finish(problem, jax.device_get(found), problem.price)


def finish(problem: Problem, found: Measurement, events: int) -> Evaluation:
    """From arrays to an `Evaluation`; failed where a value or gradient is not finite."""
    bad = [
        f"{kind} '{name}' is {float(value)}"
        for kind, named in (("term", found.loss), ("constraint", found.slack))
        for name, value in named.items()
        if not np.isfinite(value)
    ]
    if found.gradients is not None and not np.all(np.isfinite(found.gradients)):
        where = int(np.argwhere(~np.isfinite(found.gradients))[0][1])
        bad.append(f"the gradient along '{problem.space.names[where]}' is not finite")
    if bad:
        return Evaluation.failed("; ".join(bad), events)
    terms, covariance = len(found.loss), np.asarray(found.covariance, float)
    errors_ = np.sqrt(np.maximum(np.diag(covariance), 0) + 0 * np.diag(covariance))
    weights = problem.weight(found.loss)
    values = np.array([float(v) for v in found.loss.values()])
    variance = float(weights @ covariance[:terms, :terms] @ weights)
    gradients = found.gradients
    total = Measured(
        float(weights @ values),
        float(np.sqrt(max(variance, 0.0))) if np.isfinite(variance) else float("nan"),
        None if gradients is None else np.asarray(gradients[0]),
    )
    slack = {
        name: Measured(
            float(value),
            float(errors_[terms + i]),
            None if gradients is None else np.asarray(gradients[1 + i]),
        )
        for i, (name, value) in enumerate(found.slack.items())
    }
    named = {
        name: Measured(float(value), float(errors_[i]))
        for i, (name, value) in enumerate(found.loss.items())
    }
    return Evaluation(total, named, slack, covariance[:terms, :terms], events)
