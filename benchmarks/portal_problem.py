"""The problem that is timed: eight panels, 600 voxels, 40 free parameters.

The scene is that of ``benchmarks/tomopt/measure.py`` in kythera's coordinates (the centre
of the volume is the origin): six layers of 10 x 10 voxels of 10 cm, beryllium with a block
of lead, muons of 5 GeV, one map of X0 from the points of closest approach for each
evaluation, the squared error of the map, and a soft budget of 8 m2 of panels.
"""

import equinox as eqx
import jax.numpy as jnp

import kythera as ky
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Panels, Portal, Prices
from kythera.instruments.muon_portal.reconstruction import TrackFits
from kythera.instruments.muon_portal.scan import Grid
from kythera.instruments.muon_portal.scenes import AbstractScene, Scanned, Voxels
from kythera.instruments.muon_portal.simulator import SoftPortal
from kythera.instruments.muon_portal.x0_map import VoxelX0Error, X0Map
from kythera.stages.sources.muons import BoxMuons, Muons
from kythera.units import GeV, cm, m

GRID = Grid((6, 10, 10), (1 * m, 1 * m, 60 * cm))
X0_BERYLLIUM, X0_LEAD = 0.3528 * m, 0.005612 * m
MOMENTUM = 5 * GeV
UPPER = (0.5, 0.45, 0.4, 0.35)  # m, from the centre of the volume
LOWER = (-0.3, -0.35, -0.4, -0.45)


class LeadInBeryllium(AbstractScene):
    """25 voxels of lead in each of the two layers that start 10 cm above the floor."""

    grid: Grid = GRID

    @property
    def numbers(self) -> int:
        """None: it is always the same."""
        return 0

    def __call__(self, u: Float[Array, "0"]) -> Voxels:
        """The one cargo; no muon loses energy in it."""
        field = jnp.full((1, *self.grid.shape), 1 / X0_BERYLLIUM)
        field = field.at[:, 1:3, 5:, 5:].set(1 / X0_LEAD)
        return Voxels(field, jnp.zeros_like(field), {})


class FixedMomentum(eqx.Module):
    """Muons of a flux, all of one momentum."""

    muons: BoxMuons
    momentum: float = MOMENTUM

    @property
    def size(self) -> tuple[float, float, float]:
        """Of the box, m."""
        return self.muons.size

    @property
    def rate(self) -> float:
        """Muons that cross the box, 1/s."""
        return self.muons.rate

    def __call__(self, n: int, *, key: Key) -> Muons:
        """Draw n muons."""
        drawn = self.muons(n, key=key)
        return drawn._replace(momentum=jnp.full((n,), self.momentum))


def panels(z: tuple[float, ...]) -> Panels:
    """Panels of 1 m2 at the heights z."""
    return Panels(
        z,
        span_1=1 * m,
        span_2=1 * m,
        resolution=0.1e-3 * m,
        efficiency=0.9,
        radiation_lengths=0.0,
    )


def tomopt_like(muons: int = 10_000, rows: int = 1, chunk: int | None = None):
    """The problem; a row is one scan of so many muons.

    Args:
        muons: in one scan.
        rows: scans in one evaluation.
        chunk: scans that are simulated at a time.
    """
    free: dict[str, ky.Real] = {}
    for arm, low, high in (("upper", 0.3, 0.5), ("lower", -0.5, -0.3)):
        free |= {f"{arm}.{axis}": ky.Real(-0.5 * m, 0.5 * m, "m") for axis in "xy"}
        free[f"{arm}.z"] = ky.Real(low, high, "m")
        for span in ("span_1", "span_2"):
            free[f"{arm}.{span}"] = ky.Real(0.05 * m, 10 * m, "m")
    source = Scanned(
        scene=LeadInBeryllium(),
        muons=FixedMomentum(BoxMuons(GRID.size)),  # type: ignore[arg-type]
        count=muons,
    )
    return ky.Problem(
        space=ky.Space(Portal(panels(UPPER), panels(LOWER)), free),
        pipeline=ky.Pipeline(
            source,
            SoftPortal(GRID, momentum=MOMENTUM),
            TrackFits(GRID),
            X0Map(GRID, log=False),
        ),
        objective=VoxelX0Error() + ky.Budget(Prices(), 8.0),
        weights={"budget": 0.15},
        events=rows,
        chunk=chunk,
        name="portal",
    )
