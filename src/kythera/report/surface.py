"""A quadratic surface through noisy values, and gradients, of a loss. NumPy and SciPy."""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize

ROUNDS = 4  # in which surface and unknown noise are found in turn
MARGIN = 2.0  # numbers for each coefficient, at least
FEWEST = 6  # points beyond two for each axis, at least
SPARE = 4  # numbers beyond the coefficients, at least
CONDITION = 300  # of the scaled columns, above which the points leave directions open
SHRINK = 0.7  # part of the points that a smaller region keeps
MISFIT = 2.0  # standard errors by which chi2 may pass the degrees of freedom
NOISIER = 4.0  # times the noise of a smaller region that a region may have
POOR = 1.5  # scale of the errors from which on a surface of fewer axes may be better
DIFFER = 3.5  # standard errors by which a smaller region may differ
SURE = 2.0  # standard errors from which on something is called significant
NEARER = 41  # points between the centre and a minimum that is not significant
LUCKY = 0.3  # of the median error, below which none is believed
EXACT = 0.02  # misfit of values without errors, as a part of their spread
STILL = 1e-6  # of the largest spread: a direction in which the points do not differ
ROWS = 6000  # numbers that a fit takes: those of the nearest points


class Points(NamedTuple):
    """What was measured.

    Args:
        x: coordinates, shape (t, m).
        value: shape (t,).
        stderr: of the values, shape (t,); all 1 where they are not `known`.
        sample: points of one number saw the same events, shape (t,).
        gradient: d value / d x, nan where it is not known, shape (t, m).
        known: whether the errors of the values are.
    """

    x: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    sample: np.ndarray
    gradient: np.ndarray
    known: bool = True

    def take(self, where: np.ndarray) -> "Points":
        """Some of them."""
        return self._replace(
            x=self.x[where],
            value=self.value[where],
            stderr=self.stderr[where],
            sample=self.sample[where],
            gradient=self.gradient[where],
        )


