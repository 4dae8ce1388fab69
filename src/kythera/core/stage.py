"""The four kinds of parts of a pipeline, and the promises that simulators keep.

A source draws what physics sends, before any detector; a stage maps one record to the next.
Every record is a PyTree whose arrays have a leading axis `event`: one row is one collision,
or a whole scan of many muons (the source declares how many primaries a row holds). What
varies in length is padded and carries a `weight`.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from kythera import errors
from kythera.core.types import Array, Float, Key

D = TypeVar("D")
In = TypeVar("In")
Out = TypeVar("Out")
Truth = TypeVar("Truth")


class AbstractSource(eqx.Module, Generic[Truth]):
    """What arrives: draws rows of truth and knows nothing of the design."""

    references: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:  # for pyright an abstract variable would be the first argument
        primaries: ClassVar[int]  # simulated particles in one row
    else:
        primaries: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, events: int, *, key: Key) -> Truth:
        """Draw `events` rows; every array of the result has that leading axis."""


class AbstractStage(eqx.Module, Generic[D, In, Out]):
    """One step of the pipeline: a pure function of (design, record, key)."""

    references: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def __call__(self, design: D, x: In, *, key: Key) -> Out:
        """Map a record to the next one; the leading axis `event` is kept."""


class AbstractHostStage(AbstractStage[D, In, Out]):
    """A stage outside JAX: NumPy in, NumPy out, run eagerly, never inside `jit`.

    Write `run` and `shapes`; the call converts, makes one integer seed of the key, and
    refuses an output that differs from what was declared. Where one call of a program can
    take several designs, say how many with `batch`, and write `run_batch`.
    """

    # Designs that one call takes; results must not depend on it.
    batch: ClassVar[int] = 1

    @abc.abstractmethod
    def run(self, design: D, x: In, *, seed: int) -> Out:
        """Run on NumPy arrays (the design is hard); equal seeds give equal outputs."""

    @abc.abstractmethod
    def shapes(self, events: int) -> Out:
        """The output as a tree of `jax.ShapeDtypeStruct`, for `events` rows."""

    def run_batch(
        self, designs: list[D], xs: list[In], *, seeds: list[int]
    ) -> list[Out]:
        """Run on several designs, each with its own events and seed."""
        return [self.run(d, x, seed=s) for d, x, s in zip(designs, xs, seeds)]

    def __call__(self, design: D, x: In, *, key: Key) -> Out:
        """Run outside JAX.

        Raises:
            SimulationError: `run` raised, or gave another structure, shape or kind of
                number (real ones for whole ones; the precision is converted).
        """
        self._check_values(design, x)
        arguments = _to_numpy(design), _to_numpy(x)
        out = self._guarded(lambda: self.run(*arguments, seed=_seed(key)))
        return self._as_declared(out, _events(x))

    def call_batch(self, designs: list[D], xs: list[In], keys: list[Key]) -> list[Out]:
        """Run outside JAX on several designs in one call.

        Raises:
            SimulationError: as for a single one; it does not say which design is at fault.
        """
        self._check_values(designs, xs)
        arguments = [_to_numpy(d) for d in designs], [_to_numpy(x) for x in xs]
        seeds = [_seed(key) for key in keys]
        outs = self._guarded(lambda: self.run_batch(*arguments, seeds=seeds))
        return [self._as_declared(out, _events(x)) for out, x in zip(outs, xs)]

    def _check_values(self, *trees: Any) -> None:
        arrays = [v for v in jax.tree.leaves(trees) if eqx.is_array(v)]
        if any(isinstance(v, Tracer) for v in arrays):
            raise errors.UnsupportedError(
                f"`{type(self).__name__}` runs outside JAX and can be neither "
                "differentiated nor compiled. Use `FiniteDifference`, or an optimiser "
                "without gradients."
            )

    def _guarded(self, run: Callable[[], Any]) -> Any:
        """What `run` gives; what it raises as the failure of the trial."""
        try:
            return run()
        except errors.KytheraError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise errors.SimulationError(
                f"`{type(self).__name__}` failed with {type(error).__name__}: {error}. "
                "The trial is marked as failed; mend the simulator or narrow the bounds."
            ) from error

    def _as_declared(self, out: Out, events: int) -> Out:
        """The output in JAX, if it is what was declared."""
        want = self.shapes(events)
        same = jax.tree.structure(out) == jax.tree.structure(want)
        if not (same and jax.tree.all(jax.tree.map(_fits, out, want))):
            raise errors.SimulationError(
                f"`{type(self).__name__}.run` must return what `shapes` declares, "
                f"{_written(want)}, but gave {_written(out)}. Mend one of the two."
            )
        return jax.tree.map(lambda v, s: jnp.asarray(np.asarray(v), s.dtype), out, want)


class AbstractSimulator(AbstractStage[D, In, Out]):
    """The detector: truth in, signals out. Promises values, nothing more."""


class AbstractPathwiseSimulator(AbstractSimulator[D, In, Out]):
    """A simulator that is differentiable in the design at a fixed key.

    The law: its gradient equals a central finite difference at the same key, and the
    derivative of its mean is the mean of its derivative (nothing jumps).
    """


class AbstractTractableSimulator(AbstractSimulator[D, In, Out]):
    """A simulator whose output has a density that can be written down."""

    @abc.abstractmethod
    def log_prob(self, design: D, x: In, y: Out) -> Float[Array, " event"]:
        """Logarithm of p(y | x, design) for each event."""


class AbstractHostSimulator(AbstractSimulator[D, In, Out], AbstractHostStage):
    """A simulator outside JAX: any Python code, a program, Geant4."""


class Identity(AbstractStage):
    """The stage that changes nothing: an empty slot."""

    def __call__(self, design: Any, x: Any, *, key: Key) -> Any:
        """Return the record as it came."""
        return x


class Chain(AbstractStage):
    """Several stages in one slot, each fed with what the one before gave."""

    stages: tuple[AbstractStage, ...]

    def __init__(self, *stages: AbstractStage):
        """Compose `stages`, the first one first."""
        self.stages = stages

    def __call__(self, design: Any, x: Any, *, key: Key) -> Any:
        """Run all stages, each with a key of its own."""
        for i, stage in enumerate(self.stages):
            x = stage(design, x, key=jax.random.fold_in(key, i))
        return x


class AbstractLearnedStage(AbstractStage[D, In, Out]):
    """A stage with weights that are trained: its real arrays, all of them."""

    @abc.abstractmethod
    def fresh(self, key: Key) -> "AbstractLearnedStage[D, In, Out]":
        """The same stage with new weights, drawn at random."""


class _Declared(AbstractStage):
    """What a stage outside JAX declares, all zero, without running it."""

    stage: AbstractHostStage

    def __call__(self, design: Any, x: Any, *, key: Key) -> Any:
        shapes = self.stage.shapes(_events(x))
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def declared(tree: Any) -> Any:
    """The same tree with zeros, as declared, for what its host stages would give."""

    def is_host(node: Any) -> bool:
        return isinstance(node, AbstractHostStage)

    return jax.tree.map(
        lambda v: _Declared(v) if is_host(v) else v, tree, is_leaf=is_host
    )


def has_host_stage(tree: Any) -> bool:
    """Whether a stage that runs outside JAX stands anywhere in `tree`."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, AbstractHostStage))
    return any(isinstance(leaf, AbstractHostStage) for leaf in leaves)


def _seed(key: Key) -> int:
    """One integer of a key."""
    return int(jax.random.bits(key, dtype=jnp.uint32))


def _events(x: Any) -> int:
    return next(np.shape(v)[0] for v in jax.tree.leaves(x) if eqx.is_array(v))


def _fits(value: Any, declared: Any) -> bool:
    """Whether a value has the declared shape, and its type converts without loss."""
    array = np.asarray(value)
    same_kind = np.can_cast(array.dtype, declared.dtype, "same_kind")
    return array.shape == declared.shape and same_kind


def _written(tree: Any) -> list[str]:
    """Shapes and types, for messages."""
    leaves = [
        v if hasattr(v, "dtype") else np.asarray(v) for v in jax.tree.leaves(tree)
    ]
    return [f"{v.dtype.name}{list(v.shape)}" for v in leaves]


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(lambda v: np.asarray(v) if eqx.is_array(v) else v, tree)
