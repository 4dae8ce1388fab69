"""Events of a few hits, and a network that finds their objects."""

import jax
import jax.numpy as jnp

from kythera.core.pipeline import Pipeline
from kythera.core.stage import AbstractStage
from kythera.stages.objectives.condensation import CondensationLoss
from kythera.stages.reconstruction.gravnet import GravNet
from kythera.stages.reconstruction.lines import LineHits
from kythera.stages.reconstruction.object_condensation import Condensed
from kythera.stages.reconstruction.weighted_neighbours import WeightedNeighbours
from kythera.testing import noisy_sphere


def _hits(design, x):
    """Of (event, hit, 4): three features, and a weight that some lack."""
    return x[..., :3] + design.x, x[..., 3] > -1


def finder():
    return GravNet(
        _hits,
        3,
        payload=1,
        blocks=1,
        outputs=4,
        width=5,
        depth=1,
        head=6,
        space=2,
        message=3,
        neighbours=2,
    )


def regressor():
    x = jnp.arange(24.0).reshape(8, 3) % 5
    return WeightedNeighbours(lambda d, x: x + d.x, x, x[:, 0], neighbours=3)


def planes(design, x):
    """Four planes that measure two coordinates; some hits are missing."""
    z, even = jnp.arange(4.0), jnp.ones(4)
    weight = 1.0 * (x[:, 0] > -1)
    return LineHits(x, z, 0.1 * even, weight, 0.01 * even, jnp.ones(len(x)))


def condensed(events, key):
    x = jax.random.normal(key, (events, 6, 4))
    beta = jax.nn.sigmoid(x[..., 0])
    return Condensed(beta, x[..., 1:3], x[..., 3:], x[..., 0] > -1)


class _Numbers(AbstractStage):
    """Three numbers as three hits, without a network."""

    def __call__(self, design, x, *, key):
        beta = jax.nn.sigmoid(x)
        return Condensed(beta, x[..., None], x[..., None], jnp.ones(x.shape, bool))


def _truth(design, trace):
    y = trace.signal
    return jnp.where(y > 2, 0, 1 + (y > 0)), trace.reco.payload[..., 0] ** 2


def problem():
    """What is near in value belongs together; the largest are noise."""
    given = noisy_sphere(n=3, events=1000)
    line = given.pipeline
    pipeline = Pipeline(line.source, line.simulator, _Numbers())
    return given.replace(pipeline=pipeline, objective=CondensationLoss(_truth, 2))
