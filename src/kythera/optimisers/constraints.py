"""Constraints as optimisers honour them: feasible first, or an augmented Lagrangian.

A slack c(u) >= 0 holds. The augmented Lagrangian of a loss f is

    f(u) + sum_j ( max(0, lambda_j - rho_j c_j(u))^2 - lambda_j^2 ) / (2 rho_j)

with multipliers lambda_j >= 0 and penalties rho_j > 0 (Eq. 17.63-17.65 of J. Nocedal and
S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006).
"""

from collections.abc import Sequence

import numpy as np

from kythera import errors
from kythera.core.evaluation import Evaluation

DEB = (
    "K. Deb, An efficient constraint handling method for genetic algorithms, Comput. "
    "Methods Appl. Mech. Eng. 186 (2000) 311"
)
NOCEDAL = "J. Nocedal, S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006"


def is_good(evaluation: Evaluation) -> bool:
    """Whether an evaluation gave a finite loss."""
    return not evaluation.cause and bool(np.isfinite(evaluation.total.value))


def order(evaluation: Evaluation) -> tuple[float, float, float]:
    """Sorts evaluations, best first: failed or not, violation of constraints, loss.

    Any feasible design is better than any infeasible one, of which the one that breaks its
    constraints less is better, whatever its loss (Deb 2000); a failed one is the worst.
    """
    if not is_good(evaluation):
        return (1.0, float("inf"), float("inf"))
    return (0.0, evaluation.violation, evaluation.total.value)


def fitness(orders: np.ndarray) -> np.ndarray:
    """One finite number for each of k evaluations that sorts them as `order` does.

    A feasible design keeps its loss; an infeasible one has the loss of the worst feasible
    one plus its violation; a failed one is worse than all.

    Args:
        orders: rows of `order`, shape (k, 3).

    Returns:
        shape (k,).
    """
    failed, violation, loss = orders.T
    feasible = (failed == 0) & (violation == 0)
    broken = (failed == 0) & ~feasible
    values = np.where(feasible, loss, 0.0)
    worst = values[feasible].max() if feasible.any() else 0.0
    values[broken] = worst + violation[broken]
    known = values[failed == 0]
    values[failed > 0] = known.max() + 1 if known.size else 0.0
    return values


def gradients(
    evaluation: Evaluation, n: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Gradient of the loss, slacks and their gradients: (n,), (m,), (m, n), float64.

    Args:
        evaluation: what the estimator gave.
        n: number of coordinates.
        name: of the optimiser, for the error.

    Returns:
        None where the evaluation failed or holds a number that is not finite.

    Raises:
        UnsupportedError: the estimator gave no gradient of the loss or of a constraint.
    """
    if not is_good(evaluation):
        return None
    known = {"the loss": evaluation.total} | {
        f"the constraint '{key}'": slack for key, slack in evaluation.slack.items()
    }
    for what, measured in known.items():
        if measured.gradient is None:
            raise errors.UnsupportedError(
                f"`{name}` needs the gradient of {what}, but the estimator gave none. "
                "Use `Pathwise` or `FiniteDifference`, or an optimiser without "
                "gradients such as `Evolution`."
            )
    rows = np.array([s.gradient for s in evaluation.slack.values()], float)
    slopes = rows.reshape(len(evaluation.slack), n)
    slack = np.array([s.value for s in evaluation.slack.values()], float)
    slope = np.asarray(evaluation.total.gradient, float)
    finite = all(np.all(np.isfinite(v)) for v in (slope, slack, slopes))
    return (slope, slack, slopes) if finite else None


def pull(slack: np.ndarray, multipliers: np.ndarray, penalties: np.ndarray):
    """max(0, lambda - rho c): how strongly each constraint pulls, shape (m,)."""
    return np.maximum(0.0, multipliers - penalties * slack)


def restore(
    u: np.ndarray, where: np.ndarray, slack: np.ndarray, slopes: np.ndarray
) -> np.ndarray:
    """The point of the cube next to `u` at which linearised constraints hold.

    Args:
        u: point, shape (n,).
        where: point at which the constraints are known, shape (n,).
        slack: their values there, shape (m,).
        slopes: their gradients there, shape (m, n).

    Returns:
        shape (n,); after a hundred rounds of projections on one constraint after another
        it may still break some, where they leave no room.
    """
    point = u.copy()
    norms = np.sum(slopes**2, 1)
    for _ in range(100):
        moved = False
        for c, g, norm in zip(slack, slopes, norms, strict=True):
            left = c + g @ (point - where)
            if left < 0 < norm:
                point = np.clip(point - (left - 1e-6) * g / norm, 0, 1)
                moved = True
        if not moved:
            break
    return point


def best(us: np.ndarray, orders: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """The best of several points, feasible first, shape (1, n)."""
    index = min(range(len(us)), key=lambda i: tuple(orders[i]))
    return np.asarray(us[index])[None]
