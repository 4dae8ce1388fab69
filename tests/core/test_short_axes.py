"""Sums and copies along short axes are those of jax.numpy, derivatives included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.short_axes import spread, total


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_total_is_the_sum_and_its_derivative_a_copy(axis, getkey):
    x = jax.random.normal(getkey(), (3, 4, 5))
    expected, pull = jax.vjp(lambda v: jnp.sum(v, axis, keepdims=True), x)
    found, our_pull = jax.vjp(lambda v: total(v, axis), x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(our_pull(expected)[0], pull(expected)[0])


@pytest.mark.parametrize("count", [1, 4])
def test_spread_is_the_broadcast_and_its_derivative_a_sum(count, getkey):
    x = jax.random.normal(getkey(), (3, 1, 5))
    cotangent = jax.random.normal(getkey(), (3, count, 5))
    expected, pull = jax.vjp(lambda v: jnp.broadcast_to(v, (3, count, 5)), x)
    found, our_pull = jax.vjp(lambda v: spread(v, 1, count), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(our_pull(cotangent)[0], pull(cotangent)[0], rtol=1e-6)
