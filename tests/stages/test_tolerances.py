"""Designs as they will be built: means and quantiles with exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import kythera as ky
from kythera import errors, testing
from kythera.estimators.direct import Direct
from kythera.instruments import telescope

KEY = jax.random.key(11)


def _measured(problem, u=None, estimator=None, key=KEY):
    point = problem.space.start if u is None else jnp.asarray(u, float)
    found, _ = (estimator or Direct())(problem, point[None], None, key=key[None])
    assert not found[0].cause
    return found[0]


def test_a_quadratic_gains_half_the_trace():
    """E |x + e - c|^2 = |x - c|^2 + sum of the variances of e."""
    sigma = np.array([0.1, 0.2, 0.3, 0.4])
    problem = ky.Toleranced(testing.sphere(), {"x": sigma}, builds=4000, events=2)
    found = _measured(problem, estimator=ky.Pathwise())
    exact = 4 * 1.3**2 + (sigma**2).sum()
    spread = np.sqrt((2 * sigma**4 + 4 * 1.3**2 * sigma**2).sum() / 4000)
    assert found.total.stderr == pytest.approx(spread, rel=0.1)
    assert abs(found.total.value - exact) < 4 * spread
    # the gradient is that of the quadratic, with the scatter of 2 e
    slope = np.asarray(found.total.gradient) / 4
    assert np.all(np.abs(slope - 2 * -1.3) < 4 * 2 * sigma / np.sqrt(4000))
    assert found.events == problem.price == 8000


def test_the_error_knows_of_events_and_builds():
    """The quoted one is the spread over many keys; the value is unbiased."""
    problem = ky.Toleranced(testing.noisy_sphere(), {"x": 0.3}, builds=8)
    assert problem.price == testing.noisy_sphere().price
    testing.check_estimator(
        Direct(), problem, None, key=KEY, value=4 * 1.3**2 + 4 * 0.09, repeats=256
    )


def test_quantiles_of_a_distance():
    """|x + e - c|^2 / sigma^2 is non-central chi-squared."""
    sigma, n = 0.4, 4
    problem = ky.Toleranced(
        testing.sphere(), {"x": sigma}, builds=2000, quantile=0.9, events=2
    )
    exact = sigma**2 * scipy.stats.ncx2.ppf(0.9, n, n * 1.3**2 / sigma**2)
    density = scipy.stats.ncx2.pdf(exact / sigma**2, n, n * 1.3**2 / sigma**2)
    error = np.sqrt(0.9 * 0.1 / 2000) / density * sigma**2
    found = _measured(problem)
    assert abs(found.total.value - exact) < 4 * error / 2
    assert 0.2 < found.total.stderr / (error / 2) < 3
    assert found.events == 4 * 2000 * 2


def _wells(x: float, seed: int) -> float:
    """A deep narrow well at 0.2 and a shallow broad one at 0.7."""
    narrow = np.exp(-0.5 * ((x - 0.2) / 0.02) ** 2)
    return float(1 - narrow - 0.8 * np.exp(-0.5 * ((x - 0.7) / 0.2) ** 2))


def _smoothed(x, sigma):
    """The exact mean: each well is widened, its depth falls as its width grows."""
    found = 1.0
    for depth, centre, width in ((1.0, 0.2, 0.02), (0.8, 0.7, 0.2)):
        wide = np.hypot(width, sigma)
        found -= depth * width / wide * np.exp(-0.5 * ((x - centre) / wide) ** 2)
    return found


def test_a_narrow_optimum_loses():
    plain = ky.from_function(_wells, {"x": ky.Real(0, 1)}, start={"x": 0.5}, events=2)
    robust = ky.Toleranced(plain, {"x": 0.1}, builds=24, events=1)
    assert robust.pipeline.is_host
    for x in (0.2, 0.7):
        found = _measured(robust, [x])
        assert abs(found.total.value - _smoothed(x, 0.1)) < 4 * found.total.stderr
    best = {}
    for name, problem in (("plain", plain), ("robust", robust)):
        solution = ky.optimise(
            problem, ky.RandomSearch(16), key=KEY, max_trials=32, report_events=2
        )
        best[name] = float(solution.best["x"])
    assert best["plain"] == pytest.approx(0.2, abs=0.03)
    assert best["robust"] == pytest.approx(0.7, abs=0.15)


def test_constraints_and_what_is_frozen():
    problem = telescope.problem(events=64)
    length = ky.AtMost("length", lambda d: jnp.max(d.z) - jnp.min(d.z), 0.6)
    held = problem.replace(objective=problem.objective + length)
    robust = ky.Toleranced(held, {"z": 1e-3, "resolution": 0.0}, builds=8)
    found = _measured(robust)
    # the design as drawn is 0.4 m long, whatever its builds are
    assert found.slack["length"].value == pytest.approx(1 - 0.4 / 0.6, abs=1e-6)
    assert found.slack["length"].stderr == 0
    assert found.total.value == pytest.approx(10, abs=5 * found.total.stderr + 0.5)
    assert robust.name.endswith("with tolerances")


@pytest.mark.parametrize(
    ("tolerances", "settings", "error"),
    [
        ({}, {}, errors.InputError),
        ({"x": -1.0}, {}, errors.InputError),
        ({"x": float("nan")}, {}, errors.InputError),
        ({"x": [0.1, 0.2]}, {}, errors.InputError),
        ({"y": 0.1}, {}, errors.SpaceError),
        ({"x": 0.1}, {"builds": 1}, errors.InputError),
        ({"x": 0.1}, {"quantile": 1.0}, errors.InputError),
    ],
)
def test_what_cannot_be_built_is_refused(tolerances, settings, error):
    with pytest.raises(error):
        ky.Toleranced(testing.sphere(), tolerances, **settings)


def test_a_choice_has_no_tolerance():
    problem = ky.from_function(
        lambda kind: float(kind == "a"), {"kind": ky.Choice(("a", "b"))}
    )
    with pytest.raises(errors.SpaceError, match="choice"):
        ky.Toleranced(problem, {"kind": 0.1})
