"""Interpolation between templates: ends, smoothness, pyhf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.physics.statistics.interpolation import factor, shift

ALPHA = np.linspace(-3, 3, 25)


@pytest.mark.parametrize(
    "function", [lambda a: shift(a, 8, 10, 15) + 10, lambda a: factor(a, 0.7, 1.4)]
)
def test_templates_are_met_and_nothing_jumps(x64, function):
    """Value, slope and curvature agree on both sides of +-1."""

    def jets(a):
        slope = jax.grad(function)
        return jnp.stack([function(a), slope(a), jax.grad(slope)(a)])

    jets = jax.jit(jax.vmap(jets))
    for edge in (-1.0, 1.0):
        inside, outside = jets(jnp.array([edge * (1 - 1e-9), edge * (1 + 1e-9)]))
        np.testing.assert_allclose(inside, outside, atol=1e-6)
    met = jets(jnp.array([-1.0, 0.0, 1.0]))[:, 0]
    want = [8, 10, 15] if met[1] > 2 else [0.7, 1.0, 1.4]
    np.testing.assert_allclose(met, want, rtol=1e-12)


def test_the_codes_of_pyhf(x64):
    from pyhf import interpolators

    templates = [[[[8.0], [10.0], [15.0]]]], [[[[0.7], [1.0], [1.4]]]]
    alphas = np.array([ALPHA])
    want = np.ravel(interpolators.code4p(templates[0], subscribe=False)(alphas))
    np.testing.assert_allclose(jax.jit(shift)(ALPHA, 8.0, 10.0, 15.0), want, rtol=1e-12)
    want = np.ravel(interpolators.code4(templates[1], subscribe=False)(alphas))
    np.testing.assert_allclose(jax.jit(factor)(ALPHA, 0.7, 1.4), want, rtol=1e-12)
