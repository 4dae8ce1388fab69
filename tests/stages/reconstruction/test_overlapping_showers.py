"""The example: photons whose showers overlap are told apart by what was trained."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.units import cm

SCRIPT = Path(__file__).parents[3] / "examples" / "overlapping_showers.py"
EXAMPLE = runpy.run_path(str(SCRIPT))


def test_cells_share_all_the_energy_of_a_wide_block():
    block = EXAMPLE["Block"](jnp.asarray(1 * cm))
    photons = EXAMPLE["Photons"](*jnp.array([[[0.01]], [[-0.02]], [[5.0]]]))
    parts = EXAMPLE["_shares"](block, photons)[0, 0]
    assert parts.shape == (3, 16, 16)
    assert np.all(np.asarray(parts) > 0)
    # What is outside of a square of half side a, by the same density: about b / a.
    assert np.sum(parts, (1, 2)) == pytest.approx([0.93, 0.88, 0.80], abs=0.03)
    i, j = np.unravel_index(int(jnp.argmax(parts[0])), (16, 16))
    assert (i, j) == (9, 6)  # where it entered


@pytest.mark.slow
def test_it_beats_local_maxima_where_showers_overlap():
    """By more than their errors, on fresh events; it loses no photon that stands alone."""
    case = EXAMPLE["problem"]()
    learnt = EXAMPLE["trained"](case, 2000, 20_000, 1)  # as the page says
    trace = learnt.pipeline(case.space.template, 2000, key=jax.random.key(5))
    speaker, told, _ = EXAMPLE["reconstructed"](trace)
    ours = EXAMPLE["score"](trace, speaker, told)
    plain = EXAMPLE["score"](trace, *EXAMPLE["maxima"](trace, 1.2 * cm))
    near = ours["there"] & (ours["alone"] > 1.5 * cm) & (ours["alone"] < 3 * cm)
    gain = ours["found"][near].astype(float) - plain["found"][near]
    assert gain.mean() > 0.1 + 3 * gain.std() / np.sqrt(len(gain))
    alone = ours["there"] & (ours["alone"] > 5 * cm)
    assert ours["found"][alone].mean() > 0.99
    assert ours["false"].mean() < 0.05
    spread = [np.nanquantile(s["response"][alone], [0.16, 0.84]) for s in (ours, plain)]
    assert np.ptp(spread[0]) < np.ptp(spread[1])
