"""Simulators that decide yes or no, step after step: showers, decays, walks.

What a design changes there is mostly the probability of each decision, which no derivative
at a fixed key sees. Written in this form, a program tells its decisions apart from the rest,
so that estimators can follow what would have happened had one of them gone the other way.
"""

import abc
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.stage import AbstractSimulator
from kythera.core.types import Array, Bool, Float, Key, PyTree

D = TypeVar("D")
In = TypeVar("In")
Out = TypeVar("Out")


class AbstractBranchingSimulator(AbstractSimulator[D, In, Out], Generic[D, In, Out]):
    """A program of steps; in each, every slot of a padded stack decides yes or no.

        state = begin(design, x)
        while active(state):  state = advance(design, state, U < probability(design, state))
        signal = finish(design, state)

    All methods see one event, without the axis `event`. They are differentiable in the
    design (and the state's real numbers) while decisions and keys are fixed: the law of
    pathwise simulators, between decisions. A slot that holds nothing has probability 0.

    Slots are numbered so that what has the same history has the same number: where an
    alternative and the event itself run side by side, equal slots share random numbers,
    and the less the two differ, the less noise the estimate has.
    """

    if TYPE_CHECKING:  # for pyright an abstract variable would be the first argument
        steps: ClassVar[int]  # the most that an event may take
    else:
        steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def begin(self, design: D, x: In) -> PyTree:
        """The state of one event before its first step: arrays, padded."""

    @abc.abstractmethod
    def active(self, state: PyTree) -> Bool[Array, ""]:
        """Whether anything is left to be done."""

    @abc.abstractmethod
    def probability(self, design: D, state: PyTree) -> Float[Array, " slot"]:
        """Of a yes in this step, for each slot, in [0, 1]."""

    @abc.abstractmethod
    def advance(
        self, design: D, state: PyTree, yes: Bool[Array, " slot"], *, key: Key
    ) -> PyTree:
        """The state after this step; a state that is not active stays as it is."""

    @abc.abstractmethod
    def finish(self, design: D, state: PyTree) -> Out:
        """The signal of one event."""

    def __call__(self, design: D, x: In, *, key: Key) -> Out:
        """Run all events, each with a key of its own."""
        return jax.vmap(lambda x, k: self._run(design, x, k))(x, event_keys(x, key))

    def _run(self, design: D, x: In, key: Key) -> Out:
        def more(carry: tuple) -> Array:
            count, state = carry
            return (count < self.steps) & self.active(state)

        def step(carry: tuple) -> tuple:
            count, state = carry
            decide, go_on, _ = step_keys(key, count)
            p = self.probability(design, state)
            yes = jax.random.uniform(decide, p.shape) < p
            return count + 1, self.advance(design, state, yes, key=go_on)

        first = (jnp.asarray(0), self.begin(design, x))
        return self.finish(design, jax.lax.while_loop(more, step, first)[1])


def event_keys(x: PyTree, key: Key) -> Key:
    """One key for each event, shape (event,)."""
    rows = next(v.shape[0] for v in jax.tree.leaves(x) if eqx.is_array(v))
    return jax.random.split(key, rows)


def step_keys(key: Key, count: Array) -> Key:
    """For the decisions of a step, for what follows from them, and for estimators."""
    return jax.random.split(jax.random.fold_in(key, count), 3)
