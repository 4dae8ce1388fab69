"""The records of the portal: what arrives, what the panels see, what is reconstructed."""

import math

import equinox as eqx

from kythera import errors
from kythera.core.types import Array, Float


class Grid(eqx.Module):
    """A box of equal voxels, centred on the origin.

    Args:
        shape: number of voxels along (z, y, x).
        size: full lengths along (x, y, z), m.
    """

    shape: tuple[int, int, int] = eqx.field(static=True)
    size: tuple[float, float, float] = eqx.field(static=True)

    def __check_init__(self):
        """Refuse boxes without volume."""
        counts = all(int(n) == n and n >= 1 for n in self.shape)
        if not (counts and all(math.isfinite(a) and a > 0 for a in self.size)):
            raise errors.InputError(
                "A grid needs at least one voxel and a positive length along each axis, "
                f"but has shape {self.shape} and size {self.size} m. Mend them."
            )

    @property
    def voxel(self) -> tuple[float, float, float]:
        """Lengths of one voxel along (x, y, z), m."""
        nz, ny, nx = self.shape
        return self.size[0] / nx, self.size[1] / ny, self.size[2] / nz

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def top(self) -> float:
        """z of the upper face, m."""
        return self.size[2] / 2


class Scan(eqx.Module):
    """Truth: cargoes and the muons that cross them.

    A row (axis `event`) is one cargo in one or two variants (axis `scan`: without and with
    what is hidden, under the same muons with
    the same luck).

    Args:
        inverse_x0: 1 / radiation length of each voxel, 1/m, (event, scan, z, y, x).
        stopping: mean energy loss of a 3 GeV muon, GeV/m, the same shape.
        x, y: where the straight line of each muon crosses the top of the volume, m,
            shape (event, muon).
        slope_x, slope_y: dx/dz and dy/dz, shape (event, muon).
        momentum: above the volume, GeV, shape (event, muon).
        weight: 1 for a muon, 0 for padding, shape (event, muon).
        target: numbers by name that inference has to find, each (event,) or (event, scan).
    """

    inverse_x0: Float[Array, "event scan z y x"]
    stopping: Float[Array, "event scan z y x"]
    x: Float[Array, "event muon"]
    y: Float[Array, "event muon"]
    slope_x: Float[Array, "event muon"]
    slope_y: Float[Array, "event muon"]
    momentum: Float[Array, "event muon"]
    weight: Float[Array, "event muon"]
    target: dict[str, Array]


class Hits(eqx.Module):
    """Signal: measured points on the panels, both arms of the tracks side by side.

    Arm 0 holds the points before the volume (of the upper panels, then of those beside it),
    arm 1 those behind it; arms of unequal length are filled up with weight 0. The muon axis
    comes last, which is fastest on CPUs.

    Args:
        across: x and y, m, shape (event, scan, xy, arm, panel, muon).
        z: m, shape (event, scan, arm, panel, muon).
        weight: probability (soft) or fact (hard) of a hit, the same shape as z.
        momentum: as measured or assumed, GeV, shape (event, scan, muon).
    """

    across: Float[Array, "event scan 2 2 panel muon"]
    z: Float[Array, "event scan 2 panel muon"]
    weight: Float[Array, "event scan 2 panel muon"]
    momentum: Float[Array, "event scan muon"]

    @property
    def x(self) -> Float[Array, "event scan 2 panel muon"]:
        """x of the points, m."""
        return self.across[:, :, 0]

    @property
    def y(self) -> Float[Array, "event scan 2 panel muon"]:
        """y of the points, m."""
        return self.across[:, :, 1]
