"""Evolution of a normal distribution over designs: CMA-ES, of the library `cmaes`."""

import math
from typing import Any, ClassVar, NamedTuple

import cmaes
import equinox as eqx
import numpy as np

from kythera import errors
from kythera.core.evaluation import AbstractOptimiser, Evaluation
from kythera.core.problem import Problem
from kythera.core.types import Key
from kythera.optimisers import constraints
from kythera.optimisers.coordinates import Coordinates
from kythera.optimisers.mixed import Mixed
from kythera.optimisers.random_search import seed_of

MOST = 2000  # coordinates of a full covariance: its decomposition takes seconds there
_CACHED = ("_B", "_D")  # the decomposition; made anew from the covariance
_INNER = "cma."


class EvolutionState(NamedTuple):
    """The distribution, and the part of a generation that is known.

    Args:
        arrays: the library's numbers by name.
        u0: the first mean, shape (n,).
        coordinates: which are whole numbers, and which are options of a choice.
        asked: questions that were not answered yet, shape (q, n).
        raw: where they stand for the library (a whole number may stand anywhere in its
            cell), shape (q, n).
        us: points of this generation that were told, as the library sees them, (p, n).
        orders: feasibility and loss of each, shape (p, 3).
        reason: why there is nothing more to ask.
    """

    arrays: dict[str, Any]
    u0: np.ndarray
    coordinates: Coordinates
    asked: np.ndarray
    raw: np.ndarray
    us: np.ndarray
    orders: np.ndarray
    reason: str


