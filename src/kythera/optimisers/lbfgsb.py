"""Quasi-Newton steps on a fixed sample: SciPy's L-BFGS-B, asked one point at a time."""

from typing import ClassVar, NamedTuple

import numpy as np
import scipy.optimize

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints
from kythera.optimisers.gradient import refuse_jumps

ROUNDS = 20  # of the augmented Lagrangian
MARGIN = 1e-4  # by which slacks are aimed to be positive, so that they end so


class History(NamedTuple):
    """All that was learnt, and what follows from it; k evaluations, m constraints.

    Args:
        u0: the start, shape (n,).
        us: the points, shape (k, n).
        losses: shape (k,); nan where the evaluation failed.
        gradients: of the loss, shape (k, n).
        slacks: shape (k, m).
        slopes: their gradients, shape (k, m, n).
        question: the next point, shape (n,).
        reason: why there is none; empty while there is.
    """

    u0: np.ndarray
    us: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray
    slacks: np.ndarray
    slopes: np.ndarray
    question: np.ndarray
    reason: str


class _Unknown(Exception):
    """The replay came to a point that was not evaluated yet."""


class LBFGSB(AbstractOptimiser[History]):
    """L-BFGS-B in the cube; all evaluations see the same events.

    The fewest evaluations of all where the loss is smooth. The sample is fixed, so that
    what it finds is the best design *for these events*: give it enough of them (the report
    measures start and end on fresh ones). SciPy runs the search; at each question it is
    run again from the start on what is known, so that the state is the history.

    Parameters: real ones, linear or logarithmic; whole numbers and choices in a simulator
    that is differentiable in their relaxation.

    Constraints: up to 20 rounds of an augmented Lagrangian (Algorithm 17.4 of Nocedal and
    Wright): after each minimisation lambda <- max(0, lambda - rho c), and rho grows
    tenfold where the violation did not fall to a quarter. Slacks are aimed at 1e-4, so
    that they end at >= 0.

    A failed evaluation counts as worse than the worst one seen before it, by as much as
    that is above the best, with a flat slope: the line search comes back about half of the
    way. A failure at the start ends the search.

    Args:
        max_iterations: of one minimisation (each may need several evaluations).
        tolerance: it ends when an iteration lowers the loss by less than this part of it,
            or when the projected gradient (loss per range) is below it.
        memory: number of past steps from which the curvature is taken.

    Raises:
        InputError: a limit that is not positive.
    """

    max_iterations: int = 200
    tolerance: float = 1e-6
    memory: int = 10
    references: ClassVar[tuple[str, ...]] = (
        "R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, A limited memory algorithm for bound "
        "constrained optimization, SIAM J. Sci. Comput. 16 (1995) 1190",
        "P. Virtanen et al., SciPy 1.0, Nature Methods 17 (2020) 261",
        constraints.NOCEDAL,
    )
    needs_gradient: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse limits that leave nothing to do."""
        for name in ("max_iterations", "tolerance", "memory"):
            if not getattr(self, name) > 0:
                raise errors.InputError(
                    f"`{name}` must be > 0, but is {getattr(self, name)}. "
                    "Leave it at its default."
                )

    @property
    def sample(self) -> str:
        """All trials share their events."""
        return "fixed"

    def check(self, problem: Problem) -> None:
        """Refuse choices decided outside JAX."""
        refuse_jumps(problem, "`LBFGSB`")

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> History:
        """See the base class."""
        u = np.clip(np.asarray(u0, float), 0, 1) + 0.0
        n = u.size
        return History(
            u0=u,
            us=np.zeros((0, n)),
            losses=np.zeros(0),
            gradients=np.zeros((0, n)),
            slacks=np.zeros((0, 0)),
            slopes=np.zeros((0, 0, n)),
            question=u,
            reason="",
        )

    def ask(self, state: History, *, key: Key) -> tuple[np.ndarray, History]:
        """The first point that SciPy's search does not know yet, shape (1, n)."""
        return np.asarray(state.question)[None], state

    def tell(
        self, state: History, us: np.ndarray, evaluations: list[Evaluation]
    ) -> History:
        """Extend the history and run the search on it."""
        for u, evaluation in zip(np.asarray(us, float), evaluations, strict=True):
            state = _extended(state, u, evaluation, type(self).__name__)
        question, reason = self._replay(state)
        return state._replace(question=question, reason=reason)

    def recommend(self, state: History) -> np.ndarray:
        """The best point on the fixed sample, feasible first, shape (1, n)."""
        if not len(state.us):
            return np.asarray(state.u0)[None]
        failed = np.isnan(state.losses)
        violation = np.sum(np.maximum(0, -np.nan_to_num(state.slacks)), 1)
        losses = np.where(failed, np.inf, state.losses)
        return constraints.best(state.us, np.stack([failed, violation, losses], 1))

    def finished(self, state: History) -> str:
        """Why SciPy stopped."""
        return str(state.reason)

    def _replay(self, state: History) -> tuple[np.ndarray, str]:
        """Run the search from the start: the next question, or why there is none."""
        if np.isnan(state.losses[0]):
            return state.u0, "the evaluation at the start failed"
        m = state.slacks.shape[1]
        known = {u.tobytes(): i for i, u in enumerate(state.us)}
        multipliers, penalties = np.zeros(m), _first_penalties(state)
        u, before = state.u0, np.full(m, np.inf)
        for _ in range(ROUNDS):
            try:
                found = self._minimise(state, known, u, multipliers, penalties)
            except _Unknown as unknown:
                return unknown.args[0], ""
            u = _clean(found.x)
            slack = state.slacks[known[u.tobytes()]]
            if np.all(slack >= 0) and not np.any(
                (slack > 2 * MARGIN) & (multipliers > 0)
            ):
                return u, f"L-BFGS-B: {str(found.message).lower()}"
            aimed = slack - MARGIN
            multipliers = constraints.pull(aimed, multipliers, penalties)
            violation = np.maximum(0, -aimed)
            penalties = np.where(violation > before / 4, 10 * penalties, penalties)
            before = violation
        return u, f"L-BFGS-B: {ROUNDS} rounds did not meet the constraints exactly"

    def _minimise(
        self,
        state: History,
        known: dict[bytes, int],
        start: np.ndarray,
        multipliers: np.ndarray,
        penalties: np.ndarray,
    ) -> scipy.optimize.OptimizeResult:
        """One minimisation of the augmented Lagrangian on what is known."""
        merits, slopes = _merits(state, multipliers, penalties)

        def merit(x: np.ndarray) -> tuple[float, np.ndarray]:
            u = _clean(x)
            index = known.get(u.tobytes())
            if index is None:
                raise _Unknown(u)
            return merits[index], slopes[index]

        return scipy.optimize.minimize(
            merit,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(0, 1),
            options={
                "maxiter": self.max_iterations,
                "ftol": self.tolerance,
                "gtol": self.tolerance,
                "maxcor": self.memory,
            },
        )


