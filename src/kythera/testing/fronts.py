"""Problems with several goals, of which the exact front or published values are known."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Pipeline, Trace
from kythera.core.problem import Problem
from kythera.core.space import AbstractDomain, Real, Space
from kythera.core.types import Array, Float, Vector
from kythera.stages.simulators.host import from_function
from kythera.testing.textbook import CENTRE, EDGE, Nothing, Point, Readout

TRACKS = 1000  # of the straw tracker


class Goals(PerEventLoss):
    """Named functions of the signal.

    Args:
        function: vector of n numbers -> named goals.
        offset: what is subtracted from each.
    """

    function: Callable[[Vector], dict[str, Array]] = eqx.field(static=True)
    offset: float = 0.0

    def loss(self, design: Point, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """One term for each goal."""
        rows = jax.vmap(self.function)(trace.signal)
        return {name: value - self.offset for name, value in rows.items()}


def _two_spheres(x: Vector) -> dict[str, Array]:
    return {
        "far": jnp.mean((x + CENTRE) ** 2),
        "near": jnp.mean((x - CENTRE) ** 2),
    }


@functools.cache
def two_spheres(n: int = 4, sigma: float = 0.0, events: int = 2) -> Problem[Point]:
    """Mean squared distances to (0.3, ..., 0.3), "near", and to its opposite, "far".

    The front is sqrt(near) + sqrt(far) = 0.6; the volume between it and the point
    (0.36, 0.36) is 5/6 of that square: 0.108.

    Args:
        n: number of coordinates, each in [-2, 2], from -1.
        sigma: blur of each.
        events: of one evaluation.
    """
    return Problem(
        space=Space(Point(-jnp.ones(n)), {"x": Real(-EDGE, EDGE)}),
        pipeline=Pipeline(Nothing(), Readout(sigma)),
        objective=Goals(_two_spheres, sigma**2),
        events=events,
        name="two spheres",
    )


def _dtlz2(terms: int, x: Vector) -> dict[str, Array]:
    angles = x[: terms - 1] * jnp.pi / 2
    value = 1 + jnp.sum((x[terms - 1 :] - 0.5) ** 2)
    found = {}
    for i in range(terms):
        part = value * jnp.prod(jnp.cos(angles[: terms - 1 - i]))
        if i:
            part = part * jnp.sin(angles[terms - 1 - i])
        found[f"f{i}"] = part
    return found


@functools.cache
def dtlz2(n: int = 10, terms: int = 2) -> Problem[Point]:
    """DTLZ2: of the front the squares of the terms sum to one.

    K. Deb et al., Scalable multi-objective optimization test problems, CEC 2002, 825.

    Args:
        n: number of coordinates, each in [0, 1].
        terms: number of goals.
    """
    return Problem(
        space=Space(Point(jnp.full(n, 0.25)), {"x": Real(0, 1)}),
        pipeline=Pipeline(Nothing(), Readout()),
        objective=Goals(functools.partial(_dtlz2, terms)),
        events=2,
        name=f"DTLZ2 with {terms} terms",
    )


def straw_tracker(
    radius: float = 0.5,
    pitch: float = 4.0,
    y1: float = 0.0,
    y2: float = 0.0,
    y3: float = 0.0,
    z1: float = 2.0,
    z2: float = 4.0,
    z3: float = 6.0,
) -> dict[str, float]:
    """Four planes of straws that look at a thousand tracks, always the same ones.

    The toy of the tutorial on detector design by C. Fanelli (after one of Yandex): the
    track y = k z + b passes a straw where its distance along y is below the radius, and is
    seen where it passes two or more.

    Args:
        radius: of a straw (in units of the tutorial, as all lengths).
        pitch: distance of neighbours in a plane.
        y1: shift of the second plane against the first; y2, y3 likewise.
        y2: see `y1`.
        y3: see `y1`.
        z1: distance of the second plane from the first; z2, z3 likewise.
        z2: see `z1`.
        z3: see `z1`.

    Returns:
        "missed": 1 - efficiency; "volume" of the straws with |y| < 10.1 (as
        published: 4 * 3.14 R^2 each); "residual": mean over the tracks seen of the mean distance
        from the wires that they passed, the radius where none is seen.
    """
    b, k = _tracks()
    missed, volume, residual = _straws(
        radius, pitch, np.cumsum([0, y1, y2, y3]), np.cumsum([0, z1, z2, z3]), b, k
    )
    return {"missed": missed, "volume": volume, "residual": residual}


@functools.cache
def _tracks() -> tuple[np.ndarray, np.ndarray]:
    """Intercepts and slopes: those that were published."""
    b = np.random.RandomState(42).uniform(-10.1, 10.1, TRACKS)
    angle = np.random.RandomState(42).normal(0, 0.2, TRACKS)
    return b, np.tan(angle)


def _straws(
    radius: float,
    pitch: float,
    y: np.ndarray,
    z: np.ndarray,
    b: np.ndarray,
    k: np.ndarray,
) -> tuple[float, float, float]:
    passed, distance, count = np.zeros(TRACKS), np.zeros(TRACKS), 0
    for shift, place in zip(y, z, strict=True):
        wires = shift + pitch * np.arange(-100, 101)
        near = np.abs(k[:, None] * place + b[:, None] - wires)
        hit = near < radius
        passed += hit.sum(1)
        distance += np.where(hit, near, 0).sum(1)
        count += int(((wires >= -10.1) & (wires < 10.1)).sum())
    seen = passed >= 2
    residual = float((distance[seen] / passed[seen]).mean()) if seen.any() else radius
    return 1 - float(seen.mean()), 4 * 3.14 * radius**2 * count, residual


def straws(*terms: str, radius: float | None = None) -> Problem:
    """The straw tracker as a problem, its terms or some of them.

    Args:
        terms: names of the goals; by default all three.
        radius: if given, only the six shifts are free, at this radius and pitch 4.
    """
    names = terms or ("missed", "volume", "residual")
    shift, gap = Real(0, 4), Real(2, 10)
    free: dict[str, AbstractDomain] = {
        **dict.fromkeys(("y1", "y2", "y3"), shift),
        **dict.fromkeys(("z1", "z2", "z3"), gap),
    }
    if radius is None:
        free = {"radius": Real(0.5, 1), "pitch": Real(2.5, 5)} | free
    fixed = {} if radius is None else {"radius": radius}
    start = {"radius": 0.5, "pitch": 4.0, "z1": 2.0, "z2": 4.0, "z3": 6.0}
    start |= dict.fromkeys(("y1", "y2", "y3"), 0.0)

    def tracker(**values: float) -> dict[str, float]:
        found = straw_tracker(**fixed, **values)
        return {name: found[name] for name in names}

    problem = from_function(
        tracker, free, start={n: start[n] for n in free}, terms=names, events=1
    )
    return problem.replace(name="straw tracker")
