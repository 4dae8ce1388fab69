"""What stands in the portal: masses, walls, levels; files."""

import jax
import numpy as np
import pytest

from kythera import errors
from kythera.instruments.muon_portal.scan import Grid
from kythera.instruments.muon_portal.scenes import (
    BlockInBox,
    FileScene,
    LadleFurnace,
    Lorry,
    Scanned,
    SoilWalls,
    default_grid,
    overlap,
    properties,
)
from kythera.physics.materials import material
from kythera.stages.sources.muons import FixedMuons

GRID = default_grid()
SCENES = [
    BlockInBox(GRID),
    Lorry(GRID),
    SoilWalls(GRID),
    LadleFurnace(Grid((10, 10, 10), (2.0, 2.0, 2.0))),
]


def draw(scene, seed):
    u = np.random.default_rng(seed).uniform(size=scene.numbers)
    return scene(u.astype("f4"))


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: type(s).__name__)
def test_voxels_are_physical(scene):
    for seed in range(4):
        drawn = draw(scene, seed)
        assert drawn.inverse_x0.shape == (scene.scans, *scene.grid.shape)
        for field in (drawn.inverse_x0, drawn.stopping):
            assert np.all(np.isfinite(field))
            assert np.all(field >= 0)
        heaviest = max(properties("uranium")[0, 0], properties("lead")[0, 0])
        assert np.all(drawn.inverse_x0 <= heaviest * 1.001)


def test_overlap_keeps_the_volume():
    rng = np.random.default_rng(1)
    for _ in range(5):
        sides = rng.uniform(0.1, 1.0, 3)
        centre = rng.uniform(-0.5, 0.5, 3)
        share = np.asarray(overlap(GRID, centre, sides))
        assert share.sum() * np.prod(GRID.voxel) == pytest.approx(
            np.prod(sides), rel=1e-4
        )
        middles = [
            (np.arange(n) + 0.5 - n / 2) * s / n
            for n, s in zip(GRID.shape, reversed(GRID.size))
        ]
        found = np.einsum("zyx,z->", share, middles[0]) / share.sum()
        if abs(centre[2]) + sides[2] / 2 < GRID.size[2] / 2:
            assert found == pytest.approx(centre[2], abs=GRID.voxel[2] / 2)


@pytest.mark.parametrize("seed", range(3))
def test_mass_of_the_hidden_cube(seed):
    # a bare lorry: the difference of the variants is the cube in air
    scene = Lorry(GRID, boxes=0, walls=0.0)
    drawn = draw(scene, seed)
    metal, air = properties("uranium")[0, 0], properties("air")[0, 0]
    share = (drawn.inverse_x0[1] - drawn.inverse_x0[0]) / (metal - air)
    volume = float(np.sum(share)) * np.prod(GRID.voxel)
    mass = volume * float(material("uranium").density)
    assert mass == pytest.approx(float(drawn.target["mass"]), rel=1e-3)
    assert scene.lightest <= mass * 1.001
    assert mass <= scene.heaviest * 1.001


def test_variants_differ_only_where_something_hides():
    drawn = draw(Lorry(GRID), 5)
    changed = np.abs(drawn.inverse_x0[1] - drawn.inverse_x0[0]) > 1e-4
    assert 1 <= changed.sum() <= 27  # a cube of 60 kg has a side of 15 cm


def test_walls_of_the_lorry():
    drawn = draw(Lorry(GRID, boxes=0), 2)
    field = np.asarray(drawn.inverse_x0[0])
    air, steel = (properties(name)[0, 0] for name in ("air", "steel"))
    assert field[6, 6, 10] == pytest.approx(air, rel=0.02)  # rounding
    wall = air + (steel - air) * 3e-3 / 0.2  # 3 mm in a voxel of 20 cm
    for place in ((0, 6, 10), (-1, 6, 10), (6, 0, 10), (6, -1, 10), (6, 6, 0)):
        assert field[place] == pytest.approx(wall, rel=1e-3)


