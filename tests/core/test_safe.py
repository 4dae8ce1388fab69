"""Functions whose derivatives stay finite."""

import jax
import jax.numpy as jnp
import numpy as np

from kythera.core.safe import safe_sqrt


def test_the_square_root_of_nothing_has_no_slope():
    x = jnp.array([-1.0, 0.0, 4.0])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(safe_sqrt)))(x)
    np.testing.assert_array_equal(value, [0, 0, 2])
    np.testing.assert_array_equal(slope, [0, 0, 0.25])
