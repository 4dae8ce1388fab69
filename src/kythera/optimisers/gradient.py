"""Steps along the gradient, by any rule of Optax."""

import functools
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.space import Choice, Integer, Real, Space, _get
from kythera.core.types import Array, Key
from kythera.optimisers import constraints

Step = float | Mapping[str, float]
Schedule = Callable[[Any], Any] | int | None

SMALLEST = 2.0**-10  # to which failures may shorten the step
VIOLATION = 0.05  # of a constraint, at which its penalty pulls as strongly as the loss
STRONGEST = 4.0  # pull of a constraint, in units of that of the loss
INTEGRAL = 0.1  # part of the penalty's pull that enters the multiplier at each step
LAST_FACTOR = 0.1  # of the step, with which a schedule by a number of steps ends
PATIENCE = 20  # failures in a row that end one search (of several in `MultiStart`)


class GradientState(NamedTuple):
    """Where a gradient search stands; all points are of the cube, shape (n,).

    Args:
        u: the next question.
        good: the last point that gave a gradient; the start before there is one.
        direction: Optax' state.
        steps: scale of the step of each coordinate, shape (n,).
        count: good evaluations.
        factor: by which failures have shortened the step.
        failures: in a row.
        multipliers: of the constraints, shape (m,); m = 0 before the first evaluation.
        penalties: likewise; 0 before the constraint was in reach.
        slack: of the constraints at `good`.
        slopes: their gradients there, shape (m, n).
    """

    u: np.ndarray
    good: np.ndarray
    direction: Any
    steps: np.ndarray
    count: int
    factor: float
    failures: int
    multipliers: np.ndarray
    penalties: np.ndarray
    slack: np.ndarray
    slopes: np.ndarray


