"""A map of radiation lengths by inverting the formula of multiple scattering."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Trace
from kythera.core.safe import safe_sqrt
from kythera.core.short_axes import total
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Portal
from kythera.instruments.muon_portal.imaging import sums_at_points
from kythera.instruments.muon_portal.reconstruction import Scatters
from kythera.instruments.muon_portal.scan import Grid
from kythera.physics.scattering import log_correction, scattering_strength
from kythera.units import m

ITERATIONS = (
    6  # of t <- s / F(t)^2, which gains a digit in each: |dt/t| shrinks by 0.08
)


class X0Map(AbstractStage[Portal, Scatters, Array]):
    """Radiation length of each voxel from the mean square angle of the muons in it.

    Muon i is in voxel v with the share K_iv of its closest approach's Gaussian (x, y, z
    apart), and is seen with probability w_i. Squares are averaged with the weights

        W_iv = w_i K_iv / (4 theta_i^2 sigma_i^2),

    the inverse variance of theta_i^2 (theta the deflection in space, and likewise the
    zenith angle). With s_v = (1/2) <theta^2>_v <(beta p / 13.6 MeV)^2>_v the voxel holds t
    radiation lengths, t (1 + 0.038 ln t)^2 = s, on a path of its height over the cosine of
    the mean zenith angle.

    Such a map is biased: weights 1 / theta^2 favour muons that scattered little, a point
    stands for the whole path, and the resolution is not subtracted. With `log=False`,
    t = s, it is that of TomOpt (G. C. Strong et al.); the likelihood image does better.

    Args:
        grid: the voxels.
        log: invert the logarithm of the formula, too.
        floor: angle below which a weight rises no more, rad: theta^2 + floor^2 stands for
            theta^2 in W. The sum of 1 / theta^2 diverges slowly (logarithmically) without.
    """

    grid: Grid
    log: bool = eqx.field(static=True, default=True)
    floor: float = 0.25e-3
    references: ClassVar[tuple[str, ...]] = (
        "G. C. Strong et al., TomOpt: differential optimisation for task- and "
        "constraint-aware design of particle detectors in the context of muon "
        "tomography, Mach. Learn.: Sci. Technol. 5 (2024) 035002",
    )

    def __call__(
        self, design: Portal, x: Scatters, *, key: Key
    ) -> Float[Array, "event scan z y x"]:
        """X0 of each voxel, m."""
        noise = total(x.angle_variance, 2)[:, :, 0] / 2
        zenith2 = jnp.arctan(safe_sqrt(x.secant**2 - 1)) ** 2
        along = total(x.angle**2 * x.angle_variance, 2)[:, :, 0]
        by_angle = x.weight / (4 * (along + noise * self.floor**2))
        by_zenith = x.weight / (4 * noise * (zenith2 + self.floor**2))
        lengths_per_angle2 = 1 / scattering_strength(x.momentum)
        amounts = jnp.stack(
            [
                by_angle,
                by_angle * x.angle_squared,
                by_zenith,
                by_zenith * zenith2,
                x.weight,
                x.weight * lengths_per_angle2,
            ],
            -2,
        )
        # only ratios matter; a common scale keeps float32 in range
        largest = jnp.max(amounts[..., ::2, :], -1, keepdims=True)
        amounts = amounts / jax.lax.stop_gradient(jnp.repeat(largest, 2, -2) + 1e-30)
        sums = sums_at_points(self.grid, amounts, x.point, x.point_variance)
        # a voxel without muons shows the mean of all
        sums = sums + 1e-15 * jnp.sum(amounts, -1)[..., None, None, None]
        angle2, zenith2, lengths_per_angle2 = (
            sums[..., 2 * i + 1, :, :, :] / sums[..., 2 * i, :, :, :] for i in range(3)
        )
        path = self.grid.voxel[2] / jnp.cos(safe_sqrt(zenith2))
        thickness = seen = angle2 / 2 * lengths_per_angle2
        if self.log:
            for _ in range(ITERATIONS):
                thickness = seen / log_correction(thickness) ** 2
        return path / thickness


class VoxelX0Error(PerEventLoss):
    """Mean over voxels of the squared error of the radiation length, m^2.

    The inference must give X0 of each voxel (`X0Map`). Light materials, of long X0, rule
    this loss: of lead in beryllium the lead hardly counts.

    Args:
        longest: true X0 beyond which a voxel counts as this, m (vacuum has no end).
    """

    longest: float = 1000 * m

    def loss(self, design: Portal, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The one term, "x0"."""
        true = 1 / jnp.maximum(trace.truth.inverse_x0, 1 / self.longest)
        return {"x0": jnp.mean((trace.result - true) ** 2, (1, 2, 3, 4))}
