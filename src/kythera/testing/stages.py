"""Checks of sources and stages: the promises that a simulator's kind makes."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.compilation import jit
from kythera.core.measure import measure
from kythera.core.problem import Problem
from kythera.core.stage import (
    AbstractHostStage,
    AbstractSource,
    AbstractStage,
    AbstractTractableSimulator,
    has_host_stage,
)
from kythera.core.types import Array, Key
from kythera.testing.law import (
    arrays,
    float64,
    is_real,
    require,
    require_equal,
    widened,
)

REACH = 0.02  # of each leaf's scale, over which derivatives must add up to differences
NODES = (8, 32, 128)  # Gauss points; the more only where a smooth output changes fast


def check_source(
    source: AbstractSource, *, key: Key, events: int = 16, rtol: float = 1e-5
) -> None:
    """A source gives the same rows for the same key, finite ones, as many as asked for.

    Args:
        source: what is checked.
        key: of the draws.
        events: rows to draw.
        rtol: by how much compiled and eager rows may differ, relative to the largest.

    Raises:
        AssertionError: with the law and the values.
    """
    name = f"`{type(source).__name__}`"
    require(
        int(source.primaries) == source.primaries and source.primaries >= 1,
        f"{name} must say how many primaries a row holds, a whole number >= 1",
        f"`primaries` is {source.primaries}",
    )
    first = source(events, key=key)
    require_equal(
        f"{name} must give the same rows for the same key",
        first,
        source(events, key=key),
    )
    _check_rows(name, first, events)
    _check_shapes(name, first, source(events, key=jax.random.fold_in(key, 1)))
    if not has_host_stage(source):
        compiled = jit(lambda k: source(events, key=k))(key)
        require_equal(f"{name} must work under `jit`", first, compiled, rtol)


def check_stage(
    stage: AbstractStage, design: Any, x: Any, *, key: Key, rtol: float = 1e-4
) -> None:
    """The law of stages.

    The same key gives the same output; all numbers are finite; the event axis is kept;
    stages in JAX give under `jit` and `vmap` what they give eagerly; stages outside JAX run
    eagerly, declare the shapes of their outputs, and give the same for several designs in
    one call where they take several.

    Args:
        stage: what is checked.
        design: a design that it takes.
        x: a record that it takes, at least one row.
        key: of its random numbers.
        rtol: by how much compiled and eager outputs may differ, relative to the largest
            number of each array.

    Raises:
        AssertionError: with the law and the values.
    """
    name = f"`{type(stage).__name__}`"
    events = arrays(x)[0][1].shape[0]
    first = stage(design, x, key=key)
    require_equal(
        f"{name} must give the same output for the same key",
        first,
        stage(design, x, key=key),
    )
    _check_rows(name, first, events)
    if isinstance(stage, AbstractHostStage):
        declared = [(v.shape, v.dtype) for v in jax.tree.leaves(stage.shapes(events))]
        got = [(v.shape, v.dtype) for v in jax.tree.leaves(first)]
        require(
            [shape for shape, _ in declared] == [shape for shape, _ in got],
            f"{name}.shapes must declare its output",
            f"it declares {declared} and gives {got}",
        )
        if stage.batch > 1:
            other = jax.random.fold_in(key, 1)
            require_equal(
                f"{name} must give several designs in one call what it gives each alone",
                [first, stage(design, x, key=other)],
                stage.call_batch([design, design], [x, x], [key, other]),
            )
    if has_host_stage(stage):
        return
    compiled = _run(stage, design, x, key)
    require_equal(f"{name} must work under `jit`", first, compiled, rtol)
    other = jax.random.fold_in(key, 1)
    both = _run_both(stage, design, x, jnp.stack([key, other]))
    for i, single in enumerate((compiled, _run(stage, design, x, other))):
        require_equal(
            f"{name} must work under `vmap`",
            single,
            jax.tree.map(lambda v, i=i: v[i] if eqx.is_array(v) else v, both),
            rtol,
        )


@jit
def _run(stage: AbstractStage, design: Any, x: Any, key: Key) -> Any:
    return stage(design, x, key=key)


@jit
def _run_both(stage: AbstractStage, design: Any, x: Any, keys: Key) -> Any:
    return eqx.filter_vmap(lambda k: stage(design, x, key=k))(keys)


def check_gradient(
    stage: AbstractStage,
    design: Any,
    x: Any,
    *,
    key: Key,
    rtol: float = 1e-4,
    step: float = 1e-5,
    directions: int = 3,
) -> None:
    """The law of pathwise simulators, in float64 at a fixed key.

    Along random directions of the design the derivative of every output of every event is
    its central difference; reverse mode agrees with forward mode; and nothing jumps: the
    mean over events of each output changes over 2% of the design's scale by the integral
    of its derivative (8 to 128 Gauss points), within 5% of the largest.

    Try designs at edges and symmetric points too.

    Args:
        stage: what is checked.
        design: where; its arrays of real numbers are moved.
        x: a record that it takes; some hundred rows find the jumps.
        key: of its random numbers.
        rtol: allowed difference, relative to the largest derivative of each array.
        step: of the difference, in units of each leaf's largest number (1 where it is 0).
        directions: how many.

    Raises:
        AssertionError: with the law and the values.
    """
    name = f"`{type(stage).__name__}`"
    with float64():
        stage, design, x = widened((stage, design, x))
        line = _Line(stage, *eqx.partition(design, is_real), x, key)
        for i in range(directions):
            way = _direction(line.moving, jax.random.fold_in(key, 1000 + i))
            _check_slopes(
                name, line, way, jax.random.fold_in(key, 2000 + i), rtol, step
            )
            _check_jumps(name, line, way)


class _Line(eqx.Module):
    """A stage along a line through the space of designs.

    Args:
        stage: the stage.
        moving: real numbers of the design, where t = 0.
        fixed: the rest of it.
        x: its input.
        key: of its random numbers.
    """

    stage: AbstractStage
    moving: Any
    fixed: Any
    x: Any
    key: Key

    def outputs(self, moved: Any) -> tuple[list[Array], list[Array]]:
        """Arrays of the output: of real numbers, and the others."""
        design = eqx.combine(moved, self.fixed)
        out = jax.tree.leaves(self.stage(design, self.x, key=self.key))
        real = [v for v in out if is_real(v)]
        return real, [v for v in out if eqx.is_array(v) and not is_real(v)]

    @jit
    def at(self, t: Array, way: Any) -> tuple[list[Array], list[Array], list[Array]]:
        """Real outputs at moving + t way, their derivatives in t, the other outputs."""

        def real(t: Array) -> tuple[list[Array], list[Array]]:
            return self.outputs(jax.tree.map(lambda v, w: v + t * w, self.moving, way))

        values, slopes, others = jax.jvp(real, (t,), (jnp.ones_like(t),), has_aux=True)
        return values, slopes, others

    @jit
    def back(self, way: Any, cotangents: list[Array]) -> Array:
        """The derivative at t = 0 of the outputs' product with `cotangents`, reverse."""

        def projected(moved: Any) -> Array:
            real = self.outputs(moved)[0]
            return jnp.stack([jnp.vdot(c, v) for c, v in zip(cotangents, real)]).sum()

        slopes = jax.tree.map(jnp.vdot, jax.grad(projected)(self.moving), way)
        return jax.tree.reduce(jnp.add, slopes, jnp.zeros(()))


