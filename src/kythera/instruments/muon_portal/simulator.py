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

from kythera import errors
from kythera.core import random
from kythera.core.short_axes import spread, total
from kythera.core.stage import AbstractPathwiseSimulator, AbstractSimulator
from kythera.core.types import Array, Bool, Float, Int, Key
from kythera.instruments.muon_portal.design import Arms, Portal
from kythera.instruments.muon_portal.scan import Grid, Hits, Scan
from kythera.physics import energy_loss, materials, scattering
from kythera.units import GeV

REFERENCE_MOMENTUM = 3 * GeV  # at which `Scan.stopping` is given
SLOWEST = 0.05 * GeV  # below, a muon counts as stopped
NOTHING = 1e-12  # acceptance that is none
# Points at which a muon's line looks up the voxel in each layer: against twenty, deflections
# behind lead in beryllium are 0.4% low with four, 1.5% with two, 4% with one.
LOOKS = 4


class Line(eqx.Module):
    """Straight lines r(z) = r_0 + b z, x and y on one axis.

    Args:
        place: r_0, m, shape (..., xy, muon).
        slope: b, the same shape.
    """

    place: Float[Array, "*batch 2 muon"]
    slope: Float[Array, "*batch 2 muon"]

    def stretched(self, kick: Float[Array, "... 2 muon"]) -> Float[Array, "... 2 muon"]:
        """Transverse vector to horizontal displacement: (I + k b b^T) d.

        With k = 1 / (1 + sqrt(1 + b^2)) the covariance of an isotropic d becomes
        I + b b^T, that of the points where inclined lines cross a horizontal plane.
        """
        along = total(self.slope * kick, -2) / (1 + self.secant[..., None, :])
        return kick + self.slope * along

    @property
    def secant(self) -> Float[Array, "*batch muon"]:
        """1 / cos(zenith angle): path length over height."""
        return jnp.sqrt(1 + total(self.slope**2, -2)[..., 0, :])


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
    grid, arms = portal.grid, design.arms
    # (event, 1, xy, muon): the scans of a row share their muons
    line = Line(
        *(jnp.stack(v, 1)[:, None] for v in ((x.x, x.y), (x.slope_x, x.slope_y)))
    )
    momentum = x.momentum[:, None]
    events, scans, muons = x.x.shape[0], x.inverse_x0.shape[1], x.x.shape[1]
    panels = (2, 2, arms.count)  # (xy or side, arm, panel)
    size = 4 * arms.count
    # the scans of a row share their luck too: each is distributed as before, and the
    # difference of two is quiet, since what is hidden makes it
    numbers = random.normal(key, (events, 1, 5 + 2 * size, muons))
    cargo, kicks, noise, measured = jnp.split(numbers, (4, 4 + size, 4 + 2 * size), 2)
    kicks, noise = (v.reshape(events, 1, *panels, muons) for v in (kicks, noise))
    out, left, alive = cross_cargo(grid, x, line, momentum, cargo)
    # the straight line that each arm would see, were there no panels: (..., xy, arm, muon)
    both = Line(
        *(
            jnp.stack([jnp.broadcast_to(a, b.shape), b], 3)
            for a, b in zip(jax.tree.leaves(line), jax.tree.leaves(out), strict=True)
        )
    )
    before = jnp.broadcast_to(momentum, left.shape)
    offset = _kicked(arms, both, jnp.stack([before, left], 2), kicks)
    luck = None
    if softness is None:
        shape = (events, 1, 2, arms.count, muons)
        luck = random.uniform(jax.random.fold_in(key, 1), shape)
    across, z, weight = _points(grid, arms, both, offset, noise, softness, luck)
    seen = jnp.broadcast_to(x.weight[:, None], left.shape)
    weight = weight * jnp.stack([seen, seen * alive], 2)[:, :, :, None]
    if portal.momentum_resolution is None:
        known = jnp.full((events, scans, muons), portal.momentum)
    else:
        known = momentum * jnp.exp(portal.momentum_resolution * measured[:, :, 0])
        known = jnp.broadcast_to(known, left.shape)
    return Hits(across, z, weight, known)


