"""Muons through panels and cargo: scattering, energy loss, hits.

Tracks are straight lines r(z) = r_0 + b (z - z_top), b = dr/dz, that are kicked: a kick at
height z_k by an angle changes b below z_k. All kicks are small, so that they add up, and
the cargo acts through the joint Gaussian of displacement and deflection at its exit: four
random numbers for each muon, whatever the number of voxels. The voxels that a muon crosses
are those on its straight line (a muon of 1 GeV leaves it by a few mm in a metre of water).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core import random
from kythera.core.stage import AbstractPathwiseSimulator, AbstractSimulator
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.scan import Grid, Hits, Points, Scan
from kythera.physics import energy_loss, materials, scattering
from kythera.units import GeV

REFERENCE_MOMENTUM = 3 * GeV  # at which `Scan.stopping` is given
SLOWEST = 0.05 * GeV  # below, a muon counts as stopped
NOTHING = 1e-12  # acceptance that is none


class Line(eqx.Module):
    """Straight lines r(z) = r_0 + b z in both projections, shape (..., muon)."""

    x: Float[Array, "*batch muon"]
    y: Float[Array, "*batch muon"]
    slope_x: Float[Array, "*batch muon"]
    slope_y: Float[Array, "*batch muon"]

    def stretched(
        self, kick_1: Array, kick_2: Array
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Transverse vector to horizontal displacement: (I + k b b^T) d.

        With k = 1 / (1 + sqrt(1 + b^2)) the covariance of an isotropic d becomes
        I + b b^T, that of the points where inclined lines cross a horizontal plane.
        """
        bb = self.slope_x**2 + self.slope_y**2
        k = 1 / (1 + jnp.sqrt(1 + bb))
        along = k * (self.slope_x * kick_1 + self.slope_y * kick_2)
        return kick_1 + self.slope_x * along, kick_2 + self.slope_y * along

    @property
    def secant(self) -> Float[Array, "*batch muon"]:
        """1 / cos(zenith angle): path length over height."""
        return jnp.sqrt(1 + self.slope_x**2 + self.slope_y**2)


_REFERENCES = (
    "Particle Data Group, Review of Particle Physics, Phys. Rev. D 110 (2024) 030001, "
    "Passage of particles through matter",
)


class SoftPortal(AbstractPathwiseSimulator[Portal, Scan, Hits]):
    """The portal with soft panel edges, differentiable in all parameters of the design.

    A panel's weight is presence x efficiency x a product of four logistic edges of width
    `softness`; every hit is kept with its weight, so that nothing jumps.

    Args:
        grid: the voxels of the cargo.
        softness: width of the logistic edges, m.
        momentum_resolution: relative, of a measured momentum (log-normal); None where
            momentum is not measured.
        momentum: GeV, what stands for each muon where it is not measured.
    """

    grid: Grid
    softness: float = 0.05
    momentum_resolution: float | None = eqx.field(static=True, default=None)
    momentum: float = 3 * GeV

    references: ClassVar[tuple[str, ...]] = _REFERENCES

    def __call__(self, design: Portal, x: Scan, *, key: Key) -> Hits:
        """Hits of all muons of all scans."""
        return _simulate(self, design, x, key, self.softness)


class HardPortal(AbstractSimulator[Portal, Scan, Hits]):
    """The portal as built: sharp panel edges, hits that are there or not.

    Args:
        grid, momentum_resolution, momentum: as in `SoftPortal`.
    """

    grid: Grid
    momentum_resolution: float | None = eqx.field(static=True, default=None)
    momentum: float = 3 * GeV

    references: ClassVar[tuple[str, ...]] = _REFERENCES

    def __call__(self, design: Portal, x: Scan, *, key: Key) -> Hits:
        """Hits of all muons of all scans."""
        return _simulate(self, design, x, key, None)


