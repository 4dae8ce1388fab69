"""What each coordinate of the cube is: real, a whole number, or a weight of an option."""

from typing import NamedTuple

import numpy as np

from kythera.core.space import Choice, Integer, Space


class Coordinates(NamedTuple):
    """The kinds of the coordinates of a space, as arrays that a state can keep.

    Args:
        grid: spacing of the values of a whole number, 0 where there is none, shape (n,).
        choice: number of the choice of which this is the weight of an option, -1 where it
            is of none, shape (n,).
    """

    grid: np.ndarray
    choice: np.ndarray

    @classmethod
    def of(cls, space: Space) -> "Coordinates":
        """Those of a space."""
        groups = space.groups
        size = max((where.stop for where in groups.values()), default=0)
        grid, choice = np.zeros(size), np.full(size, -1)
        count = 0
        for path, where in groups.items():
            domain = space.free[path]
            if isinstance(domain, Integer):
                grid[where] = 1 / (domain.upper - domain.lower)
            elif isinstance(domain, Choice):
                k = len(domain.options)
                each = (where.stop - where.start) // k
                choice[where] = count + np.repeat(np.arange(each), k)
                count += each
        return cls(grid, choice)

    @property
    def real(self) -> np.ndarray:
        """Indices of real coordinates."""
        return np.flatnonzero((np.asarray(self.grid) == 0) & (self.choice == -1))

    @property
    def whole(self) -> np.ndarray:
        """Indices of whole numbers."""
        return np.flatnonzero(np.asarray(self.grid) > 0)

    @property
    def choices(self) -> list[np.ndarray]:
        """Indices of the options of each choice."""
        count = int(np.max(self.choice, initial=-1)) + 1
        return [np.flatnonzero(np.asarray(self.choice) == i) for i in range(count)]

    @property
    def variables(self) -> int:
        """Number of parameters; a choice is one, whatever the number of its options."""
        return len(self.real) + len(self.whole) + len(self.choices)

    def values(self, index: int) -> np.ndarray:
        """Coordinates that the whole number at `index` may have, in order."""
        return np.linspace(0.0, 1.0, round(1 / float(self.grid[index])) + 1)

    def hard(self, us: np.ndarray) -> np.ndarray:
        """Points moved to the nearest designs that can be built, shape (..., n).

        Whole numbers go to the nearest one, of a choice the largest weight becomes one.
        """
        us = np.clip(np.array(us, float), 0, 1)
        cell = np.where(np.asarray(self.grid) > 0, self.grid, 1.0)
        us = np.where(np.asarray(self.grid) > 0, cell * np.round(us / cell), us)
        for where in self.choices:
            us[..., where] = np.eye(len(where))[np.argmax(us[..., where], -1)]
        return us
