"""Gradients of black boxes from a generative model of what the reconstruction gives."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import Evaluation, Map
from kythera.core.pipeline import Pipeline, Trace
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, Space, _get
from kythera.core.stage import Identity, has_host_stage
from kythera.core.types import Array, Key, PyTree, Vector
from kythera.estimators import neighbourhood
from kythera.estimators.neighbourhood import Memory
from kythera.estimators.one_by_one import AbstractOneByOne
from kythera.estimators.randomised import mirrored
from kythera.surrogates.base import Samples
from kythera.surrogates.diffusion import Diffusion

STRETCH = 4.0  # times the move, in standard deviations: the variance along it
MOST = 16.0  # to which the variance along a move may be stretched
WEIGHT = 0.5  # a change of a choice's weight that counts as one standard deviation


class Trained(NamedTuple):
    """Where the engine stands.

    Args:
        memory: designs that were simulated lately.
        weights: real arrays of the network, as it was trained last.
        trained: 1 where they were, 0 where they are the first ones.
        at: point of the cube, with choices as weights, where the engine was last; nan
            before.
        stretch: s of the covariance S (1 + s s^T) S of the designs, where S holds the
            standard deviations without a move, shape (n,).
    """

    memory: Memory
    weights: PyTree
    trained: np.ndarray
    at: np.ndarray
    stretch: np.ndarray


class EndToEndSurrogate(AbstractOneByOne[Trained]):
    """End-to-end surrogate (AIDO): one model stands for simulator and reconstruction.

    Designs are drawn around the present one and go through the true simulator and the true
    reconstruction, both of which may run outside JAX. A diffusion model learns what the
    reconstruction gives, event by event, from (design, truth). It takes the place of both,
    and inference and objective are differentiated through the events that it generates.
    Value and error are those of the simulation at the design itself, never of the model.

    Choices and whole numbers: all designs around are as built, one option and whole, drawn
    with the weights of the present design as probabilities; the model is given weights and
    reals in between, and its gradient follows them. So a gradient search over choices works
    on programs too. The value then is that of the design as built (the largest weight), and
    the score is linearised at what the model tells of the weights.

    Where to look: real numbers are drawn from a normal distribution, mirrored at the faces
    of the cube, with a standard deviation of `radius`, or one step of a whole number. Its
    variance along the move d since the last call is max(1, 4 |d|) times as large, at most
    16 times, where |d| is in those standard deviations; no direction falls below them. A
    design that is remembered counts where its Mahalanobis distance to the present one,
    squared, is at most `reach`^2 times the number of these coordinates; materials do not
    count. (AIDO's factor, arXiv:2502.02152, is stated of moves in native units.)

    Warm: weights are handed on from design to design, and need
    `later` times the model's steps to be kept up to date. After a move out of reach they
    start anew. A model that does not train makes a failed evaluation, with the cause; the
    next one starts anew as well, on all that was simulated.

    Args:
        surrogate: the model that is trained.
        radius: standard deviation of the designs, a fraction of each parameter's range.
        designs: simulated around each design, beside itself.
        steps: for which designs are remembered, at most.
        explore: part of the draws of a choice that do not look at its weights.
        reach: how far designs count, see above.
        warm: whether weights are handed on.
        later: part of the model's steps that are taken once there are weights.
    """

    surrogate: Diffusion = Diffusion()
    radius: float = 0.05
    designs: int = eqx.field(static=True, default=16)
    steps: int = eqx.field(static=True, default=8)
    explore: float = 0.2
    reach: float = 2.0
    warm: bool = eqx.field(static=True, default=True)
    later: float = 0.3
    gives_gradient: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = (
        "K. Schmidt et al., End-to-end detector optimization with diffusion models: a case "
        "study in sampling calorimeters, Particles 8 (2025) 47, arXiv:2502.02152",
    )

    def __check_init__(self):
        """Refuse a region that is none, counts below one, and other models."""
        if not isinstance(self.surrogate, Diffusion):
            raise errors.InputError(
                "`surrogate` must be a `Diffusion`, but is a "
                f"`{type(self.surrogate).__name__}`. Give it to `LocalSurrogate`."
            )
        for name, value, most, remedy in (
            ("radius", self.radius, 0.5, 0.05),
            ("later", self.later, 1.0, 0.3),
            ("reach", self.reach, float("inf"), 2.0),
        ):
            if not 0 < value <= most:
                raise errors.InputError(
                    f"`{name}` must be > 0 and at most {most}, but is {value}. "
                    f"Try {remedy}."
                )
        if not 0 <= self.explore <= 1:
            raise errors.InputError(
                f"`explore` must be in [0, 1], but is {self.explore}. Try 0.2."
            )
        for name, value in (("designs", self.designs), ("steps", self.steps)):
            if int(value) != value or value < 1:
                raise errors.InputError(
                    f"`{name}` must be a whole number >= 1, but is {value}. Try 8."
                )

    def check(self, problem: Problem) -> None:
        """Refuse what the model could not be differentiated through."""
        problem.check()
        neighbourhood.refuse_nuisances(problem, "EndToEndSurrogate")
        if has_host_stage(problem.pipeline.inference):
            raise errors.UnsupportedError(
                "`EndToEndSurrogate` takes the place of simulator and reconstruction and "
                "differentiates what follows, but the inference "
                f"`{type(problem.pipeline.inference).__name__}` runs outside JAX. Write it "
                "in JAX, or use `LocalSurrogate`, which learns the objective's tallies."
            )
        neighbourhood.refuse_whole_numbers(
            problem,
            "EndToEndSurrogate",
            "reco",
            "`LocalSurrogate`, which learns the objective's tallies",
        )
        _check_tally(problem)

    def seen(self, problem: Problem) -> Problem:
        """With the model in place: smooth in the weights of choices."""
        return _bare(problem)

    def price(self, problem: Problem) -> int:
        """Those of the design and of all around it."""
        return problem.price * (1 + self.designs)

    def init(self, problem: Problem, *, key: Key) -> Trained:
        """An empty memory, and room for weights."""
        count, size = self.steps * (1 + self.designs), problem.space.size
        memory = neighbourhood.empty(problem, self.surrogate, "reco", count)
        rows = memory.kept
        sizes = (size, rows.truth.shape[-1], rows.target.shape[-1])
        shapes = eqx.filter_eval_shape(self.surrogate.fresh, key, *sizes)
        shapes = eqx.filter(shapes, lambda v: isinstance(v, jax.ShapeDtypeStruct))
        nowhere = np.full(size, np.nan, memory.u.dtype)
        return Trained(
            memory=memory,
            weights=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes),
            trained=np.zeros((), np.int32),
            at=nowhere,
            stretch=np.zeros_like(nowhere),
        )

    def evaluate(
        self, problem: Problem, u: np.ndarray, state: Trained, key: Key, map: Map
    ) -> tuple[Evaluation, Trained]:
        """Simulate, remember, learn, differentiate."""
        around, simulate, learn = jax.random.split(key, 3)
        space, price = problem.space, self.price(problem)
        centre, built = (np.asarray(v) for v in _points(space, jnp.asarray(u, float)))
        here = built if problem.pipeline.is_host else centre
        spread, is_choice = _spread(space, self.radius)
        move = np.where(is_choice, 0.0, (centre - state.at) / spread)
        goes_on = self._is_near(move, ~is_choice)
        stretch = _stretched(move, state.stretch) if goes_on else 0 * state.stretch
        points = self._draw(space, centre, spread, stretch, around)
        points = np.concatenate([here[None], points]).astype(here.dtype)
        rows, memory, cause = neighbourhood.simulate(
            problem, self.surrogate, "reco", points, state.memory, simulate, map
        )
        moved = state._replace(memory=memory, at=centre, stretch=stretch)
        if cause:
            return Evaluation.failed(cause, price), state._replace(memory=memory)
        y = np.where(is_choice, 0.0, (memory.u - centre) / spread)
        new = np.any(np.all(memory.u[:, None] == points, -1), 1)
        near = self._is_near(y, ~is_choice, stretch) | new
        samples = (
            memory.u,
            memory.kept,
            np.where((memory.filled > 0) & near, 1.0, 0.0),
        )
        warm = bool(state.trained) and goes_on and self.warm
        later = float(round(self.later * self.surrogate.steps))
        start = (state.weights, warm, later if warm else np.inf)
        arrays = jax.tree.map(jnp.asarray, (u, here, spread, samples, start))
        try:
            found, course, missed, weights = measure.simulated(
                _learnt, problem, self.surrogate, rows, learn, *arrays
            )
        except errors.SimulationError as error:  # of a stage behind what was generated
            return Evaluation.failed(str(error), price), moved
        name = type(self.surrogate).__name__
        evaluation = neighbourhood.concluded(
            problem, found, course, float(missed), price, name, "LocalSurrogate"
        )
        if evaluation.cause:  # weights that are not believed are not handed on
            return evaluation, moved._replace(trained=np.zeros((), np.int32))
        return evaluation, moved._replace(
            weights=weights, trained=np.ones((), np.int32)
        )

    def _draw(
        self,
        space: Space,
        centre: np.ndarray,
        spread: np.ndarray,
        stretch: np.ndarray,
        key: Key,
    ) -> np.ndarray:
        """Points of designs as built, shape (designs, n)."""
        draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        z = draw.standard_normal((self.designs, centre.size))
        z = z + draw.standard_normal((self.designs, 1)) * stretch
        points = mirrored(centre + spread * z)
        for path, domain in space.free.items():
            where = space.groups[path]
            if isinstance(domain, Integer):
                wide = domain.upper - domain.lower
                points[:, where] = np.round(points[:, where] * wide) / wide
            elif isinstance(domain, Choice):
                k = len(domain.options)
                w = np.asarray(centre[where], float).reshape(-1, k)
                edges = np.cumsum((1 - self.explore) * w + self.explore / k, 1)
                ball = draw.random((self.designs, len(w), 1))
                option = np.sum(ball > edges[None, :, :-1], -1)
                points[:, where] = np.eye(k)[option].reshape(self.designs, -1)
        return points

    def _is_near(
        self, y: np.ndarray, counts: np.ndarray, stretch: np.ndarray | float = 0.0
    ) -> Any:
        """Whether displacements in standard deviations, shape (..., n), are in reach."""
        s = stretch * counts
        along = (y @ s) ** 2 / (1 + s @ s)
        return np.sum(y**2, -1) - along <= self.reach**2 * np.sum(counts)


def _stretched(move: np.ndarray, before: np.ndarray) -> np.ndarray:
    """s of the covariance after a move in standard deviations; as before if there is none."""
    length = np.linalg.norm(move)
    if length == 0:
        return np.asarray(before)
    variance = np.clip(STRETCH * length, 1.0, MOST)
    return (np.sqrt(variance - 1) / length * move).astype(before.dtype)


def _spread(space: Space, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of each coordinate, and which are those of choices, shape (n,)."""
    spread, is_choice = np.full(space.size, radius), np.zeros(space.size, bool)
    for path, domain in space.free.items():
        where = space.groups[path]
        if isinstance(domain, Choice):
            spread[where], is_choice[where] = WEIGHT, True
        elif isinstance(domain, Integer):
            spread[where] = max(radius, 1 / (domain.upper - domain.lower))
    return spread.astype(np.asarray(space.start).dtype), is_choice


def _as_seen(space: Space, u: Vector, *, built: bool) -> Vector:
    """The point at which a design is the same, soft or built: weights, or whole values."""
    parts = []
    for path, domain in space.free.items():
        part = u[space.groups[path]]
        if isinstance(domain, Integer | Choice):
            leaf = part.reshape(np.shape(_get(space.template, path)))
            part = jnp.ravel(domain.encode(domain.decode(leaf, hard=built)))
        parts.append(part)
    return jnp.concatenate(parts)


@jit
def _points(space: Space, u: Vector) -> tuple[Vector, Vector]:
    """With choices as weights, and as built."""
    return _as_seen(space, u, built=False), _as_seen(space, u, built=True)


def _bare(problem: Problem) -> Problem:
    """The problem of a pipeline in which a model gives what the reconstruction gave."""
    line, nothing = problem.pipeline, Identity()
    pipeline = Pipeline(line.source, nothing, nothing, line.inference)  # type: ignore
    return problem.replace(pipeline=pipeline)


def _check_tally(problem: Problem) -> None:
    """Refuse objectives that look at signals, which no model gives.

    Raises:
        UnsupportedError: the reconstruction changes signals, and the tally reads them.
    """
    if isinstance(problem.pipeline.reconstruction, Identity):
        return
    plain = neighbourhood.without_host(problem)

    def tally(u: Vector, key: Key, hide: bool) -> PyTree:
        design = plain.design(u)
        trace = plain.pipeline(design, 2, key=key)
        signal = None if hide else trace.signal
        seen = Trace(trace.truth, signal, trace.reco, trace.result)
        return plain.objective.tally(design, seen)

    start, key = problem.space.start, jax.random.key(0)
    jax.eval_shape(lambda: tally(start, key, False))
    try:
        jax.eval_shape(lambda: tally(start, key, True))
    except (TypeError, AttributeError, ValueError) as error:
        raise errors.UnsupportedError(
            "`EndToEndSurrogate` gives what the reconstruction gives, but "
            f"`{type(problem.objective).__name__}` needs `trace.signal` as well. Hand it "
            "through the reconstruction, or use `LocalSurrogate`, which learns the "
            "objective's tallies."
        ) from error


@jit
def _learnt(
    problem: Problem,
    model: Diffusion,
    rows: tuple[Array, PyTree],
    key: Key,
    u: Vector,
    here: Vector,
    spread: Vector,
    samples: tuple[Array, PyTree, Array],
    start: tuple[PyTree, Array, Array],
) -> tuple[measure.Measurement, Array, Array, PyTree]:
    """The measurement with the model's gradients; course, miss at `here`, and weights.

    `start` says where training starts: weights, whether they count, and the number of
    steps.
    """
    points, kept, weight = samples
    truth, tally = rows
    weights, warm, count = start
    fresh, train, generate = jax.random.split(key, 3)
    space, simulated = problem.space, _bare(problem)
    shapes = neighbourhood.shapes_of(problem, "reco")
    centre = _as_seen(space, u, built=False)
    z = jnp.where(weight[:, None] > 0, (points - centre) / spread, 0.0)
    sizes = (z.shape[1], kept.truth.shape[2], kept.target.shape[2])
    free, fixed = eqx.partition(model.fresh(fresh, *sizes), eqx.is_inexact_array)
    free = jax.tree.map(lambda new, old: jnp.where(warm, old, new), free, weights)
    first = eqx.combine(free, fixed)
    fitted, course = model.refit(train, Samples(z, kept, weight), first, count)

    def mean_of(v: Vector) -> PyTree:
        seen = (_as_seen(space, v, built=False) - centre) / spread
        made = fitted(seen, truth, key=generate)
        return neighbourhood.generated(simulated, v, truth, made, shapes, generate)

    jumps = any(isinstance(d, Integer | Choice) for d in space.domains)
    told, pull = jax.vjp(mean_of, u)
    if problem.pipeline.is_host and jumps:  # what was simulated is another design
        mean, told = told, mean_of(here)
    else:
        mean = jax.tree.map(lambda v: jnp.mean(v, 0), tally)
    found = neighbourhood.with_gradients(
        simulated, u, measure.measure_rows(problem, u, tally), mean, pull
    )
    missed = neighbourhood.miss(problem, here, found, told, spread)
    return found, course, missed, eqx.filter(fitted.denoiser, eqx.is_inexact_array)
