"""Gradients of black boxes from a model that is learnt around the present design."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kythera import errors
from kythera.core import measure
from kythera.core.compilation import jit
from kythera.core.evaluation import Evaluation, Map
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer
from kythera.core.stage import has_host_stage
from kythera.core.types import Array, Float, Key, PyTree, Vector
from kythera.estimators import neighbourhood
from kythera.estimators.neighbourhood import Memory
from kythera.estimators.one_by_one import AbstractOneByOne
from kythera.surrogates.base import AbstractSurrogate, Samples
from kythera.surrogates.quadratic import Quadratic


class LocalSurrogate(AbstractOneByOne[Memory]):
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
        neighbourhood.refuse_nuisances(problem, "LocalSurrogate")
        for path, domain in problem.space.free.items():
            if isinstance(domain, Integer | Choice) and problem.pipeline.is_host:
                raise errors.UnsupportedError(
                    f"`LocalSurrogate` needs a loss without jumps, but '{path}' is "
                    f"{domain.describe()} in a pipeline that runs outside JAX, which "
                    "gets whole values. Use `RandomisedDesign`, `Evolution`, or "
                    f"`space.freeze('{path}')`."
                )
        if self.surrogate.models == "signal":
            _check_signal(problem, self.surrogate)

    def price(self, problem: Problem) -> int:
        """Those of the design and of all around it."""
        return problem.price * (1 + self.designs)

    def init(self, problem: Problem, *, key: Key) -> Memory:
        """An empty memory."""
        count, model = self.steps * (1 + self.designs), self.surrogate
        return neighbourhood.empty(problem, model, model.models, count)

    def evaluate(
        self, problem: Problem, u: np.ndarray, state: Memory, key: Key, map: Map
    ) -> tuple[Evaluation, Memory]:
        """Simulate, remember, learn, differentiate."""
        around, simulate, learn = jax.random.split(key, 3)
        points = np.asarray(
            latin_hypercube(around, jnp.asarray(u), self.radius, self.designs)
        )
        model, price = self.surrogate, self.price(problem)
        rows, state, cause = neighbourhood.simulate(
            problem, model, model.models, points, state, simulate, map
        )
        if cause:
            return Evaluation.failed(cause, price), state
        memory = jax.tree.map(jnp.asarray, (state.u, state.kept, state.filled))
        here = jnp.asarray(u, float)
        try:
            measured, course, missed = measure.simulated(
                _learnt, problem, model, self.radius, here, memory, rows, learn
            )
        except errors.SimulationError as error:  # of a stage behind generated signals
            return Evaluation.failed(str(error), price), state
        name = type(model).__name__
        return neighbourhood.concluded(
            problem, measured, course, float(missed), price, name, "Quadratic"
        ), state


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


def _check_signal(problem: Problem, surrogate: AbstractSurrogate) -> None:
    """A model of signals takes the simulator's slot: what follows is differentiated."""
    name = type(surrogate).__name__
    rest = (problem.pipeline.reconstruction, problem.pipeline.inference)
    if has_host_stage(rest):
        raise errors.UnsupportedError(
            f"`{name}` takes the simulator's slot, so that all stages behind it are "
            "differentiated, but one of them runs outside JAX. Use `Quadratic` or "
            "`Regressor`, which learn the objective's tallies."
        )
    neighbourhood.refuse_whole_numbers(
        problem,
        name,
        "signal",
        "`Quadratic` or `Regressor`, which learn the objective's tallies",
    )
    leaves = jax.tree.leaves(neighbourhood.shapes_of(problem, "signal"))
    length = sum(v.size for v in leaves)
    if length > surrogate.longest:
        raise errors.UnsupportedError(
            f"`{name}` models signals of {surrogate.longest} numbers at most, but one "
            f"of {problem.name} has {length:,}. Use `Quadratic` or `Regressor`, "
            "which learn the objective's tallies, whatever the length."
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
        shapes = neighbourhood.shapes_of(problem, "signal")
        return neighbourhood.generated(problem, v, truth, made, shapes, generate)

    mean = jax.tree.map(lambda v: jnp.mean(v, 0), tally)
    told, pull = jax.vjp(mean_of, u)
    found = neighbourhood.with_gradients(
        problem, u, measure.measure_rows(problem, u, tally), mean, pull
    )
    missed = neighbourhood.miss(problem, u, found, told, radius)
    return found, course, missed


def _unflat(row: Vector, tally: PyTree) -> PyTree:
    """A flat row as the mean of tallies of this structure."""
    one = jax.tree.map(lambda v: jnp.zeros(v.shape[1:], row.dtype), tally)
    return ravel_pytree(one)[1](row)
