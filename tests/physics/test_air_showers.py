"""Densities of air showers against values of SWGOLO's own code."""

import jax.numpy as jnp
import numpy as np
import pytest

from kythera.errors import PhysicsWarning
from kythera.physics import air_showers
from kythera.physics.air_showers import PeV
from kythera.units import deg

R = jnp.array([10.0, 50.0, 100.0, 300.0, 1000.0])
# SWGOLO's formulas at theta = 20 degrees, per m2, to the digits given: {E: (eg, mg, ep, mp)}.
CHECK = {
    0.1: (
        (102, 4.80, 0.812, 0.0226, 1.09e-4),
        (2.57e-3, 6.17e-4, 2.55e-4, 3.92e-5, 1.99e-6),
        (68.6, 5.52, 1.32, 0.0773, 1.25e-3),
        (0.070, 0.0166, 6.83e-3, 1.03e-3, 5.1e-5),
    ),
    1.0: (
        (694, 39.7, 8.12, 0.371, 4.64e-3),
        (0.0275, 6.86e-3, 2.92e-3, 4.79e-4, 2.75e-5),
        (379, 25.6, 5.72, 0.309, 4.84e-3),
        (0.487, 0.113, 0.0454, 6.55e-3, 2.97e-4),
    ),
    10.0: (
        (7560, 294, 49.4, 1.59, 0.0128),
        (0.631, 0.127, 0.046, 5.16e-3, 1.48e-4),
        (4630, 253, 50.9, 2.31, 0.0297),
        (4.02, 0.906, 0.358, 0.0495, 2.07e-3),
    ),
}


@pytest.mark.parametrize("energy", CHECK)
def test_densities_are_those_of_swgolo(energy):
    arguments = jnp.array(energy * PeV), jnp.array(20 * deg)
    found = [
        *air_showers.gamma(*arguments).densities(R),
        *air_showers.proton(*arguments).densities(R),
    ]
    for mine, theirs in zip(found, CHECK[energy], strict=True):
        # Two or three digits are given.
        np.testing.assert_allclose(mine, theirs, rtol=0.011)


def test_mixed_showers_are_one_or_the_other():
    arguments = jnp.array([1 * PeV, 1 * PeV]), jnp.array([0.3, 0.3])
    both = air_showers.mixed(jnp.array([1.0, 0.0]), *arguments)
    gamma, proton = air_showers.gamma(*arguments), air_showers.proton(*arguments)
    assert both.slope[0] == gamma.slope[0] != proton.slope[0] == both.slope[1]


def test_distance_and_time_of_an_inclined_shower():
    # A shower along x at 60 degrees: 100 m along x are 50 m across, 100 m along y stay.
    log, time = air_showers.axis_distance(
        jnp.array([100.0, 0.0]), jnp.array([0.0, 100.0]), jnp.pi / 3, 0.0
    )
    np.testing.assert_allclose(jnp.exp(log), [50, 100], rtol=1e-5)
    np.testing.assert_allclose(time, [100 * np.sin(np.pi / 3) / 0.29979, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("energy", "theta", "words"),
    [(0.05, 0.3, "0.1 and 10 PeV.*0.05"), (1.0, 70 * deg, "0 to 65 degrees.*70")],
)
def test_showers_outside_the_range_warn(energy, theta, words):
    with pytest.warns(PhysicsWarning, match=words):
        profile = air_showers.proton(jnp.array(energy * PeV), jnp.array(theta))
    assert all(jnp.all(jnp.isfinite(v)) for v in profile.densities(R))
