"""The INFERNO benchmark: integrals, densities, gradients; training is a law's, and slow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.measure import measure
from kythera.instruments import inferno_toy
from kythera.instruments.inferno_toy import exact, simulator
from kythera.instruments.inferno_toy.problem import uncertainty

# An independent quadrature, 361 x 361 x 120 nodes.
SIGMAS = (14.705, 15.503, 15.634, 15.605, 16.877)
PUBLISHED = (14.71, 15.52, 15.65, 15.62, 16.89)
MATRIX = [
    [0.004625, -0.298822, -0.082703, 0.000769],
    [-0.298822, 192.501149, -1.525395, 0.014941],
    [-0.082703, -1.525395, 103.597543, 0.004135],
    [0.000769, 0.014941, 0.004135, 0.000962],
]


def test_the_full_likelihood_is_the_papers():
    matrix = exact.information(step=0.5, nodes=25)
    np.testing.assert_allclose(matrix, MATRIX, rtol=1e-4, atol=1e-6)
    found = [exact.analytical(benchmark, matrix) for benchmark in range(5)]
    np.testing.assert_allclose(found, SIGMAS, atol=1e-3)
    np.testing.assert_allclose(found, PUBLISHED, atol=0.02)


def test_log_densities_are_scipys(getkey):
    x = np.array(3 * jax.random.normal(getkey(), (20, 3)))
    x[:, 2] = np.abs(x[:, 2])
    ours = exact.log_densities(jnp.asarray(x))
    background = (
        stats.norm.logpdf(x[:, 0], 2, 5**0.5)
        + stats.norm.logpdf(x[:, 1], 0, 3)
        + stats.expon.logpdf(x[:, 2], scale=1 / 3)
    )
    signal = stats.norm.logpdf(x[:, :2]).sum(1) + stats.expon.logpdf(x[:, 2], scale=0.5)
    np.testing.assert_allclose(ours[:, 1] - ours[:, 0], signal - background, rtol=2e-4)


def test_events_are_of_these_densities(getkey):
    problem = inferno_toy.problem(width=3)
    design = problem.space.template
    draws = simulator.Pairs()(4000, key=getkey())
    x = jax.device_get(simulator.Mixture()(design, draws, key=getkey()))
    laws = {
        "signal": (stats.norm(), stats.norm(), stats.expon(scale=1 / 2)),
        "background": (
            stats.norm(2, 5**0.5),
            stats.norm(0, 3),
            stats.expon(scale=1 / 3),
        ),
    }
    for sample, features in laws.items():
        for i, law in enumerate(features):
            assert stats.kstest(x[sample][:, i], law.cdf).pvalue > 1e-4


@pytest.mark.slow
def test_the_gradient_is_a_difference(x64, getkey):
    problem = inferno_toy.problem(4, events=60, width=4, bins=6, temperature=1.0)
    u, key = jnp.asarray(problem.space.start, float), getkey()
    direction = jax.random.normal(getkey(), u.shape) * 0.1
    run = jit(lambda problem, u, key: measure(problem, u, key, "pathwise"))
    slope = run(problem, u, key).gradients[0] @ direction
    up, down = (
        run(problem, u + h * direction, key).loss["log_sigma"] for h in (1e-6, -1e-6)
    )
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"benchmark": 5}, "0 to 4.*`benchmark` is 5"),
        ({"objective": "bse"}, "'bse'.*'bce'"),
        ({"benchmark": 2.0}, "0 to 4.*`benchmark` is 2.0"),
        ({"benchmark": -1}, "0 to 4.*`benchmark` is -1"),
        ({"bins": 1}, "`bins` .* >= 2, but is 1"),
        ({"width": 2.5}, "`width` .* >= 1, but is 2.5"),
        ({"temperature": 0}, "`temperature` .* > 0 .* but is 0"),
        ({"temperature": float("nan")}, "`temperature` .* but is nan"),
    ],
)
def test_bad_input_is_refused(options, match):
    with pytest.raises(errors.InputError, match=match):
        inferno_toy.problem(**options)


@pytest.mark.parametrize("benchmark", [-1, 7, 2.0])
def test_benchmarks_that_are_none_have_no_error(benchmark):
    with pytest.raises(errors.InputError, match=f"0 to 4.*is {benchmark}"):
        exact.analytical(benchmark, np.eye(4))
    with pytest.raises(errors.InputError, match=f"0 to 4.*is {benchmark}"):
        uncertainty(benchmark, "sigma")
