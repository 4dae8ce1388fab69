"""The portal's figures of merit on statistics whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from kythera import errors
from kythera.core.pipeline import Trace
from kythera.instruments.muon_portal import objectives as goals
from kythera.instruments.muon_portal.imaging import Image
from kythera.instruments.muon_portal.inference import Answer, DenseStatistic, FillLevel
from kythera.instruments.muon_portal.scan import Grid, Scan

KEY = jax.random.key(1)
RNG = np.random.default_rng(1)


def trace(statistic, **target) -> Trace:
    """Rows of statistics, and what is true of each."""
    statistic = jnp.asarray(statistic, float)
    rows = jnp.zeros((len(statistic), 1))
    field = jnp.zeros((len(statistic), 1, 1, 1, 1))
    target = {name: jnp.asarray(v, float) for name, v in target.items()}
    truth = Scan(field, field, *[rows] * 6, target)
    return Trace(truth, None, None, Answer(statistic, None))  # type: ignore[arg-type]


def score(objective, rows: Trace) -> float:
    """The only term, from all rows."""
    mean = jax.tree.map(lambda v: jnp.mean(v, 0), objective.tally(None, rows))
    [term] = objective.score(None, mean).loss.values()
    return float(term)


def test_quoted_errors_are_the_spread_of_repeats_also_with_few_false_positives():
    """256 to 1024 rows at a rate of 0.01: 3 to 10 rows lie above the threshold."""
    rate, repeats, points = 0.01, 800, goals._Distribution(-1.5, 2.5, 161)
    width, wider, exact = 0.5, 0.7, 0.3
    apart = width * norm.ppf(1 - rate) - wider * norm.ppf(exact)

    @jax.jit
    def measure(s):  # both columns of one sample, (row, 2)
        rows = jax.vmap(points.rows)(s)
        mean = jnp.mean(rows, 0)
        value, slopes = jax.value_and_grad(lambda m: points.missed(m[0], m[1], rate))(
            mean
        )
        psi = jnp.einsum("rsp,sp->r", rows - mean, slopes)
        return value, jnp.std(psi) / jnp.sqrt(len(s))

    ratios = []
    for n in (256, 512, 1024):
        s = RNG.normal(size=(repeats, n, 2)) * [width, wider] + [0, float(apart)]
        value, error = jax.lax.map(measure, jnp.asarray(s, jnp.float32))
        spread = float(np.std(value))
        ratios.append(float(np.mean(error)) / spread)
        assert abs(float(np.mean(value)) - exact) < 0.25 * spread
    assert ratios == pytest.approx([1, 1, 1], abs=0.18)


def test_binormal_false_negatives_of_two_normals():
    z = RNG.normal(size=(4000, 2))
    z = (z - z.mean(0)) / z.std(0)
    rows = trace(z * [0.5, 0.7] + [1.0, 2.5])
    exact = norm.cdf((1.0 + norm.ppf(0.99) * 0.5 - 2.5) / 0.7)
    assert score(goals.BinormalFalseNegatives(0.01), rows) == pytest.approx(
        float(exact), rel=1e-3
    )


def test_classification_at_the_middle_is_one_bit():
    assert score(goals.Classification(0.3), trace(np.full((4, 2), 0.3))) == (
        pytest.approx(np.log(2))
    )


@pytest.mark.parametrize("middle", [60.0, 90.0, 130.0])
def test_half_power_mass_of_a_known_power(middle):
    """Power 0.5 + 0.4 ln(m / middle) for masses from 50 to 150 kg, two materials."""
    rate, n = 0.05, 20_000
    background = norm.ppf((jnp.arange(n) + 0.5) / n)  # threshold at 1.645
    mass = 50 * 3 ** RNG.uniform(size=n)
    power = 0.5 + 0.4 * np.log(mass / middle)
    power = np.where(np.arange(n) % 2, 1.0, power)  # the second is always found
    seen = np.where(RNG.uniform(size=n) < power, 3.0, 0.0)
    rows = trace(np.stack([background, seen], -1), mass=mass, material=np.arange(n) % 2)
    goal = goals.HalfPowerMass((1.0, 0.0), rate=rate)
    assert score(goal, rows) == pytest.approx(middle, rel=0.04)


def test_a_material_without_utility_is_not_dropped():
    rows = trace(np.zeros((3, 2)), mass=[60, 70, 80], material=[0, 1, 0])
    assert np.isnan(score(goals.HalfPowerMass((1.0,)), rows))


def test_calibrated_error_takes_a_linear_bias_out():
    level = RNG.normal(size=5000)
    exact = goals.CalibratedError("level")
    assert score(exact, trace(2 + 3 * level[:, None], level=level)) == pytest.approx(
        0, abs=1e-5
    )
    noisy = level + 0.5 * RNG.normal(size=5000)
    left = 0.25 / 1.25  # var e / (1 + var e)
    assert score(exact, trace(2 + 3 * noisy[:, None], level=level)) == pytest.approx(
        left, rel=0.06
    )
    with pytest.raises(errors.UnsupportedError, match="no target 'level'"):
        exact.tally(None, trace(np.zeros((3, 1)), presence=[1, 1, 1]))


@pytest.mark.parametrize("kind", ["BinormalFalseNegatives", "FalseNegatives"])
@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_rates_outside_0_and_1_are_refused(kind, rate):
    with pytest.raises(errors.InputError, match="between 0 and 1, but `rate` is"):
        getattr(goals, kind)(rate)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 1.0},
        {"lightest": 90.0, "heaviest": 90.0},
        {"lightest": 0.0},
        {"nodes": 1},
        {"utilities": ()},
    ],
)
def test_half_power_masses_without_a_line_are_refused(options):
    with pytest.raises(errors.InputError):
        goals.HalfPowerMass(**options)


@pytest.mark.parametrize("scans", [1, 3])
@pytest.mark.parametrize(
    "kind",
    ["BinormalFalseNegatives", "FalseNegatives", "HalfPowerMass", "Classification"],
)
def test_goals_of_two_scans_refuse_others(kind, scans):
    rows = trace(np.zeros((4, scans)), mass=np.ones(4), material=np.zeros(4))
    with pytest.raises(errors.UnsupportedError, match="two scans"):
        getattr(goals, kind)().tally(None, rows)


def test_dense_statistic_of_uniform_and_of_one_dense_voxel():
    density = np.full((2, 1, 3, 4, 5), 10.0)
    density[1] = 0.1
    density[1, 0, 1, 2, 3] = 200.0
    image = Image(jnp.asarray(density, float), jnp.ones(density.shape))
    got = DenseStatistic(power=8.0, unit=10.0)(None, image, key=KEY).value
    expected = [0, np.log(20) - np.log(60) / 8]
    assert np.asarray(got)[:, 0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("full", [2, 5, 9])
def test_fill_level_of_full_layers(full):
    grid = Grid((10, 4, 5), (1.0, 0.8, 1.5))
    density = np.full((1, 1, *grid.shape), 0.01)
    density[:, :, :full] = 57.0
    density[..., [0, -1]] = 57.0  # walls
    density[..., [0, -1], :] = 57.0
    image = Image(jnp.asarray(density, float), jnp.ones(density.shape))
    got = FillLevel(grid)(None, image, key=KEY).value
    assert float(got[0, 0]) == pytest.approx(full * 0.15 - 0.75, abs=0.012)
