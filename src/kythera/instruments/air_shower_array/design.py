"""Where the units of an air-shower array stand on the ground, and what they cost."""

import functools
import math
import numbers
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.checks import check_count
from kythera.core.objective import AbstractObjective, Score
from kythera.core.safe import safe_sqrt
from kythera.core.types import Array, Float, Scalar
from kythera.units import km, m

TANK_RADIUS = 1.9 * m  # 19 tanks are 68.59 pi m2, as in SWGOLO
RINGS = ((50.0, 3), (200.0, 9), (350.0, 12), (550.0, 15), (750.0, 18), (1000.0, 33))
ROUNDS = 300  # of pushing apart, at most
SLOP = 1e-3 * m  # to which single precision can tell lengths of kilometres


class Layout(eqx.Module):
    """Units of some tanks each, discs on the ground.

    Args:
        x: positions of the units that are free to move, m, shape (unit,).
        y: likewise.
        tanks: in each unit.
        symmetry: how many copies of each free unit there are, turned about the origin by
            equal angles; 1 for none but itself.

    Raises:
        InputError: tanks or symmetry that are no whole number above 0.
    """

    x: Float[Array, " unit"]
    y: Float[Array, " unit"]
    tanks: int = eqx.field(static=True, default=19)
    symmetry: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        """Refuse units without tanks, and copies that cannot be counted."""
        check_count("tanks", self.tanks, "Give 19, as SWGOLO has")
        check_count("symmetry", self.symmetry, "Give 1 for no copies")

    @property
    def area(self) -> float:
        """Of the water of a unit, m2."""
        return self.tanks * math.pi * TANK_RADIUS**2

    @property
    def radius(self) -> float:
        """Of a disc of that area, m: units may not come closer than twice as much."""
        return TANK_RADIUS * math.sqrt(self.tanks)

    @property
    def positions(self) -> tuple[Array, Array]:
        """x and y of all units with their copies, m, shape (unit,) each, copy by copy."""
        if self.symmetry == 1:
            return self.x, self.y
        turn = 2 * np.pi * jnp.arange(self.symmetry)[:, None] / self.symmetry
        x = jnp.cos(turn) * self.x - jnp.sin(turn) * self.y
        y = jnp.sin(turn) * self.x + jnp.cos(turn) * self.y
        return x.reshape(-1), y.reshape(-1)


def rings(tanks: int = 19) -> Layout:
    """The initial layout of SWGOLO's PyTorch code: 90 units on six rings, 50 to 1000 m.

    Args:
        tanks: in each unit.

    Raises:
        InputError: tanks that are no whole number above 0.
    """
    turns = [(r, 2 * np.pi * np.arange(count) / count) for r, count in RINGS]
    x = np.concatenate([r * np.cos(turn) for r, turn in turns])
    y = np.concatenate([r * np.sin(turn) for r, turn in turns])
    return Layout(jnp.asarray(x, float), jnp.asarray(y, float), tanks)


def spiral(units: int, radius: float, tanks: int = 19, symmetry: int = 1) -> Layout:
    """Any number of units, evenly over a disc (Vogel's sunflower).

    Args:
        units: in all, a multiple of `symmetry`.
        radius: of the disc, m.
        tanks: in each.
        symmetry: as of `Layout`.

    Raises:
        InputError: a number of units that the symmetry does not divide, numbers that are
            not whole, or a radius that is not above 0.
    """
    check_count("symmetry", symmetry, "Give 1 for no copies")
    check_count("units", units, "Give 90, as SWGOLO has")
    if not (isinstance(radius, numbers.Real) and 0 < radius < math.inf):
        raise errors.InputError(
            f"`radius` of the layout must be > 0 m and finite, but is {radius!r}. Give the "
            "distance of the outermost units, such as 1000.0."
        )
    if units % symmetry:
        raise errors.InputError(
            f"`units` must be a multiple of the symmetry, {symmetry}, but is {units}. "
            f"Try {max(1, units // symmetry) * symmetry}."
        )
    count = units // symmetry
    place = np.arange(count)
    r = radius * np.sqrt((place + 0.5) / count)
    # With copies, each free unit stays within its own sector.
    turn = place * np.pi * (3 - np.sqrt(5)) % (2 * np.pi) / symmetry
    x, y = jnp.asarray(r * np.cos(turn), float), jnp.asarray(r * np.sin(turn), float)
    return Layout(x, y, tanks, symmetry)