def cross_cargo(
    grid: Grid, x: Scan, line: Line, momentum: Array, normal: Array
) -> tuple[Line, Array, Array]:
    """Displacement, deflection and energy loss in the voxels on each muon's line.

    Args:
        grid: the voxels.
        x: cargoes.
        line: entry lines, shape (event, 1, xy, muon), in coordinates of the top plane.
        momentum: at the entry, GeV, (event, 1, muon).
        normal: four standard normal numbers for each muon, (event, 1, 4, muon): the scans
            of a row share them.

    Returns:
        the lines behind the cargo, shape (event, scan, xy, muon); the momentum left, GeV,
        and 1 where the muon got through, both (event, scan, muon).
    """
    thickness, loss = path_integrals(grid, x, line)
    secant = line.secant
    step = (secant * grid.voxel[2])[:, :, None]  # (event, 1, 1, muon)
    shape_of_loss = energy_loss.muon_ionisation(momentum, _IRON)
    shape_of_loss = shape_of_loss / energy_loss.muon_ionisation(
        jnp.asarray(REFERENCE_MOMENTUM, momentum.dtype), _IRON
    )
    own = loss * (step * shape_of_loss[:, :, None])
    lost = jnp.cumsum(own, 2)
    # halfway through each layer
    inside = jnp.maximum(momentum[:, :, None] - lost + own / 2, SLOWEST)
    left = momentum - lost[:, :, -1]
    alive = (left > SLOWEST).astype(momentum.dtype)
    thickness = thickness * step
    variances = scattering.layer_variances(thickness, inside, total=total(thickness, 2))
    # moments at the exit, in units of the step along the track
    count = grid.shape[0]
    to_exit = jnp.arange(count - 1, -1, -1, dtype=momentum.dtype)[:, None]
    cross_lever, place_lever = scattering.exit_levers(to_exit, 1.0)
    displaced, kick = scattering.sample_moments(
        normal[:, :, :2],
        normal[:, :, 2:],
        total(variances * place_lever, 2) * step**2,
        total(variances * cross_lever, 2) * step,
        total(variances, 2),
    )
    # a muon travels down: what deflects it along x makes dx/dz smaller
    bend = -secant[:, :, None] * line.stretched(kick)
    place = line.place + line.stretched(displaced) + bend * grid.size[2]
    out = Line(place, line.slope + bend)
    return out, jnp.maximum(left, SLOWEST), alive


def path_integrals(
    grid: Grid, x: Scan, line: Line
) -> tuple[
    Float[Array, "event scan layer muon"], Float[Array, "event scan layer muon"]
]:
    """1/X0 and stopping power that each muon meets in each layer of voxels, 0 outside.

    The mean of `LOOKS` points of the muon's straight line in each layer.
    """
    events, scans = x.inverse_x0.shape[:2]
    # What enters a loop is written down; tables and indices that are worked out where they
    # are used cost five times as much
    beside = jnp.zeros((events, scans, 1), x.inverse_x0.dtype)
    tables = [
        jnp.concatenate([v.reshape(events, scans, -1), beside], -1).reshape(-1)
        for v in (x.inverse_x0, x.stopping)
    ]
    first = first_entries(grid, events, scans)

    def add(sums: list[Array], index: Array) -> tuple[list[Array], None]:
        index = index + first
        found = [table.at[index].get(mode="promise_in_bounds") for table in tables]
        return [s + v / LOOKS for s, v in zip(sums, found, strict=True)], None

    looks = (jnp.arange(LOOKS, dtype=line.place.dtype) + 0.5) / LOOKS
    shape = (events, scans, grid.shape[0], line.place.shape[-1])
    nothing = [jnp.zeros(shape, table.dtype) for table in tables]
    entries = jax.vmap(lambda look: table_entry(grid, line, look))(looks)
    (thickness, loss), _ = jax.lax.scan(add, nothing, entries)
    return thickness, loss


