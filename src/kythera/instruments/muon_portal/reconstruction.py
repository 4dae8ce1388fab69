"""Two straight tracks for each muon, and what happened between them."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.scan import Grid, Hits, Points

UNSEEN = 1e-6  # muons with a smaller chance to be seen are left out


class Track(eqx.Module):
    """A weighted least-squares line in one projection, with its full covariance.

    x(z) = centre + slope (z - z_0), where z_0 is the weighted mean height: there the two
    parameters are uncorrelated, var(centre) = 1 / sum w, var(slope) = 1 / sum w (z - z_0)^2.

    Args:
        centre: m.
        slope: dimensionless.
        height: z_0, m.
        variance: of the centre, m^2.
        slope_variance: of the slope.
    """

    centre: Float[Array, "*batch"]
    slope: Float[Array, "*batch"]
    height: Float[Array, "*batch"]
    variance: Float[Array, "*batch"]
    slope_variance: Float[Array, "*batch"]

    def at(self, z: Array | float) -> Array:
        """The coordinate at height z, m."""
        return self.centre + self.slope * (z - self.height)

    def variance_at(self, z: Array | float) -> Array:
        """Variance of the coordinate at height z, m^2."""
        return self.variance + self.slope_variance * (z - self.height) ** 2


class Scatters(eqx.Module):
    """What is known of each muon, all of shape (event, scan, muon).

    Projected quantities are transverse to the incoming track, in two projections.

    Args:
        angle_x, angle_y: deflections in the direction of travel, rad.
        shift_x, shift_y: displacements at the lower face of the volume, m.
        angle_variance_x (_y): rad^2, from the track fits.
        shift_variance_x (_y): m^2; covariance_x (_y): of the two, m rad.
        x, y, z: point of closest approach of the two tracks, m.
        variance_x, variance_y, variance_z: of that point, propagated from the fits, m^2.
        top_x, top_y: where the incoming track meets the upper face, m.
        bottom_x, bottom_y: where the outgoing track meets the lower face, m.
        secant: path length over height of the incoming track.
        weight: probability that both tracks exist (two hits in each arm).
        momentum: GeV, as measured or assumed.
    """

    angle_x: Array
    angle_y: Array
    shift_x: Array
    shift_y: Array
    angle_variance_x: Array
    angle_variance_y: Array
    shift_variance_x: Array
    shift_variance_y: Array
    covariance_x: Array
    covariance_y: Array
    x: Array
    y: Array
    z: Array
    variance_x: Array
    variance_y: Array
    variance_z: Array
    top_x: Array
    top_y: Array
    bottom_x: Array
    bottom_y: Array
    secant: Array
    weight: Array
    momentum: Array

    @property
    def angle_squared(self) -> Array:
        """Square of the deflection in space, rad^2."""
        return self.angle_x**2 + self.angle_y**2


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
        above = [design.upper] + ([design.sides] if design.sides is not None else [])
        below = [design.lower] + ([design.sides] if design.sides is not None else [])
        into = fit_lines(x.above, above)
        out = fit_lines(x.below, below)
        weight = at_least_two(x.above.weight) * at_least_two(x.below.weight)
        found = scatters(self.grid, into, out, weight, x.momentum)
        # what was not seen is nan or huge: it must not reach sums, not even times zero
        safe = jax.tree.map(lambda v: jnp.where(weight > UNSEEN, v, 1.0), found)
        return eqx.tree_at(
            lambda f: (f.weight, f.covariance_x, f.covariance_y),
            safe,
            tuple(
                jnp.where(weight > UNSEEN, v, 0.0)
                for v in (weight, found.covariance_x, found.covariance_y)
            ),
        )


def fit_lines(points: Points, groups: list[Panels]) -> tuple[Track, Track]:
    """Weighted line fits of one arm in x(z) and y(z).

    Args:
        points: measured points, panels of all groups one after the other.
        groups: whose resolutions are the errors. A panel above or below measures x and y
            at its height; one beside measures, say, y and z at its x: to the fit that is an
            error of slope times sigma in x(z), with the slope of a first fit.

    Returns:
        the tracks in x and in y, shape (event, scan, muon).
    """
    sigma2 = jnp.concatenate([g.resolution**2 for g in groups])[:, None]
    if all(g.facing == "z" for g in groups):
        weight = points.weight / sigma2
        return _fit(points.x, points.z, weight), _fit(points.y, points.z, weight)
    first = points.weight / sigma2
    slopes = [_fit(v, points.z, first).slope for v in (points.x, points.y)]
    tracks = []
    for axis, coordinate in enumerate((points.x, points.y)):
        slope2 = slopes[axis][..., None, :] ** 2
        factors = []
        for group in groups:
            if group.facing == "z":
                factor = jnp.ones_like(slope2)
            else:
                factor = slope2 + (1e-4 if group.facing == "xy"[axis] else 1.0)
            shape = (*slope2.shape[:-2], group.count, slope2.shape[-1])
            factors.append(jnp.broadcast_to(factor, shape))
        variance = sigma2 * jnp.concatenate(factors, -2)
        tracks.append(_fit(coordinate, points.z, points.weight / variance))
    return tracks[0], tracks[1]


def _fit(x: Array, z: Array, weight: Array) -> Track:
    """Weighted least squares over the axis of panels, closed form."""
    tiny = jnp.finfo(x.dtype).tiny ** 0.5
    total = jnp.sum(weight, -2) + tiny
    height = jnp.sum(weight * z, -2) / total
    centre = jnp.sum(weight * x, -2) / total
    lever = z - height[..., None, :]
    square = jnp.sum(weight * lever**2, -2) + tiny
    slope = jnp.sum(weight * lever * (x - centre[..., None, :]), -2) / square
    return Track(centre, slope, height, 1 / total, 1 / square)


def at_least_two(chance: Float[Array, "... panel muon"]) -> Float[Array, "... muon"]:
    """Probability of two or more hits, from independent probabilities of each."""
    none, one = jnp.ones_like(chance[..., 0, :]), jnp.zeros_like(chance[..., 0, :])
    for i in range(chance.shape[-2]):
        p = chance[..., i, :]
        none, one = none * (1 - p), one * (1 - p) + none * p
    return jnp.maximum(1 - none - one, 0)


def scatters(
    grid: Grid,
    into: tuple[Track, Track],
    out: tuple[Track, Track],
    weight: Array,
    momentum: Array,
) -> Scatters:
    """Deflection, displacement and closest approach of two fitted tracks.

    The difference of the two lines, seen transverse to the incoming one, is d + e (z - z_b)
    with z_b the lower face: d the displacement and e the deflection over the height. Its
    square is least at z_b - d.e / e^2, whose error follows from the covariances of d and e.
    """
    bottom, top = -grid.top, grid.top
    bx, by = into[0].slope, into[1].slope
    secant = jnp.sqrt(1 + bx**2 + by**2)
    shrink = 1 / (secant * (1 + secant))

    def transverse(vx: Array, vy: Array) -> tuple[Array, Array]:
        along = shrink * (bx * vx + by * vy)
        return vx - bx * along, vy - by * along

    def variances(vx: Array, vy: Array) -> list[Array]:
        """Of transverse components, from those of independent x and y."""
        mixed = (shrink * bx * by) ** 2
        return [
            (1 - shrink * bx**2) ** 2 * vx + mixed * vy,
            (1 - shrink * by**2) ** 2 * vy + mixed * vx,
        ]

    d = transverse(
        *(o.at(bottom) - i.at(bottom) for i, o in zip(into, out, strict=True))
    )
    e = transverse(*(o.slope - i.slope for i, o in zip(into, out, strict=True)))
    pairs = list(zip(into, out, strict=True))
    var_d = variances(
        *(i.variance_at(bottom) + o.variance_at(bottom) for i, o in pairs)
    )
    var_e = variances(*(i.slope_variance + o.slope_variance for i, o in pairs))
    cov = variances(
        *(
            i.slope_variance * (bottom - i.height)
            + o.slope_variance * (bottom - o.height)
            for i, o in pairs
        )
    )
    de = d[0] * e[0] + d[1] * e[1]
    ee = e[0] ** 2 + e[1] ** 2 + 1e-12  # far below any measurable deflection
    back = -de / ee
    var_z = 0.0
    for axis in (0, 1):
        by_d = -e[axis] / ee
        by_e = (-d[axis] - 2 * back * e[axis]) / ee
        var_z = var_z + (
            by_d**2 * var_d[axis] + 2 * by_d * by_e * cov[axis] + by_e**2 * var_e[axis]
        )
    # outside of any use beyond one height of the volume: keep the numbers finite
    height = 2 * grid.top
    z = bottom + jnp.clip(back, -height, 2 * height)
    x, y = ((i.at(z) + o.at(z)) / 2 for i, o in pairs)
    var_x, var_y = (
        (i.variance_at(z) + o.variance_at(z)) / 4 + slope**2 * var_z
        for (i, o), slope in zip(pairs, (bx, by), strict=True)
    )
    return Scatters(
        angle_x=-e[0] / secant,
        angle_y=-e[1] / secant,
        shift_x=d[0],
        shift_y=d[1],
        angle_variance_x=var_e[0] / secant**2,
        angle_variance_y=var_e[1] / secant**2,
        shift_variance_x=var_d[0],
        shift_variance_y=var_d[1],
        covariance_x=-cov[0] / secant,
        covariance_y=-cov[1] / secant,
        x=x,
        y=y,
        z=z,
        variance_x=var_x,
        variance_y=var_y,
        variance_z=var_z,
        top_x=into[0].at(top),
        top_y=into[1].at(top),
        bottom_x=out[0].at(bottom),
        bottom_y=out[1].at(bottom),
        secant=secant,
        weight=weight,
        momentum=momentum,
    )
