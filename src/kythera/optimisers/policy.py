"""Reinforcement learning: a network that builds designs, and is told how good they are."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints, ppo
from kythera.optimisers.coordinates import Coordinates
from kythera.optimisers.parts import parts_of, whole

MOST = 2000  # coordinates: each step of a design sees all of them


class PolicyState(NamedTuple):
    """The networks, and the part of a batch that is known.

    Args:
        builder: what each coordinate is, and to which part it belongs.
        learned: the networks and their optimiser's state.
        asked: questions that were not answered yet, shape (q, n).
        raw: what was drawn for them (numbers may lie outside the cube), shape (q, n).
        told: what was drawn for the answers that wait for a whole batch, shape (p, n).
        orders: failure, violation and loss of each, shape (p, 3).
    """

    builder: ppo.Builder
    learned: ppo.Learned
    asked: np.ndarray
    raw: np.ndarray
    told: np.ndarray
    orders: np.ndarray


class Policy(AbstractOptimiser[PolicyState]):
    """Proximal policy optimisation (PPO): a network that proposes whole batches of designs.

    With `by_parts=False` a design is one action: the network is a normal distribution for
    each number and probabilities for the options of each choice. With `by_parts=True` it
    places part after part, in the order of the space, and sees what it has placed: leaves of
    one object ("layers[0].thickness", "layers[0].material") and equal rows of arrays are a
    part. A part whose `Choice` has an option "absent" may be left out, so that the
    number of parts is a result; its other parameters then stand at the start's values.

    The reward of a design is its rank among those of its batch, by the loss, feasible
    designs first (Deb's rules), a failed one last. Each batch is used for `epochs` steps.

    Parameters: all kinds; designs have whole numbers and one-hot choices. It recommends the
    design that the network would build without chance. It needs thousands of designs: for
    cheap evaluations, and for structures that other optimisers cannot vary.

    Args:
        by_parts: part after part instead of all at once.
        batch: designs of a batch.
        step: of Adam, for the networks.
        epochs: steps with each batch.
        sigma: standard deviation of the first designs, a fraction of the range.
        width: units of each of the two hidden layers.
        entropy: reward for undecided choices; raise it where options die out early.
        sample: which events the designs see: "batch", "fresh" or "fixed".

    Raises:
        InputError: a value out of range.
    """

    by_parts: bool = eqx.field(static=True, default=False)
    batch: int = 32
    step: float = 0.01
    epochs: int = 10
    sigma: float = 0.2
    width: int = 32
    entropy: float = 0.01
    sample: str = eqx.field(static=True, default="batch")
    references: ClassVar[tuple[str, ...]] = (
        "J. Schulman et al., Proximal policy optimization algorithms, arXiv:1707.06347",
        "S. R. Qasim, P. Owen, N. Serra, Physics instrument design with reinforcement "
        "learning, arXiv:2412.10237",
        constraints.DEB,
    )
    needs_gradient: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse values out of range."""
        for name, least in (("batch", 4), ("epochs", 1), ("width", 1)):
            value = getattr(self, name)
            if int(value) != value or value < least:
                raise errors.InputError(
                    f"`{name}` must be a whole number >= {least}, but is {value}. "
                    "Leave it out, or raise it."
                )
        if not 0 < self.sigma <= 1 or self.step <= 0 or self.entropy < 0:
            raise errors.InputError(
                "`sigma` must be in (0, 1], `step` > 0 and `entropy` >= 0, but they are "
                f"{self.sigma}, {self.step} and {self.entropy}. Leave them out."
            )
        if self.sample not in ("batch", "fresh", "fixed"):
            raise errors.InputError(
                f"`sample` must be 'batch', 'fresh' or 'fixed', but is {self.sample!r}. "
                "Try 'batch'."
            )

    def check(self, problem: Problem) -> None:
        """Refuse very many parameters."""
        n = problem.space.size
        if n > MOST:
            raise errors.UnsupportedError(
                f"`Policy` sees at most {MOST:,} coordinates, but the space has {n:,}. "
                "Use `adam` with gradients, or `Evolution(diagonal=True)`."
            )

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> PolicyState:
        """See the base class."""
        space = problem.space
        kinds = Coordinates.of(space)
        parts = parts_of(space) if self.by_parts else whole(space)
        start = kinds.hard(np.asarray(u0, float))
        builder = ppo.Builder(
            part=np.asarray(parts.part),
            absent=np.asarray(parts.absent),
            grid=np.asarray(kinds.grid, np.float32),
            choice=np.asarray(kinds.choice),
            start=np.asarray(start, np.float32),
        )
        learned = ppo.begin(builder, self.width, self.sigma, self.step, key)
        nothing = np.zeros((0, start.size), np.float32)
        return PolicyState(
            builder, learned, nothing, nothing, nothing, np.zeros((0, 3))
        )

    def ask(self, state: PolicyState, *, key: Key) -> tuple[np.ndarray, PolicyState]:
        """What a batch still needs (usually all of it), built with the key."""
        count = max(1, self.batch - len(state.told))
        drawn = ppo.build(state.builder, state.learned.nets, key, 1.0, self.batch)
        us, raw = (np.asarray(v)[:count] for v in jax.device_get(drawn))
        return us.astype(float), state._replace(
            asked=np.concatenate([state.asked, us]),
            raw=np.concatenate([state.raw, raw]),
        )

    def tell(
        self, state: PolicyState, us: np.ndarray, evaluations: list[Evaluation]
    ) -> PolicyState:
        """Learn when as many as a batch have come in, any of them."""
        state, raw = _answered(state, np.asarray(us))
        told = np.concatenate([state.told, raw])
        new = [constraints.order(e) for e in evaluations]
        orders = np.concatenate([state.orders, np.array(new).reshape(-1, 3)])
        learned = state.learned
        while len(told) >= self.batch:
            rewards = _ranks(constraints.fitness(orders[: self.batch]))
            learned = ppo.learn(
                state.builder,
                learned,
                jnp.asarray(told[: self.batch]),
                jnp.asarray(rewards, jnp.float32),
                self.step,
                self.entropy,
                self.epochs,
            )
            told, orders = told[self.batch :], orders[self.batch :]
        return state._replace(learned=jax.device_get(learned), told=told, orders=orders)

    def recommend(self, state: PolicyState) -> np.ndarray:
        """The design that is built without chance, shape (1, n)."""
        key = jax.random.key(0)
        us, _ = ppo.build(state.builder, state.learned.nets, key, 0.0, 1)
        return np.clip(np.asarray(us, float), 0, 1)


def _ranks(fitness: np.ndarray) -> np.ndarray:
    """Rewards with mean zero and spread one, the best the largest; equal ones are equal."""
    worse = (fitness[:, None] < fitness[None, :]).sum(1)
    better = (fitness[:, None] > fitness[None, :]).sum(1)
    rank = (worse - better).astype(float)
    return rank / max(float(rank.std()), 1e-9)


def _answered(state: PolicyState, us: np.ndarray) -> tuple[PolicyState, Any]:
    """Without the questions at `us`, and what was drawn for these, shape (p, n)."""
    asked, raw = np.asarray(state.asked), np.asarray(state.raw)
    found = []
    for u in us:
        same = np.flatnonzero(np.all(asked == u, axis=1))[:1]
        found.append(raw[same[0]] if len(same) else u)  # a point that nobody asked for
        asked, raw = np.delete(asked, same, axis=0), np.delete(raw, same, axis=0)
    drawn = np.array(found, np.float32).reshape(us.shape)
    return state._replace(asked=asked, raw=raw), drawn
