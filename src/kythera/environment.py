"""Any problem as an environment of Gymnasium, for libraries of reinforcement learning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.evaluation import Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.estimators.direct import evaluate_all
from kythera.optimisers import constraints
from kythera.optimisers.coordinates import Coordinates
from kythera.optimisers.parts import parts_of, whole

_START = 0xFFFFFFFF  # no episode has this number


def environment(problem: Problem, *, key: Key, by_parts: bool = False) -> Any:
    """An environment in which an agent builds designs, one in each episode.

    An observation holds the coordinates that stand already (zero where nothing does), then
    the number of the next part, one-hot. An action holds the coordinates of that part, in
    [0, 1], at its front (what a smaller part does not need is not looked at); of a choice
    the largest counts. The reward comes with the last part: minus the weighted loss. A design
    that breaks constraints gets the worst reward of a feasible one so far, minus its
    violation; one that fails, one less than the worst so far. The start's loss, which is
    measured at the first `reset`, counts among them.

    The `info` of a last step holds the evaluation ("evaluation"), the point of the cube
    ("u") and the values of its coordinates in native units ("values").

    Args:
        problem: what is optimised.
        key: episode i sees events of `fold_in(key, i)`; `reset(seed=...)` begins anew with
            a key of that seed.
        by_parts: part after part as in `Policy`, instead of a whole design at once.

    Raises:
        UnsupportedError: Gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise errors.UnsupportedError(
            "An environment stands on Gymnasium, which is not installed. Install it: "
            "pip install 'kythera[rl]'."
        ) from error
    problem.check()

    class Environment(_Building, gymnasium.Env):
        """See `environment`."""

        def __init__(self) -> None:
            super().__init__(problem, key, by_parts)
            box, single = gymnasium.spaces.Box, np.float32
            self.action_space = box(0.0, 1.0, (self.width,), single)
            self.observation_space = box(0.0, 1.0, (self.n + self.parts.count,), single)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            """An empty design."""
            super().reset(seed=seed)
            return self.begin(seed), {}

        def step(self, action: Any) -> Any:
            """Place the next part; measure the design where it was the last."""
            return self.place(np.asarray(action, float))

    return Environment()


class _Building:
    """A design that grows, and what it is worth: an environment without its library."""

    def __init__(self, problem: Problem, key: Key, by_parts: bool):
        space = problem.space
        self.problem, self.key = problem, key
        self.kinds = Coordinates.of(space)
        self.parts = parts_of(space) if by_parts else whole(space)
        self.n = space.size
        self.own = [np.flatnonzero(self.parts.part == i) for i in self.parts_range]
        self.width = max(map(len, self.own))
        self.start = self.kinds.hard(np.asarray(space.start, float))
        self.episode, self.worst = 0, float("nan")
        self.u, self.t = np.zeros(self.n), 0

    @property
    def parts_range(self) -> range:
        """Numbers of the parts."""
        return range(self.parts.count)

    def begin(self, seed: int | None) -> np.ndarray:
        """Forget the design; with a seed also how many there were."""
        if seed is not None:
            self.key, self.episode = jax.random.key(seed), 0
            self.worst = float("nan")
        if np.isnan(self.worst):
            found = self._measured(self.start, _START)
            self.worst = float("inf") if found.cause else -found.total.value
        self.u, self.t = np.zeros(self.n), 0
        return self._seen()

    def place(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The next part: observation, reward, whether it was the last, False, info."""
        own = self.own[self.t]
        u = self.u.copy()
        u[own] = action[: len(own)]
        u = np.where(self.parts.part == self.t, self.kinds.hard(u), self.u)
        absent = self.parts.absent[self.t]
        if absent >= 0 and u[absent] == 1:
            gone = (self.parts.part == self.t) & (self.kinds.choice < 0)
            u[gone] = self.start[gone]
        self.u, self.t = u, self.t + 1
        if self.t < self.parts.count:
            return self._seen(), 0.0, False, False, {}
        found = self._measured(u, self.episode)
        self.episode += 1
        values = self.problem.space.values(jnp.asarray(u, float))
        info = {"evaluation": found, "u": u, "values": values}
        return self._seen(), self._reward(found), True, False, info

    def _measured(self, u: np.ndarray, number: int) -> Evaluation:
        key = jax.random.fold_in(self.key, number)[None]
        return evaluate_all(self.problem, "value", jnp.asarray(u[None]), key, map)[0]

    def _reward(self, found: Evaluation) -> float:
        worst = self.worst if np.isfinite(self.worst) else 0.0  # none was good yet
        if not constraints.is_good(found):
            reward = worst - 1.0
        elif found.violation > 0:
            reward = worst - found.violation
        else:
            reward = -found.total.value
            self.worst = min(self.worst, reward)
        return float(reward)

    def _seen(self) -> np.ndarray:
        step = np.zeros(self.parts.count)
        step[min(self.t, self.parts.count - 1)] = 1.0
        return np.concatenate([self.u, step]).astype(np.float32)
