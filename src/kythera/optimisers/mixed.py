"""CMA-ES over real and whole numbers and choices at once, for points of the cube.

CatCMA with Margin (R. Hamano et al., arXiv:2504.07884), of the library `cmaes`: a normal
distribution for the numbers and a categorical one for each choice, with a floor under the
probability of each neighbour and of each option, so that none dies out.
"""

import warnings
from typing import Any

import cmaes
import numpy as np

from kythera.optimisers.coordinates import Coordinates

_CACHED = ("_B", "_D")  # the decomposition; made anew from the covariance
_GROWS = "_iqhist_values"  # a list


class Mixed:
    """The library's object, which asks for points of the cube and is told of them.

    Args:
        mean: of the first generation, shape (n,).
        sigma: standard deviation of its numbers.
        coordinates: what each coordinate is.
        population_size: designs of a generation.
    """

    def __init__(
        self,
        mean: np.ndarray,
        sigma: float,
        coordinates: Coordinates,
        population_size: int,
    ):
        """See the class."""
        self.coordinates = coordinates
        real, whole = coordinates.real, coordinates.whole
        self._numbers = np.concatenate([real, whole])
        sizes = [len(where) for where in coordinates.choices]
        numbers = {
            "mean": np.array(mean, float)[self._numbers],
            "sigma": sigma,
            "cov": np.eye(len(self._numbers)),
        }
        self.library = cmaes.CatCMAwM(
            x_space=[[0.0, 1.0]] * len(real) if len(real) else None,
            z_space=[coordinates.values(i).tolist() for i in whole] or None,
            c_space=sizes or None,
            population_size=population_size,
            seed=0,
            **(numbers if len(self._numbers) else {}),
        )

    @property
    def population_size(self) -> int:
        """Designs of a generation."""
        return self.library.population_size

    def reseed_rng(self, seed: int) -> None:
        """Draw what comes next from this seed."""
        self.library.reseed_rng(seed)

    def ask(self) -> tuple[np.ndarray, np.ndarray]:
        """A point of the cube, and where it was drawn (numbers may lie off the grid)."""
        found = self.library.ask()
        u = np.zeros(len(self.coordinates.grid))
        for indices, values in (
            (self.coordinates.real, found.x),
            (self.coordinates.whole, found.z),
        ):
            if values is not None:
                u[indices] = values
        for i, where in enumerate(self.coordinates.choices):
            u[where] = found.c[i, : len(where)]
        raw = u.copy()
        if found._v_raw is not None:
            raw[self._numbers] = found._v_raw
        return u, raw

    def tell(self, solutions: list[tuple[np.ndarray, float]]) -> None:
        """Move the distributions; points as they were drawn, with their fitness."""
        if self.coordinates.choices:
            # Its step of the probabilities grows with noise; where it counts with a weight
            # above two, the library takes the root of a negative number.
            least = self.library._delta_init / np.sqrt(self.library._param_sum)
            self.library._Delta = max(self.library._Delta, least)
        self.library.tell([(self._solution(raw), value) for raw, value in solutions])

    def _solution(self, raw: np.ndarray) -> Any:
        choices = self.coordinates.choices
        c = np.zeros((len(choices), max(map(len, choices), default=0)))
        for i, where in enumerate(choices):
            c[i, : len(where)] = raw[where]
        numbers = np.array(raw[self._numbers]) if len(self._numbers) else None
        return cmaes.CatCMAwM.Solution(c=c, _v_raw=numbers)

    def should_stop(self) -> bool:
        """Whether the normal distribution has shrunk to a point."""
        if not len(self._numbers):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(self.library.should_stop())

    @property
    def mean(self) -> np.ndarray:
        """Mean of the numbers, probabilities of the options, shape (n,)."""
        u = np.zeros(len(self.coordinates.grid))
        if len(self._numbers):
            u[self._numbers] = self.library._mean
        for i, where in enumerate(self.coordinates.choices):
            u[where] = self.library._q[i, : len(where)]
        return u

    def dump(self) -> dict[str, Any]:
        """All that changes, as named numbers, always the same names."""
        found = {
            name: np.array(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self.library).items()
            if name not in _CACHED
            and isinstance(value, int | float | np.ndarray | np.generic)
            and not isinstance(value, bool)
        }
        if (
            found["_g"] == 0 and "_funhist_values" in found
        ):  # as the memory happened to be
            found["_funhist_values"] = np.zeros_like(found["_funhist_values"])
        found[_GROWS] = np.array(getattr(self.library, _GROWS, []), float)
        return found

    def load(self, arrays: dict[str, Any]) -> None:
        """Take up what `dump` gave."""
        fresh = vars(self.library)
        for name, value in arrays.items():
            if name == _GROWS:
                fresh[name] = np.asarray(value, float).tolist()
            elif isinstance(fresh[name], np.ndarray):
                fresh[name] = np.array(value)  # the library writes in place
            else:
                fresh[name] = type(fresh[name])(np.asarray(value).item())
        fresh["_B"] = fresh["_D"] = None
