"""Straight tracks through planes that measure them and scatter them."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.compilation import jit
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.physics.scattering import layer_variances
from kythera.stages.reconstruction.linear_track import Fit, Hits, smooth
from kythera.units import muon_mass


class LineHits(eqx.Module):
    """What planes across the track measured, in the order of passage.

    Args:
        across: the coordinate measured, m, shape (event, projection, plane).
        z: of the planes, m, shape (plane,); they may run downwards.
        resolution: standard error of the coordinate, m, shape (plane,).
        weight: of each hit, (event, plane): 1, or 0 where it is missing, whatever its
            coordinate is then; between them its precision is less.
        thickness: x/X0 of each plane along the track, (plane,).
        momentum: GeV, (event,).
    """

    across: Float[Array, "event projection plane"]
    z: Float[Array, " plane"]
    resolution: Float[Array, " plane"]
    weight: Float[Array, "event plane"]
    thickness: Float[Array, " plane"]
    momentum: Float[Array, " event"]


class LineTracks(AbstractStage[Any, Any, Fit]):
    """Place and slope of straight tracks, each with its covariance, by `smooth`.

    Each projection is a fit of its own, in y(z) = place + slope (z - z_first); angles are
    small. Everything is differentiable in places of the planes, resolutions, thicknesses
    and weights.

    Args:
        hits: (design, signal) -> `LineHits`.
        mass: of the particle, GeV.

    Returns:
        a `Fit` whose arrays have the axes (event, projection, ...) in front: parameters of
        the line on which the track arrives at each plane, m and slope.
    """

    references: ClassVar[tuple[str, ...]] = (
        "R. Fruehwirth, Application of Kalman filtering to track and vertex fitting, Nucl. "
        "Instrum. Meth. A 262 (1987) 444",
    )
    hits: Callable[[Any, Any], LineHits] = eqx.field(static=True)
    mass: float = muon_mass

    def __call__(self, design: Any, x: Any, *, key: Key) -> Fit:
        """Fits of all events."""
        return _fits(self.hits(design, x), self.mass)


@jit
def _fits(hits: LineHits, mass: float) -> Fit:
    def event(across: Array, weight: Array, momentum: Array) -> Fit:
        variances = layer_variances(hits.thickness, momentum, mass=mass)
        precision = weight / hits.resolution**2
        return jax.vmap(
            lambda own: smooth(line_hits(own, hits.z, precision, variances))
        )(across)

    return jax.vmap(event)(hits.across, hits.weight, hits.momentum)


def line_hits(
    across: Float[Array, " plane"],
    z: Float[Array, " plane"],
    precision: Float[Array, " plane"],
    variances: Float[Array, " plane"],
) -> Hits:
    """One projection of a track, for `smooth` and `least_squares`.

    The parameters are place and slope of the line at the first plane's z. A plane at a
    distance d behind it that turns the track by t changes them by -d t and t.

    Args:
        across: coordinates measured, m.
        z: of the planes, m, in the order of passage.
        precision: weight / sigma^2, 1/m^2.
        variances: of the angles by which the planes turn the track, rad^2.
    """
    along = z - z[0]
    ones = jnp.ones_like(along)
    turned = jnp.stack([-along, ones], -1)
    return Hits(
        residual=across[:, None],
        rows=jnp.stack([ones, along], -1)[:, None],
        precision=precision[:, None],
        noise=variances[:, None, None] * turned[:, :, None] * turned[:, None],
    )
