"""The parts of a design, in the order in which a policy places them."""

from typing import NamedTuple

import numpy as np

from kythera.core.space import Choice, Space

ABSENT = "absent"  # the option of a choice that leaves a part out


class Parts(NamedTuple):
    """Which coordinates belong to which part.

    Args:
        part: number of the part of each coordinate, shape (n,).
        absent: the coordinate of each part whose option says that there is none, -1 where
            it cannot be left out, shape (parts,).
    """

    part: np.ndarray
    absent: np.ndarray

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self.absent)


def whole(space: Space) -> Parts:
    """The design as a single part."""
    return Parts(np.zeros(space.size, int), np.full(1, -1))


def parts_of(space: Space) -> Parts:
    """Parts in the order of the space's groups.

    Leaves of one object belong to one part: "layers[0].thickness" and
    "layers[0].material". Of arrays each row is a part, together with the same rows of
    the other arrays of that object. A number without an owner is a part of its own. A part
    can be left out where it has a `Choice` with the option "absent".
    """
    numbers: dict[tuple[str, int], int] = {}
    part, absent = np.zeros(space.size, int), {}
    shapes = _shapes(space)
    for path, where in space.groups.items():
        owner, domain = path.rpartition(".")[0], space.free[path]
        shape = shapes[path]
        rows = shape[0] if shape else 1
        found = []
        for row in range(rows):
            key = (owner, row) if shape else (owner or path, -1)
            found.append(numbers.setdefault(key, len(numbers)))
        each = (where.stop - where.start) // rows
        part[where] = np.repeat(found, each)
        if isinstance(domain, Choice) and ABSENT in domain.options:
            option = domain.options.index(ABSENT)
            for row, number in enumerate(found):
                absent.setdefault(number, where.start + row * each + option)
    return Parts(part, np.array([absent.get(i, -1) for i in range(len(numbers))]))


def _shapes(space: Space) -> dict[str, tuple[int, ...]]:
    """Shape of each free leaf, of a choice without its options."""
    leaves = space._leaves(space.template)
    return {
        path: leaf.shape[:-1] if isinstance(space.free[path], Choice) else leaf.shape
        for path, leaf in zip(space.paths, leaves, strict=True)
    }