class Site(eqx.Module):
    """Puts units apart from each other and into a site; the projection of the space.

    Units that overlap are pushed apart in rounds, and those outside go to the nearest point
    of the site, until neither is left; what a few rounds near the end leave over is removed
    by blowing the layout up as a whole, where there is no border. A layout that obeys is
    left as it is. The derivative is that of a layout that obeys, the identity.

    Copies obey as well: free units stay where all of their turned copies are in the site.

    In a site that is nearly full the rounds may end with units that overlap by more than
    1 cm. Then all positions are NaN, so that the trial fails and no such layout is taken for
    one that can be built. Sites that cannot hold their units are refused by `check_layout`.

    Args:
        corners: of a convex polygon, m, counter-clockwise, for the middles of the units;
            None for no border.

    Raises:
        InputError: corners of no convex polygon, or clockwise ones; at the call, a site in
            which no unit has room for its copies.
    """

    corners: tuple[tuple[float, float], ...] | None = eqx.field(
        static=True, default=None
    )

    def __check_init__(self):
        """Refuse a border that is not convex."""
        if self.corners is not None and not _convex(self.corners):
            raise errors.InputError(
                "The corners of a site must be those of a convex polygon, counter-clockwise, "
                f"but are {self.corners}. Give them in m, such as ((-500.0, -500.0), "
                "(500.0, -500.0), (0.0, 800.0))."
            )

    def __call__(self, layout: Layout) -> Layout:
        """The nearest layout that is found to obey; NaN where none is found."""
        fixed = jax.lax.stop_gradient((layout.x, layout.y))
        moved = self._moved(Layout(*fixed, layout.tanks, layout.symmetry))
        x = layout.x + jax.lax.stop_gradient(moved[0] - layout.x)
        y = layout.y + jax.lax.stop_gradient(moved[1] - layout.y)
        return Layout(x, y, layout.tanks, layout.symmetry)

    def room(self, symmetry: int = 1) -> np.ndarray | None:
        """Where units may stand so that all of their copies are in the site.

        It is what the site and its turned copies have in common, a convex polygon too.

        Args:
            symmetry: as of `Layout`.

        Returns:
            its corners, m, shape (corner, 2), or None for no border.

        Raises:
            InputError: there is no such place.
        """
        return None if self.corners is None else _shared(self.corners, symmetry)

    def _moved(self, layout: Layout) -> tuple[Array, Array]:
        """New positions of the free units."""
        count, least = layout.x.size, 2 * layout.radius
        room = self.room(layout.symmetry)

        def pushes(x: Array, y: Array) -> tuple[tuple[Array, Array], Array]:
            whole = Layout(x, y, layout.tanks, layout.symmetry).positions
            shift, closest = _push(*whole, least)
            return (shift[0][:count], shift[1][:count]), closest

        def pushed(state: tuple) -> tuple:
            x, y, rounds, shift, _ = state
            x, y = _inside(room, x + shift[0], y + shift[1])
            return x, y, rounds + 1, *pushes(x, y)

        def going(state: tuple) -> Array:
            return (state[4] < least - SLOP) & (state[2] < ROUNDS)

        x, y = _inside(room, layout.x, layout.y)
        state = (x, y, jnp.zeros((), int), *pushes(x, y))
        x, y, _, _, closest = jax.lax.while_loop(going, pushed, state)
        if room is None:
            grown = jnp.where(closest < least - SLOP, least / closest, 1.0)
            return grown * x, grown * y
        lost = closest < least - 10 * SLOP
        return jnp.where(lost, jnp.nan, x), jnp.where(lost, jnp.nan, y)


def _inside(room: np.ndarray | None, x: Array, y: Array) -> tuple[Array, Array]:
    """Each point, or the nearest one of the polygon."""
    if room is None:
        return x, y
    begin = jnp.asarray(room, x.dtype)
    edge = jnp.roll(begin, -1, 0) - begin
    from_begin = jnp.stack([x, y], -1)[:, None] - begin
    left = edge[:, 0] * from_begin[..., 1] - edge[:, 1] * from_begin[..., 0]
    inside = jnp.all(left >= 0, -1)
    part = jnp.sum(from_begin * edge, -1) / jnp.sum(edge**2, -1)
    near = begin + jnp.clip(part, 0, 1)[..., None] * edge
    distance = jnp.sum((jnp.stack([x, y], -1)[:, None] - near) ** 2, -1)
    best = jnp.argmin(distance, -1)
    found = jnp.take_along_axis(near, best[:, None, None], 1)[:, 0]
    return jnp.where(inside, x, found[:, 0]), jnp.where(inside, y, found[:, 1])