class Evolution(AbstractOptimiser[EvolutionState]):
    """CMA-ES: asks for a generation, moves a normal distribution to the better half.

    It needs only the order of the designs: no gradient, no smoothness, no scale. With
    `sample="batch"` the designs of one generation see the same events, so that the noise
    of their order is that of differences.

    Parameters: real ones; whole numbers with a margin, so that no neighbour dies out
    (CMA-ES with Margin, arXiv:2205.13482); choices by a distribution over their options,
    none of which dies out either (CatCMA with Margin, arXiv:2504.07884). Designs that it
    asks for have whole numbers and one-hot choices. `lr_adapt` and `diagonal` know no such
    things and treat all as real numbers, a choice as weights. Of options that are nearly
    equal it may settle on the wrong one: compare them in searches of their own, with
    `sample="fixed"`.

    With designs in flight (`optimise(in_flight=...)`) it moves whenever as many as a
    generation have come in, some of which may have been drawn before the last move.

    Constraints: feasible first (Deb's rules): within a generation the fitness of an
    infeasible design is that of the worst feasible one plus its violation. A failed design
    is the worst of its generation.

    Args:
        sigma: standard deviation of the first generation, a fraction of the range.
        population: designs of a generation; by default 4 + 3 ln n.
        lr_adapt: adapt the learning rate to the noise (LRA-CMA-ES, arXiv:2304.03473):
            slower, for losses whose noise is as large as their differences.
        diagonal: no correlations (sep-CMA-ES): for more than a few hundred parameters.
        sample: which events the designs see: "batch", "fresh" or "fixed".

    Raises:
        InputError: a value out of range, or `lr_adapt` with `diagonal`.
    """

    sigma: float = 0.25
    population: int | None = None
    lr_adapt: bool = False
    diagonal: bool = False
    sample: str = eqx.field(static=True, default="batch")
    references: ClassVar[tuple[str, ...]] = (
        "N. Hansen, The CMA evolution strategy: a tutorial, arXiv:1604.00772",
        "M. Nomura, M. Shibata, cmaes: a simple yet practical Python library for CMA-ES, "
        "arXiv:2402.01373",
        "R. Hamano et al., CatCMA with Margin: stochastic optimization for continuous, "
        "integer, and categorical variables, arXiv:2504.07884",
        constraints.DEB,
    )
    needs_gradient: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = True

    def __check_init__(self):
        """Refuse values out of range."""
        if not 0 < self.sigma <= 1:
            raise errors.InputError(
                f"`sigma` must be in (0, 1] of the range, but is {self.sigma}. "
                "Try 0.25."
            )
        if self.population is not None and self.population < 4:
            raise errors.InputError(
                f"`population` must be at least 4, but is {self.population}. "
                "Leave it out, or raise it."
            )
        if self.lr_adapt and self.diagonal:
            raise errors.InputError(
                "`lr_adapt` needs the full covariance, but `diagonal` is set. "
                "Set one of the two."
            )
        if self.sample not in ("batch", "fresh", "fixed"):
            raise errors.InputError(
                f"`sample` must be 'batch', 'fresh' or 'fixed', but is {self.sample!r}. "
                "Try 'batch'."
            )

    def check(self, problem: Problem) -> None:
        """Refuse a full covariance of very many parameters."""
        n = problem.space.size
        if n > MOST and not self.diagonal:
            raise errors.UnsupportedError(
                f"`Evolution` keeps a full covariance of at most {MOST:,} parameters, "
                f"but the space has {n:,}. Use `Evolution(diagonal=True)`, or gradients "
                "with `adam`."
            )

    def init(self, problem: Problem, u0: np.ndarray, *, key: Key) -> EvolutionState:
        """See the base class."""
        u = np.clip(np.asarray(u0, float), 0, 1)
        n = u.size
        kinds = Coordinates(np.zeros(n), np.full(n, -1))
        if not (self.lr_adapt or self.diagonal):
            kinds = Coordinates.of(problem.space)
        nothing = np.zeros((0, n))
        fresh = self._library(u, kinds)
        return EvolutionState(
            _dump(fresh), u, kinds, nothing, nothing, nothing, np.zeros((0, 3)), ""
        )

    def ask(
        self, state: EvolutionState, *, key: Key
    ) -> tuple[np.ndarray, EvolutionState]:
        """What a generation still needs (usually all of it), drawn with the key.

        Asked again before all is answered, it gives further ones of its distribution.
        """
        library = self._restored(state)
        library.reseed_rng(seed_of(key))
        count = library.population_size - len(state.us)
        drawn = [library.ask() for _ in range(count)]
        pairs = [pair if isinstance(pair, tuple) else (pair, pair) for pair in drawn]
        us = np.clip(np.stack([u for u, _ in pairs]), 0, 1)
        raw = np.concatenate([state.raw, np.stack([raw for _, raw in pairs])])
        return us, state._replace(asked=np.concatenate([state.asked, us]), raw=raw)

    def tell(
        self, state: EvolutionState, us: np.ndarray, evaluations: list[Evaluation]
    ) -> EvolutionState:
        """Update the distribution when as many as a generation have come in, any of them."""
        state, raw = _answered(state, np.asarray(us, float))
        new = np.array([constraints.order(e) for e in evaluations]).reshape(-1, 3)
        points = np.concatenate([state.us, raw])
        orders = np.concatenate([state.orders, new])
        library = None
        size = self._population(state.coordinates)
        while len(points) >= size:
            library = library or self._restored(state)
            values = constraints.fitness(orders[:size])
            library.tell(list(zip(points[:size], values.tolist(), strict=True)))
            points, orders = points[size:], orders[size:]
        if library is not None:
            arrays, inner = _dump(library), getattr(library, "_cma", library)
            stop = bool(inner.should_stop())
            reason = "the distribution has shrunk to a point" if stop else ""
            state = state._replace(arrays=arrays, reason=reason)
        return state._replace(us=points, orders=orders)

    def recommend(self, state: EvolutionState) -> np.ndarray:
        """The mean of the distribution, of a choice the likeliest option, shape (1, n).

        Before the first whole generation, when all options are alike, the start.
        """
        kinds = state.coordinates
        if kinds.choices and state.arrays["_g"] == 0:
            mean = np.asarray(state.u0, float)
        elif kinds.choices:
            mean = self._restored(state).mean
        else:
            name = "_mean" if "_mean" in state.arrays else f"{_INNER}_mean"
            mean = np.asarray(state.arrays[name], float)
        return kinds.hard(mean)[None]

    def finished(self, state: EvolutionState) -> str:
        """When the distribution cannot be told from a point."""
        return str(state.reason)

    def _population(self, kinds: Coordinates) -> int:
        return self.population or 4 + math.floor(3 * math.log(kinds.variables))

    def _library(self, u0: np.ndarray, kinds: Coordinates) -> Any:
        """A fresh object of the library."""
        n, size = u0.size, self._population(kinds)
        if kinds.choices:
            return Mixed(u0, self.sigma, kinds, size)
        common = {
            "mean": np.array(u0, float),
            "sigma": self.sigma,
            "bounds": np.tile([0.0, 1.0], (n, 1)),
            "population_size": size,
            # Beyond that a sample is clipped to the cube: near a corner most would be
            # drawn in vain.
            "n_max_resampling": 10,
            "seed": 0,
        }
        if self.diagonal:
            return cmaes.SepCMA(**common)
        if len(kinds.whole):
            return cmaes.CMAwM(steps=np.array(kinds.grid), **common)
        return cmaes.CMA(lr_adapt=self.lr_adapt, **common)

    def _restored(self, state: EvolutionState) -> Any:
        return _load(self._library(state.u0, state.coordinates), state.arrays)


