"""A block of lead in beryllium: how right each image is, and that the fit climbs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.compilation import jit
from kythera.core.pipeline import Trace
from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.imaging import LikelihoodImage, PocaImage, slices
from kythera.instruments.muon_portal.reconstruction import Scatters, TrackFits
from kythera.instruments.muon_portal.scan import Grid, Scan
from kythera.instruments.muon_portal.simulator import Line, SoftPortal, voxel_index
from kythera.instruments.muon_portal.x0_map import VoxelX0Error, X0Map
from kythera.physics.kinematics import velocity
from kythera.physics.scattering import log_correction
from kythera.stages.sources.muons import FixedMuons

GRID = Grid((6, 10, 10), (1.0, 1.0, 0.6))
LEAD, BERYLLIUM = 1 / 0.005612, 1 / 0.3528  # 1/m
BLOCK = (slice(2, 4), slice(3, 7), slice(3, 7))
MUONS = 20_000
PORTAL = Portal(
    *(
        Panels(z, span_1=3.0, span_2=3.0, resolution=1e-4, radiation_lengths=0.0)
        for z in ((0.9, 0.7, 0.5, 0.4), (-0.4, -0.5, -0.7, -0.9))
    )
)
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def scan():
    density = np.full((1, 1, *GRID.shape), BERYLLIUM)
    density[(..., *BLOCK)] = LEAD
    field = jnp.asarray(density, float)
    drawn = FixedMuons(GRID.size, 3.0, 0.6)(MUONS, key=jax.random.key(2))
    rows = [v[None] for v in drawn]
    return Scan(field, 0 * field, *rows, jnp.ones((1, MUONS)), {})


@pytest.fixture(scope="module")
def found(scan):
    hits = jit(lambda x: SoftPortal(GRID)(PORTAL, x, key=KEY))(scan)
    return jit(lambda h: TrackFits(GRID)(PORTAL, h, key=KEY))(hits)


def block(image) -> tuple[float, float]:
    """Density of the block and of what is a voxel or more away from it, 1/m."""
    away = np.ones(GRID.shape, bool)
    away[1:5, 2:8, 2:8] = False
    density = np.asarray(image)[0, 0]
    return density[BLOCK].mean(), density[away].mean()


def test_images_of_a_known_block(found):
    poca = block(jit(lambda x: PocaImage(GRID)(PORTAL, x, key=KEY).density)(found))
    fit = LikelihoodImage(GRID, iterations=30)
    likely = block(jit(lambda x: fit(PORTAL, x, key=KEY).density)(found))
    # 178 and 2.83 per m are true. Points give 201 and 2.37 (+13% and -16%: what scatters
    # little is swept up by the block), the fit 164 and 2.74 (-8% and -3%)
    assert abs(likely[0] / LEAD - 1) < abs(poca[0] / LEAD - 1)
    assert abs(likely[1] / BERYLLIUM - 1) < abs(poca[1] / BERYLLIUM - 1)
    assert likely[0] == pytest.approx(LEAD, rel=0.3)


def log_likelihood(x, density: np.ndarray, factor: np.ndarray, fit) -> float:
    """Of all muons under the map, with the prior, in float64."""
    line = Line(x.top, (x.top - x.bottom) / GRID.size[2])
    index, inside = (np.asarray(v, float) for v in voxel_index(GRID, line))
    length = np.asarray(x.secant, float)[:, :, None] * GRID.voxel[2]
    after = np.arange(5, -1, -1)[:, None] * length
    met = density.ravel()[index.astype(int)] * inside
    sums = [
        np.sum(met * w, 2)
        for w in (
            length,
            length * (after + length / 2),
            length * (after * (after + length) + length**2 / 3),
        )
    ]
    total = 0.0
    for axis in (0, 1):
        theta, y, v_theta, v_y, cross = (
            np.asarray(getattr(x, name), float)[:, :, axis]
            for name in (
                "angle",
                "shift",
                "angle_variance",
                "shift_variance",
                "covariance",
            )
        )
        a, b, c = (factor * s + e for s, e in zip(sums, (v_theta, cross, v_y)))
        det = a * c - b**2
        square = (c * theta**2 - 2 * b * theta * y + a * y**2) / det
        total -= np.sum(np.asarray(x.weight) * (np.log(det) + square)) / 2
    prior = np.log(density) + fit.typical / density
    return total - fit.prior * np.sum(prior) / 2


def test_likelihood_never_falls(found, monkeypatch):
    # at a fixed logarithmic factor, which is otherwise taken from the map before
    import kythera.instruments.muon_portal.imaging as imaging

    monkeypatch.setattr(imaging, "log_correction", lambda t: 0 * t + 1.05)
    scale = 13.6e-3 / (velocity(found.momentum) * found.momentum)
    factor = np.asarray((1.05 * scale) ** 2, float)
    values = []
    for iterations in (1, 2, 3, 4, 6, 8):
        fit = LikelihoodImage(GRID, iterations=iterations)
        image = np.asarray(fit(PORTAL, found, key=KEY).density, float)[0, 0]
        assert np.all(image > 0)
        values.append(log_likelihood(found, image, factor, fit))
    assert np.all(np.diff(values) > -1e-3 * abs(values[-1] - values[0]))
    assert values[-1] > values[0]


def test_shares_of_a_gaussian_sum_to_its_part_inside():
    place, variance = jnp.array([0.0, 0.29, 5.0]), jnp.array([1e-4, 1e-2, 1e-4])
    shares = slices(place, variance, 0.6, 6)
    np.testing.assert_allclose(shares.sum(0)[0], 1, atol=1e-5)
    assert 0.5 < shares.sum(0)[1] < 0.6
    assert shares.sum(0)[2] == 0


def test_map_of_radiation_lengths_inverts_the_formula(found):
    # every muon at the middle of one voxel, alike: X0 is what Highland's formula says
    voxel = (3, 5, 5)
    middle = [
        (v + 0.5 - n / 2) * s / n for v, n, s in zip((5, 5, 3), (10, 10, 6), GRID.size)
    ]
    one, angle, momentum = jnp.ones((1, 1, 50)), 8e-3, 4.0
    like = jax.tree.map(lambda v: 0 * v[..., :50], found)

    alike = dataclasses.replace(
        like,
        angle=jnp.stack([angle * one, 0 * one], 2),
        angle_variance=jnp.full((1, 1, 2, 50), 1e-6),
        point=jnp.stack([v * one for v in middle], 2),
        point_variance=jnp.full((1, 1, 3, 50), 1e-6),
        secant=1.0 * one,
        weight=one,
        momentum=momentum * one,
    )
    beta = float(velocity(jnp.asarray(momentum)))
    seen = (angle / (13.6e-3 / (beta * momentum))) ** 2 / 2
    x0 = X0Map(GRID, log=False)(PORTAL, alike, key=KEY)[0, 0]
    assert float(x0[voxel]) == pytest.approx(0.1 / seen, rel=1e-4)
    x0 = X0Map(GRID)(PORTAL, alike, key=KEY)[0, 0]
    t = 0.1 / float(x0[voxel])
    assert t * float(log_correction(t)) ** 2 == pytest.approx(seen, rel=1e-4)


def test_error_of_the_map(scan):
    true = 1 / scan.inverse_x0
    trace = Trace(scan, None, None, true + 0.1)
    assert float(VoxelX0Error().loss(PORTAL, trace)["x0"][0]) == pytest.approx(
        0.01, rel=1e-3
    )


def test_each_scan_has_an_image_of_its_own():
    """Two rows of two scans, some muons leaving by a side, against one scan at a time."""
    keys = jax.random.split(jax.random.key(7), 12)
    lead = (2, 2)

    def normal(i: int, *shape: int, scale: float = 1.0):
        return scale * jax.random.normal(keys[i], (*lead, *shape, 300))

    x = Scatters(
        angle=normal(0, 2, scale=0.02),
        shift=normal(1, 2, scale=0.01),
        angle_variance=1e-5 + normal(2, 2, scale=1e-3) ** 2,
        shift_variance=1e-5 + normal(3, 2, scale=1e-3) ** 2,
        covariance=jnp.zeros((*lead, 2, 300)),
        point=normal(4, 3, scale=0.3),
        point_variance=1e-3 + normal(5, 3, scale=0.1) ** 2,
        top=normal(6, 2, scale=0.4),
        bottom=normal(7, 2, scale=0.4),
        secant=1 + normal(8, scale=0.2) ** 2,
        weight=jax.random.uniform(keys[9], (*lead, 300)),
        momentum=2 + normal(10) ** 2,
    )
    for image in map(eqx.filter_jit, (PocaImage(GRID), LikelihoodImage(GRID, 3))):
        whole = image(PORTAL, x, key=KEY)
        for row, scan in np.ndindex(lead):
            alone = jax.tree.map(lambda v: v[row : row + 1, scan : scan + 1], x)  # noqa: B023
            part = image(PORTAL, alone, key=KEY)
            for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
                np.testing.assert_allclose(a[row, scan], b[0, 0], rtol=1e-4, atol=1e-4)