def table_entry(
    grid: Grid, line: Line, look: Array | float = 0.5
) -> Int[Array, "*batch layer muon"]:
    """As `voxel_index`; beside the volume one entry more, `grid.voxels`.

    A flat table of many scans holds `grid.voxels` + 1 entries for each: look it up at
    `table_entry` + `first_entries`.
    """
    index, inside = voxel_index(grid, line, look)
    return jnp.where(inside, index, grid.voxels)


def first_entries(grid: Grid, events: int, scans: int) -> Int[Array, "event scan 1 1"]:
    """Where each scan begins in a flat table of all.

    Raises:
        InputError: so many scans of so many voxels that 32 bits do not count them.
    """
    entries = events * scans * (grid.voxels + 1)
    if entries >= 2**31:
        raise errors.InputError(
            f"{events} x {scans} scans of {grid.voxels} voxels are {entries:,} entries of "
            "one table, but it can have 2^31. Give the problem a smaller `chunk`, or "
            "coarser voxels."
        )
    first = jnp.arange(events * scans, dtype=jnp.int32) * (grid.voxels + 1)
    return first.reshape(events, scans, 1, 1)


def voxel_index(
    grid: Grid, line: Line, look: Array | float = 0.5
) -> tuple[Int[Array, "*batch layer muon"], Bool[Array, "*batch layer muon"]]:
    """Flat index of the voxels at points on lines, one in each layer, top first.

    Args:
        grid: the voxels; index runs over (z, y, x), z from the bottom.
        line: in coordinates of the top plane, shape (..., xy, muon).
        look: where in each layer, from 0 at its top to 1.

    Returns:
        index, and whether the point is inside the volume.
    """
    nz, ny, nx = grid.shape
    dx, dy, dz = grid.voxel
    depth = (jnp.arange(nz, dtype=line.place.dtype)[:, None] + look) * dz
    point = line.place[..., None, :] - line.slope[..., None, :] * depth
    size, count = (jnp.array(v)[:, None, None] for v in ((dx, dy), (nx, ny)))
    found = jnp.floor(point / size + count / 2).astype(jnp.int32)
    kept = jnp.clip(found, 0, count - 1)  # (..., xy, layer, muon)
    hit = found == kept
    layer = jnp.arange(nz - 1, -1, -1, dtype=jnp.int32)[:, None]
    index = (layer * ny + kept[..., 1, :, :]) * nx + kept[..., 0, :, :]
    return index, hit[..., 0, :, :] & hit[..., 1, :, :]


def _kicked(
    arms: Arms, line: Line, momentum: Array, normal: Array
) -> Float[Array, "event scan 2 arm panel muon"]:
    """How far the panels above each panel have moved the track on it, m.

    Args:
        arms: the panels.
        line: of both arms, shape (event, scan, xy, arm, muon).
        momentum: in both arms, GeV, (event, scan, arm, muon).
        normal: standard normal numbers, (event, 1, xy, arm, panel, muon).
    """
    slope = line.slope[:, :, :, :, None]
    secant = jnp.sqrt(1 + total(slope**2, 2))  # (event, scan, 1, arm, 1, muon)
    path = arms.radiation_lengths[..., None] * secant
    theta = scattering.highland(path, momentum[:, :, None, :, None])
    # linear in presence: a square root would have no slope where a panel vanishes
    kick = spread(theta * arms.present[..., None], 2, 2) * normal
    along = total(slope * kick, 2) / (1 + secant)
    kick = (kick + slope * spread(along, 2, 2)) * secant  # as in `Line.stretched`
    # panel k acts on panel i below it: lever (z_k - z_i)+, with the sign of dr/dz. A panel
    # beside the volume is met at no one height: there the kicks are left out.
    z = arms.centre[2].reshape(-1)
    flat = jnp.array([facing == "z" for facing in arms.facing] * 2)
    lever = jnp.where(flat, -jnp.maximum(z[:, None] - z, 0), 0.0)  # (k, i)
    kicks = kick.reshape(*kick.shape[:3], z.size, -1)
    return jnp.einsum("...km,ki->...im", kicks, lever).reshape(kick.shape)