def _check_slopes(
    name: str, line: _Line, way: Any, key: Key, rtol: float, step: float
) -> None:
    """Forward mode is the central difference, and reverse mode is forward mode."""
    _, exact, _ = line.at(jnp.zeros(()), way)
    ahead, behind = (
        line.at(jnp.asarray(step, float), way)[0],
        line.at(jnp.asarray(-step, float), way)[0],
    )
    for a, b, slope in zip(ahead, behind, exact, strict=True):
        scale = float(jnp.max(jnp.abs(slope), initial=0.0))
        floor = 1e-9 * float(jnp.max(jnp.abs(a), initial=0.0)) / step
        gap = jnp.abs((a - b) / (2 * step) - slope)
        worst = float(jnp.max(gap, initial=0.0))
        require(
            worst <= rtol * scale + floor,
            f"The derivative of {name} must be its central difference at a fixed key",
            f"an output of shape {slope.shape} differs by {worst:.3g} where its largest "
            f"derivative is {scale:.3g}",
        )
    signs = [
        jax.random.normal(jax.random.fold_in(key, j), slope.shape)
        for j, slope in enumerate(exact)
    ]
    products = [sign * slope for sign, slope in zip(signs, exact)]
    forward = float(sum(jnp.sum(p) for p in products))
    size = float(sum(jnp.sum(jnp.abs(p)) for p in products))
    reverse = float(line.back(way, signs))
    require(
        abs(forward - reverse) <= 1e-8 * size + 1e-300,
        f"Reverse and forward mode of {name} must agree",
        f"they give {reverse:.9g} and {forward:.9g}",
    )