def _simulate(
    portal: SoftPortal | HardPortal,
    design: Portal,
    x: Scan,
    key: Key,
    softness: float | None,
) -> Hits:
    grid = portal.grid
    to_normal, to_chance = jax.random.split(key)
    line = Line(  # (event, 1, muon): the scans of a row share their muons
        *(v[:, None] for v in (x.x, x.y, x.slope_x, x.slope_y))
    )
    momentum = x.momentum[:, None]
    shape = (x.x.shape[0], x.inverse_x0.shape[1], x.x.shape[1])
    dice = _Dice(design, shape, to_normal, to_chance, hard=softness is None)
    place, kick, left, alive = cross_cargo(grid, x, line, momentum, dice.normal(4))
    alive = alive * x.weight[:, None]
    above, kicks = _arm(design.upper, line, momentum, dice, softness, grid)
    # below the cargo: the entry line, moved by the cargo and by the panels above it
    exit_z = -grid.top
    shift_x, shift_y = line.stretched(*place)
    # a muon travels down: what deflects it along x makes dx/dz smaller
    bend_x, bend_y = (-line.secant * v for v in line.stretched(*kick))
    out = Line(
        line.x + shift_x - bend_x * (exit_z - grid.top),
        line.y + shift_y - bend_y * (exit_z - grid.top),
        line.slope_x + bend_x,
        line.slope_y + bend_y,
    )
    out = _kicked(out, kicks, design.upper.z, grid)
    below, _ = _arm(design.lower, out, left, dice, softness, grid)
    if design.sides is not None:
        above, below = _with_sides(
            design.sides, grid, line, out, (above, below), dice, softness
        )
    below = eqx.tree_at(lambda p: p.weight, below, below.weight * alive[:, :, None])
    if portal.momentum_resolution is None:
        measured = jnp.full(shape, portal.momentum)
    else:
        measured = momentum * jnp.exp(portal.momentum_resolution * dice.normal(1)[0])
    return Hits(above, below, measured)


class _Dice:
    """All random numbers of a simulation, drawn in one call and handed out in order.

    Args:
        design: whose panels count.
        shape: (event, scan, muon).
        to_normal, to_chance: keys.
        hard: whether hits happen or not, which takes one uniform number for each.
    """

    def __init__(
        self,
        design: Portal,
        shape: tuple[int, int, int],
        to_normal: Key,
        to_chance: Key,
        *,
        hard: bool,
    ):
        """See the class."""
        panels = sum(group.count for group in design.groups.values())
        sides = 0 if design.sides is None else design.sides.count
        crossed = panels + sides  # a side panel is met before or behind the cargo
        self.shape = shape
        self._normal = random.normal(to_normal, (5 + 4 * crossed, *shape))
        self._chance = random.uniform(to_chance, (crossed if hard else 0, *shape))
        self._next = {"normal": 0, "chance": 0}

    def _take(self, kind: str, source: Array, count: int) -> Array:
        first = self._next[kind]
        self._next[kind] = first + count
        return source[first : first + count]

    def normal(self, count: int) -> Float[Array, "count event scan muon"]:
        """The next `count` normal numbers of each muon."""
        return self._take("normal", self._normal, count)

    def chance(self, count: int) -> Float[Array, "count event scan muon"]:
        """The next `count` uniform numbers of each muon."""
        return self._take("chance", self._chance, count)

    def normals(self, count: int) -> Float[Array, "2 event scan count muon"]:
        """Two normal numbers for each of `count` panels."""
        pairs = self.normal(2 * count).reshape(2, count, *self.shape)
        return jnp.moveaxis(pairs, 1, 3)


def cross_cargo(
    grid: Grid, x: Scan, line: Line, momentum: Array, normal: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array], Array, Array]:
    """Displacement, deflection and energy loss in the voxels on each muon's line.

    Args:
        grid: the voxels.
        x: cargoes.
        line: entry lines, shape (event, 1, muon), in coordinates of the top plane.
        momentum: at the entry, GeV, (event, 1, muon).
        normal: four standard normal numbers for each muon, (4, event, scan, muon).

    Returns:
        transverse displacements at the exit (m) and deflections (rad) in two projections,
        each (event, scan, muon); the momentum left, GeV; 1 where the muon got through.
    """
    thickness, loss = path_integrals(grid, x, line)
    length = line.secant * grid.voxel[2]  # (event, 1, muon)
    shape_of_loss = energy_loss.muon_ionisation(momentum, _IRON)
    shape_of_loss = shape_of_loss / energy_loss.muon_ionisation(
        jnp.asarray(REFERENCE_MOMENTUM, momentum.dtype), _IRON
    )
    own = loss * (length * shape_of_loss)[:, :, None]
    lost = jnp.cumsum(own, 2)
    # halfway through each layer
    inside = jnp.maximum(momentum[:, :, None] - lost + own / 2, SLOWEST)
    left = momentum - lost[:, :, -1]
    alive = (left > SLOWEST).astype(momentum.dtype)
    thickness = thickness * length[:, :, None]
    variances = scattering.layer_variances(
        thickness, inside, total=jnp.sum(thickness, 2, keepdims=True)
    )
    # moments at the exit: distances count along the track
    count = grid.shape[0]
    after = jnp.arange(count - 1, -1, -1, dtype=momentum.dtype)[:, None]
    d = after * length[:, :, None]
    step = length[:, :, None]
    angle = jnp.sum(variances, 2)
    cross = jnp.sum(variances * (d + step / 2), 2)
    spread = jnp.sum(variances * (d * (d + step) + step**2 / 3), 2)
    covariance = jnp.stack(
        [jnp.stack([spread, cross], -1), jnp.stack([cross, angle], -1)], -2
    )
    place_1, kick_1 = scattering.sample_moments(
        jnp.stack([normal[0], normal[1]], -1), covariance
    )
    place_2, kick_2 = scattering.sample_moments(
        jnp.stack([normal[2], normal[3]], -1), covariance
    )
    return (place_1, place_2), (kick_1, kick_2), jnp.maximum(left, SLOWEST), alive


