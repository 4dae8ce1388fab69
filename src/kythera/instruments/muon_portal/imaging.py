"""From scatters to a map of scattering density (1 / radiation length) in voxels."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.short_axes import spread, total
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Bool, Float, Key
from kythera.instruments.muon_portal.design import Portal
from kythera.instruments.muon_portal.reconstruction import Scatters
from kythera.instruments.muon_portal.scan import Grid
from kythera.instruments.muon_portal.simulator import Line, first_entries, table_entry
from kythera.physics.scattering import (
    exit_levers,
    log_correction,
    scattering_strength,
)
from kythera.units import GeV

# Variances of nearly correlated things are subtracted: what accelerators take for float32
# products by default, three digits of them, would leave nothing of the difference.
EXACT = jax.lax.Precision.HIGHEST


class Image(eqx.Module):
    """A map of the volume.

    Args:
        density: 1/X0 of each voxel, 1/m, shape (event, scan, z, y, x).
        exposure: expected number of seen muons that crossed each voxel, the same shape.
    """

    density: Float[Array, "event scan z y x"]
    exposure: Float[Array, "event scan z y x"]


class _Voxels(eqx.Module):
    """The voxels on each muon's straight line from where it came in to where it left.

    Axes are (layer, track), tracks those of all scans: look-ups in one flat table of (event,
    scan, voxel and what lies beside the volume), and products over layers that are plain
    products of matrices. (A table that is reshaped where it is read costs ten times as much.)

    Args:
        index: in the table.
        shape: of the image, (event, scan, z, y, x).
    """

    index: Array
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def entries(self) -> int:
        """Of one scan in the table; the last one is what lies beside the volume."""
        return math.prod(self.shape[2:]) + 1

    @property
    def inside(self) -> Bool[Array, " table"]:
        """Whether an entry is a voxel."""
        here = jnp.arange(self.entries) < self.entries - 1
        return jnp.tile(here, math.prod(self.shape[:2]))

    def added(self, values: Array) -> Float[Array, " table"]:
        """Sums over muons and layers; values broadcast to (layer, track)."""
        table = jnp.zeros(math.prod(self.shape[:2]) * self.entries, values.dtype)
        values = jnp.broadcast_to(values, self.index.shape)
        return table.at[self.index].add(values, mode="promise_in_bounds")

    def image(self, table: Float[Array, " table"]) -> Float[Array, "event scan z y x"]:
        """The table's voxels."""
        return table.reshape(*self.shape[:2], -1)[..., :-1].reshape(self.shape)


def _crossed(grid: Grid, x: Scatters) -> _Voxels:
    """The voxels on the lines of all muons: the unseen ones have weight 0."""
    line = Line(x.top, (x.top - x.bottom) / grid.size[2])
    events, scans = x.weight.shape[:2]
    index = table_entry(grid, line) + first_entries(grid, events, scans)
    index = jnp.moveaxis(index, 2, 0).reshape(grid.shape[0], -1)
    return _Voxels(index, (events, scans, *grid.shape))


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
        amount = x.weight * (x.angle_squared / 2 - noise)
        amount = amount / scattering_strength(x.momentum)
        least = self.smallest * jnp.array(self.grid.voxel)[:, None]
        scattered = sums_at_points(
            self.grid, amount[..., None, :], x.point, x.point_variance + least**2
        )
        voxels = _crossed(self.grid, x)
        length = x.weight * x.secant * self.grid.voxel[2]
        path, count = (
            voxels.image(voxels.added(v.reshape(-1))) for v in (length, x.weight)
        )
        # an unseen voxel holds nothing: a path of 1 mm keeps the ratio finite
        return Image(jnp.maximum(scattered[..., 0, :, :, :], 0) / (path + 1e-3), count)


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
        grid, voxels = self.grid, _crossed(self.grid, x)
        layers = grid.shape[0]
        after = jnp.arange(layers - 1, -1, -1, dtype=x.secant.dtype)
        # W_iv: of a voxel of length 1, times powers of the length. Products of matrices
        # here: XLA would sum over layers once for each use of a sum.
        levers = jnp.stack([jnp.ones_like(after), *exit_levers(after, 1.0)])
        # (xy, track) and (track,)
        angle, shift, angle_variance, covariance, shift_variance = (
            jnp.moveaxis(v, 2, 0).reshape(2, -1)
            for v in (
                x.angle,
                x.shift,
                x.angle_variance,
                x.covariance,
                x.shift_variance,
            )
        )
        length = (x.secant * grid.voxel[2]).reshape(-1)
        powers = jnp.stack([length, length**2, length**3])
        strength = scattering_strength(x.momentum).reshape(-1)
        weight = (x.weight * (x.momentum > self.slowest)).reshape(-1)

        def step(density: Array, _: None) -> tuple[Array, None]:
            met = density.at[voxels.index].get(mode="promise_in_bounds")
            sums = jnp.tensordot(levers, met, 1, precision=EXACT) * powers
            c2 = strength * log_correction(sums[0]) ** 2
            # both projections see the same voxels
            v_theta, v_cross, v_y = (
                spread((c2 * moment)[None], 0, 2) + error
                for moment, error in zip(
                    sums, (angle_variance, covariance, shift_variance), strict=True
                )
            )
            det = v_theta * v_y
            det = jnp.maximum(det - v_cross**2, 1e-5 * det)  # rounding, in float32
            a = (v_y * angle - v_cross * shift) / det
            b = (v_theta * shift - v_cross * angle) / det

            def summed(*form: Array) -> Array:
                """f_1 W_11 + f_2 W_12 + f_3 W_22 of all muons, for each voxel."""
                both = jnp.concatenate([total(f, 0) for f in form])
                amounts = weight * c2 * both * powers
                return voxels.added(
                    jnp.tensordot(levers.T, amounts, 1, precision=EXACT)
                )

            # a value for what lies beside, where the map holds 0
            safe = jnp.where(inside, density, 1.0)
            up = summed(a**2, 2 * a * b, b**2) + self.prior * self.typical / safe**2
            down = summed(v_y / det, -2 * v_cross / det, v_theta / det)
            down = down + self.prior / safe
            return jnp.where(inside, safe * jnp.sqrt(up / down), 0.0), None

        inside = voxels.inside
        density = jnp.where(inside, jnp.asarray(self.typical, x.secant.dtype), 0.0)
        density, _ = jax.lax.scan(
            jax.checkpoint(step), density, None, length=self.iterations
        )
        count = voxels.added(x.weight.reshape(-1))
        return Image(voxels.image(density), voxels.image(count))