def _convex(corners: Any) -> bool:
    """Whether these are corners of a convex polygon, once around, to the left."""
    try:
        points = np.asarray(corners, float)
    except (TypeError, ValueError):
        return False
    if points.ndim != 2 or points.shape[1] != 2 or not np.all(np.isfinite(points)):
        return False
    edge = np.roll(points, -1, 0) - points
    after = np.roll(edge, -1, 0)
    left = edge[:, 0] * after[:, 1] - edge[:, 1] * after[:, 0]
    turn = np.arctan2(left, np.sum(edge * after, -1))
    once = abs(float(np.sum(turn)) - 2 * math.pi) < 0.1
    return len(points) >= 3 and once and bool(np.all(left > 0))


@functools.lru_cache(maxsize=64)
def _shared(corners: tuple[tuple[float, float], ...], symmetry: int) -> np.ndarray:
    """What a convex polygon and its copies turned about the origin have in common."""
    site = room = np.asarray(corners, float)
    for turn in 2 * np.pi * np.arange(1, symmetry) / symmetry:
        cosine, sine = np.cos(turn), np.sin(turn)
        turned = site @ np.array([[cosine, sine], [-sine, cosine]])
        for begin, edge in zip(turned, np.roll(turned, -1, 0) - turned, strict=True):
            room = _cut(room, begin, edge)
    if len(room) < 3 or _area(room) < SLOP**2:
        raise errors.InputError(
            f"With a symmetry of {symmetry} all copies of a unit must be in the site, so the "
            f"site must have the origin inside, but its corners are {corners}. Shift them, "
            "or take symmetry=1."
        )
    return room


