"""Two straight tracks for each muon, and what happened between them."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.short_axes import spread, total
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Arms, Portal
from kythera.instruments.muon_portal.scan import Grid, Hits
from kythera.units import mm

UNSEEN = 1e-6  # muons with a smaller chance to be seen are left out


class Track(eqx.Module):
    """A weighted least-squares line in each projection, with its full covariance.

    x(z) = centre + slope (z - z_0), where z_0 is the weighted mean height: there the two
    parameters are uncorrelated, var(centre) = 1 / sum w, var(slope) = 1 / sum w (z - z_0)^2.

    Args:
        centre: m, shape (..., xy, arm, muon), as all others.
        slope: dimensionless.
        height: z_0, m.
        variance: of the centre, m^2.
        slope_variance: of the slope.
    """

    centre: Float[Array, "*batch 2 arm muon"]
    slope: Float[Array, "*batch 2 arm muon"]
    height: Float[Array, "*batch 2 arm muon"]
    variance: Float[Array, "*batch 2 arm muon"]
    slope_variance: Float[Array, "*batch 2 arm muon"]

    def at(self, z: Array | float) -> Float[Array, "*batch 2 arm muon"]:
        """The coordinates at height z, m."""
        return self.centre + self.slope * (z - self.height)

    def variance_at(self, z: Array | float) -> Float[Array, "*batch 2 arm muon"]:
        """Variances of the coordinates at height z, m^2."""
        return self.variance + self.slope_variance * (z - self.height) ** 2


class Scatters(eqx.Module):
    """What is known of each muon.

    Deflection and displacement are transverse to the incoming track, in two projections;
    the covariance between the projections (0 unless a track is inclined in both) is not
    kept.

    Args:
        angle: deflections in the direction of travel, rad, shape (event, scan, xy, muon).
        shift: displacements at the lower face of the volume, m, the same shape.
        angle_variance, shift_variance: from the track fits, rad^2 and m^2.
        covariance: of angle and shift in each projection, m rad.
        point: of closest approach of the two tracks, m, (event, scan, xyz, muon).
        point_variance: propagated from the fits, m^2, the same shape.
        top: where the incoming track meets the upper face, m, (event, scan, xy, muon).
        bottom: where the outgoing track meets the lower face, m, the same shape.
        secant: path length over height of the incoming track, (event, scan, muon).
        weight: probability that both tracks exist (two hits in each arm), the same shape.
        momentum: GeV, as measured or assumed, the same shape.
    """

    angle: Float[Array, "event scan 2 muon"]
    shift: Float[Array, "event scan 2 muon"]
    angle_variance: Float[Array, "event scan 2 muon"]
    shift_variance: Float[Array, "event scan 2 muon"]
    covariance: Float[Array, "event scan 2 muon"]
    point: Float[Array, "event scan 3 muon"]
    point_variance: Float[Array, "event scan 3 muon"]
    top: Float[Array, "event scan 2 muon"]
    bottom: Float[Array, "event scan 2 muon"]
    secant: Float[Array, "event scan muon"]
    weight: Float[Array, "event scan muon"]
    momentum: Float[Array, "event scan muon"]

    @property
    def angle_squared(self) -> Float[Array, "event scan muon"]:
        """Square of the deflection in space, rad^2."""
        return total(self.angle**2, 2)[:, :, 0]


class TrackFits(AbstractStage[Portal, Hits, Scatters]):
    """Fit both arms; deflection, displacement and point of closest approach with errors.

    Each hit counts with weight / variance. A muon counts with the probability that at least
    two panels of each arm recorded it. All costs are linear in the number of muons.

    Args:
        grid: the volume.
    """

    grid: Grid
    references: ClassVar[tuple[str, ...]] = (
        "L. J. Schultz et al., Statistical reconstruction for cosmic ray muon tomography, "
        "IEEE Trans. Image Process. 16 (2007) 1985",
    )

    def __call__(self, design: Portal, x: Hits, *, key: Key) -> Scatters:
        """Scatters of all muons; those that were not seen have weight 0."""
        chance = at_least_two(x.weight)
        above, below = jax.lax.split(chance, (1, 1), 2)
        weight = jnp.squeeze(above * below, 2)
        seen = weight > UNSEEN
        # a fit to nothing is nan or huge: give it all points, and count it not at all
        everywhere = jnp.broadcast_to(seen[:, :, None, None], x.weight.shape)
        points = eqx.tree_at(
            lambda h: h.weight, x, jnp.where(everywhere, x.weight, 1.0)
        )
        tracks = fit_lines(points, design.arms)
        return scatters(self.grid, tracks, jnp.where(seen, weight, 0.0), x.momentum)


def fit_lines(points: Hits, arms: Arms) -> Track:
    """Weighted line fits of both arms in x(z) and y(z).

    Args:
        points: measured points.
        arms: whose resolutions are the errors. A panel above or below measures x and y
            at its height; one beside measures, say, y and z at its x: to the fit that is an
            error of slope times sigma in x(z), with the slope of a first fit.

    Returns:
        tracks of shape (event, scan, xy, arm, muon).
    """
    weight = points.weight / arms.resolution[..., None] ** 2
    weight, z = (spread(v[:, :, None], 2, 2) for v in (weight, points.z))
    track = _fit(points.across, z, weight)
    if set(arms.facing) == {"z"}:
        return track
    slope2 = spread(track.slope[:, :, :, :, None] ** 2, -2, arms.count)
    beside = jnp.array([facing != "z" for facing in arms.facing])
    along = jnp.array([[facing == axis for facing in arms.facing] for axis in "xy"])
    own = jnp.where(along, 1e-4, 1.0)[:, None, :, None]
    factor = jnp.where(beside[:, None], slope2 + own, 1.0)
    return _fit(points.across, z, weight / factor)


def _fit(across: Array, z: Array, weight: Array) -> Track:
    """Weighted least squares over the axis of panels, closed form.

    All of shape (event, scan, xy, arm, panel, muon).
    """
    panels = across.shape[-2]
    sum_of_weights = total(weight, -2)
    share = weight / spread(sum_of_weights, -2, panels)
    height = total(share * z, -2)
    lever = z - spread(height, -2, panels)
    # points at one height have no slope: 0.1 mm keeps its error finite
    square = total(share * lever**2, -2) + (0.1 * mm) ** 2
    centre = total(share * across, -2)
    off = across - spread(centre, -2, panels)
    slope = total(share * lever * off, -2) / square
    fitted = centre, slope, height, 1 / sum_of_weights, 1 / (sum_of_weights * square)
    return Track(*(jnp.squeeze(v, -2) for v in fitted))


def at_least_two(chance: Float[Array, "... panel muon"]) -> Float[Array, "... muon"]:
    """Probability of two or more hits, from independent probabilities of each.

    Sums of positive terms: also small probabilities keep all their digits.
    """
    # of no hit, of one, of two or more in groups of panels, at first of one panel each
    groups = 1 - chance, chance, jnp.zeros_like(chance)
    while (count := groups[0].shape[-2]) > 1:
        sizes = (count // 2, count // 2, count % 2)
        first, second, rest = zip(
            *(jax.lax.split(v, sizes, v.ndim - 2) for v in groups), strict=True
        )
        (none_1, one_1, two_1), (none_2, one_2, two_2) = first, second
        pairs = (
            none_1 * none_2,
            none_1 * one_2 + one_1 * none_2,
            two_1 + none_1 * two_2 + one_1 * (one_2 + two_2),
        )
        groups = tuple(
            jnp.concatenate([pair, left], -2)
            for pair, left in zip(pairs, rest, strict=True)
        )
    return groups[2][..., 0, :]


def scatters(grid: Grid, tracks: Track, weight: Array, momentum: Array) -> Scatters:
    """Deflection, displacement and closest approach of two fitted tracks.

    The difference of the two lines, seen transverse to the incoming one, is d + e (z - z_b)
    with z_b the lower face: d the displacement and e the deflection over the height. Its
    square is least at z = z_b - d.e / e^2. With D the difference there, errors move that by
    dz = -(e.dD + D.de) / e^2, and the middle between the lines by half of the sum of their
    errors at z, and by dz along their mean slope. (The height of vertical tracks is
    unbiased to second order. Its quoted error falls with the measured deflection, so that
    the mean pull is above zero by about the error of the deflection over the deflection.)

    Args:
        grid: the volume.
        tracks: of both arms, (event, scan, xy, arm, muon).
        weight: of each muon, (event, scan, muon).
        momentum: GeV, the same shape.
    """
    bottom, top = -grid.top, grid.top
    slope, _ = _arms(tracks.slope)  # (event, scan, xy, muon)
    secant = jnp.sqrt(1 + total(slope**2, 2))
    both_secant = spread(secant, 2, 2)
    shrink = 1 / (both_secant * (1 + both_secant))

    def transverse(v: Array) -> Array:
        """I - s b b^T, which is its own transpose."""
        return v - slope * shrink * spread(total(slope * v, 2), 2, 2)

    mixed = (shrink * slope * slope[:, :, ::-1]) ** 2
    own = (1 - shrink * slope**2) ** 2

    def variances(v: Array) -> Array:
        """Of transverse components, from those of independent x and y."""
        return own * v + mixed * v[:, :, ::-1]

    above, below = _arms(tracks.at(bottom))
    d, e = transverse(below - above), transverse(_change(tracks.slope))
    ee = total(e**2, 2) + 1e-12  # far below any measurable deflection
    # outside of any use beyond one height of the volume: keep the numbers finite
    height = 2 * grid.top
    z = bottom + jnp.clip(-total(d * e, 2) / ee, -height, 2 * height)
    point, point_variance = _middle(tracks, z, e / spread(ee, 2, 2), transverse)
    var_d, var_e, cov = (
        _sum(v)
        for v in (
            tracks.variance_at(bottom),
            tracks.slope_variance,
            tracks.slope_variance * (bottom - tracks.height),
        )
    )
    return Scatters(
        angle=-e / both_secant,
        shift=d,
        angle_variance=variances(var_e) / both_secant**2,
        shift_variance=variances(var_d),
        covariance=-variances(cov) / both_secant,
        point=point,
        point_variance=point_variance,
        top=_arms(tracks.at(top))[0],
        bottom=below,
        secant=jnp.squeeze(secant, 2),
        weight=weight,
        momentum=momentum,
    )


def _middle(
    tracks: Track, z: Array, pull: Array, transverse: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """The middle between two lines where they are closest, and its variance.

    Args:
        tracks: of both arms.
        z: height of the closest approach, (event, scan, 1, muon).
        pull: e / e^2, with e the deflection over the height, (event, scan, xy, muon).
        transverse: projection of horizontal vectors.

    Returns:
        two arrays of shape (event, scan, xyz, muon), m and m^2.
    """
    here = spread(spread(z, 2, 2)[..., None, :], -2, 2)
    place, lever = tracks.at(here), here - tracks.height
    variance, slope_variance = tracks.variance_at(here), tracks.slope_variance
    covariance = slope_variance * lever
    # dz = -(e.dD + D.de) / e^2
    square = spread(total(pull**2, 2), 2, 2)  # 1 / e^2
    by_gap = transverse(-pull)
    by_e = transverse(-transverse(_change(place)) * square)
    var, cov, var_e = (_sum(v) for v in (variance, covariance, slope_variance))
    var_z = total(by_gap**2 * var + 2 * by_gap * by_e * cov + by_e**2 * var_e, 2)
    # twice the covariance of the middle with z
    lean = by_gap * _change(variance) + by_e * _change(covariance)
    tilt = _sum(tracks.slope) / 2
    across = var / 4 + tilt * lean + tilt**2 * spread(var_z, 2, 2)
    across = jnp.maximum(across, 1e-3 * var)  # rounding, where they nearly cancel
    point = jnp.concatenate([_sum(place) / 2, z], 2)
    return point, jnp.concatenate([across, var_z], 2)


def _arms(v: Float[Array, "*batch 2 muon"]) -> tuple[Array, Array]:
    """Of the arm above, and of the arm below."""
    above, below = jax.lax.split(v, (1, 1), v.ndim - 2)
    return jnp.squeeze(above, -2), jnp.squeeze(below, -2)


def _sum(v: Float[Array, "*batch 2 muon"]) -> Array:
    """Of both arms."""
    above, below = _arms(v)
    return above + below


def _change(v: Float[Array, "*batch 2 muon"]) -> Array:
    """From the arm above to the arm below."""
    above, below = _arms(v)
    return below - above
