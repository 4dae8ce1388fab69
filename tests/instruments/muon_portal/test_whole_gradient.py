"""The gradient of the whole portal, where images jump as tracks change voxels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.compilation import jit
from kythera.instruments import muon_portal

ROWS, CALLS = 16, 8
HALF = 0.01  # step of the difference along a direction
APART = {"z[0]": 0.5, "z[3]": -0.5}  # fractions of the ranges
WIDER = {f"{span}[{i}]": 0.3 for span in ("span_1", "span_2") for i in range(4)}


def _portal():
    """The default portal, its panels further apart; no budget, which has a kink."""
    problem = muon_portal.problem(events=ROWS)
    space = problem.space
    names = list(space.names)
    u = np.array(space.start)
    for name, by in {"upper.z[0]": 0.25, "lower.z[0]": -0.25}.items():
        u[names.index(name)] += by
    return problem.replace(space=type(space)(space.template, space.free)), u


@pytest.mark.slow
@pytest.mark.parametrize("moves", [APART, WIDER], ids=["apart", "wider"])
def test_jumps_of_the_image_do_not_bias_the_gradient(moves):
    """Derivatives of the statistics against differences at the same keys, row by row.

    The difference sees the jumps, the derivative does not. Over 128 rows they agree within
    errors of less than a tenth of the derivative.
    """
    problem, u = _portal()
    names = list(problem.space.names)
    v = np.zeros(len(names), np.float32)
    for name, by in moves.items():
        v[names.index(f"upper.{name}")] = by
        v[names.index(f"lower.{name}")] = -by if name.startswith("z") else by

    def statistic(u, key):
        trace = problem.pipeline(problem.design(u), ROWS, key=key)
        return trace.result.value

    @jit
    def both(u, v, key):
        _, slope = jax.jvp(lambda w: statistic(w, key), (u,), (v,))
        ends = [statistic(u + s * HALF * v, key) for s in (1, -1)]
        return slope, (ends[0] - ends[1]) / (2 * HALF)

    u, v = jnp.asarray(u, jnp.float32), jnp.asarray(v)
    pairs = [both(u, v, jax.random.key(i)) for i in range(CALLS)]
    slopes, differences = (
        np.concatenate([np.asarray(pair[i], float) for pair in pairs]) for i in (0, 1)
    )
    off = differences - slopes
    error = off.std(0, ddof=1) / np.sqrt(len(off))
    size = np.abs(differences.mean(0))
    assert np.all(error < 0.1 * size)  # it could be seen
    assert np.all(np.abs(off.mean(0)) < np.minimum(4 * error, 0.1 * size))
