"""Muons that cross a box: the exact draw against brute force, and files."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kythera import errors
from kythera.physics.muon_flux import FluxSampler, guan, shukla
from kythera.stages.sources.muons import BoxMuons, FileMuons, FixedMuons
from kythera.units import deg

SIZE = (2.0, 1.0, 0.8)
RANGE = {"energy_min": 1.0, "energy_max": 100.0, "theta_max": 60 * deg}
N = 20_000


def crosses(x, y, slope_x, slope_y, size=SIZE) -> np.ndarray:
    """Whether lines through (x, y) in the upper plane meet the box, by its planes."""
    met = np.zeros(len(x), bool)
    for axis, (place, slope) in enumerate(((x, slope_x), (y, slope_y))):
        other, rate = ((y, slope_y), (x, slope_x))[axis]
        for side in (-size[axis] / 2, size[axis] / 2):
            with np.errstate(divide="ignore", invalid="ignore"):
                z = (side - place) / slope  # <= 0, down from the upper plane
                at = other + rate * z
            met |= (z <= 0) & (z >= -size[2]) & (np.abs(at) <= size[1 - axis] / 2)
    met |= (np.abs(x) <= size[0] / 2) & (np.abs(y) <= size[1] / 2)
    return met


@pytest.fixture(scope="module")
def drawn():
    return [
        np.asarray(v) for v in BoxMuons(SIZE, guan, **RANGE)(N, key=jax.random.key(1))
    ]


@pytest.fixture(scope="module")
def brute():
    """Muons on a plane so large that nothing else can hit, of which those that hit stay."""
    n = 400_000
    reach = SIZE[2] * math.tan(RANGE["theta_max"]) * 1.01
    length, breadth = SIZE[0] + 2 * reach, SIZE[1] + 2 * reach
    sampler = FluxSampler(guan, **RANGE)
    energy, cosine, phi = (
        np.asarray(v, float) for v in sampler(n, key=jax.random.key(2))
    )
    rng = np.random.default_rng(3)
    x = (rng.uniform(size=n) - 0.5) * length
    y = (rng.uniform(size=n) - 0.5) * breadth
    tangent = np.sqrt(1 / cosine**2 - 1)
    rows = [x, y, tangent * np.cos(phi), tangent * np.sin(phi)]
    met = crosses(*rows)
    rate = sampler.rate * length * breadth * met.mean()
    error = rate * math.sqrt((1 - met.mean()) / met.sum())
    momentum = np.sqrt(energy**2 - 0.1056584**2)
    return [v[met] for v in (*rows, momentum)], rate, error


def test_all_cross_the_box(drawn):
    x, y, slope_x, slope_y, _ = (v.astype(float) for v in drawn)
    slack = tuple(s * (1 + 1e-5) for s in SIZE)
    assert crosses(x, y, slope_x, slope_y, slack).all()


@pytest.mark.parametrize(
    "what", ["x", "y", "slope_x", "slope_y", "tangent", "momentum"]
)
def test_distributions_are_those_of_brute_force(drawn, brute, what):
    def pick(rows):
        x, y, slope_x, slope_y, momentum = rows
        return {
            "x": x,
            "y": y,
            "slope_x": slope_x,
            "slope_y": slope_y,
            "tangent": np.hypot(slope_x, slope_y),
            "momentum": momentum,
        }[what]

    assert stats.ks_2samp(pick(drawn), pick(brute[0])).pvalue > 1e-3


def test_place_and_direction_depend_on_each_other_as_in_brute_force(drawn, brute):
    # where lines enter: joint histogram of place and slope, by chi2 of two samples
    edges = [np.linspace(-2, 2, 9), np.linspace(-1.5, 1.5, 9)]
    for i, j in ((0, 2), (1, 3), (0, 3)):
        a, b = (
            np.histogram2d(rows[i], rows[j], bins=edges)[0].ravel()
            for rows in (drawn, brute[0])
        )
        used = a + b > 20
        a, b = a[used], b[used]
        ratio = math.sqrt(b.sum() / a.sum())
        chi2 = np.sum((a * ratio - b / ratio) ** 2 / (a + b))
        assert stats.chi2.sf(chi2, used.sum() - 1) > 1e-3


def test_rate_is_that_of_brute_force(brute):
    _, rate, error = brute
    assert BoxMuons(SIZE, guan, **RANGE).rate == pytest.approx(rate, abs=4 * error)


def test_fixed_muons():
    drawn = FixedMuons((2.0, 1.0, 1.0), 5.0, 30 * deg)(5000, key=jax.random.key(1))
    assert float(jnp.max(jnp.hypot(drawn.slope_x, drawn.slope_y))) <= math.tan(30 * deg)
    cosine = 1 / np.sqrt(1 + np.hypot(drawn.slope_x, drawn.slope_y) ** 2)
    uniform = stats.uniform(math.cos(30 * deg), 1 - math.cos(30 * deg))
    assert stats.kstest(np.asarray(cosine), uniform.cdf).pvalue > 1e-3
    assert np.all(drawn.momentum == 5.0)
    assert np.max(np.abs(drawn.x)) <= 1.0
    assert np.max(np.abs(drawn.y)) <= 0.5


@pytest.fixture
def table():
    """Ten muons from above, of which the last two miss the box."""
    rng = np.random.default_rng(1)
    columns = {
        "x": rng.uniform(-0.4, 0.4, 10),
        "y": rng.uniform(-0.4, 0.4, 10),
        "z": np.full(10, 5.0),
        "px": np.zeros(10),
        "py": np.zeros(10),
        "pz": -rng.uniform(1, 10, 10),
    }
    columns["px"][0] = 0.02 * columns["pz"][0]
    columns["x"][8:] = 30.0
    return columns


def write(path, table):
    if path.suffix == ".npz":
        np.savez(path, **table)
    elif path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.table(table), path)
    else:
        uproot = pytest.importorskip("uproot")
        with uproot.recreate(path) as file:
            file["muons"] = table
    return path


@pytest.mark.parametrize("kind", ["npz", "parquet", "root"])
def test_muons_of_a_file(tmp_path, table, kind):
    path = write(tmp_path / f"muons.{kind}", table | {"exposure": np.full(10, 4.0)})
    source = FileMuons(path, (1.0, 1.0, 0.6))
    assert source.rate == pytest.approx(8 / 4.0)
    drawn = source(500, key=jax.random.key(1))
    momenta = np.hypot(table["pz"], table["px"])[:8]
    found = np.unique(np.asarray(drawn.momentum))
    np.testing.assert_allclose(found, np.sort(momenta), rtol=1e-6)
    first = np.isclose(drawn.momentum, momenta[0], rtol=1e-6)
    # the line through (x, 5 m), carried to the upper face at 0.3 m
    assert np.allclose(drawn.slope_x[first], 0.02)
    assert np.allclose(drawn.x[first], table["x"][0] - 4.7 * 0.02, atol=1e-6)
    assert np.allclose(drawn.slope_x[~first], 0)


def test_a_file_without_exposure_has_no_rate(tmp_path, table):
    path = write(tmp_path / "muons.npz", table)
    assert math.isnan(FileMuons(path, (1.0, 1.0, 0.6)).rate)


def no_pz(table):
    del table["pz"]
    return "lacks pz"


def unequal(table):
    table["y"] = table["y"][:5]
    return "one length"


def not_finite(table):
    table["px"][3] = math.nan
    return "entry 3 is nan"


def upwards(table):
    table["pz"][2] = 0.5
    return "row 2 has"


def too_fast(table):
    table["pz"][4] = -1e7
    return "row 4 has"


def all_miss(table):
    table["x"][:] = 1e3
    return "None of the 10 muons"


def empty(table):
    for name in table:
        table[name] = table[name][:0]
    return "finite numbers"


def exposure_that_changes(table):
    table["exposure"] = np.full(10, 4.0)
    table["exposure"][5] = 5.0
    return "from 4 to 5 s"


def no_exposure_at_all(table):
    table["exposure"] = np.zeros(10)
    return "time > 0"


def exposure_without_end(table):
    table["exposure"] = np.array([math.inf])
    return "entry 0 is inf"


def matrix(table):
    for name in table:
        table[name] = table[name].reshape(2, 5)
    return "shape"


@pytest.mark.parametrize(
    "spoil",
    [
        no_pz,
        unequal,
        not_finite,
        upwards,
        too_fast,
        all_miss,
        empty,
        exposure_that_changes,
        no_exposure_at_all,
        exposure_without_end,
        matrix,
    ],
)
def test_bad_tables_are_refused_with_law_values_and_remedy(tmp_path, table, spoil):
    words = spoil(table)
    path = write(tmp_path / "muons.npz", table)
    with pytest.raises(errors.InputError) as refusal:
        FileMuons(path, (1.0, 1.0, 0.6))
    text = str(refusal.value)
    assert words in text
    assert str(path) in text
    assert text.rstrip().endswith(".")
    assert text.count(".") >= 2  # a law with its values, and a remedy


@pytest.mark.parametrize("kind", ["npz", "parquet", "root"])
def test_a_file_cut_short_is_refused(tmp_path, table, kind):
    path = write(tmp_path / f"muons.{kind}", table)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(errors.InputError, match="cut short"):
        FileMuons(path, (1.0, 1.0, 0.6))


def test_paths_are_checked(tmp_path):
    with pytest.raises(errors.InputError, match="no file"):
        FileMuons(tmp_path / "none.npz", (1.0, 1.0, 0.6))
    with pytest.raises(errors.InputError, match="must end in one of"):
        FileMuons(tmp_path / "muons.csv", (1.0, 1.0, 0.6))


def test_of_several_trees_one_must_be_named(tmp_path, table):
    uproot = pytest.importorskip("uproot")
    path = tmp_path / "muons.root"
    with uproot.recreate(path) as file:
        file["one"] = table
        file["two"] = table
    with pytest.raises(errors.InputError, match="name one of them"):
        FileMuons(path, (1.0, 1.0, 0.6))
    assert FileMuons(path, (1.0, 1.0, 0.6), tree="two").muons.x.shape == (8,)


@pytest.mark.parametrize(
    ("kind", "module"), [("parquet", "pyarrow.parquet"), ("root", "uproot")]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, kind, module):
    path = tmp_path / f"muons.{kind}"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.UnsupportedError, match=rf"kythera\[{kind}\]"):
        FileMuons(path, (1.0, 1.0, 0.6))


def test_a_flux_beyond_its_range_warns_also_for_a_box():
    with pytest.warns(errors.PhysicsWarning, match="Shukla"):
        BoxMuons(SIZE, shukla)
    BoxMuons(SIZE, shukla, theta_max=65 * deg)  # warnings are errors here


@pytest.mark.parametrize("momentum", [0.0, -1.0, math.nan, math.inf])
def test_fixed_muons_move(momentum):
    with pytest.raises(errors.InputError, match="`momentum`"):
        FixedMuons(SIZE, momentum)


@pytest.mark.parametrize("theta", [-0.1, math.pi / 2])
def test_fixed_muons_go_down(theta):
    with pytest.raises(errors.InputError, match="`theta_max`"):
        FixedMuons(SIZE, 1.0, theta)
