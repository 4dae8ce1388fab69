"""Layouts: what may be built, how it is projected, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.instruments import air_shower_array
from kythera.instruments.air_shower_array import design
from kythera.instruments.air_shower_array.design import Layout, Site

SQUARE = ((-100.0, -100.0), (100.0, -100.0), (100.0, 100.0), (-100.0, 100.0))


def closest(layout):
    x, y = (np.asarray(v, float) for v in layout.positions)
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    return np.min(distance + 1e9 * np.eye(x.size))


def test_the_start_is_that_of_the_public_code():
    layout = design.rings()
    assert layout.x.size == 90
    assert layout.area == pytest.approx(68.59 * np.pi)
    # Lines 5 and 90 of its initial_layout.txt.
    np.testing.assert_allclose(
        [layout.x[4], layout.y[4]], [153.2088886, 128.5575219], rtol=1e-5
    )
    radius = np.hypot(layout.x, layout.y)
    np.testing.assert_allclose(radius[[0, -1]], [50, 1000], rtol=1e-5)


@pytest.mark.parametrize("corners", [None, SQUARE])
def test_projected_units_neither_overlap_nor_leave(corners):
    x, y = jnp.asarray(np.random.default_rng(1).normal(0, 60, (2, 40)), float)
    layout = Layout(x.at[:3].set(5.0), y.at[:3].set(5.0))
    site = Site(corners)
    assert closest(layout) < 1e-6  # three units at one point
    done = site(layout)
    assert closest(done) > 2 * layout.radius - 0.01
    design.check_layout(done, site)
    again = site(done)
    np.testing.assert_allclose(again.x, done.x, atol=0.01)


def test_a_layout_that_obeys_is_left_alone_and_has_the_identity_as_derivative():
    layout = design.rings()
    site = Site()
    assert jnp.all(site(layout).x == layout.x)
    slope = jax.grad(lambda x: jnp.sum(site(Layout(x, layout.y)).x ** 2))(layout.x)
    np.testing.assert_allclose(slope, 2 * layout.x, rtol=1e-6)


def test_copies_are_turned_and_stay_apart():
    layout = Layout(jnp.array([3.0, 100.0]), jnp.array([0.0, 0.0]), symmetry=3)
    x, y = layout.positions
    np.testing.assert_allclose(np.hypot(x, y), [3, 100] * 3, rtol=1e-5)
    assert abs(float(jnp.sum(x))) < 1e-3
    assert closest(Site()(layout)) > 2 * layout.radius - 0.01


def test_land_and_cable_of_a_square():
    x, y = (
        jnp.array([0.0, 30.0, 30.0, 0.0, 12.0]),
        jnp.array([0.0, 0.0, 40.0, 40.0, 9.0]),
    )
    layout = Layout(x, y)
    assert design.land(layout) == pytest.approx(1200, rel=1e-5)
    assert design.cable(layout) == pytest.approx(30 + 50 + 40 + 15, rel=1e-5)
    slope = jax.grad(lambda x: design.cable(Layout(x, y)))(x)
    assert jnp.all(jnp.isfinite(slope))  # a unit stands at the origin


def test_what_cannot_be_built_is_refused(tmp_path):
    path = tmp_path / "layout.txt"
    path.write_text("0 0\n10 0\n300 0\n")
    with pytest.raises(errors.InputError, match="Units 0 and 1 overlap.*10 m"):
        air_shower_array.problem(layout=str(path))
    path.write_text("0 0\n300 0\n")
    box = "-100 -100, 100 -100, 100 100, -100 100"
    with pytest.raises(errors.InputError, match="Unit 1 .* 200 m outside of the site"):
        air_shower_array.problem(layout=str(path), corners=box)
    with pytest.raises(errors.InputError, match="counter-clockwise"):
        air_shower_array.problem(corners="0 0, 0 1, 1 0")
    with pytest.raises(errors.InputError, match="'full'"):
        air_shower_array.problem("ful")
    with pytest.raises(errors.InputError, match="multiple of the symmetry"):
        air_shower_array.problem(units=100, symmetry=3)
    with pytest.raises(errors.InputError, match="no layout"):
        air_shower_array.problem(layout=str(tmp_path / "none.txt"))
