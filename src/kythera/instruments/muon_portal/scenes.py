"""What may stand in a portal: blocks, lorries, soil, ladles, or the user's own voxels."""

import abc
import functools
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core import random
from kythera.core.stage import AbstractSource
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.scan import Grid, Scan
from kythera.instruments.muon_portal.simulator import REFERENCE_MOMENTUM
from kythera.physics import energy_loss
from kythera.physics.materials import material, stack
from kythera.stages.sources.muons import BoxMuons, FileMuons, FixedMuons
from kythera.units import cm, kg, m, mm


class Voxels(eqx.Module):
    """One cargo in all its variants.

    Args:
        inverse_x0: 1 / radiation length, 1/m, shape (scan, z, y, x).
        stopping: mean energy loss of a 3 GeV muon, GeV/m, the same shape.
        target: numbers by name that inference has to find.
    """

    inverse_x0: Float[Array, "scan z y x"]
    stopping: Float[Array, "scan z y x"]
    target: dict[str, Array]


class AbstractScene(eqx.Module):
    """A cargo as a function of uniform random numbers; knows nothing of muons or panels.

    (Numbers, not a key: the source draws those of all rows in one call.)
    """

    references: ClassVar[tuple[str, ...]] = ()
    grid: eqx.AbstractVar[Grid]

    @property
    @abc.abstractmethod
    def numbers(self) -> int:
        """How many random numbers make one cargo."""

    @property
    def scans(self) -> int:
        """Variants of each cargo: 2 where something hides in the second."""
        return 1

    @abc.abstractmethod
    def __call__(self, u: Float[Array, " number"]) -> Voxels:
        """One cargo from numbers uniform in [0, 1)."""


@functools.lru_cache
def properties(*names: str) -> np.ndarray:
    """(1/X0 in 1/m, mean energy loss of a 3 GeV muon in GeV/m), shape (len(names), 2).

    Raises:
        InputError: unknown material.
    """
    with jax.ensure_compile_time_eval():  # numbers also where a scene is traced
        matter = stack([material(name) for name in names])
        momentum = jnp.asarray(REFERENCE_MOMENTUM)
        loss = jax.jit(energy_loss.muon_energy_loss)(momentum, matter)
        linear = np.asarray(loss * matter.density)
        inverse = 1 / np.asarray(matter.radiation_length)
    return np.stack([inverse, linear], -1)


def overlap(
    grid: Grid, centre: Float[Array, "3"], sides: Float[Array, "3"]
) -> Float[Array, "z y x"]:
    """Share of each voxel that lies in a box.

    Args:
        grid: the voxels.
        centre: (x, y, z), m.
        sides: full lengths along (x, y, z), m.
    """
    shares = []
    for axis, count in ((2, grid.shape[0]), (1, grid.shape[1]), (0, grid.shape[2])):
        half = grid.size[axis] / 2
        edges = jnp.linspace(-half, half, count + 1)
        low, high = centre[axis] - sides[axis] / 2, centre[axis] + sides[axis] / 2
        inside = jnp.clip(edges, low, high)
        shares.append(jnp.diff(inside) / (2 * half / count))
    z, y, x = shares
    return z[:, None, None] * y[:, None] * x


def _fill(field: Array, share: Array, value: Array) -> Array:
    """Put a material of (2,) `value` into `share` of each voxel of (2, z, y, x)."""
    return field * (1 - share) + value[:, None, None, None] * share


class BlockInBox(AbstractScene):
    """A block of one material at a random place in a box filled with another.

    Args:
        grid: the voxels of the box.
        block, filling: names of materials.
        smallest, largest: bounds of the block's sides, drawn uniformly, m.
    """

    grid: Grid
    block: str = eqx.field(static=True, default="lead")
    filling: str = eqx.field(static=True, default="beryllium")
    smallest: float = 20 * cm
    largest: float = 40 * cm

    @property
    def numbers(self) -> int:
        """Sides and place."""
        return 6

    def __call__(self, u: Float[Array, "6"]) -> Voxels:
        """One box; target "presence" is 1."""
        sides = self.smallest + (self.largest - self.smallest) * u[:3]
        room = jnp.array(self.grid.size) - sides
        centre = room * (u[3:] - 0.5)
        base, block = jnp.asarray(properties(self.filling, self.block), float)
        field = jnp.broadcast_to(base[:, None, None, None], (2, *self.grid.shape))
        field = _fill(field, overlap(self.grid, centre, sides), block)
        return Voxels(field[:1], field[1:], {"presence": jnp.ones(())})


