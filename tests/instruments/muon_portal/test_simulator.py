"""Scattering, energy loss and hits of the portal."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.compilation import jit
from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.reconstruction import at_least_two
from kythera.instruments.muon_portal.scan import Grid
from kythera.instruments.muon_portal.scenes import properties
from kythera.instruments.muon_portal.simulator import (
    LOOKS,
    HardPortal,
    Line,
    SoftPortal,
    cross_cargo,
    first_entries,
    path_integrals,
)
from kythera.physics import energy_loss, scattering
from kythera.physics.materials import material

SLOPES = [(0.0, 0.0), (0.7, 0.0), (0.4, -0.5)]


def grid_of(layers: int, height: float = 0.4) -> Grid:
    return Grid((layers, 3, 3), (6.0, 6.0, height))


def bare(z_upper=(0.6, 0.5), z_lower=(-0.5, -0.6), **fields) -> Portal:
    """Panels that see all and scatter nothing."""
    free = {"resolution": 0.0, "radiation_lengths": 0.0, "efficiency": 1.0}
    wide = {"span_1": 50.0, "span_2": 50.0}
    return Portal(*(Panels(z, **(free | wide | fields)) for z in (z_upper, z_lower)))


@jit
def run(simulator, design, scan, key):
    return simulator(design, scan, key=key)


def transverse(scan, hits) -> tuple[np.ndarray, np.ndarray]:
    """Deflection (rad) and displacement (m) in the plane across the first direction.

    Two projections each, shape (2, muon), from exact hits, by vectors in three dimensions.
    """
    points = [
        np.stack([np.asarray(v)[0, 0, arm] for v in (hits.x, hits.y, hits.z)], -1)
        for arm in (0, 1)
    ]
    before, after = (p[0] - p[1] for p in points)  # up along the track
    before, after = (v / np.linalg.norm(v, axis=-1)[:, None] for v in (before, after))
    down = -before
    side = np.cross(down, [0.3, 1.0, 0.1])
    side /= np.linalg.norm(side, axis=-1)[:, None]
    other = np.cross(down, side)
    # where both lines cross the plane through the exit, across the first direction
    exit_z = -0.2
    first = points[0][1]
    at_exit = first + before * ((exit_z - first[:, 2]) / before[:, 2])[:, None]
    last = points[1][0]
    gap = np.sum((at_exit - last) * down, -1) / np.sum(-after * down, -1)
    moved = last - after * gap[:, None] - at_exit
    angles = [np.sum(-after * e, -1) for e in (side, other)]
    shifts = [np.sum(moved * e, -1) for e in (side, other)]
    return np.stack(angles), np.stack(shifts)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("slope", SLOPES)
def test_slab_scatters_as_highland_says(make_scan, getkey, slope):
    n, inverse, momentum = 4000, 5.0, 3.0
    grid = grid_of(4)
    scan = make_scan(grid, inverse, n, slope, momentum)
    hits = run(SoftPortal(grid), bare(), scan, getkey())
    angles, shifts = transverse(scan, hits)
    secant = math.sqrt(1 + slope[0] ** 2 + slope[1] ** 2)
    length = 0.4 * secant
    theta0 = float(scattering.highland(jnp.asarray(length * inverse), momentum))
    error = 1 / math.sqrt(4 * n)  # of a root mean square of 2 n numbers, relative
    rms = [math.sqrt(np.mean(v**2)) for v in (angles, shifts)]
    assert rms[0] == pytest.approx(theta0, rel=4 * error)
    assert rms[1] == pytest.approx(length * theta0 / math.sqrt(3), rel=4 * error)
    correlation = np.corrcoef(angles.ravel(), shifts.ravel())[0, 1]
    tolerance = 4 * (1 - 0.75) / math.sqrt(2 * n)
    assert correlation == pytest.approx(math.sqrt(3) / 2, abs=tolerance)
    assert abs(np.corrcoef(angles)[0, 1]) < 4 / math.sqrt(n)
    assert np.std(angles[0]) == pytest.approx(np.std(angles[1]), rel=8 * error)


@pytest.mark.usefixtures("x64")
def test_layers_of_voxels_do_not_matter(make_scan, getkey):
    key, found = getkey(), []
    for layers in (1, 7):
        grid = grid_of(layers)
        scan = make_scan(grid, 8.0, 200, (0.5, 0.2), 1.0)
        hits = run(SoftPortal(grid), bare(), scan, key)
        found.append(hits.across[:, :, :, 1])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_deflection_pulls_the_exit_to_the_same_side(make_scan, getkey):
    grid = grid_of(1)
    hits = run(SoftPortal(grid), bare(), scan := make_scan(grid, 20.0), getkey())
    exit_x = hits.x[0, 0, 1, 0] - scan.x[0]
    way = hits.x[0, 0, 1, 1] - hits.x[0, 0, 1, 0]  # from upper to lower panel
    assert np.corrcoef(exit_x, way)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "momentum", "height"),
    [("iron", 3.0, 0.2), ("water", 1.0, 1.0), ("lead", 1.0, 0.1), ("iron", 20.0, 1.0)],
)
@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.6, 0.3)])
def test_momentum_left_is_that_of_the_range(
    make_scan, getkey, name, momentum, height, slope
):
    grid = grid_of(10, height)
    _, stopping = properties(name)[0]
    scan = make_scan(grid, 0.0, 2, slope, momentum, stopping)
    simulator = SoftPortal(grid, momentum_resolution=None)
    left = jit(lambda x: momentum_left(simulator, x))(scan)
    secant = math.sqrt(1 + slope[0] ** 2 + slope[1] ** 2)
    exact = energy_loss.momentum_after(momentum, material(name), height * secant)
    assert float(left[0, 0, 0]) == pytest.approx(float(exact.momentum), rel=0.02)


def momentum_left(simulator, scan):
    pairs = (scan.x, scan.y), (scan.slope_x, scan.slope_y)
    line = Line(*(jnp.stack(v, 1)[:, None] for v in pairs))
    normal = jnp.zeros((1, 1, 4, scan.x.shape[1]))
    return cross_cargo(simulator.grid, scan, line, scan.momentum[:, None], normal)[1]


def test_stopped_muons_are_not_seen_below(make_scan, getkey):
    grid = grid_of(5)
    scan = make_scan(grid, 1.0, 20, momentum=0.5, stopping=properties("lead")[0, 1])
    hits = run(HardPortal(grid), bare(), scan, getkey())
    assert np.all(hits.weight[:, :, 0] == 1)
    assert np.all(hits.weight[:, :, 1] == 0)
    for leaf in jax.tree.leaves(hits):
        assert np.all(np.isfinite(leaf))


def test_soft_edges_become_hard_ones(make_scan, getkey):
    grid = grid_of(1)
    design = bare(span_1=0.5, span_2=0.7, efficiency=0.8, tilt_1=0.2)
    scan = make_scan(grid, 1.0, 4000, (0.2, 0.1))
    soft = run(SoftPortal(grid, softness=1e-5), design, scan, getkey())
    hard = run(HardPortal(grid), design, scan, getkey())
    chance, seen = np.mean(soft.weight, -1), np.mean(hard.weight, -1)
    error = np.sqrt(chance * (1 - chance) / 4000)
    assert np.all(np.abs(chance - seen) < 4 * error + 1e-3)
    both, found = (np.prod(at_least_two(h.weight), 2) for h in (soft, hard))
    chance = float(np.mean(both))
    assert 0.02 < chance < 0.6
    error = math.sqrt(chance * (1 - chance) / 4000)
    assert float(np.mean(found)) == pytest.approx(chance, abs=4 * error)


@pytest.mark.parametrize("panels", [1, 2, 4, 5])
def test_at_least_two_is_exact(panels):
    rng = np.random.default_rng(3)
    chance = rng.uniform(0, 1, (5, panels, 6))
    chance[0, 0, 0], chance[0, :, 1], chance[1, :, 1] = 1, 0, 1
    exact = np.zeros((5, 6))
    for pattern in range(2**panels):
        hit = np.array([(pattern >> i) & 1 for i in range(panels)])
        if hit.sum() >= 2:
            exact += np.prod(np.where(hit[:, None], chance, 1 - chance), 1)
    np.testing.assert_allclose(at_least_two(jnp.asarray(chance)), exact, atol=1e-6)


def test_small_chances_of_two_keep_their_digits():
    """In single precision too: 3 p^2 - 2 p^3, where 1 - none - one would be rounding."""
    p = 1e-4
    found = at_least_two(jnp.full((3, 1), p, jnp.float32))
    np.testing.assert_allclose(found, [3 * p**2 - 2 * p**3], rtol=1e-6)


def test_scans_of_a_row_share_their_luck_and_rows_do_not(make_scan, getkey):
    grid = grid_of(1)
    scan = make_scan(grid, 10.0, 50)
    rows = jax.tree.map(lambda v: jnp.concatenate([v, v]), scan)  # the same row twice
    rows = eqx.tree_at(
        lambda s: (s.inverse_x0, s.stopping),
        rows,
        replace_fn=lambda v: jnp.concatenate([v, v], 1),  # and in it the same scan
    )
    portal = bare(resolution=1e-3, efficiency=0.5)
    for simulator in (SoftPortal(grid, momentum_resolution=0.3), HardPortal(grid)):
        hits = run(simulator, portal, rows, getkey())
        for leaf in jax.tree.leaves(hits):
            np.testing.assert_array_equal(leaf[:, 0], leaf[:, 1])
        assert not np.allclose(hits.x[0], hits.x[1])
    assert not np.array_equal(hits.weight[0], hits.weight[1])  # sharp: there or not


def test_each_scan_meets_its_own_cargo(make_scan, getkey):
    """Of two rows with two scans each, and beside the volume nothing."""
    grid = Grid((3, 4, 5), (1.0, 0.8, 0.6))
    scan = make_scan(grid, 0.0, 200)
    density = jax.random.uniform(getkey(), (2, 2, *grid.shape)) + 1
    rows = jax.tree.map(lambda v: jnp.concatenate([v, v]), scan)
    rows = eqx.tree_at(
        lambda s: (s.inverse_x0, s.stopping), rows, (density, 2 * density)
    )
    place = jax.random.uniform(getkey(), (2, 1, 2, 200), minval=-0.5, maxval=0.5)
    slope = jax.random.normal(getkey(), place.shape) / 2
    line = Line(place, slope)
    found, loss = path_integrals(grid, rows, line)
    np.testing.assert_allclose(loss, 2 * found, rtol=1e-6)
    expected = np.zeros((2, 2, 3, 200))
    for layer in range(3):
        for look in range(LOOKS):
            depth = (layer + (look + 0.5) / LOOKS) * 0.2
            x, y = np.moveaxis(np.asarray(place - slope * depth)[:, 0], 1, 0)
            i, j = (
                np.floor(x / 0.2 + 2.5).astype(int),
                np.floor(y / 0.2 + 2).astype(int),
            )
            inside = (i >= 0) & (i < 5) & (j >= 0) & (j < 4)
            i, j = np.clip(i, 0, 4), np.clip(j, 0, 3)
            for row in (0, 1):
                met = np.asarray(density)[row, :, 2 - layer, j[row], i[row]].T
                expected[row, :, layer] += np.where(inside[row], met, 0) / LOOKS
    off = np.abs(found - expected) > 1e-5  # a point within rounding of a voxel's edge
    assert np.mean(off) < 0.01
    assert np.mean(expected[..., -1, :] == 0) > 0.1  # some left by a side


def test_a_table_that_32_bits_cannot_count_is_refused():
    with pytest.raises(errors.InputError, match="smaller `chunk`"):
        first_entries(Grid((100, 100, 100), (1.0, 1.0, 1.0)), 1100, 2)


def test_absent_panels_neither_see_nor_scatter(make_scan, getkey):
    grid = grid_of(1)
    scan = make_scan(grid, 0.0, 50)
    thick = bare(z_upper=(0.7, 0.6, 0.5), radiation_lengths=0.5)
    gone = eqx.tree_at(lambda d: d.upper.present, thick, jnp.array([0.0, 1.0, 0.0]))
    hits = run(HardPortal(grid), gone, scan, getkey())
    assert np.mean(hits.weight[0, 0, 0], -1).tolist() == [0, 1, 0]
    np.testing.assert_allclose(hits.x[0, 0, 0, 0], scan.x[0], atol=1e-6)
    np.testing.assert_allclose(hits.x[0, 0, 0, 1], scan.x[0], atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_panels_scatter_what_is_below_them(make_scan, getkey):
    grid = grid_of(1)
    scan = make_scan(grid, 0.0, 4000, momentum=2.0)
    thick = bare(z_upper=(0.7, 0.5), radiation_lengths=0.04)
    hits = run(SoftPortal(grid), thick, scan, getkey())
    theta0 = float(scattering.highland(jnp.asarray(0.04), 2.0))
    off = np.asarray(hits.x[0, 0, 0] - scan.x[0])
    np.testing.assert_allclose(off[0], 0, atol=1e-9)
    assert np.std(off[1]) == pytest.approx(0.2 * theta0, rel=4 / math.sqrt(8000))
    below = np.asarray(hits.x[0, 0, 1, 0] - scan.x[0])
    lever = theta0 * math.hypot(1.2, 1.0)  # down to z = -0.5
    assert np.std(below) == pytest.approx(lever, rel=4 / math.sqrt(8000))


@pytest.mark.usefixtures("x64")
def test_points_lie_on_tilted_panels(make_scan, getkey):
    grid = grid_of(1)
    scan = make_scan(grid, 0.0, 20, (0.3, -0.2))
    design = bare(tilt_1=0.3, tilt_2=-0.2, resolution=0.01)
    hits = run(SoftPortal(grid), design, scan, getkey())
    for arm, panels in enumerate((design.upper, design.lower)):
        side_1, side_2, normal = (np.asarray(a)[:, :, None] for a in panels.axes)
        place = np.stack([np.asarray(v)[0, 0, arm] for v in (hits.x, hits.y, hits.z)])
        place = place - np.asarray(panels.centre)[:, :, None]
        np.testing.assert_allclose((place * normal).sum(0), 0, atol=1e-9)
        assert np.allclose((side_1 * side_2).sum(0), 0)
        assert np.allclose(np.cross(side_1, side_2, axis=0), normal)
    exact = run(SoftPortal(grid), bare(tilt_1=0.3, tilt_2=-0.2), scan, getkey())
    depth = np.asarray(exact.z[0, 0, 0]) - grid.top
    line = np.asarray(scan.x[0] + scan.slope_x[0] * depth)
    np.testing.assert_allclose(exact.x[0, 0, 0], line, atol=1e-9)


@pytest.mark.parametrize("facing", ["x", "y"])
@pytest.mark.parametrize("place", [-4.0, 4.0])
def test_panels_beside_see_the_arm_on_their_side(make_scan, getkey, facing, place):
    grid = grid_of(1)
    sides = Panels(
        [0.0],
        **{facing: place},
        span_1=50.0,
        span_2=50.0,
        resolution=0.0,
        efficiency=1.0,
        facing=facing,
    )
    design = Portal(bare().upper, bare().lower, sides)
    for sign in (1.0, -1.0):
        slope = (sign, 0.0) if facing == "x" else (0.0, sign)
        scan = make_scan(grid, 0.0, 10, slope)
        hits = run(HardPortal(grid), design, scan, getkey())
        # dr/dz > 0: the muon comes down from the positive side
        first = sign * place > 0
        assert np.all(hits.weight[0, 0, 0, -1] == first)
        assert np.all(hits.weight[0, 0, 1, -1] == (not first))
        met = (hits.x if facing == "x" else hits.y)[0, 0, 0 if first else 1, -1]
        np.testing.assert_allclose(met, place, atol=1e-5)
