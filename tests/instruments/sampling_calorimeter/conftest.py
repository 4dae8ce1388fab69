"""Stacks that several tests use."""

import jax.numpy as jnp
import numpy as np
import pytest

from kythera.instruments.sampling_calorimeter import Stack
from kythera.units import mm


@pytest.fixture(scope="package")
def fine():
    """A periodic stack: (absorber, mm, active, mm, pairs) -> Stack, choices made."""

    def make(absorber, thick, active, thin, pairs):
        return Stack(
            jnp.full(pairs, thick * mm),
            jnp.full(pairs, thin * mm),
            jnp.asarray(np.tile([1.0, 0.0], (pairs, 1)), float),
            jnp.asarray(np.tile([1.0, 0.0], (pairs, 1)), float),
            jnp.array(float(pairs)),
            (absorber, "copper"),
            (active, "bgo"),
        )

    return make