class Lorry(AbstractScene):
    """A lorry or container with steel walls and mixed cargo; a block may hide in it.

    The cargo is a number of random boxes of ordinary goods, each diluted by a random packing.
    Both variants of a row have the same cargo; the second also hides a cube.

    Args:
        grid: the voxels.
        hidden: materials of the cube, drawn with equal chances.
        lightest, heaviest: bounds of its mass, drawn uniformly in its logarithm, kg.
        walls: thickness of the steel walls, floor and roof, m.
        goods: materials of the cargo.
        boxes: how many of them.
        densest: largest packing of the goods, as a share of their full density.
    """

    grid: Grid
    hidden: tuple[str, ...] = eqx.field(static=True, default=("uranium",))
    lightest: float = 50 * kg
    heaviest: float = 150 * kg
    walls: float = 3 * mm
    goods: tuple[str, ...] = eqx.field(
        static=True, default=("water", "polyethylene", "wood", "aluminium", "glass")
    )
    boxes: int = eqx.field(static=True, default=8)
    densest: float = 0.5

    @property
    def numbers(self) -> int:
        """Kind, mass and place of the cube; kind, packing, sides and place of each box."""
        return 5 + 8 * self.boxes

    @property
    def scans(self) -> int:
        """Without and with the cube."""
        return 2

    def __call__(self, u: Float[Array, " number"]) -> Voxels:
        """One lorry without and with a hidden cube.

        Targets: "mass" (kg) and "material" (index in `hidden`) of the cube, and its centre
        "x", "y", "z" (m).
        """
        cargo = self._cargo(u[5:].reshape(self.boxes, 8))
        kind = (u[0] * len(self.hidden)).astype(int)
        table = jnp.asarray(properties(*self.hidden), float)
        density = jnp.asarray([material(n).density for n in self.hidden], float)[kind]
        low, high = jnp.log(self.lightest), jnp.log(self.heaviest)
        mass = jnp.exp(low + (high - low) * u[1])
        side = (mass / density) ** (1 / 3)
        room = jnp.array(self.grid.size) - side - 2 * self.walls
        centre = room * (u[2:5] - 0.5)
        share = overlap(self.grid, centre, jnp.full((3,), side))
        both = jnp.stack([cargo, _fill(cargo, share, table[kind])], 1)
        target = dict(zip("xyz", centre, strict=True))
        target |= {"mass": mass, "material": kind.astype(float)}
        return Voxels(both[0], both[1], target)

    def _cargo(self, u: Float[Array, "box 8"]) -> Float[Array, "2 z y x"]:
        """Walls and goods."""
        size = jnp.array(self.grid.size)
        inner = overlap(self.grid, jnp.zeros(3), size - 2 * self.walls)
        every = jnp.asarray(properties("steel", "air", *self.goods), float)
        steel, air, table = every[0], every[1][:, None, None, None], every[2:]

        def load(field: Array, v: Float[Array, "8"]) -> tuple[Array, None]:
            value = table[(v[0] * len(self.goods)).astype(int)]
            packing = self.densest * (0.1 + 0.9 * v[1])
            sides = size * (0.15 + 0.35 * v[2:5])
            centre = (size - sides) * (v[5:] - 0.5)
            share = packing * overlap(self.grid, centre, sides)
            return _fill(field, share, value), None

        goods = jnp.broadcast_to(air, (2, *self.grid.shape))
        goods, _ = jax.lax.scan(load, goods, u)
        return _fill(goods, 1 - inner, steel)