def _cut(polygon: np.ndarray, begin: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """What of a convex polygon is left of a line."""
    off = polygon - begin
    height = (edge[0] * off[:, 1] - edge[1] * off[:, 0]) / np.hypot(*edge)
    kept, inside = [], height >= -1e-6 * SLOP
    for i in range(len(polygon)):
        if inside[i] != inside[i - 1]:
            part = np.clip(height[i - 1] / (height[i - 1] - height[i]), 0, 1)
            kept.append(polygon[i - 1] + part * (polygon[i] - polygon[i - 1]))
        if inside[i]:
            kept.append(polygon[i])
    points = np.reshape(kept, (-1, 2))
    apart = np.hypot(*(points - np.roll(points, 1, 0)).T) > SLOP
    return points[apart]


def _area(polygon: np.ndarray) -> float:
    """Of a convex polygon, m2."""
    (x, y), (after_x, after_y) = polygon.T, np.roll(polygon, -1, 0).T
    return float(np.sum(x * after_y - after_x * y)) / 2


def _push(x: Array, y: Array, least: float) -> tuple[tuple[Array, Array], Array]:
    """How each unit is pushed by those too close, and the least distance.

    Units at one and the same point are parted along a direction of their own.
    """
    index = jnp.arange(x.size)
    cosine, sine = jnp.cos(2.4 * index), jnp.sin(2.4 * index)

    def one(i: Array) -> tuple[Array, Array, Array]:
        dx, dy = x[i] - x, y[i] - y
        order = jnp.sign(i - index)
        same = (dx**2 + dy**2 < SLOP**2) & (order != 0)
        aside = cosine[i] * cosine - sine[i] * sine
        ahead = sine[i] * cosine + cosine[i] * sine
        dx = jnp.where(same, 2 * SLOP * order * aside, dx)
        dy = jnp.where(same, 2 * SLOP * order * ahead, dy)
        distance = jnp.sqrt(jnp.where(order == 0, 1e12, dx**2 + dy**2))
        # A little more than half of what is missing, so that few rounds are needed.
        push = 0.52 * jnp.maximum(least - distance, 0.0) / distance
        return jnp.sum(push * dx), jnp.sum(push * dy), jnp.min(distance)

    *shift, closest = jax.lax.map(one, index, batch_size=500)
    return (shift[0], shift[1]), jnp.min(closest)


def check_layout(layout: Layout, site: Site) -> None:
    """Refuse a layout that cannot be built.

    N points of a convex polygon that are a distance d apart obey, with its area A and
    perimeter P, N <= 2 A / (sqrt(3) d^2) + P / (2 d) + 1 (N. Oler, Acta Math. 105 (1961) 19):
    a site with more units than that is refused, wherever they are.

    Args:
        layout: with concrete numbers.
        site: of which it must be, the copies of its units as well.

    Raises:
        InputError: two units overlap, one is outside, a position is no number, or the site
            is too small for as many.
    """
    if np.ndim(layout.x) != 1 or np.shape(layout.x) != np.shape(layout.y):
        raise errors.InputError(
            "A layout has an x and a y for each unit, but their shapes are "
            f"{np.shape(layout.x)} and {np.shape(layout.y)}. Give as many of both."
        )
    x, y = (np.asarray(v, float) for v in layout.positions)
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if np.any(bad):
        i = int(np.argmax(bad))
        at = f"({layout.x[i]:.5g}, {layout.y[i]:.5g})"
        raise errors.InputError(
            f"Positions of units must be finite, but unit {i} is at {at} m. Give its x and "
            "y. (`Site(corners)(layout)` gives NaN where units found no place: give fewer "
            "of them, or a larger site.)"
        )
    call = "Site()" if site.corners is None else "Site(corners)"
    least = 2 * layout.radius
    _check_room(site.room(layout.symmetry), x.size, least)
    for i in range(x.size - 1):
        distance = np.hypot(x[i + 1 :] - x[i], y[i + 1 :] - y[i])
        j = int(np.argmin(distance))
        if distance[j] < least - 10 * SLOP:
            raise errors.InputError(
                f"Units {i} and {i + 1 + j} overlap: their middles are {distance[j]:.4g} m "
                f"apart, and must be {least:.4g} m. Move one, or call `{call}(layout)`."
            )
    inside = _inside(site.room(), *layout.positions)
    out = np.hypot(inside[0] - x, inside[1] - y)
    if np.max(out) > 10 * SLOP:
        i, count = int(np.argmax(out)), layout.x.size
        copy = f", a copy of unit {i % count}," if i >= count else ""
        raise errors.InputError(
            f"Unit {i}{copy} at ({x[i]:.5g}, {y[i]:.5g}) m is {out[i]:.4g} m outside of the "
            "site. Move it, or call `Site(corners)(layout)`."
        )


def _check_room(room: np.ndarray | None, units: int, least: float) -> None:
    """Refuse more units than Oler's inequality allows."""
    if room is None:
        return
    area, apart = _area(room), least - 10 * SLOP
    around = float(np.sum(np.hypot(*(room - np.roll(room, 1, 0)).T)))
    most = int(2 * area / (math.sqrt(3) * apart**2) + around / (2 * apart) + 1)
    if units > most:
        raise errors.InputError(
            f"Middles of units must be {least:.4g} m apart, of which no more than {most} fit "
            f"on the {area:.4g} m2 where all of them may stand, but there are {units}. Give "
            "fewer units, fewer tanks in each, or a larger site."
        )


def cable(layout: Layout) -> Scalar:
    """Length of a cable from the origin to each unit, m: sum of their distances."""
    x, y = layout.positions
    return jnp.sum(safe_sqrt(x**2 + y**2))


def land(layout: Layout) -> Scalar:
    """Area of the convex hull of the units, m2.

    With h(a) = max_i (x_i cos a + y_i sin a): area = 1/2 integral (h^2 - h'^2) da (Cauchy),
    summed over the edges of the hull exactly: the shoelace formula of the corners that are
    the farthest in 720 directions.
    """
    x, y = layout.positions
    turn = jnp.linspace(0, 2 * jnp.pi, 721)[:-1]
    far = jnp.argmax(jnp.cos(turn)[:, None] * x + jnp.sin(turn)[:, None] * y, 1)
    cx, cy = x[far], y[far]
    return 0.5 * jnp.sum(cx * jnp.roll(cy, -1) - jnp.roll(cx, -1) * cy)


class LandAndCable(AbstractObjective):
    """What land and cables cost: SWGOLO's penalties, as terms "land" and "cable".

    Land: exp((A - A0) / A0) - 1 for a hull A > A0; cable: exp((L - L0) / L0) - 1.

    Args:
        price: of both, in units of the loss (SWGOLO: 200 for land, 100 for cable).
        area: A0, m2.
        length: L0 for each unit, m.
    """

    price: tuple[float, float] = (200.0, 100.0)
    area: float = math.pi * (1.2 * km) ** 2
    length: float = 800 * m

    def tally(self, design: Layout, trace: Any) -> tuple:
        """Nothing is counted."""
        return ()

    def score(self, design: Layout, tally: Any) -> Score:
        """Both terms."""
        beyond = jnp.maximum(land(design) / self.area - 1, 0.0)
        wire = cable(design) / (self.length * design.positions[0].size) - 1
        return Score(
            {
                "land": self.price[0] * jnp.expm1(beyond),
                "cable": self.price[1] * jnp.expm1(wire),
            }
        )