def _clean(x: np.ndarray) -> np.ndarray:
    """The point as it is asked for: within the cube, no negative zeros."""
    return np.clip(np.asarray(x, float), 0, 1) + 0.0


def _extended(
    state: History, u: np.ndarray, evaluation: Evaluation, name: str
) -> History:
    """The history with one evaluation more."""
    n = u.size
    known = constraints.gradients(evaluation, n, name)
    if known is None:
        m = state.slacks.shape[1]
        loss, slope = np.nan, np.zeros(n)
        slack, slopes = np.full(m, np.nan), np.zeros((m, n))
    else:
        loss, (slope, slack, slopes) = evaluation.total.value, known
    old, k = state, len(state.us)
    if k and not np.any(np.isfinite(state.losses)):  # nothing told m before
        old = state._replace(
            slacks=np.full((k, slack.size), np.nan), slopes=np.zeros((k, slack.size, n))
        )
    elif not k:
        old = state._replace(
            slacks=np.zeros((0, slack.size)), slopes=np.zeros((0, slack.size, n))
        )
    return old._replace(
        us=np.concatenate([old.us, _clean(u)[None]]),
        losses=np.append(old.losses, loss),
        gradients=np.concatenate([old.gradients, slope[None]]),
        slacks=np.concatenate([old.slacks, slack[None]]),
        slopes=np.concatenate([old.slopes, slopes[None]]),
    )


def _first_penalties(state: History) -> np.ndarray:
    """Penalties for which a slack of -0.05 pulls as strongly as the loss at the start."""
    loss = np.linalg.norm(state.gradients[0])
    each = np.linalg.norm(state.slopes[0], axis=1)
    usable = (each > 0) & (loss > 0)
    return np.where(usable, loss / (0.05 * np.where(each > 0, each, 1.0)), 1.0)


def _merits(
    state: History, multipliers: np.ndarray, penalties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Augmented Lagrangian of all known points (k,), and its gradients (k, n)."""
    aimed = state.slacks - MARGIN
    pulls = np.maximum(0, multipliers - penalties * aimed)  # (k, m)
    merits = state.losses + np.sum((pulls**2 - multipliers**2) / (2 * penalties), 1)
    slopes = state.gradients - np.einsum("km,kmn->kn", pulls, state.slopes)
    for i in np.flatnonzero(np.isnan(state.losses)):  # by what was known before only
        seen = merits[:i][np.isfinite(state.losses[:i])]
        merits[i] = seen.max() + (np.ptp(seen) or 1.0 + abs(seen.max()))
        slopes[i] = 0
    return merits, slopes
