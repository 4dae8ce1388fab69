"""From scatters to a map of scattering density (1 / radiation length) in voxels."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.short_axes import spread, total
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Portal
from kythera.instruments.muon_portal.reconstruction import Scatters
from kythera.instruments.muon_portal.scan import Grid
from kythera.instruments.muon_portal.simulator import Line, voxel_index
from kythera.physics.kinematics import velocity
from kythera.physics.scattering import log_correction
from kythera.units import GeV, MeV


class Image(eqx.Module):
    """A map of the volume.

    Args:
        density: 1/X0 of each voxel, 1/m, shape (event, scan, z, y, x).
        exposure: expected number of seen muons that crossed each voxel, the same shape.
    """

    density: Float[Array, "event scan z y x"]
    exposure: Float[Array, "event scan z y x"]


def _add_up(grid: Grid, index: Array, *values: Array) -> list[Array]:
    """Sums over muons and layers into voxels, shape (event, scan, voxel) each."""
    lead = index.shape[:-2]
    flat = index.reshape(*lead, -1)

    def one(i: Array, v: Array) -> Array:
        return (
            jnp.zeros((grid.voxels, v.shape[-1]), v.dtype)
            .at[i]
            .add(v, mode="promise_in_bounds")
        )

    stacked = jnp.stack([jnp.broadcast_to(v, index.shape) for v in values], -1)
    stacked = stacked.reshape(*lead, -1, len(values))
    sums = jax.vmap(jax.vmap(one))(flat, stacked)
    return [sums[..., k] for k in range(len(values))]


def _chord(grid: Grid, x: Scatters) -> Line:
    """The straight line from where a muon came in to where it left the volume."""
    return Line(x.top, (x.top - x.bottom) / grid.size[2])


def _scale(x: Scatters) -> Array:
    """(13.6 MeV / beta p)^2 of each muon: rad^2 for each radiation length."""
    return (13.6 * MeV / (velocity(x.momentum) * x.momentum)) ** 2


def sums_at_points(
    grid: Grid,
    amounts: Float[Array, "*batch kind muon"],
    point: Float[Array, "*batch 3 muon"],
    variance: Float[Array, "*batch 3 muon"],
) -> Float[Array, "*batch kind z y x"]:
    """Sums over muons, each spread over the voxels as a Gaussian about its point.

    The share of a voxel is the product of the shares of its slices in x, y and z. Cost:
    linear in muons; three sets of shares, and one product of matrices.

    Args:
        grid: the voxels.
        amounts: what is summed.
        point: (x, y, z), m.
        variance: m^2.
    """
    x, y, z = (
        slices(point[..., i, :], variance[..., i, :], grid.size[i], grid.shape[2 - i])
        for i in range(3)
    )
    found = jnp.einsum("...am,...bm->...ab", _products(amounts, z), _products(y, x))
    return found.reshape(*amounts.shape[:-1], *grid.shape)


def _products(
    first: Float[Array, "*batch n muon"], second: Float[Array, "*batch k muon"]
) -> Float[Array, "*batch n*k muon"]:
    """All products of two sets, row by row."""
    count = second.shape[-2]
    rows = jnp.moveaxis(first[..., None, :], -3, 0)
    found = jax.lax.map(lambda row: spread(row, -2, count) * second, rows)
    shape = (*second.shape[:-2], -1, second.shape[-1])
    return jnp.moveaxis(found, 0, -3).reshape(shape)


def slices(
    place: Float[Array, "*batch muon"],
    variance: Float[Array, "*batch muon"],
    size: float,
    count: int,
) -> Float[Array, "*batch count muon"]:
    """Share of each Gaussian in each of `count` equal slices of [-size/2, size/2].

    Args:
        place: means, m.
        variance: m^2.
        size: m.
        count: slices.
    """
    edges = jnp.linspace(-size / 2, size / 2, count + 1, dtype=place.dtype)[:, None]
    place, width = (
        spread(v[..., None, :], -2, count + 1) for v in (place, jnp.sqrt(2 * variance))
    )
    # half an error function: that of the tails apart costs three times as much
    below = jax.lax.erf((edges - place) / width) / 2
    return jnp.diff(below, axis=-2)


class PocaImage(AbstractStage[Portal, Scatters, Image]):
    """Each muon's scattering put at its point of closest approach, over all path lengths.

    density_v = sum_i w_i K_iv s_i / sum_i w_i l_iv, with s_i = (theta_i^2 / 2 -
    variance_i) / (13.6 MeV / beta p)^2 the number of radiation lengths that muon i saw,
    K_iv the share of its point's Gaussian error ellipsoid in voxel v, and l_iv its path in
    it. Simple, and biased: one point stands for all scatters, so that dense things smear.

    Args:
        grid: the voxels.
        smallest: least width of a point's Gaussian in units of the voxel.
    """

    grid: Grid
    smallest: float = 0.25
    references: ClassVar[tuple[str, ...]] = (
        "K. N. Borozdin et al., Radiographic imaging with cosmic-ray muons, Nature 422 "
        "(2003) 277",
    )

    def __call__(self, design: Portal, x: Scatters, *, key: Key) -> Image:
        """Image of each scan."""
        noise = total(x.angle_variance, 2)[:, :, 0] / 2
        amount = x.weight * (x.angle_squared / 2 - noise) / _scale(x)
        least = self.smallest * jnp.array(self.grid.voxel)[:, None]
        scattered = sums_at_points(
            self.grid, amount[..., None, :], x.point, x.point_variance + least**2
        )
        path, count = _paths(self.grid, x)
        # an unseen voxel holds nothing: a path of 1 mm keeps the ratio finite
        return Image(jnp.maximum(scattered[..., 0, :, :, :], 0) / (path + 1e-3), count)


def _paths(grid: Grid, x: Scatters) -> tuple[Array, Array]:
    """Path length and number of seen muons in each voxel, (event, scan, z, y, x)."""
    index, inside = voxel_index(grid, _chord(grid, x))
    weight, length = (
        inside * spread(v[..., None, :], -2, grid.shape[0])
        for v in (x.weight, x.weight * x.secant * grid.voxel[2])
    )
    path, count = _add_up(grid, index, length, weight)
    shape = (*path.shape[:-1], *grid.shape)
    return path.reshape(shape), count.reshape(shape)


class LikelihoodImage(AbstractStage[Portal, Scatters, Image]):
    """The map under which all deflections and displacements together are most likely.

    Muon i has (theta, y)_i ~ N(0, sum_v density_v c_i^2 W_iv + E_i) in both projections, with
    W_iv the moments of voxel v on its path at the exit, E_i the covariance of its track fits
    and c_i = 13.6 MeV / (beta p) F. The multiplicative update

        density_v <- density_v sqrt( sum_i D_i' S_i^-1 W_iv S_i^-1 D_i / sum_i tr S_i^-1 W_iv )

    is a majorisation-minimisation step: at given logarithmic factors F, which are taken anew
    from the map before each step, the likelihood never falls, and no density turns negative.
    A muon that is seen with probability w counts w times.

    Args:
        grid: the voxels.
        iterations: steps; a few find dense blocks, a hundred fit the noise.
        typical: density at the start, and that of an inverse-gamma prior, 1/m.
        prior: strength of the prior in projected scatters: voxels that few muons crossed
            stay near `typical`, and their outliers do not look like lead.
        slowest: muons below this momentum are left out, GeV: they lose much of it in the
            cargo, scatter more than their first momentum says, and look like lead.
    """

    grid: Grid
    iterations: int = eqx.field(static=True, default=6)
    typical: float = 1.0
    prior: float = 2.0
    slowest: float = 1.0 * GeV
    references: ClassVar[tuple[str, ...]] = (
        "L. J. Schultz et al., Statistical reconstruction for cosmic ray muon tomography, "
        "IEEE Trans. Image Process. 16 (2007) 1985",
        "H. Sawada et al., Multichannel extensions of non-negative matrix factorization, "
        "IEEE Trans. Audio Speech Lang. Process. 21 (2013) 971 (the update)",
    )

    def __call__(self, design: Portal, x: Scatters, *, key: Key) -> Image:
        """Image of each scan."""
        grid = self.grid
        index, inside = voxel_index(grid, _chord(grid, x))
        lead = index.shape[:-2]
        flat = index.reshape(*lead, -1)
        layers = grid.shape[0]
        length = spread((x.secant * grid.voxel[2])[..., None, :], -2, layers)
        after = jnp.arange(layers - 1, -1, -1, dtype=length.dtype)[:, None]
        d = after * length
        moments = (
            inside * length,
            inside * length * (d + length / 2),
            inside * length * (d * (d + length) + length**2 / 3),
        )
        errors = (x.angle_variance, x.covariance, x.shift_variance)
        scale = _scale(x)[..., None, :]
        weight = (x.weight * (x.momentum > self.slowest))[..., None, :]

        def step(density: Array, _: None) -> tuple[Array, None]:
            met = jnp.take_along_axis(
                density, flat, axis=-1, mode="promise_in_bounds"
            ).reshape(index.shape)
            sums = [total(met * w, -2) for w in moments]  # (event, scan, 1, muon)
            c2 = scale * log_correction(sums[0]) ** 2
            # (event, scan, xy, muon); both projections see the same voxels
            v_theta, v_cross, v_y = (
                spread(c2 * moment, -2, 2) + error
                for moment, error in zip(sums, errors, strict=True)
            )
            det = v_theta * v_y
            det = jnp.maximum(det - v_cross**2, 1e-5 * det)  # rounding, in float32
            a = (v_y * x.angle - v_cross * x.shift) / det
            b = (v_theta * x.shift - v_cross * x.angle) / det
            pull = _quadratic(moments, a**2, a * b, b**2)
            trace = _quadratic(moments, v_y / det, -v_cross / det, v_theta / det)
            counts = spread(weight * c2, -2, layers)
            up, down = _add_up(grid, index, counts * pull, counts * trace)
            up = up + self.prior * self.typical / density**2
            down = down + self.prior / density
            return density * jnp.sqrt(up / down), None

        density = jnp.full((*lead, grid.voxels), self.typical, x.secant.dtype)
        density, _ = jax.lax.scan(
            jax.checkpoint(step), density, None, length=self.iterations
        )
        _, count = _paths(grid, x)
        return Image(density.reshape(*lead, *grid.shape), count)


def _quadratic(moments: tuple[Array, Array, Array], aa: Array, ab: Array, bb: Array):
    """a^2 W_11 + 2 a b W_12 + b^2 W_22 of both projections, (..., layer, muon)."""
    w11, w12, w22 = moments
    aa, ab, bb = (spread(total(v, -2), -2, w11.shape[-2]) for v in (aa, ab, bb))
    return aa * w11 + 2 * ab * w12 + bb * w22
