"""What the tests of the portal share: uniform cargoes under chosen muons."""

import jax.numpy as jnp
import numpy as np
import pytest

from kythera.instruments.muon_portal.scan import Grid, Scan


@pytest.fixture
def make_scan():
    """(grid, 1/X0, n, slopes, momentum, stopping, seed) -> a row of n muons.

    Muons cross the top plane within its middle fifth.
    """

    def make(
        grid: Grid,
        inverse_x0=1.0,
        n=4000,
        slope=(0.0, 0.0),
        momentum=3.0,
        stopping=0.0,
        seed=1,
    ) -> Scan:
        rng = np.random.default_rng(seed)
        x, y = (
            rng.uniform(-0.1, 0.1, (2, 1, n)) * np.array(grid.size[:2])[:, None, None]
        )
        rows = [jnp.asarray(v, float) for v in (x, y)]
        rows += [jnp.full((1, n), float(v)) for v in (*slope, momentum)]
        field = np.broadcast_to(inverse_x0, grid.shape)[None, None]
        field = jnp.asarray(field, float)
        return Scan(
            field,
            jnp.full_like(field, stopping),
            *rows,
            jnp.ones((1, n)),
            {},
        )

    return make