def _points(
    grid: Grid,
    arms: Arms,
    line: Line,
    offset: Array,
    noise: Array,
    softness: float | None,
    luck: Array | None,
) -> tuple[Array, Array, Array]:
    """Measured points where lines, moved by `offset`, cross the panels, and their weights.

    Args:
        grid: the volume.
        arms: the panels.
        line: of both arms, shape (event, scan, xy, arm, muon).
        offset: of the track on each panel, m, (event, scan, xy, arm, panel, muon).
        noise: standard normal numbers for both sides, (event, 1, xy, arm, panel, muon).
        softness: width of the edges, m; None for sharp ones.
        luck: uniform numbers, (event, 1, arm, panel, muon); for sharp ones.

    Returns:
        x and y, m; z, m; chance of a hit.
    """
    normal, sides = arms.normal[..., None], arms.sides[..., None]
    # one copy for each muon, here: each broadcast further down would be one more sum over
    # muons in the derivative
    events, scans, *_ = full = offset.shape
    centre = jnp.broadcast_to(arms.centre[..., None], (events, scans, 3, *full[3:]))
    half = jnp.broadcast_to(arms.span[..., None] / 2, full)
    middle, height = jax.lax.split(centre, (2, 1), 2)
    low = height - grid.top  # heights count from the top of the volume
    start = line.place[:, :, :, :, None] + offset - middle
    slope = line.slope[:, :, :, :, None]
    # n . (a + b z - centre) = 0 with a = (ax, ay, 0), b = (bx, by, 1)
    rate = total(normal[:2] * slope, 2) + normal[2:]
    tiny = 1e-6
    rate = jnp.where(jnp.abs(rate) < tiny, tiny, rate)
    z = (normal[2:] * low - total(normal[:2] * start, 2)) / rate
    across, depth = start + slope * spread(z, 2, 2), z - low
    parts = (*jax.lax.split(across, (1, 1), 2), depth)
    # (event, scan, side, arm, panel, muon)
    on = [sides[:, i] * spread(part, 2, 2) for i, part in enumerate(parts)]
    on = on[0] + on[1] + on[2]
    if softness is None:
        hit = jnp.abs(on) <= half
        inside = (hit[:, :, :1] & hit[:, :, 1:]).astype(on.dtype)
        weight = inside * (luck[:, :, None] < arms.chance[..., None])
    else:
        edges = jax.nn.sigmoid((half - on) / softness)
        edges = edges * jax.nn.sigmoid((half + on) / softness)
        edge_1, edge_2 = jax.lax.split(edges, (1, 1), 2)
        inside = edge_1 * edge_2
        weight = arms.chance[..., None] * inside
    # a line may cross the plane far outside the panel, up to infinity: draw the point back
    # to the centre, smoothly, where the panel sees nothing
    kept = inside / (inside + NOTHING)
    errors = arms.resolution[..., None] * noise
    errors = (errors[:, :, :1], errors[:, :, 1:])
    across = middle + spread(kept, 2, 2) * across
    across = across + errors[0] * sides[0, :2] + errors[1] * sides[1, :2]
    z = height + kept * depth + errors[0] * sides[0, 2:] + errors[1] * sides[1, 2:]
    return across, z[:, :, 0], weight[:, :, 0] * _on_its_way(arms, line)


def _on_its_way(arms: Arms, line: Line) -> Array | float:
    """1 where an arm meets a panel; those beside the volume are met in one arm only.

    Such a panel lies in a plane outside the box, which a muon crosses before the box if it
    comes from that side, and behind it if it leaves to that side.
    """
    if set(arms.facing) == {"z"}:
        return 1.0
    beside = [i for i, axis in enumerate(arms.facing) if axis != "z"]
    axis = "xy".index(arms.facing[beside[0]])
    sign = jnp.array([1.0, -1.0])[:, None, None]
    place = arms.centre[axis][:, beside[0] :, None]
    slope = line.slope[:, :, axis, :, None]
    here = (sign * jnp.sign(place) * slope > 0).astype(slope.dtype)
    always = jnp.ones((*here.shape[:3], beside[0], here.shape[-1]), here.dtype)
    return jnp.concatenate([always, here], 3)


_IRON = materials.material("iron")
