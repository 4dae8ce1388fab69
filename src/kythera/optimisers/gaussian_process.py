"""Gaussian processes through what was told, and the next points by their means: BoTorch.

One process for each value and each constraint, with the errors that the evaluations quote;
where they quote none the noise is fitted. Real and whole numbers have a Matern kernel (5/2)
with a prior on the length scales that grows with the dimension, choices one of equality.
Where an acquisition function is largest is looked for everywhere and near the best points
known, in turns: with many numbers most of the cube is unknown corners, which look promising
until the points are used up.
"""

import contextlib
import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from kythera import errors
from kythera.optimisers import pareto
from kythera.optimisers.coordinates import Coordinates
from kythera.optimisers.history import History

NEAR = 0.4  # side of the box around a good point, of the range of each real number
RAW = 128  # points among which the search for the best question begins
RESTARTS = 4
SAMPLES = 64  # draws of the processes at a point


def require(name: str) -> None:
    """Refuse where BoTorch is missing.

    Raises:
        UnsupportedError: with the extra to install.
    """
    try:
        with warnings.catch_warnings():  # of its own use of PyTorch
            warnings.simplefilter("ignore")
            import botorch  # noqa: F401
    except ImportError as error:
        raise errors.UnsupportedError(
            f"`{name}` stands on BoTorch, which is not installed. Install it: "
            "pip install 'kythera[bo]'."
        ) from error


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """Fitted processes: of minus the values, then of the slacks.

    Args:
        model: BoTorch's.
        x: the points that it knows, a column for each parameter, shape (N, v).
        values: number of values.
        slacks: number of constraints.
    """

    model: Any
    x: Any
    values: int
    slacks: int

    @property
    def constraints(self) -> list[Any] | None:
        """What BoTorch wants to be negative."""
        first = self.values
        found = [lambda z, j=j: -z[..., j] for j in range(first, first + self.slacks)]
        return found or None

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Expected values and slacks at the known points, (N, values), (N, slacks)."""
        import torch

        with _alone(), torch.no_grad():
            mean = self.model.posterior(self.x).mean.numpy()
        return -mean[:, : self.values], mean[:, self.values :]


_latest: dict[str, Surfaces] = {}  # asked for several times between two tells


def fitted(history: History) -> Surfaces:
    """Processes through what was told; the same for the same history.

    Args:
        history: with two good points or more.
    """
    require("A Gaussian process")
    from botorch.models import ModelListGP

    arrays = (
        history.us, history.values, history.stderr, history.slack, history.slack_stderr,
    )  # fmt: skip
    digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays))
    if (known := _latest.get(digest.hexdigest())) is not None:
        return known
    good = history.good
    values, slack = np.asarray(history.values)[good], np.asarray(history.slack)[good]
    columns = np.concatenate([-values, slack], 1)
    spread = np.concatenate(
        [np.asarray(history.stderr)[good], np.asarray(history.slack_stderr)[good]], 1
    )
    with _alone():
        x = _tensor(compact(history.coordinates, np.asarray(history.us)[good]))
        parts = [
            _process(x, column, stderr, history.coordinates)
            for column, stderr in zip(columns.T, spread.T, strict=True)
        ]
    found = Surfaces(ModelListGP(*parts), x, values.shape[1], slack.shape[1])
    _latest.clear()
    _latest[digest.hexdigest()] = found
    return found


def improve(history: History, count: int, seed: int) -> np.ndarray:
    """Points by noisy expected improvement, logarithmic and joint: qLogNEI.

    S. Ament et al., arXiv:2310.20708; constraints weigh the improvement by the chance
    that all of them hold.

    Args:
        history: with one column of values.
        count: points wanted.
        seed: of all that is drawn.

    Returns:
        shape (count, n).
    """
    surfaces = fitted(history)
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.sampling.normal import SobolQMCNormalSampler

    with _alone(seed):
        acquisition = qLogNoisyExpectedImprovement(
            surfaces.model,
            surfaces.x,
            SobolQMCNormalSampler(_size(SAMPLES), seed=seed),
            objective=GenericMCObjective(lambda z, X=None: z[..., 0]),
            constraints=surfaces.constraints,
            X_pending=_pending(history),
        )
        values, slack = surfaces.means()
        order = np.lexsort((values[:, 0], np.sum(np.maximum(0.0, -slack), 1)))
        return _best(acquisition, history, count, surfaces.x[order[:1]])


def widen(history: History, count: int, seed: int, reference: np.ndarray) -> np.ndarray:
    """Points by noisy expected growth of the dominated volume: qLogNEHVI.

    S. Daulton, M. Balandat, E. Bakshy, arXiv:2105.08195.

    Args:
        history: with a column of values for each term.
        count: points wanted.
        seed: of all that is drawn.
        reference: the worst that counts of each term, shape (terms,).

    Returns:
        shape (count, n).
    """
    surfaces = fitted(history)
    from botorch.acquisition.multi_objective.logei import (
        qLogNoisyExpectedHypervolumeImprovement,
    )
    from botorch.acquisition.multi_objective.objective import (
        IdentityMCMultiOutputObjective,
    )
    from botorch.sampling.normal import SobolQMCNormalSampler

    with _alone(seed):
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            surfaces.model,
            (-np.asarray(reference, float)).tolist(),
            surfaces.x,
            SobolQMCNormalSampler(_size(SAMPLES), seed=seed),
            objective=IdentityMCMultiOutputObjective(
                outcomes=list(range(surfaces.values))
            ),
            constraints=surfaces.constraints,
            X_pending=_pending(history),
            prune_baseline=True,
        )
        values, slack = surfaces.means()
        violation = np.sum(np.maximum(0.0, -slack), 1)
        least = np.flatnonzero(violation <= violation.min())
        front = least[pareto.nondominated(values[least])]
        return _best(acquisition, history, count, surfaces.x[front])


def compact(kinds: Coordinates, us: np.ndarray) -> np.ndarray:
    """Points with one column for each parameter: numbers, then numbers of options."""
    numbers = us[:, np.concatenate([kinds.real, kinds.whole])]
    options = [np.argmax(us[:, where], -1).astype(float) for where in kinds.choices]
    return np.concatenate([numbers, *(column[:, None] for column in options)], 1)


def expand(kinds: Coordinates, x: np.ndarray) -> np.ndarray:
    """Points of the cube of such rows, shape (q, n)."""
    numbers = np.concatenate([kinds.real, kinds.whole])
    us = np.zeros((len(x), len(kinds.grid)))
    us[:, numbers] = x[:, : len(numbers)]
    for i, where in enumerate(kinds.choices):
        picked = np.round(x[:, len(numbers) + i]).astype(int)
        us[:, where] = np.eye(len(where))[picked]
    return kinds.hard(us)


def _process(x: Any, column: np.ndarray, stderr: np.ndarray, kinds: Coordinates) -> Any:
    """One fitted process; with its first hyperparameters where the fit fails."""
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MixedSingleTaskGP, SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.models.utils.gpytorch_modules import (
        get_covar_module_with_dim_scaled_prior,
    )
    from gpytorch.kernels import ScaleKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood

    y = _tensor(column[:, None])
    scale = float(np.var(column)) or 1.0
    noise = None
    if np.all(np.isfinite(stderr)):
        noise = _tensor(np.maximum(stderr**2, 1e-6 * scale)[:, None])
    settings: dict[str, Any] = {
        "train_Yvar": noise,
        "outcome_transform": Standardize(1),
    }
    matern: Any = functools.partial(
        get_covar_module_with_dim_scaled_prior, use_rbf_kernel=False
    )
    if kinds.choices:
        first = len(kinds.real) + len(kinds.whole)
        categories = list(range(first, first + len(kinds.choices)))
        model = MixedSingleTaskGP(
            x, y, categories, cont_kernel_factory=matern, **settings
        )
    else:
        kernel = ScaleKernel(matern(ard_num_dims=x.shape[-1]))
        model = SingleTaskGP(x, y, covar_module=kernel, **settings)
    with contextlib.suppress(ModelFittingError):
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model.eval()


def _best(acquisition: Any, history: History, count: int, good: Any) -> np.ndarray:
    """Where an acquisition function is largest, one point after the other.

    Args:
        acquisition: function; what is pending it knows.
        history: whose length says where the next search is.
        count: points wanted.
        good: points, of which one, drawn, is in the middle of every other search.
    """
    import torch
    from botorch.optim import optimize_acqf
    from botorch.optim.optimize_mixed import optimize_acqf_mixed_alternating

    kinds, done = history.coordinates, len(history.us) + len(history.asked)
    real, whole = len(kinds.real), len(kinds.whole)
    sizes = [len(where) for where in kinds.choices]
    upper = [1.0] * (real + whole) + [k - 1.0 for k in sizes]
    everywhere = _tensor(np.array([[0.0] * len(upper), upper]))
    common: dict[str, Any] = {"q": 1, "num_restarts": RESTARTS, "raw_samples": RAW}
    pending = acquisition.X_pending
    found: list[Any] = []
    for turn in range(done, done + count):
        bounds = everywhere.clone()
        if turn % 2 == 0:
            middle = good[int(torch.randint(len(good), (1,))), :real]
            bounds[0, :real] = (middle - NEAR / 2).clamp(min=0.0)
            bounds[1, :real] = (middle + NEAR / 2).clamp(max=1.0)
        if not whole and not sizes:
            options: dict[str, Any] = {"maxiter": 100, "batch_limit": RESTARTS}
            point, _ = optimize_acqf(acquisition, bounds, options=options, **common)
        else:
            point, _ = optimize_acqf_mixed_alternating(
                acquisition,
                bounds,
                discrete_dims={
                    real + j: kinds.values(i).tolist()
                    for j, i in enumerate(kinds.whole)
                },
                cat_dims={
                    real + whole + j: [float(v) for v in range(k)]
                    for j, k in enumerate(sizes)
                },
                options={"maxiter_alternating": 8, "batch_limit": RESTARTS},
                **common,
            )
        found.append(point.detach())
        known = found if pending is None else [pending, *found]
        acquisition.set_X_pending(torch.cat(known))
    return expand(kinds, torch.cat(found).numpy())


def _pending(history: History) -> Any:
    """Questions under way, None without any."""
    if not len(history.asked):
        return None
    return _tensor(compact(history.coordinates, np.asarray(history.asked)))


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.as_tensor(np.array(values, float), dtype=torch.float64)


def _size(count: int) -> Any:
    import torch

    return torch.Size([count])


@contextlib.contextmanager
def _alone(seed: int | None = None) -> Iterator[None]:
    """On one thread, so that sums have one order; random numbers as they were after."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that stop early, of scaling
            torch.manual_seed(0 if seed is None else seed)
            yield
    finally:
        torch.set_num_threads(threads)