def _check_jumps(name: str, line: _Line, way: Any) -> None:
    """The mean over events of each output changes by the integral of its derivative."""
    ahead, _, others = line.at(jnp.asarray(REACH, float), way)
    behind, _, before = line.at(jnp.asarray(-REACH, float), way)
    for a, b in zip(others, before, strict=True):
        require(
            bool(jnp.all(a == b)),
            f"No output of {name} may jump with the design",
            f"an output of type {a.dtype} changes between two designs nearby",
        )
    for count in NODES:
        faults = _jumps(name, line, way, ahead, behind, count)
        if not faults:
            return
    require(False, *faults)


def _jumps(
    name: str, line: _Line, way: Any, ahead: list, behind: list, count: int
) -> tuple[str, str] | tuple[()]:
    """Law and values of the first output whose mean is no integral of its derivative."""
    points, weights = np.polynomial.legendre.leggauss(count)
    nodes = [line.at(jnp.asarray(REACH * t, float), way)[1] for t in points]
    for i, (a, b) in enumerate(zip(ahead, behind, strict=True)):
        slopes = [jnp.mean(node[i], 0) for node in nodes]
        integral = REACH * sum(w * s for w, s in zip(weights, slopes))
        change = jnp.mean(a, 0) - jnp.mean(b, 0)
        largest = 2 * REACH * max(float(jnp.max(jnp.abs(s))) for s in slopes)
        gap = float(jnp.max(jnp.abs(change - integral)))
        if not gap <= 0.05 * largest + 1e-9 * float(jnp.max(jnp.abs(a))):
            return (
                f"The mean of {name} must change by the integral of its derivative "
                "(nothing jumps)",
                f"output {i} of shape {a.shape} is off by {gap:.3g}, and its largest "
                f"change is {largest:.3g}",
            )
    return ()


def check_log_prob(
    simulator: AbstractTractableSimulator,
    design: Any,
    x: Any,
    *,
    key: Key,
    directions: int = 4,
) -> None:
    """The law of tractable simulators: E[grad log p(y | x, design)] = 0 for y ~ p.

    Args:
        simulator: what is checked.
        design: where; its arrays of real numbers are moved along random directions.
        x: a record that it takes, some thousand rows.
        key: of its random numbers.
        directions: how many.

    Raises:
        AssertionError: a mean is more than four standard errors from zero.
    """
    name = f"`{type(simulator).__name__}`"
    moving, fixed = eqx.partition(design, is_real)
    y = simulator(design, x, key=key)

    @jit
    def slopes(way: Any) -> Array:
        def log_prob(t: Array) -> Array:
            moved = jax.tree.map(lambda v, w: v + t * w, moving, way)
            return simulator.log_prob(eqx.combine(moved, fixed), x, y)

        return jax.jvp(log_prob, (jnp.zeros(()),), (jnp.ones(()),))[1]

    events = arrays(x)[0][1].shape[0]
    seen = False
    for i in range(directions):
        way = _direction(moving, jax.random.fold_in(key, 1000 + i))
        found = np.asarray(slopes(way), float)
        require(
            found.shape == (events,) and np.all(np.isfinite(found)),
            f"`log_prob` of {name} must give one finite number for each event",
            f"it gives shape {found.shape}, {np.sum(~np.isfinite(found))} not finite",
        )
        spread = found.std(ddof=1) / np.sqrt(events)
        seen = seen or spread > 0
        require(
            abs(found.mean()) <= 4 * spread + 1e-12,
            f"The mean of grad log p of {name} must be 0 within four standard errors",
            f"it is {found.mean():.4g} +- {spread:.2g}",
        )
    require(
        seen,
        f"`log_prob` of {name} must depend on the design",
        "its derivative is zero everywhere",
    )