class Gradient(AbstractOptimiser[GradientState]):
    """One step along the gradient at each evaluation, then back into the cube.

        u <- clip(u + step * schedule(count) * direction(gradient), 0, 1)

    where `direction` is what Optax adds at a learning rate of one. With a direction that
    has a scale of its own (Adam, RMSProp, Lion) a step is at most about `step`; with plain
    gradient descent it is `step` times the gradient.

    Parameters: real ones, linear or logarithmic; whole numbers and choices in a
    simulator that is differentiable in their relaxation.

    Constraints: an augmented Lagrangian. At each evaluation the pull of a constraint is
    max(0, lambda - rho c), and lambda <- max(0, lambda - 0.1 rho c); rho is set when the
    slack first falls below 0.05, so that one of -0.05 pulls as strongly as the loss.
    Neither exceeds four times the pull of the loss, so that a start far outside is no
    leap. The recommendation is the current point moved to where the constraints hold,
    linearised at the last evaluation. (Plain gradient descent needs a small step here:
    the pull is much steeper than the loss.)

    A failed evaluation: the search goes halfway back to the last good point and halves its
    step (down to 1/1024); each good one lengthens it again by a tenth, up to `step`. After
    20 failures in a row it is finished.

    Args:
        direction: an Optax optimiser with a learning rate of one: `optax.adam(1.0)`.
        step: a fraction of each parameter's range (0.02); or path or group -> step in
            native units, {"upper.z": 1 * cm, "material": 0.1}. A group is the beginning
            of several paths ("upper"); the longest one counts. "*" is the fraction of the
            range for the rest. On a logarithmic scale a step in native units is relative:
            0.05 is 5%. That of a `Choice` is in weights.
        schedule: count of steps -> factor, any of Optax' schedules; or a number of steps,
            over which the factor falls from 1 to 0.1 along half a cosine, to stay there
            (the trials of the search; in `MultiStart`, those of each copy).
        clip: the most that the norm of the gradient (loss per range) may be.

    Raises:
        InputError: a step, schedule or clip that is not positive.
    """

    direction: optax.GradientTransformation
    step: Step
    schedule: Schedule = None
    clip: float | None = None
    references: ClassVar[tuple[str, ...]] = (
        "DeepMind, The DeepMind JAX Ecosystem: Optax, github.com/google-deepmind/optax",
        constraints.NOCEDAL,
    )
    needs_gradient: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse steps that lead nowhere."""
        steps = self.step if isinstance(self.step, Mapping) else {"step": self.step}
        if not steps:
            raise errors.InputError(
                "`step` names no parameter. Give a number, or a mapping with '*'."
            )
        for name, value in [*steps.items(), ("clip", self.clip or 1.0)]:
            if not (np.isfinite(value) and value > 0):
                raise errors.InputError(
                    f"Steps and clips must be > 0, but {name!r} is {value}. "
                    "Try 0.02 of the range."
                )
        if self.schedule is not None and not callable(self.schedule):
            if not _is_count(self.schedule):
                raise errors.InputError(
                    "A schedule must be a function of the count of steps or a whole number "
                    f"of at least 1 step, but is {self.schedule!r}. Give the number of "
                    "steps of the search."
                )

    def check(self, problem: Problem) -> None:
        """Refuse steps for unknown parameters, and choices decided outside JAX."""
        steps(problem.space, self.step)
        refuse_jumps(problem, "A gradient")

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> GradientState:
        """See the base class."""
        u = np.clip(np.asarray(u0, float), 0, 1)
        n = u.size
        return GradientState(
            u=u,
            good=u,
            direction=self.direction.init(jnp.asarray(u, float)),
            steps=steps(problem.space, self.step),
            count=0,
            factor=1.0,
            failures=0,
            multipliers=np.zeros(0),
            penalties=np.zeros(0),
            slack=np.zeros(0),
            slopes=np.zeros((0, n)),
        )

    def ask(
        self, state: GradientState, *, key: Key
    ) -> tuple[np.ndarray, GradientState]:
        """The current point, shape (1, n)."""
        return state.u[None], state

    def tell(
        self, state: GradientState, us: np.ndarray, evaluations: list[Evaluation]
    ) -> GradientState:
        """One step for each evaluation."""
        for u, evaluation in zip(np.asarray(us, float), evaluations, strict=True):
            state = self._tell(state, u, evaluation)
        return state

    def _tell(
        self, state: GradientState, u: np.ndarray, evaluation: Evaluation
    ) -> GradientState:
        known = constraints.gradients(evaluation, u.size, type(self).__name__)
        if known is None:
            return state._replace(
                u=(u + state.good) / 2,
                factor=max(state.factor / 2, SMALLEST),
                failures=state.failures + 1,
            )
        slope, slack, slopes = known
        multipliers, penalties, most = _weighed(state, slope, slack, slopes)
        pulls = np.minimum(constraints.pull(slack, multipliers, penalties), most)
        slope = slope - pulls @ slopes
        update, direction = _update(
            self.direction,
            _factor(self.schedule),
            self.clip,
            state.direction,
            jnp.asarray(slope, float),
            jnp.asarray(u, float),
            jnp.asarray(state.count),
        )
        move = state.factor * state.steps * np.asarray(update, float)
        return state._replace(
            u=np.clip(u + move, 0, 1),
            good=u,
            direction=direction,
            count=int(state.count) + 1,
            factor=min(1.0, 1.1 * state.factor),
            failures=0,
            multipliers=np.clip(multipliers - INTEGRAL * penalties * slack, 0, most),
            penalties=penalties,
            slack=slack,
            slopes=slopes,
        )

    def recommend(self, state: GradientState) -> np.ndarray:
        """The current point where the (linearised) constraints hold, shape (1, n)."""
        return constraints.restore(state.u, state.good, state.slack, state.slopes)[None]

    def finished(self, state: GradientState) -> str:
        """After many failures in a row."""
        failures = int(state.failures)
        return f"{failures} evaluations in a row failed" if failures >= PATIENCE else ""


def _weighed(
    state: GradientState, slope: np.ndarray, slack: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multipliers, penalties and the strongest pulls, shape (m,).

    A penalty is set once, when its constraint is first in reach.
    """
    m = slack.size
    known = state.multipliers.size == m
    multipliers = state.multipliers if known else np.zeros(m)
    penalties = state.penalties if known else np.zeros(m)
    loss, each = np.linalg.norm(slope), np.linalg.norm(slopes, axis=1)
    balance = loss / np.where(each > 0, each, 1.0)  # pulls as strongly as the loss
    usable = (penalties == 0) & (slack < VIOLATION) & (each > 0) & (loss > 0)
    penalties = np.where(usable, balance / VIOLATION, penalties)
    most = STRONGEST * np.maximum(balance, VIOLATION * penalties)
    return multipliers, penalties, most


@jit
def _update(
    rule: optax.GradientTransformation,
    schedule: Callable | None,
    clip: float | None,
    state: Any,
    slope: Array,
    u: Array,
    count: Array,
) -> tuple[Array, Any]:
    """What the rule adds to the point, shape (n,), in units of the step."""
    if clip is not None:
        norm = jnp.linalg.norm(slope)
        slope = slope * jnp.minimum(1.0, clip / jnp.where(norm > 0, norm, 1.0))
    found, state = rule.update(slope, state, u)
    update = jnp.asarray(found)
    return (update if schedule is None else update * schedule(count)), state


