"""Signal and background of the benchmark: Gaussians times an exponential."""

import equinox as eqx
import jax.numpy as jnp

from kythera.core import random
from kythera.core.stage import AbstractPathwiseSimulator, AbstractSource
from kythera.core.types import Array, Float, Key
from kythera.instruments.inferno_toy.design import Analysis

MEAN = (2.0, 0.0)  # of the background in the first two features, at r = 0
WIDTHS = (5.0**0.5, 3.0)  # its standard deviations there: variances of 5 and 9
SIGNAL_RATE = 2.0  # of the signal's exponential; its Gaussian is the unit one at zero
NOMINAL = {"shift": 0.0, "rate": 3.0}
YIELDS = {"signal": 50.0, "background": 1000.0}


class Draws(eqx.Module):
    """Random numbers of which events are made, a signal and a background one in a row.

    Args:
        signal: two unit normal numbers and a unit exponential one, shape (event, 3).
        background: likewise.
    """

    signal: Float[Array, "event 3"]
    background: Float[Array, "event 3"]


class Pairs(AbstractSource[Draws]):
    """One signal and one background event in each row, so that both are always there."""

    primaries: int = eqx.field(static=True, default=2)

    def __call__(self, events: int, *, key: Key) -> Draws:
        """Draw `events` pairs."""
        normal = random.normal(key, (events, 2, 4))
        # half a chi square of two degrees of freedom is a unit exponential
        exponential = jnp.sum(normal[..., 2:] ** 2, -1, keepdims=True) / 2
        draws = jnp.concatenate([normal[..., :2], exponential], -1)
        return Draws(draws[:, 0], draws[:, 1])


class Mixture(AbstractPathwiseSimulator[Analysis, Draws, dict[str, Array]]):
    """Features of both samples; those of the background depend on what is not known.

    signal: N(0, 1) N(0, 1) Exp(2); background: N(2 + r, 5) N(0, 9) Exp(lambda), with the
    variances 5 and 9 (Eq. 18 of arXiv:1806.04743, with the signal at the origin as in its
    code).
    """

    def __call__(self, design: Analysis, x: Draws, *, key: Key) -> dict[str, Array]:
        """Sample -> features, each of shape (event, 3)."""
        scale = jnp.array([1.0, 1.0, 1 / SIGNAL_RATE])
        widths = jnp.stack([*map(jnp.asarray, WIDTHS), 1 / design.rate])
        centre = jnp.stack([MEAN[0] + design.shift, jnp.array(MEAN[1]), jnp.array(0.0)])
        return {
            "signal": x.signal * scale,
            "background": centre + x.background * widths,
        }
