"""A muon portal: detector panels around a volume that is to be looked into."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from kythera import errors
from kythera.core.types import Array, Float, Scalar
from kythera.units import m, m2, mm


class Panels(eqx.Module):
    """A group of flat rectangular panels that each measure one point of a track.

    A panel faces an axis: with no tilt, its normal is that axis and its two sides lie along
    the next two axes in cyclic order (z: x, y; x: y, z; y: z, x).

    Args:
        x, y, z: centre, m, shape (panel,).
        span_1, span_2: full lengths of the two sides, m, shape (panel,).
        tilt_1, tilt_2: rotations about the first and the second side, rad, (panel,).
        resolution: standard deviation of each measured coordinate, m, (panel,).
        efficiency: probability to record a crossing, (panel,).
        present: 1 for a panel that is built, 0 for one that is not, (panel,).
        radiation_lengths: thickness of a panel in units of its X0, (panel,).
        facing: "z" (above or below the volume), "x" or "y" (beside it).
    """

    x: Float[Array, " panel"]
    y: Float[Array, " panel"]
    z: Float[Array, " panel"]
    span_1: Float[Array, " panel"]
    span_2: Float[Array, " panel"]
    tilt_1: Float[Array, " panel"]
    tilt_2: Float[Array, " panel"]
    resolution: Float[Array, " panel"]
    efficiency: Float[Array, " panel"]
    present: Float[Array, " panel"]
    radiation_lengths: Float[Array, " panel"]
    facing: str = eqx.field(static=True)

    def __init__(
        self,
        z: Any,
        x: Any = 0.0,
        y: Any = 0.0,
        *,
        span_1: Any = 1 * m,
        span_2: Any = 1 * m,
        tilt_1: Any = 0.0,
        tilt_2: Any = 0.0,
        resolution: Any = 1 * mm,
        efficiency: Any = 0.95,
        present: Any = 1.0,
        radiation_lengths: Any = 0.01,
        facing: str = "z",
    ):
        """See the class; numbers are repeated for all panels of the group.

        Raises:
            InputError: `facing` is no axis, the lengths of the arrays differ, or a number
                is out of its range (not looked at while JAX traces).
        """
        if facing not in ("x", "y", "z"):
            raise errors.InputError(
                f"`facing` must be 'x', 'y' or 'z', but is {facing!r}."
            )
        fields = {
            "x": x,
            "y": y,
            "z": z,
            "span_1": span_1,
            "span_2": span_2,
            "tilt_1": tilt_1,
            "tilt_2": tilt_2,
            "resolution": resolution,
            "efficiency": efficiency,
            "present": present,
            "radiation_lengths": radiation_lengths,
        }
        arrays = {k: jnp.atleast_1d(jnp.asarray(v, float)) for k, v in fields.items()}
        count = max(v.size for v in arrays.values())
        for name, array in arrays.items():
            if array.ndim != 1 or array.size not in (1, count):
                raise errors.InputError(
                    f"All arrays of a group of panels need one length, but '{name}' has "
                    f"shape {array.shape} and another {count} entries. Give one number, "
                    "or one for each panel."
                )
            _check_range(name, array)
            setattr(self, name, jnp.broadcast_to(array, (count,)))
        self.facing = facing

    @property
    def count(self) -> int:
        """Number of panels, those that are not present included."""
        return self.z.shape[0]

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        """Unit vectors (side 1, side 2, normal), each of shape (3, panel)."""
        shift = {"z": 0, "x": 1, "y": 2}[self.facing]
        axes = _axes(self.tilt_1, self.tilt_2)
        side_1, side_2, normal = (jnp.roll(a, shift, 0) for a in axes)
        return side_1, side_2, normal

    def filled(self, count: int, name: str) -> Float[Array, " count"]:
        """A field of all panels, and of panels that are not present up to `count`.

        Args:
            count: length of the array, at least the number of panels.
            name: of the field.
        """
        value = getattr(self, name)
        # they copy the last panel, so that nothing is singular
        mode = "constant" if name == "present" else "edge"
        missing = count - self.count
        return jnp.pad(value, (0, missing), mode) if missing else value

    @property
    def centre(self) -> Float[Array, "3 panel"]:
        """Centres, m."""
        return jnp.stack([self.x, self.y, self.z])


def _check_range(name: str, array: Array) -> None:
    """Refuse numbers that no panel has; traced arrays have none yet."""
    if isinstance(array, Tracer):
        return
    v, law = np.asarray(array), "finite"
    good = np.isfinite(v)
    if name in ("span_1", "span_2"):
        good, law = good & (v > 0), "finite and > 0"
    elif name in ("resolution", "radiation_lengths"):
        good, law = good & (v >= 0), "finite and >= 0"
    elif name in ("efficiency", "present"):
        good, law = good & (v >= 0) & (v <= 1), "between 0 and 1"
    if not good.all():
        bad = int(np.argmin(good))
        raise errors.InputError(
            f"`{name}` of every panel must be {law}, but is {v[bad]:g} for panel {bad}. "
            "Mend it."
        )


def _axes(tilt_1: Array, tilt_2: Array) -> tuple[Array, Array, Array]:
    """Unit vectors (side 1, side 2, normal) of panels that face z, (3, ...) each."""
    s1, c1 = jnp.sin(tilt_1), jnp.cos(tilt_1)
    s2, c2 = jnp.sin(tilt_2), jnp.cos(tilt_2)
    zero = jnp.zeros_like(s1)
    # rotate about side 2 by tilt_2, then about side 1 by tilt_1
    return (
        jnp.stack([c2, zero, -s2]),
        jnp.stack([s1 * s2, c1, s1 * c2]),
        jnp.stack([c1 * s2, -s1, c1 * c2]),
    )


class Arms(eqx.Module):
    """All panels by the arm of the track that they measure, above and below side by side.

    A panel beside the volume stands in both arms, last; arms of unequal length are filled up
    with panels that are not present. So both arms are computed at once.

    Args:
        centre: m, shape (xyz, arm, panel).
        sides: unit vectors along both sides, shape (side, xyz, arm, panel).
        normal: unit vectors, shape (xyz, arm, panel).
        span: full lengths of the two sides, m, shape (side, arm, panel).
        resolution, present, radiation_lengths: as in `Panels`, shape (arm, panel); panels
            beside the volume scatter nothing, 0.
        chance: to record a crossing, if the panel is present, shape (arm, panel).
        facing: of each panel, the same in both arms.
    """

    centre: Float[Array, "3 arm panel"]
    sides: Float[Array, "2 3 arm panel"]
    normal: Float[Array, "3 arm panel"]
    span: Float[Array, "2 arm panel"]
    resolution: Float[Array, "arm panel"]
    chance: Float[Array, "arm panel"]
    present: Float[Array, "arm panel"]
    radiation_lengths: Float[Array, "arm panel"]
    facing: tuple[str, ...] = eqx.field(static=True)

    @property
    def count(self) -> int:
        """Panels in an arm, those that are not present included."""
        return self.present.shape[1]


class Portal(eqx.Module):
    """All panels of a portal, by the arm of the track that they measure.

    Args:
        upper: panels above the volume.
        lower: panels below the volume.
        sides: panels beside it, which see muons either before or after they cross the
            volume; None without any.
    """

    upper: Panels
    lower: Panels
    sides: Panels | None = None

    def __check_init__(self):
        """Refuse panels that face the wrong way."""
        for name, panels in self.groups.items():
            right = ("x", "y") if name == "sides" else ("z",)
            if panels.facing not in right:
                raise errors.InputError(
                    f"Panels of `{name}` must face {' or '.join(map(repr, right))}, but "
                    f"face {panels.facing!r}. Panels above and below the volume face 'z', "
                    "those beside it 'x' or 'y'."
                )

    @property
    def groups(self) -> dict[str, Panels]:
        """Name of each group -> its panels."""
        groups = {"upper": self.upper, "lower": self.lower}
        return groups if self.sides is None else groups | {"sides": self.sides}

    @property
    def arms(self) -> Arms:
        """The panels of both arms of a track."""
        longest = max(self.upper.count, self.lower.count)
        beside = self.sides

        # field by field: what is frozen must stay apart from what is differentiated
        def both(name: str) -> Array:
            """A field of all panels, shape (arm, panel)."""
            table = jnp.stack(
                [g.filled(longest, name) for g in (self.upper, self.lower)]
            )
            if beside is None:
                return table
            more = getattr(beside, name) * (name != "radiation_lengths")
            return jnp.concatenate(
                [table, jnp.broadcast_to(more, (2, beside.count))], -1
            )

        tilts = [both(name)[:, :longest] for name in ("tilt_1", "tilt_2")]
        axes, facing = list(_axes(*tilts)), ("z",) * longest
        if beside is not None:
            facing += (beside.facing,) * beside.count
            for i, axis in enumerate(beside.axes):
                twice = jnp.broadcast_to(axis[:, None], (3, 2, beside.count))
                axes[i] = jnp.concatenate([axes[i], twice], -1)
        present = both("present")
        return Arms(
            jnp.stack([both(name) for name in "xyz"]),
            jnp.stack(axes[:2]),
            axes[2],
            jnp.stack([both("span_1"), both("span_2")]),
            both("resolution"),
            present * both("efficiency"),
            present,
            both("radiation_lengths"),
            facing,
        )


class Prices(eqx.Module):
    """What a portal costs, in an arbitrary currency unit.

    The technology's part is local: area, and channels, of which a finer resolution needs
    more (one strip for each 3.46 resolutions of each side: pitch / sqrt 12). The frame of a
    panel is a price for each.

    Args:
        area: for each square metre.
        channel: for each channel.
        panel: for each panel.
    """

    area: float = 1.0 / m2
    channel: float = 0.0
    panel: float = 0.0

    def __check_init__(self):
        """Refuse prices that are no prices."""
        for name in ("area", "channel", "panel"):
            price = getattr(self, name)
            if not 0 <= price < math.inf:
                raise errors.InputError(
                    f"Prices are finite and >= 0, but `{name}` is {price}. Mend it."
                )

    def of(self, panels: Panels) -> dict[str, Scalar]:
        """Cost of one group by kind: "area", "channels", "panels"."""
        pitch = 12**0.5 * panels.resolution
        parts = {
            "area": self.area * panels.span_1 * panels.span_2,
            "channels": self.channel * (panels.span_1 + panels.span_2) / pitch,
            "panels": self.panel * jnp.ones_like(pitch),
        }
        return {name: jnp.sum(panels.present * part) for name, part in parts.items()}

    def shares(self, portal: Portal) -> dict[str, Scalar]:
        """Cost by kind: "area", "channels", "panels"."""
        groups = [self.of(panels) for panels in portal.groups.values()]
        return {
            name: sum_of({i: g[name] for i, g in enumerate(groups)})
            for name in groups[0]
        }

    def __call__(self, portal: Portal) -> Scalar:
        """The sum of all shares."""
        return sum_of(self.shares(portal))


def sum_of(shares: Mapping[Any, Scalar]) -> Scalar:
    """Sum of named scalars."""
    return jnp.sum(jnp.stack(list(shares.values())))


@dataclasses.dataclass(frozen=True)
class WithinBudget:
    """Exact budget: spans shrink by one factor until the portal costs at most `limit`.

    With spans f times as long the area costs f^2 and the channels f times as much, so that
    f solves a quadratic equation; panels that are not present cost nothing, and the price
    of a panel does not shrink: those of all panels together must stay below the limit
    (spans go to zero where a search switches on too many).

    Args:
        prices: of the portal; area or channels must cost something.
        limit: the budget, in their currency, > 0.
    """

    prices: Prices
    limit: float

    def __post_init__(self):
        """Refuse budgets that no spans can keep."""
        if not 0 < self.limit < math.inf:
            raise errors.InputError(
                f"A budget is finite and > 0, but `limit` is {self.limit}. Mend it."
            )
        if not self.prices.area + self.prices.channel > 0:
            raise errors.InputError(
                "A budget is kept by shorter spans, so that `area` or `channel` needs a "
                f"price > 0, but both are 0 in {self.prices}. Set one of them."
            )

    def __call__(self, portal: Portal) -> Portal:
        """The portal, shrunk where it must be.

        Raises:
            InputError: the frames of the panels alone reach the limit.
        """
        parts = self.prices.shares(portal)
        fixed = parts["panels"]
        if not isinstance(fixed, Tracer) and fixed >= self.limit:
            raise errors.InputError(
                f"The budget must leave something for area and channels, but is "
                f"{self.limit:g}, and the panels alone cost {float(fixed):g}. Raise it, "
                "or take fewer panels."
            )
        left = jnp.maximum(self.limit - fixed, 1e-6 * self.limit)
        area, channels = parts["area"], parts["channels"]
        shrinkable = area + channels > 0  # else the root has no derivative
        area = jnp.where(shrinkable, area, 1.0)
        root = jnp.sqrt(channels**2 + 4 * area * left)
        factor = jnp.minimum(2 * left / (channels + root), 1.0)
        factor = jnp.where(shrinkable, factor, 1.0)

        def shrink(panels: Panels) -> Panels:
            return dataclasses.replace(
                panels,
                span_1=panels.span_1 * factor,
                span_2=panels.span_2 * factor,
            )

        sides = None if portal.sides is None else shrink(portal.sides)
        return Portal(shrink(portal.upper), shrink(portal.lower), sides)
