"""Small objectives of each shape that a goal can have, on normal numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.objective import AbstractObjective, PerEventLoss, Score, Tangents
from kythera.core.pipeline import Pipeline
from kythera.core.problem import Problem
from kythera.core.space import Real, Space
from kythera.core.stage import AbstractPathwiseSimulator
from kythera.core.types import Array
from kythera.testing.textbook import Nothing


class Smearing(eqx.Module):
    """x is free; scale and shift are nuisance parameters."""

    x: Array
    scale: Array
    shift: Array


class Normal(AbstractPathwiseSimulator):
    """y = shift + x + scale * normal, shape (event,)."""

    def __call__(self, design, x, *, key):
        noise = jax.random.normal(key, x.shape)
        return design.shift + design.x + design.scale * noise


class Mean(PerEventLoss):
    def loss(self, design, trace):
        return {"mean": trace.signal, "square": trace.signal**2}


class Variance(AbstractObjective):
    def tally(self, design, trace):
        return {"y": trace.signal, "y2": trace.signal**2}

    def score(self, design, tally):
        variance = tally["y2"] - tally["y"] ** 2
        return Score({"variance": variance}, {"narrow": 2 - jnp.sqrt(variance)})


class ChiSquare(AbstractObjective):
    """Of a histogram of ten bins in [-2, 3], against equal contents of 20 events each."""

    def tally(self, design, trace):
        edges = jnp.linspace(-2, 3, 11)
        y = trace.signal[:, None]
        return (y >= edges[:-1]) & (y < edges[1:])

    def score(self, design, tally):
        return Score({"chi2": jnp.sum((200 * tally - 20) ** 2 / 20)})


class Quantile(AbstractObjective):
    """The 90% quantile, from the distribution function on a grid."""

    def tally(self, design, trace):
        return trace.signal[:, None] <= self.grid

    def score(self, design, tally):
        return Score({"q90": jnp.interp(0.9, tally, self.grid)})

    @property
    def grid(self):
        return jnp.linspace(-4, 5, 46)


class Fisher(AbstractObjective):
    """Error of the shift from a histogram, with the scale known to 10%."""

    def tally(self, design, trace):
        edges = jnp.linspace(-3, 4, 15)
        below = jax.nn.sigmoid((edges - trace.signal[:, None]) / 0.1)
        return below[:, 1:] - below[:, :-1] + 1e-4

    def score(self, design, tally):
        assert isinstance(tally, Tangents)
        content, slopes = tally.value, tally.tangents  # (bin,), (nuisance, bin)
        widths = jnp.array(list(self.nuisances().values()))
        information = 1000 * jnp.einsum("ib,jb->ij", slopes, slopes / content)
        information = information + jnp.diag(1 / widths**2)
        return Score({"error": jnp.sqrt(jnp.linalg.inv(information)[0, 0])})

    def nuisances(self):
        return {"shift": float("inf"), "scale": 0.1}


def problem(objective: AbstractObjective, events: int = 2000) -> Problem:
    design = Smearing(jnp.array(0.3), jnp.array(1.0), jnp.array(0.2))
    return Problem(
        space=Space(design, {"x": Real(-1, 1)}),
        pipeline=Pipeline(Nothing(), Normal()),
        objective=objective,
        events=events,
    )


SHAPES = (Mean, Variance, ChiSquare, Quantile, Fisher)
