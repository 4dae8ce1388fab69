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


# It turns to the left at each corner, twice around.
STAR = ((3.0, 0.0), (-2.4, 1.8), (0.9, -2.9), (0.9, 2.9), (-2.4, -1.8))
# With three copies only a hexagon about the origin is left of it.
ASIDE = ((-60.0, -60.0), (300.0, -60.0), (300.0, 300.0), (-60.0, 300.0))


def outside(corners, layout):
    """How far the farthest unit, copies included, is outside of a polygon, m."""
    begin = np.array(corners)
    edge = np.roll(begin, -1, 0) - begin
    x, y = (
        np.asarray(v, float)[:, None] - b for v, b in zip(layout.positions, begin.T)
    )
    left = edge[:, 0] * y - edge[:, 1] * x
    return -np.min(left / np.hypot(*edge.T))


@pytest.mark.parametrize("symmetry", [2, 3, 4])
def test_copies_stay_in_the_site(symmetry):
    x, y = jnp.asarray(np.random.default_rng(1).normal(0, 60, (2, 5)), float)
    layout, site = Layout(x, y, symmetry=symmetry), Site(ASIDE)
    assert outside(ASIDE, layout) > 10
    done = jax.jit(site)(layout)
    assert outside(ASIDE, done) < 1e-3
    assert closest(done) > 2 * layout.radius - 0.01
    design.check_layout(done, site)
    # A point of the site that is at its border only for a copy is the nearest one.
    one = Layout(jnp.array([100.0]), jnp.array([0.0]), symmetry=2)
    np.testing.assert_allclose([site(one).x[0], site(one).y[0]], [60, 0], atol=1e-3)


def test_copies_outside_of_the_site_are_refused():
    corners = "-20 -20, 200 -20, 200 200, -20 200"
    with pytest.raises(
        errors.InputError, match="a copy of unit .* outside of the site"
    ):
        air_shower_array.problem(units=3, symmetry=3, radius=100, corners=corners)
    corners = "20 20, 200 20, 200 200, 20 200"
    with pytest.raises(errors.InputError, match="symmetry of 3 .* the origin inside"):
        air_shower_array.problem(units=6, symmetry=3, radius=100, corners=corners)
    with pytest.raises(errors.InputError, match="the origin inside"):
        Site(((20.0, 20.0), (90.0, 20.0), (90.0, 90.0)))(
            Layout(*jnp.ones((2, 1)), 19, 2)
        )


def test_sites_without_room_are_refused_and_give_no_number(tmp_path):
    corners = ((-10.0, -5.0), (10.0, -5.0), (0.0, 12.0))
    x = jnp.array([0.0, 3.0, -3.0, 1.0, 2.0])
    crowd, site = Layout(x, x[::-1]), Site(corners)
    for project in (site, jax.jit(site)):
        done = project(crowd)
        assert np.all(np.isnan(done.x))
        assert np.all(np.isnan(done.y))
    with pytest.raises(errors.InputError, match="no more than 3 fit .* there are 5"):
        design.check_layout(crowd, site)
    with pytest.raises(errors.InputError, match="unit 0 is at .nan, nan. m"):
        design.check_layout(done, site)
    with pytest.raises(errors.InputError, match="no more than 3 fit .* there are 5"):
        air_shower_array.problem(units=5, radius=5, corners="-10 -5, 10 -5, 0 12")
    # What fits is placed: three in the corners of a triangle of 20 m.
    three = Layout(jnp.array([-9.0, 9.0, 0.0]), jnp.array([-4.0, -4.0, 1.0]))
    design.check_layout(site(three), site)


def test_oler_allows_what_can_be_built():
    # 6 x 6 units on a grid just as wide as they need, and as many as fit in a hexagon.
    step = 2 * Layout(jnp.zeros(1), jnp.zeros(1)).radius
    at = step * (np.arange(6) - 2.5)
    x, y = (jnp.asarray(v.ravel(), float) for v in np.meshgrid(at, at))
    end = 2.5 * step
    square = ((-end, -end), (end, -end), (end, end), (-end, end))
    design.check_layout(Layout(x, y), Site(square))
    turn = 2 * np.pi * np.arange(6) / 6
    ring = np.append(step * np.cos(turn), 0.0), np.append(step * np.sin(turn), 0.0)
    hexagon = tuple((float(a), float(b)) for a, b in zip(*ring))[:6]
    full = Layout(*(jnp.asarray(v, float) for v in ring))
    design.check_layout(full, Site(hexagon))  # 7, and no more than 7
    with pytest.raises(errors.InputError, match="no more than 7 fit"):
        design.check_layout(Layout(*jnp.zeros((2, 8))), Site(hexagon))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: design.rings(0), "`tanks` must be a whole number >= 1, but is 0"),
        (lambda: design.spiral(9, 100.0, -3), "`tanks` .* but is -3"),
        (lambda: design.spiral("5", 100.0), "`units` .* but is '5'"),
        (lambda: design.spiral(9, -100.0), "`radius` .* > 0 m .* but is -100"),
        (lambda: design.spiral(9, float("nan")), "`radius` .* but is nan"),
        (lambda: design.spiral(9, "100"), "`radius` .* but is '100'"),
        (lambda: design.spiral(9, 100.0, symmetry=0), "`symmetry` .* but is 0"),
        (lambda: Layout(jnp.zeros(1), jnp.zeros(1), 2.5), "`tanks` .* but is 2.5"),
        (lambda: air_shower_array.problem(symmetry=0), "`symmetry` .* but is 0"),
        (lambda: Site(SQUARE[::-1]), "counter-clockwise, but are"),
        (lambda: Site(SQUARE[:2]), "convex polygon"),
        (lambda: Site("abc"), "convex polygon"),
        (lambda: Site(STAR), "convex polygon"),
        (
            lambda: design.check_layout(Layout(jnp.zeros(2), jnp.zeros(3)), Site()),
            r"shapes are \(2,\) and \(3,\)",
        ),
        (
            lambda: design.check_layout(
                Layout(jnp.array([0.0, jnp.nan]), jnp.array([5.0, 7.0])), Site()
            ),
            "unit 1 is at .nan, 7. m",
        ),
    ],
)
def test_numbers_that_make_no_layout_are_refused(call, match):
    with pytest.raises(errors.InputError, match=match):
        call()


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
    for costs in (-1.0, float("nan")):
        with pytest.raises(errors.InputError, match="`costs` must be >= 0"):
            air_shower_array.problem(costs=costs)
    with pytest.raises(errors.InputError, match="`rounds` must be a whole number >= 1"):
        air_shower_array.problem(rounds=0)
    with pytest.raises(errors.InputError, match="no layout"):
        air_shower_array.problem(layout=str(tmp_path / "none.txt"))