def check_problem_gradient(
    problem: Problem,
    points: Sequence[np.ndarray] | None = None,
    *,
    key: Key,
    rtol: float = 1e-4,
    step: float = 1e-5,
    coordinates: int = 12,
) -> None:
    """The gradient of a whole problem is its difference at a fixed key, in float64.

    Differences are central, and one-sided of second order where a coordinate is at an edge
    of the cube.

    Args:
        problem: with a pathwise simulator.
        points: of the cube; by default the start, a random point, and the start with every
            third coordinate at an edge.
        key: of the events.
        rtol: allowed difference, relative to the largest derivative of each output.
        step: of the difference, a fraction of the range.
        coordinates: at most so many are differenced, chosen at random.

    Raises:
        AssertionError: with the coordinate and the values.
    """
    with float64():
        problem = widened(problem)
        n, names = problem.space.size, problem.space.names
        rng = np.random.default_rng(int(jax.random.bits(key, dtype=jnp.uint32)))
        if points is None:
            start = np.clip(np.asarray(problem.space.start, float), 0, 1)
            edges = start.copy()
            edges[::3] = np.arange(edges[::3].size) % 2
            points = [start, rng.uniform(0.1, 0.9, n), edges]

        @jit
        def value(u: Array) -> Array:
            found = measure(problem, u, key)
            return jnp.stack([problem.total(found.loss), *found.slack.values()])

        @jit
        def gradient(u: Array) -> Any:
            return measure(problem, u, key, "pathwise").gradients

        for point in points:
            u = np.asarray(point, float)
            exact = np.asarray(gradient(jnp.asarray(u)))
            scale = np.max(np.abs(exact), 1)
            level = np.abs(np.asarray(value(jnp.asarray(u))))
            chosen = rng.choice(n, min(n, coordinates), replace=False)
            for j in sorted(chosen):
                found = _difference(value, u, j, step)
                gap = np.abs(found - exact[:, j])
                require(
                    np.all(gap <= rtol * scale + 1e-9 * level / step),
                    f"The gradient of '{problem.name}' must be its difference at a "
                    "fixed key",
                    f"along '{names[j]}' at u = {u[j]:.4g} it is {exact[:, j]} and the "
                    f"difference {found} (loss first, then constraints)",
                )


def _difference(value: Any, u: np.ndarray, j: int, step: float) -> np.ndarray:
    """d value / d u_j: central, or one-sided at an edge of the cube."""

    def at(shift: float) -> np.ndarray:
        moved = u.copy()
        moved[j] += shift
        return np.asarray(value(jnp.asarray(moved)))

    if step <= u[j] <= 1 - step:
        return (at(step) - at(-step)) / (2 * step)
    h = step if u[j] < 0.5 else -step
    return (-3 * at(0) + 4 * at(h) - at(2 * h)) / (2 * h)


def _direction(tree: Any, key: Key) -> Any:
    """Normal numbers like the tree's, in units of the largest number of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    ways = []
    for i, leaf in enumerate(leaves):
        largest = jnp.max(jnp.abs(leaf), initial=0.0)
        scale = jnp.where(largest > 0, largest, 1.0)
        normal = jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
        ways.append(scale * normal)
    return jax.tree.unflatten(structure, ways)


def _check_rows(name: str, record: Any, events: int) -> None:
    found = arrays(record)
    require(found, f"{name} must give arrays", f"it gives {record!r}")
    for path, value in found:
        require(
            value.ndim >= 1 and value.shape[0] == events,
            f"{name} must keep the axis `event` in front",
            f"{path} has shape {value.shape} for {events} events",
        )
        if np.issubdtype(value.dtype, np.inexact):
            bad = int(np.sum(~np.isfinite(value)))
            require(
                bad == 0,
                f"{name} must give finite numbers",
                f"{path} has {bad} that are not",
            )


def _check_shapes(name: str, first: Any, second: Any) -> None:
    """Another key gives other rows of the same shapes."""
    for (path, a), (_, b) in zip(arrays(first), arrays(second), strict=True):
        require(
            a.shape == b.shape,
            f"{name} must give the same shapes for each key",
            f"{path} has {a.shape} and {b.shape}",
        )