def steps(space: Space, step: Step) -> np.ndarray:
    """Step of each coordinate in units of the cube, shape (n,).

    Args:
        space: the design space.
        step: as for `Gradient`.

    Raises:
        SpaceError: a name that the space does not have, or a parameter without a step.
    """
    if not isinstance(step, Mapping):
        return np.full(space.size, float(step))
    groups, found = space.groups, np.zeros(space.size)
    used = {"*"} & step.keys()
    for path, where in groups.items():
        names = [name for name in step if _covers(name, path)]
        if names:
            name = max(names, key=len)
            used.update(names)
            found[where] = step[name] / _range(space, path)
        elif "*" in step:
            found[where] = step["*"]
        else:
            raise errors.SpaceError(
                f"Every free parameter needs a step, but '{path}' has none in "
                f"{dict(step)}. Name it, or give '*', a fraction of the range, for the "
                "rest."
            )
    for name in step.keys() - used:
        raise errors.SpaceError(
            f"There is no free parameter '{name}' to be given a step. "
            f"{errors.nearest(name, groups)}"
        )
    return found


def _covers(name: str, path: str) -> bool:
    return path == name or path.startswith((f"{name}.", f"{name}["))


def _range(space: Space, path: str) -> np.ndarray:
    """Length of the cube's edges in native units (logarithms: of the value), flat."""
    domain, shape = space.free[path], np.shape(_get(space.template, path))
    if isinstance(domain, Real):
        low, up = np.asarray(domain.lower, float), np.asarray(domain.upper, float)
        length = np.log(up / low) if domain.log else up - low
    elif isinstance(domain, Integer):
        length = np.array(float(domain.upper - domain.lower))
    else:
        length = np.array(1.0)
    return np.broadcast_to(length, shape).ravel()


def refuse_jumps(problem: Problem, what: str) -> None:
    """Refuse whole numbers and choices in a pipeline that leaves JAX.

    Raises:
        UnsupportedError: the loss jumps with them, and differences see nothing.
    """
    for path, domain in problem.space.free.items():
        if isinstance(domain, Integer | Choice) and problem.pipeline.is_host:
            raise errors.UnsupportedError(
                f"{what} needs a loss without jumps, but '{path}' is "
                f"{domain.describe()} in a pipeline that runs outside JAX, which gets "
                f"whole values. Use `Evolution`, or `space.freeze('{path}')`."
            )


@functools.cache
def _cosine(count: int) -> Callable[[Any], Any]:
    return optax.cosine_decay_schedule(1.0, count, LAST_FACTOR)


def _is_count(value: Any) -> bool:
    """Whether something is a whole number of steps; 40.0 is, True is not."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    return float(value).is_integer() and float(value) >= 1


def _factor(schedule: Schedule) -> Callable[[Any], Any] | None:
    if schedule is None or callable(schedule):
        return schedule
    return _cosine(int(schedule))


@functools.cache
def _adam(b1: float, b2: float) -> optax.GradientTransformation:
    return optax.adam(1.0, b1=b1, b2=b2)  # one object: compiled once for all searches


@functools.cache
def _sgd(momentum: float | None) -> optax.GradientTransformation:
    return optax.sgd(1.0, momentum=momentum)


def adam(
    step: Step = 0.02,
    *,
    schedule: Schedule = None,
    clip: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
) -> Gradient:
    """Adam: robust against noise and the scale of the loss (arXiv:1412.6980).

    Args:
        step: about the length of one step, a fraction of each parameter's range, or by
            name in native units; see `Gradient`.
        schedule: count of steps -> factor, or a number of steps; see `Gradient`.
        clip: the most that the norm of the gradient may be.
        b1: memory of the mean gradient.
        b2: memory of its square.
    """
    return Gradient(_adam(b1, b2), step, schedule, clip)


def sgd(
    step: Step,
    momentum: float | None = None,
    *,
    schedule: Schedule = None,
    clip: float | None = None,
) -> Gradient:
    """Plain gradient descent: the step is `step` times the gradient (loss per range).

    Args:
        step: see `Gradient`.
        momentum: part of the last step that is kept.
        schedule: count of steps -> factor, or a number of steps; see `Gradient`.
        clip: the most that the norm of the gradient may be.
    """
    return Gradient(_sgd(momentum), step, schedule, clip)


def from_optax(
    transformation: optax.GradientTransformation,
    step: Step = 0.02,
    *,
    schedule: Schedule = None,
    clip: float | None = None,
) -> Gradient:
    """Any rule of Optax, with a learning rate of one: `from_optax(optax.lion(1.0))`.

    Args:
        transformation: the rule.
        step: scales what it adds; see `Gradient`.
        schedule: count of steps -> factor, or a number of steps; see `Gradient`.
        clip: the most that the norm of the gradient may be.
    """
    return Gradient(transformation, step, schedule, clip)