def path_integrals(
    grid: Grid, x: Scan, line: Line
) -> tuple[
    Float[Array, "event scan layer muon"], Float[Array, "event scan layer muon"]
]:
    """1/X0 and stopping power that each muon meets in each layer of voxels, 0 outside.

    A layer is looked up once, at its middle, on the muon's straight line.
    """
    index, inside = voxel_index(grid, line)
    events, scans = x.inverse_x0.shape[:2]
    layers, muons = index.shape[-2:]
    flat = jnp.broadcast_to(index, (events, scans, layers, muons))
    flat = flat.reshape(events, scans, layers * muons)

    def look_up(table: Array) -> Array:
        found = jnp.take_along_axis(
            table.reshape(events, scans, -1), flat, axis=-1, mode="promise_in_bounds"
        )
        return found.reshape(events, scans, layers, muons) * inside

    return look_up(x.inverse_x0), look_up(x.stopping)


def voxel_index(grid: Grid, line: Line) -> tuple[Array, Array]:
    """Flat index of the voxel in the middle of each layer, top first, and whether inside.

    Args:
        grid: the voxels; index runs over (z, y, x), z from the bottom.
        line: in coordinates of the top plane, shape (..., muon).

    Returns:
        two arrays of shape (..., layer, muon).
    """
    nz, ny, nx = grid.shape
    dx, dy, dz = grid.voxel
    depth = (jnp.arange(nz, dtype=line.x.dtype)[:, None] + 0.5) * dz
    px = line.x[..., None, :] - line.slope_x[..., None, :] * depth
    py = line.y[..., None, :] - line.slope_y[..., None, :] * depth
    ix = jnp.floor(px / dx + nx / 2).astype(jnp.int32)
    iy = jnp.floor(py / dy + ny / 2).astype(jnp.int32)
    inside = (ix >= 0) & (ix < nx) & (iy >= 0) & (iy < ny)
    layer = jnp.arange(nz - 1, -1, -1, dtype=jnp.int32)[:, None]
    index = (layer * ny + jnp.clip(iy, 0, ny - 1)) * nx + jnp.clip(ix, 0, nx - 1)
    return index, inside.astype(line.x.dtype)


def _kicks(
    panels: Panels, line: Line, momentum: Array, normal: Array
) -> tuple[Array, Array]:
    """Slope changes (x, y) that each panel gives a muon, shape (..., panel, muon)."""
    path = panels.radiation_lengths[:, None] * line.secant[..., None, :]
    theta = scattering.highland(path, momentum[..., None, :])
    # linear in presence: a square root would have no slope where a panel vanishes
    theta = theta * panels.present[:, None]
    wide = jax.tree.map(lambda v: v[..., None, :], line)
    bend_x, bend_y = wide.stretched(theta * normal[0], theta * normal[1])
    return wide.secant * bend_x, wide.secant * bend_y


def _kicked(line: Line, kicks: tuple[Array, Array], z: Array, grid: Grid) -> Line:
    """The line below all panels at heights z that kicked it."""
    kick_x, kick_y = kicks
    lever = (grid.top - z)[:, None]
    return Line(
        line.x + jnp.sum(kick_x * lever, -2),
        line.y + jnp.sum(kick_y * lever, -2),
        line.slope_x + jnp.sum(kick_x, -2),
        line.slope_y + jnp.sum(kick_y, -2),
    )