@dataclasses.dataclass(frozen=True)
class Surface:
    """f(a) = c + g . a + a . H a / 2 near a centre, with the covariance of c, g and H.

    A point is x = centre + axes @ a. The coefficients are in the order c, g_1 ... g_r, and
    H_ij for i <= j.

    Args:
        centre: shape (m,).
        basis: orthonormal columns, shape (m, r); the unit matrix where all is fitted.
        size: of a step along each axis, so that the points lie within about 1, shape (r,).
        low, high: ends of the points along each axis: beyond, nothing is known, (r,).
        coefficients: shape (p,).
        covariance: shape (p, p).
        used: indices of the points of the fit.
        scale: factor on the errors, for what no quadratic surface describes.
        shared: part of the values' variance that points of one sample have in common.
        noise: variance of the values, without what is shared, in units of what was stated;
            then that of the gradients along each axis, zero without any, shape (1 + r,).
        fits: whether the points agree with it within their errors.
    """

    centre: np.ndarray
    basis: np.ndarray
    size: np.ndarray
    low: np.ndarray
    high: np.ndarray
    coefficients: np.ndarray
    covariance: np.ndarray
    used: np.ndarray
    scale: float
    shared: float
    noise: np.ndarray
    fits: bool

    @property
    def gradient(self) -> np.ndarray:
        """g at the centre, by a, shape (r,)."""
        return self.coefficients[1 : 1 + len(self.size)]

    @property
    def hessian(self) -> np.ndarray:
        """H, by a, shape (r, r)."""
        r = len(self.size)
        i, j = np.triu_indices(r)
        matrix = np.zeros((r, r))
        matrix[i, j] = matrix[j, i] = self.coefficients[1 + r :]
        return matrix

    def locate(self, x: np.ndarray) -> np.ndarray:
        """Coordinates a of points x, (..., m) -> (..., r)."""
        return (x - self.centre) @ self.basis / self.size

    def place(self, a: np.ndarray) -> np.ndarray:
        """Points x of coordinates a, (..., r) -> (..., m)."""
        return self.centre + (a * self.size) @ self.basis.T

    def value(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and standard error at coordinates of shape (..., r)."""
        return self._linear(features(a))

    def above(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f(a) - f(b) with its standard error, which knows what both share."""
        return self._linear(features(a) - features(b))

    def slope(self, a: np.ndarray, along: np.ndarray) -> tuple[float, float]:
        """Derivative by a at `a` along a vector of shape (r,), with its standard error."""
        value, error = self._linear(along @ slopes(a[None])[0])
        return float(value), float(error)

    def curvature(self, along: np.ndarray) -> tuple[float, float]:
        """along . H along with its standard error."""
        i, j = np.triu_indices(len(along))
        weights = np.zeros(len(self.coefficients))
        weights[1 + len(along) :] = np.where(i == j, 1, 2) * along[i] * along[j]
        value, error = self._linear(weights)
        return float(value), float(error)

    def _linear(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        variance = np.einsum("...p,pq,...q->...", weights, self.covariance, weights)
        return weights @ self.coefficients, np.sqrt(np.maximum(variance, 0))

    def held(self, a: np.ndarray, sure: float = SURE) -> np.ndarray:
        """The way inwards, +1 or -1, of each axis that is pushed to an end, else 0, (r,).

        Args:
            a: a point.
            sure: standard errors above zero from which a slope is a push.
        """
        close = 1e-6 * (self.high - self.low)
        low, high = a <= self.low + close, a >= self.high - close
        inwards = low.astype(int) - high.astype(int)
        for k in np.flatnonzero(inwards):
            slope, error = self.slope(a, inwards[k] * np.eye(len(a))[k])
            inwards[k] *= slope > sure * error
        return inwards

    def lowest(self, starts: np.ndarray) -> np.ndarray:
        """The minimum; or, where noise drove it to an end, a point as low nearer the centre.

        Args:
            starts: as for `minimum`.
        """
        found = self.minimum(starts)
        if np.array_equal(self.held(found), self.held(found, -np.inf)):
            return found
        origin = np.clip(np.zeros_like(found), self.low, self.high)
        for part in np.linspace(0, 1, NEARER):
            point = origin + part * (found - origin)
            excess, error = self.above(point, found)
            if excess <= error:
                return point
        return found

    def minimum(self, starts: np.ndarray, fixed: dict[int, float] | None = None):
        """The lowest point within `low` and `high`, some coordinates being fixed.

        Args:
            starts: coordinates from which it is looked for, shape (s, r): where the
                surface is no bowl there may be several minima.
            fixed: axis -> its coordinate.

        Returns:
            coordinates, shape (r,).
        """
        held = np.array(list(fixed or {}), int)
        free = np.setdiff1d(np.arange(len(self.size)), held)
        best = np.array(starts[0], float)
        best[held] = list((fixed or {}).values())
        if not len(free):
            return best
        h = self.hessian
        g = self.gradient[free] + h[np.ix_(free, held)] @ best[held]
        own, low, high = h[np.ix_(free, free)], self.low[free], self.high[free]
        if np.linalg.eigvalsh(own)[0] > 0:  # a bowl, and mostly its bottom is inside
            found = -np.linalg.solve(own, g)
            if np.all(found >= low) and np.all(found <= high):
                best[free] = found
                return best
            starts = starts[:1]

        def loss(a: np.ndarray) -> tuple[float, np.ndarray]:
            return float(g @ a + a @ own @ a / 2), g + own @ a

        tried = [
            scipy.optimize.minimize(
                *(loss, np.clip(start[free], low, high)),
                method="L-BFGS-B",
                jac=True,
                bounds=np.stack([low, high], -1),
                options={"ftol": 1e-14, "gtol": 1e-10},
            )
            for start in starts
        ]
        best[free] = min(tried, key=lambda found: found.fun).x
        return best


def features(a: np.ndarray) -> np.ndarray:
    """What multiplies c, g and H in f(a), (..., r) -> (..., p)."""
    i, j = np.triu_indices(a.shape[-1])
    half = np.where(i == j, 0.5, 1.0)
    one = np.ones((*a.shape[:-1], 1))
    return np.concatenate([one, a, half * a[..., i] * a[..., j]], -1)


def slopes(a: np.ndarray) -> np.ndarray:
    """What multiplies them in df / da, (t, r) -> (t, r, p)."""
    t, r = a.shape
    i, j = np.triu_indices(r)
    found = np.zeros((t, r, 1 + r + len(i)))
    found[:, range(r), range(1, 1 + r)] = 1
    pairs = np.arange(1 + r, 1 + r + len(i))
    found[:, i, pairs] += a[:, j]
    off = i != j
    found[:, j[off], pairs[off]] += a[:, i[off]]
    return found


def count(r: int) -> int:
    """Coefficients of a quadratic surface in r coordinates."""
    return (r + 1) * (r + 2) // 2


def needed(r: int) -> int:
    """Numbers that are asked for to fit it."""
    return max(int(np.ceil(MARGIN * count(r))), count(r) + SPARE)


def fit(points: Points, centre: np.ndarray, most: int) -> Surface | None:
    """The surface through the points around a centre, of as many axes as they determine.

    All coordinates are axes where the points determine all coefficients; otherwise the axes
    are the directions in which the points spread most. A direction in which nothing was
    tried gets no axis: nothing is invented for it. The region shrinks towards the centre
    until a quadratic surface fits, or the points would be too few. Where none fits, the
    one of most axes is taken, and what does not fit enlarges its errors.

    Args:
        points: what was measured.
        centre: shape (m,).
        most: axes at most.

    Returns:
        the surface; None where the points determine none.
    """
    order = np.argsort(np.linalg.norm(points.x - centre, axis=1), kind="stable")
    m = points.x.shape[1]
    steep = 1 + min(m, most) * np.isfinite(points.gradient[order]).all(1)
    order = order[np.cumsum(steep) <= ROWS]
    offset = points.x[order] - centre
    spread, directions = np.linalg.svd(offset, full_matrices=False)[1:]
    last = min(m - 1, most, int(np.sum(spread > STILL * spread[0])))
    bases = [np.eye(m)] * (m <= most)
    bases += [directions[:r].T for r in range(last, 0, -1)]
    first = None
    for basis in bases:
        found = _region(points, centre, order, basis)
        if found is not None and (found.fits or points.known and found.scale < POOR):
            return found
        first = first or found
    return first


def _numbers(points: Points, where: np.ndarray, r: int) -> int:
    """Values, and components of gradients along r axes."""
    return len(where) + r * int(np.sum(np.isfinite(points.gradient[where]).all(1)))


def _region(
    points: Points, centre: np.ndarray, order: np.ndarray, basis: np.ndarray
) -> Surface | None:
    """The surface of the largest region in which it fits; the smallest one's where none.

    Chi2 alone is blind to a bend that is small at each point and adds up: a region also
    has to agree with all smaller ones about value and gradient at the centre (O. Lepski,
    Theory Probab. Appl. 35 (1991) 454), within the error of the difference, whose variance
    is the difference of the variances (J. Hausman, Econometrica 46 (1978) 1251).
    """
    r, found = basis.shape[1], []
    while _numbers(points, order, r) >= needed(r) and len(order) >= 2 * r + FEWEST:
        surface = _fit(points.take(order), centre, basis, order)
        if surface is None:  # a smaller region determines no more
            break
        found.append(surface)
        order = order[: int(SHRINK * len(order))]
    for i, surface in enumerate(found):
        if surface.fits and all(_agree(surface, less) for less in found[i + 1 :]):
            return surface
    return found[-1] if found else None


def _agree(surface: Surface, less: Surface) -> bool:
    """Whether a surface and that of a smaller region do.

    About the noise too, where it is estimated from the residuals: what looks like more of
    it in a larger region is misfit.
    """
    if np.any(surface.noise > NOISIER * less.noise):
        return False
    value, variance = [], []
    for one in (surface, less):
        step = np.concatenate([[1.0], one.size])
        value.append(one.coefficients[: len(step)] / step)
        # few scatter less by luck
        own = max(1.0, surface.noise[0] / max(one.noise[0], 1e-300))
        variance.append(own * np.diag(one.covariance)[: len(step)] / step**2)
    error = np.sqrt(np.maximum(variance[1] - variance[0], 0.25 * variance[1]))
    return bool(np.all(np.abs(value[1] - value[0]) <= DIFFER * error))


def _fit(
    points: Points, centre: np.ndarray, basis: np.ndarray, used: np.ndarray
) -> Surface | None:
    """Weighted least squares; what is not known of the noise comes from the residuals."""
    offset = (points.x - centre) @ basis
    size = np.max(np.abs(offset), 0)
    if np.any(size <= 1e-9):
        return None
    a = offset / size
    rows, target = features(a), points.value
    known = np.flatnonzero(np.isfinite(points.gradient).all(1))
    steep = slopes(a[known])  # (t, r, p)
    steepness = points.gradient[known] @ basis * size  # (t, r)
    steep = np.concatenate([steep, steepness[..., None]], -1)
    p, r, t = rows.shape[1], len(size), len(target)
    scale, shared, groups = 1.0, 0.0, _groups(points.sample)
    sigma, noise = points.stderr, np.diag(np.var(steepness, 0)) if len(known) else None
    if (
        points.known
    ):  # an error that is small by luck would pull the surface to its value
        sigma = np.maximum(sigma, LUCKY * np.median(sigma))
    else:
        sigma = np.full(t, max(float(np.std(target)), 1e-300))
    tiny = 1e-7 * max(float(np.ptp(target)), np.abs(steepness).max(initial=0), 1e-300)
    chi2 = dof = 0.0
    for _ in range(ROUNDS):
        every = _whiten(np.c_[rows, target] / sigma[:, None], groups, shared) / scale
        if noise is not None:
            root = np.linalg.cholesky(noise + tiny**2 * np.eye(r))
            every = np.concatenate([every, _independent(root, steep)])
        solved = _solve(every)
        if solved is None:
            return None
        found, covariance, leverage = solved
        free = np.maximum(1 - leverage, 0)
        residual = every[:t, p] - every[:t, :p] @ found
        chi2, dof = float(np.sum((scale * residual) ** 2)), float(np.sum(free[:t]))
        shared = _shared((target - rows @ found) / sigma, groups, leverage[:t])
        if not points.known:
            sigma = sigma * max(np.sqrt(chi2 / max(dof, 1)), tiny / sigma[0])
        elif dof > 1:
            scale = max(1.0, np.sqrt(chi2 / dof))
        if noise is not None:
            left = steep[..., p] - steep[..., :p] @ found
            noise = _covariance(left, max(float(np.sum(free[t:])) / r, 1.0))
    level = (1 - shared) * (scale**2 if points.known else sigma[0] ** 2)
    uneven = np.zeros(r) if noise is None else np.diag(noise) / size**2
    if points.known:
        fits = chi2 <= dof + MISFIT * np.sqrt(2 * max(dof, 1))
    else:
        fits = float(sigma[0]) <= EXACT * float(np.std(target)) + tiny
    return Surface(
        *(centre, basis, size, np.min(a, 0), np.max(a, 0), found, covariance, used),
        *(scale, shared, np.concatenate([[level], uneven]), bool(fits)),
    )


def _independent(root: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows (t, r, p) of covariance root @ root.T among the r, as t r independent ones."""
    flat = np.swapaxes(rows, 0, 1).reshape(len(root), -1)
    made = scipy.linalg.solve_triangular(root, flat, lower=True)
    return np.swapaxes(made.reshape(len(root), len(rows), -1), 0, 1).reshape(
        -1, rows.shape[-1]
    )


def _covariance(residuals: np.ndarray, dof: float) -> np.ndarray:
    """Covariance of a gradient's components, which come from the same events, (r, r).

    What lies off the diagonal is shrunk, the more the fewer trials there are to tell it.

    Args:
        residuals: shape (t, r).
        dof: of each component.
    """
    found = residuals.T @ residuals / dof
    part = min(1.0, len(found) / dof)
    return (1 - part) * found + part * np.diag(np.diag(found))


def _solve(every: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Coefficients, covariance and leverages; None where some are not determined."""
    matrix, target = every[:, :-1], every[:, -1]
    length = np.linalg.norm(matrix, axis=0)
    if np.any(length <= 0) or len(matrix) < matrix.shape[1]:
        return None
    q, triangle = np.linalg.qr(matrix / length)
    spread = np.linalg.svd(triangle, compute_uv=False)
    if spread[-1] < spread[0] / CONDITION:
        return None
    root = np.linalg.inv(triangle) / length[:, None]
    return root @ (q.T @ target), root @ root.T, np.sum(q**2, 1)


def _groups(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each point's group, and how many points each group has."""
    _, group, members = np.unique(sample, return_inverse=True, return_counts=True)
    return group, members


def _whiten(
    rows: np.ndarray, groups: tuple[np.ndarray, np.ndarray], shared: float
) -> np.ndarray:
    """Rows of unit variance, with a part `shared` of it in common in a group, made free.

    The covariance of a group of k rows is (1 - s) 1 + s J, J being all ones; its inverse
    root subtracts the mean times 1 - sqrt((1 - s) / (1 - s + k s)), and divides by
    sqrt(1 - s).
    """
    if shared <= 0:
        return rows
    group, members = groups
    means = np.zeros((len(members), rows.shape[1]))
    np.add.at(means, group, rows)
    means /= members[:, None]
    part = 1 - np.sqrt((1 - shared) / (1 - shared + members * shared))
    return (rows - part[group, None] * means[group]) / np.sqrt(1 - shared)


def _shared(
    pulls: np.ndarray, groups: tuple[np.ndarray, np.ndarray], leverage: np.ndarray
) -> float:
    """The part of the variance that points of one sample have in common, 0 to 1.

    What is left within the groups is the other part: designs that saw the same events had
    the same luck, and differ by less than their errors say.
    """
    group, members = groups
    several = members[group] > 1
    if not np.any(several):
        return 0.0
    means = np.zeros(len(members))
    np.add.at(means, group, pulls)
    inside = (pulls - (means / members)[group])[several]
    dof = np.sum(members[members > 1] - 1) - np.sum(leverage[several])
    return float(np.clip(1 - np.sum(inside**2) / max(dof, 1), 0, 1 - 1e-6))