def _answered(
    state: EvolutionState, us: np.ndarray
) -> tuple[EvolutionState, np.ndarray]:
    """Without the questions at `us`, and where these stand for the library, (p, n)."""
    asked, raw = np.asarray(state.asked), np.asarray(state.raw)
    found = []
    for u in us:
        same = np.flatnonzero(np.all(asked == u, axis=1))
        found.append(raw[same[0]] if len(same) else u)  # a point that nobody asked for
        asked, raw = (np.delete(v, same[:1], axis=0) for v in (asked, raw))
    return state._replace(asked=asked, raw=raw), np.array(found).reshape(us.shape)


def _numbers(attributes: dict[str, Any]) -> dict[str, Any]:
    """Those attributes of an object that are numbers or arrays of numbers."""
    return {
        name: np.array(value) if isinstance(value, np.ndarray) else value
        for name, value in attributes.items()
        if name not in _CACHED
        and isinstance(value, int | float | np.ndarray | np.generic)
        and not isinstance(value, bool)
    }


def _dump(library: Any) -> dict[str, Any]:
    """The library's object as named numbers, always the same names."""
    if isinstance(library, Mixed):
        return library.dump()
    inner = getattr(library, "_cma", None)
    if inner is None:
        arrays = _numbers(library.__getstate__())
    else:
        arrays = _numbers(vars(library))
        arrays |= {f"{_INNER}{k}": v for k, v in _dump(inner).items()}
    if arrays.get("_g") == 0 and "_funhist_values" in arrays:
        arrays["_funhist_values"] = np.zeros_like(arrays["_funhist_values"])
    return arrays


def _load(library: Any, arrays: dict[str, Any]) -> Any:
    """A fresh object with the numbers of `_dump`, each in its own type."""
    if isinstance(library, Mixed):
        library.load(arrays)
        return library
    inner = getattr(library, "_cma", None)
    if inner is not None:
        part = {k.removeprefix(_INNER): v for k, v in arrays.items() if _INNER in k}
        _load(inner, part)
        own = {k: v for k, v in arrays.items() if _INNER not in k}
        vars(library).update(_typed(vars(library), own))
        return library
    attributes = library.__getstate__()
    library.__setstate__(attributes | _typed(attributes, arrays))
    return library


def _typed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Copies of `new` (the library writes in place), ints and floats as they were."""
    return {
        name: np.array(value)
        if isinstance(old[name], np.ndarray)
        else type(old[name])(np.asarray(value).item())
        for name, value in new.items()
    }