def _arm(
    panels: Panels,
    line: Line,
    momentum: Array,
    dice: _Dice,
    softness: float | None,
    grid: Grid,
) -> tuple[Points, tuple[Array, Array]]:
    """Points on a group of panels that are crossed one after the other, and the kicks."""
    kick_x, kick_y = _kicks(panels, line, momentum, dice.normals(panels.count))
    # panel k acts on panel i below it: lever (z_k - z_i)+, with the sign of dr/dz
    lever = -jnp.maximum(panels.z[:, None] - panels.z, 0)  # (k, i)
    off_x = jnp.einsum("...km,ki->...im", kick_x, lever)
    off_y = jnp.einsum("...km,ki->...im", kick_y, lever)
    points = _points(panels, line, (off_x, off_y), dice, softness, grid)
    return points, (kick_x, kick_y)


def _points(
    panels: Panels,
    line: Line,
    offset: tuple[Array | float, Array | float],
    dice: _Dice,
    softness: float | None,
    grid: Grid,
) -> Points:
    """Measured points where lines, moved by `offset`, cross the panels."""
    events, scans, muons = dice.shape
    side_1, side_2, normal = (a[..., None] for a in panels.axes)  # (3, panel, 1)
    centre = panels.centre[..., None] - jnp.array([0, 0, grid.top])[:, None, None]
    ax = line.x[..., None, :] + offset[0]
    ay = line.y[..., None, :] + offset[1]
    bx, by = line.slope_x[..., None, :], line.slope_y[..., None, :]
    # n . (a + b z - centre) = 0 with a = (ax, ay, 0), b = (bx, by, 1)
    rate = normal[0] * bx + normal[1] * by + normal[2]
    tiny = 1e-6
    rate = jnp.where(jnp.abs(rate) < tiny, tiny, rate)
    gap = (centre[0] - ax) * normal[0] + (centre[1] - ay) * normal[1]
    z = (gap + centre[2] * normal[2]) / rate
    dx, dy, dz = ax + bx * z - centre[0], ay + by * z - centre[1], z - centre[2]
    u = dx * side_1[0] + dy * side_1[1] + dz * side_1[2]
    v = dx * side_2[0] + dy * side_2[1] + dz * side_2[2]
    half_1, half_2 = panels.span_1[:, None] / 2, panels.span_2[:, None] / 2
    chance = (panels.present * panels.efficiency)[:, None]
    count = (events, scans, panels.count, muons)
    noise = panels.resolution[:, None] * dice.normals(panels.count)
    if softness is None:
        inside = (jnp.abs(u) <= half_1) & (jnp.abs(v) <= half_2)
        inside = inside.astype(u.dtype)
        luck = jnp.moveaxis(dice.chance(panels.count), 0, 2)
        weight = inside * (luck < chance)
    else:
        inside = (
            jax.nn.sigmoid((half_1 - u) / softness)
            * jax.nn.sigmoid((half_1 + u) / softness)
            * jax.nn.sigmoid((half_2 - v) / softness)
            * jax.nn.sigmoid((half_2 + v) / softness)
        )
        weight = chance * inside
    # a line may cross the plane far outside the panel, up to infinity: draw the point back
    # to the centre, smoothly, where the panel sees nothing
    kept = inside / (inside + NOTHING)
    measured = [
        c + kept * d + noise[0] * a + noise[1] * b
        for c, d, a, b in zip(centre, (dx, dy, dz), side_1, side_2, strict=True)
    ]
    x, y, z = (jnp.broadcast_to(v, count) for v in measured)
    return Points(x, y, z + grid.top, jnp.broadcast_to(weight, count))


def _with_sides(
    panels: Panels,
    grid: Grid,
    line: Line,
    out: Line,
    arms: tuple[Points, Points],
    dice: _Dice,
    softness: float | None,
) -> tuple[Points, Points]:
    """Add the points of panels beside the volume to the arm in which they were made.

    Such a panel lies in a plane outside the box, which a muon crosses before the box if it
    comes from that side, and behind it if it leaves to that side.
    """
    place = panels.x if panels.facing == "x" else panels.y
    added = []
    for arm, track, sign in ((arms[0], line, 1.0), (arms[1], out, -1.0)):
        points = _points(panels, track, (0.0, 0.0), dice, softness, grid)
        slope = track.slope_x if panels.facing == "x" else track.slope_y
        here = sign * jnp.sign(place)[:, None] * slope[..., None, :] > 0
        points = eqx.tree_at(lambda p: p.weight, points, points.weight * here)
        added.append(jax.tree.map(lambda a, b: jnp.concatenate([a, b], 2), arm, points))
    return added[0], added[1]


_IRON = materials.material("iron")
