"""A telescope of thin planes along a beam: what can be moved."""

import equinox as eqx

from kythera.core.types import Array, Float
from kythera.units import m

LENGTH = 1 * m  # along which the planes may stand


class Telescope(eqx.Module):
    """Parallel planes that each measure one coordinate of a straight track.

    Args:
        z: positions along the beam, m, shape (plane,).
        resolution: standard deviation of a measured coordinate, m.
    """

    z: Float[Array, " plane"]
    resolution: Float[Array, ""]