class SoilWalls(AbstractScene):
    """Soil with a buried wall of random place, thickness and height.

    Args:
        grid: the voxels.
        wall, soil: names of materials.
        thinnest, thickest: bounds of the wall's thickness, m.
    """

    grid: Grid
    wall: str = eqx.field(static=True, default="concrete")
    soil: str = eqx.field(static=True, default="soil")
    thinnest: float = 20 * cm
    thickest: float = 50 * cm

    @property
    def numbers(self) -> int:
        """Thickness, place, height."""
        return 3

    @property
    def scans(self) -> int:
        """Without and with the wall."""
        return 2

    def __call__(self, u: Float[Array, "3"]) -> Voxels:
        """Soil without and with the wall; targets "x" and "thickness" of it, m."""
        thick = self.thinnest + (self.thickest - self.thinnest) * u[0]
        length, breadth, height = self.grid.size
        x = (length - thick) * (u[1] - 0.5)
        tall = height * (0.3 + 0.6 * u[2])
        soil, value = jnp.asarray(properties(self.soil, self.wall), float)
        field = jnp.broadcast_to(soil[:, None, None, None], (2, *self.grid.shape))
        centre = jnp.stack([x, jnp.zeros_like(x), (tall - height) / 2])
        sides = jnp.stack([thick, jnp.full_like(x, breadth), tall])
        share = overlap(self.grid, centre, sides)
        both = jnp.stack([field, _fill(field, share, value)], 1)
        return Voxels(both[0], both[1], {"x": x, "thickness": thick})


class LadleFurnace(AbstractScene):
    """A steel ladle with molten steel up to an unknown level and slag on it.

    Args:
        grid: the voxels.
        walls: thickness of the steel shell with its lining, m.
        slag: thickness of the slag layer, m.
        lowest, highest: bounds of the fill level, shares of the inner height.
    """

    grid: Grid
    walls: float = 10 * cm
    slag: float = 10 * cm
    lowest: float = 0.15
    highest: float = 0.85

    @property
    def numbers(self) -> int:
        """The level."""
        return 1

    def __call__(self, u: Float[Array, "1"]) -> Voxels:
        """One ladle; target "level" is the height of the steel's surface, m."""
        length, breadth, height = self.grid.size
        share = self.lowest + (self.highest - self.lowest) * u[0]
        floor = -height / 2 + self.walls
        level = floor + share * (height - self.walls - self.slag)
        inner = jnp.array([length - 2 * self.walls, breadth - 2 * self.walls, 0.0])

        def layer(low: Any, high: Any) -> Array:
            tall = jnp.array([0.0, 0.0, 1.0]) * (high - low)
            centre = jnp.array([0.0, 0.0, 1.0]) * (high + low) / 2
            return overlap(self.grid, centre, inner + tall)

        shell = jnp.asarray(properties("steel")[0], float)[:, None, None, None]
        field = jnp.broadcast_to(shell, (2, *self.grid.shape))
        for low, high, name in (
            (level + self.slag, height / 2, "air"),
            (level, level + self.slag, "slag"),
            (floor, level, "liquid_steel"),
        ):
            value = jnp.asarray(properties(name)[0], float)[:, None, None, None]
            # disjoint boxes add up, also where several share a voxel
            field = field + layer(low, high) * (value - shell)
        return Voxels(field[:1], field[1:], {"level": level})


