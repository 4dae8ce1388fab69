"""The portal's problem on every scene, and on scenes and muons of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.compilation import jit
from kythera.instruments import muon_portal
from kythera.instruments.muon_portal import objectives, scenes, x0_map
from kythera.physics.muon_flux import shukla
from kythera.stages.sources.muons import FileMuons

GRID = (2, 3, 4)


@pytest.fixture
def scene(tmp_path):
    """(scans) -> path of a scene of one's own."""

    def make(scans=None):
        shape = GRID if scans is None else (scans, *GRID)
        density = np.full(shape, 1000.0)
        density[..., 0, 1, 2] = 11350.0
        path = tmp_path / "scene.npz"
        np.savez(path, inverse_x0=density / 400, density=density, size=[1.2, 0.9, 0.8])
        return str(path)

    return make


@pytest.fixture
def muon_file(tmp_path):
    rng = np.random.default_rng(1)
    place = {k: rng.uniform(-0.3, 0.3, 50) for k in "xy"}
    path = tmp_path / "muons.npz"
    zero = np.zeros(50)
    np.savez(path, **place, z=zero, px=zero, py=zero, pz=-rng.uniform(2, 9, 50))
    return str(path)


@jit
def loss(problem):
    """At the start, 4 rows."""
    objective, design = problem.objective, problem.space.template
    trace = problem.pipeline(design, 4, key=jax.random.key(1))
    rows = objective.tally(design, trace)
    mean = jax.tree.map(lambda v: jnp.mean(v, 0), rows)
    return sum(objective.score(design, mean).loss.values())


def test_a_scene_and_muons_of_ones_own(scene, muon_file):
    problem = muon_portal.problem(scene=scene(), muon_file=muon_file, muons=60)
    source = problem.pipeline.source
    assert isinstance(source.scene, scenes.FileScene)
    assert isinstance(source.muons, FileMuons)
    assert source.scene.grid.size == (1.2, 0.9, 0.8)
    assert isinstance(problem.objective, x0_map.VoxelX0Error)
    assert 0 < float(loss(problem)) < np.inf


def test_two_scans_of_a_file_are_compared(scene):
    problem = muon_portal.problem(scene=scene(2))
    assert isinstance(problem.objective, objectives.BinormalFalseNegatives)
    assert isinstance(problem.hard().objective, objectives.FalseNegatives)


def test_a_block_is_mapped():
    problem = muon_portal.problem(scene="block", muons=60)
    assert isinstance(problem.pipeline.source.scene, scenes.BlockInBox)
    assert isinstance(problem.pipeline.inference, x0_map.X0Map)
    assert problem.hard().objective is problem.objective


def test_another_flux_within_its_range():
    muons = muon_portal.problem(flux="shukla").pipeline.source.muons
    assert muons.sampler.flux.flux is shukla  # and no warning


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"scene": "lory"}, "Did you mean 'lorry'.*npz"),
        ({"scene": "none.npz"}, "no file 'none.npz'"),
        ({"flux": "guann"}, "Did you mean 'guan'"),
        ({"image": "pocca"}, "Did you mean 'poca'"),
        ({"muon_file": "none.npz"}, "no file 'none.npz'"),
        ({"rate": 0.0}, "between 0 and 1"),
        ({"rate": 1.0}, "between 0 and 1"),
        ({"budget": -1.0}, "`budget` must be > 0"),
    ],
)
def test_what_is_not_known_is_refused(options, law):
    with pytest.raises(errors.InputError, match=law):
        muon_portal.problem(**options)


def test_three_scans_are_refused(scene):
    with pytest.raises(errors.InputError, match="holds 3"):
        muon_portal.problem(scene=scene(3))