def test_level_of_the_ladle():
    grid = Grid((20, 5, 5), (2.0, 2.0, 2.0))
    scene = LadleFurnace(grid)
    for seed in range(4):
        drawn = draw(scene, seed)
        column = np.asarray(drawn.inverse_x0[0, :, 2, 2])
        steel, slag, air, shell = (
            properties(name)[0, 0] for name in ("liquid_steel", "slag", "air", "steel")
        )
        depth = (column.sum() - 1 * shell) * grid.voxel[2]  # floor of 10 cm: one voxel
        level = float(drawn.target["level"]) + 1.0 - scene.walls
        rest = 2.0 - scene.walls - scene.slag - level
        expected = level * steel + scene.slag * slag + rest * air
        assert depth == pytest.approx(expected, rel=2e-3)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    field = rng.uniform(0, 5, (2, 3, 4))
    return {
        "inverse_x0": field,
        "density": 1e3 * field,
        "size": np.array([4.0, 3.0, 2.0]),
    }


def test_scene_of_a_file(tmp_path, arrays):
    path = tmp_path / "scene.npz"
    np.savez(path, **arrays)
    scene = FileScene(path)
    assert scene.grid == Grid((2, 3, 4), (4.0, 3.0, 2.0))
    drawn = draw(scene, 0)
    np.testing.assert_allclose(drawn.inverse_x0[0], arrays["inverse_x0"], rtol=1e-6)
    rock = properties("standard_rock")[0, 1] / float(material("standard_rock").density)
    np.testing.assert_allclose(drawn.stopping[0], arrays["density"] * rock, rtol=1e-4)
    scan = Scanned(scene=scene, muons=FixedMuons((4.0, 3.0, 2.0)), count=5)(
        3, key=jax.random.key(1)
    )
    assert scan.inverse_x0.shape == (3, 1, 2, 3, 4)
    assert scan.x.shape == (3, 5)


def lacks(arrays):
    del arrays["density"]
    return "lacks density"


def other_shape(arrays):
    arrays["density"] = arrays["density"][:1]
    return "one shape"


def flat(arrays):
    arrays["inverse_x0"] = arrays["density"] = np.ones((3, 4))
    return "one shape"


def negative(arrays):
    arrays["inverse_x0"][1, 2, 3] = -1.0
    return "-1.0 at voxel (1, 2, 3)"


def not_finite(arrays):
    arrays["density"][0, 1, 2] = np.nan
    return "nan at voxel"


def wrong_size(arrays):
    arrays["size"] = np.ones(2)
    return "three lengths"


def no_volume(arrays):
    arrays["size"] = np.array([1.0, 0.0, 1.0])
    return "positive length"


@pytest.mark.parametrize(
    "spoil", [lacks, other_shape, flat, negative, not_finite, wrong_size, no_volume]
)
def test_bad_files_are_refused(tmp_path, arrays, spoil):
    words = spoil(arrays)
    path = tmp_path / "scene.npz"
    np.savez(path, **arrays)
    with pytest.raises(errors.InputError) as refusal:
        FileScene(path)
    assert words in str(refusal.value)
    assert str(refusal.value).rstrip().endswith(".")


def test_missing_and_broken_files(tmp_path, arrays):
    with pytest.raises(errors.InputError, match="no file"):
        FileScene(tmp_path / "none.npz")
    path = tmp_path / "scene.npz"
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.InputError, match="cut short"):
        FileScene(path)


def test_muons_must_be_drawn_for_the_scene():
    with pytest.raises(errors.InputError, match="Use one size"):
        Scanned(scene=SCENES[0], muons=FixedMuons((1.0, 1.0, 1.0)), count=5)
    with pytest.raises(errors.InputError, match="at least one muon"):
        Scanned(scene=SCENES[0], muons=FixedMuons(GRID.size), count=0)