class FileScene(AbstractScene):
    """The user's own scene from an npz file, the same for every row.

    Arrays: `inverse_x0` (1/m) of shape (z, y, x) or (scan, z, y, x); `density` (kg/m3) of the
    same shape; `size` (x, y, z) of the whole volume, m. The mean energy loss of a muon of 3 GeV is
    taken as that of standard rock at that density.

    Args:
        path: the file.

    Raises:
        InputError: missing arrays, wrong shapes, values that are negative or not finite, a
            file cut short.
    """

    grid: Grid
    inverse_x0: Float[Array, "scan z y x"]
    stopping: Float[Array, "scan z y x"]

    def __init__(self, path: str | Path):
        """Read and check the file."""
        needed = ("inverse_x0", "density", "size")
        path = Path(path)
        if not path.is_file():
            raise errors.InputError(f"There is no file '{path}'. Check the path.")
        try:
            # opened here: NumPy leaves a broken file open
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name], float) for name in file.files}
        except Exception as error:
            raise errors.InputError(
                f"'{path}' cannot be read as npz ({type(error).__name__}: {error}). It "
                "may be cut short; write it again with numpy.savez."
            ) from error
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise errors.InputError(
                f"'{path}' must have the arrays {', '.join(needed)}, but lacks "
                f"{', '.join(missing)}; it has {', '.join(sorted(arrays)) or 'none'}."
            )
        inverse, density, size = (arrays[name] for name in needed)
        if inverse.ndim not in (3, 4) or density.shape != inverse.shape:
            raise errors.InputError(
                "`inverse_x0` and `density` need one shape, (z, y, x) or (scan, z, y, x), "
                f"but have {inverse.shape} and {density.shape}. Mend '{path}'."
            )
        if size.shape != (3,):
            raise errors.InputError(
                f"`size` must be the three lengths (x, y, z) in m, but has shape "
                f"{size.shape}. Mend '{path}'."
            )
        for name, array in (("inverse_x0", inverse), ("density", density)):
            bad = ~(np.isfinite(array) & (array >= 0))
            if bad.any():
                where = tuple(int(i) for i in np.argwhere(bad)[0])
                raise errors.InputError(
                    f"`{name}` must be finite and >= 0, but is {array[where]} at voxel "
                    f"{where}. Mend '{path}'."
                )
        inverse = inverse if inverse.ndim == 4 else inverse[None]
        density = density if density.ndim == 4 else density[None]
        nz, ny, nx = inverse.shape[1:]
        x, y, z = (float(s) for s in size)
        self.grid = Grid((nz, ny, nx), (x, y, z))
        rock = material("standard_rock")
        loss = float(energy_loss.muon_energy_loss(REFERENCE_MOMENTUM, rock))
        self.inverse_x0 = jnp.asarray(inverse, float)
        self.stopping = jnp.asarray(density * loss, float)

    @property
    def numbers(self) -> int:
        """None: it is always the same."""
        return 0

    @property
    def scans(self) -> int:
        """As many as the file holds."""
        return self.inverse_x0.shape[0]

    def __call__(self, u: Float[Array, "0"]) -> Voxels:
        """The scene."""
        return Voxels(self.inverse_x0, self.stopping, {})


def default_grid() -> Grid:
    """A lorry's cargo bay of 2.4 x 2 x 2 m in voxels of 20 cm."""
    return Grid((10, 10, 12), (2.4 * m, 2 * m, 2 * m))


class Scanned(AbstractSource[Scan]):
    """Rows of a scene under cosmic muons: a fresh cargo and fresh muons in each.

    Args:
        scene: draws the cargo.
        muons: draws muons that cross its box: `BoxMuons`, `FileMuons`, `FixedMuons`.
        count: muons in one scan; they stand for `exposure` seconds.
    """

    scene: AbstractScene
    muons: BoxMuons | FileMuons | FixedMuons
    count: int = eqx.field(static=True, default=2000)

    def __check_init__(self):
        """Refuse muons that were made for another box."""
        if self.muons.size != self.scene.grid.size:
            raise errors.InputError(
                f"The muons are drawn for a box of {self.muons.size} m, but the scene "
                f"has {self.scene.grid.size} m. Use one size."
            )
        if self.count < 1:
            raise errors.InputError(
                f"A scan needs at least one muon, but `count` is {self.count}."
            )

    @property
    def scans(self) -> int:
        """Variants of a row."""
        return self.scene.scans

    @property
    def primaries(self) -> int:
        """Muons simulated for one row: those of a scan, in each variant."""
        return self.count * self.scans

    @property
    def exposure(self) -> float:
        """Time that one scan stands for, s."""
        return self.count / self.muons.rate

    def __call__(self, events: int, *, key: Key) -> Scan:
        """Draw `events` cargoes and their muons."""
        to_scene, to_muons = jax.random.split(key)
        numbers = random.uniform(to_scene, (events, self.scene.numbers))
        cargo = jax.vmap(self.scene)(numbers)
        drawn = self.muons(events * self.count, key=to_muons)
        x, y, slope_x, slope_y, momentum = (v.reshape(events, -1) for v in drawn)
        return Scan(
            cargo.inverse_x0,
            cargo.stopping,
            x,
            y,
            slope_x,
            slope_y,
            momentum,
            jnp.ones_like(x),
            cargo.target,
        )
