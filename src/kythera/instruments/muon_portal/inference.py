"""From an image to an answer: is something dense hidden, how full is the ladle."""

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.muon_portal.design import Portal
from kythera.instruments.muon_portal.imaging import Image
from kythera.instruments.muon_portal.scan import Grid


class Answer(eqx.Module):
    """One number for each scan, and the image that it comes from.

    Args:
        value: a test statistic, or an estimate in native units, shape (event, scan).
        image: the image.
    """

    value: Float[Array, "event scan"]
    image: Image


class DenseStatistic(AbstractStage[Portal, Image, Answer]):
    """A smooth maximum of the scattering density: large where something dense hides.

    ln of the power mean of all voxels, (1/p) ln mean (density / unit)^p: p = 1 is the mean,
    p -> infinity the maximum. Dimensionless; 0 is a uniform volume of density `unit`.

    Args:
        power: p >= 1.
        unit: 1/m.
    """

    power: float = 8.0
    unit: float = 10.0

    def __call__(self, design: Portal, x: Image, *, key: Key) -> Answer:
        """The statistic of each scan."""
        logs = jnp.log(x.density / self.unit + 1e-6)
        logs = self.power * logs.reshape(*logs.shape[:-3], -1)
        total = jax.nn.logsumexp(logs, axis=-1) - jnp.log(logs.shape[-1])
        return Answer(total / self.power, x)


class FillLevel(AbstractStage[Portal, Image, Answer]):
    """Height of molten steel from the mean density of each layer of voxels.

    Each layer counts as full with the probability that a logistic step gives at half way
    between steel and what is above it; the level is the sum of their heights. Biased by
    the resolution in z: `CalibratedError` takes a linear bias out.

    Args:
        grid: the voxels.
        threshold: density half way, 1/m.
        softness: width of the step, 1/m.
        margin: voxels of the walls that are left out on each side.
    """

    grid: Grid
    threshold: float = 25.0
    softness: float = 5.0
    margin: int = eqx.field(static=True, default=1)

    def __call__(self, design: Portal, x: Image, *, key: Key) -> Answer:
        """Level of each scan, m above the middle of the volume."""
        k = self.margin
        nz, ny, nx = self.grid.shape
        profile = jnp.mean(x.density[..., k : ny - k, k : nx - k], (-2, -1))
        full = jax.nn.sigmoid((profile - self.threshold) / self.softness)
        return Answer(jnp.sum(full, -1) * self.grid.voxel[2] - self.grid.top, x)
