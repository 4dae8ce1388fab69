"""Stacks that several tests use, all of one shape, so that one compilation does for all."""

import jax.numpy as jnp
import numpy as np
import pytest

from kythera.instruments.sampling_calorimeter import Stack
from kythera.units import mm

PAIRS = 180
ABSORBERS = ("lead", "iron", "lead_tungstate")
ACTIVES = ("lead_tungstate", "polystyrene")


@pytest.fixture(scope="package")
def fine():
    """A periodic stack: (absorber, mm, active, mm, pairs) -> Stack, choices made."""

    def make(absorber, thick, active, thin, pairs):
        def chosen(name, names):
            return jnp.asarray(
                np.tile(np.eye(len(names))[names.index(name)], (PAIRS, 1))
            )

        return Stack(
            jnp.full(PAIRS, float(thick * mm)),
            jnp.full(PAIRS, float(thin * mm)),
            jnp.asarray(chosen(absorber, ABSORBERS), float),
            jnp.asarray(chosen(active, ACTIVES), float),
            jnp.array(float(pairs)),
            ABSORBERS,
            ACTIVES,
        )

    return make
