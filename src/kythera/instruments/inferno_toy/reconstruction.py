"""The network, and what becomes of its outputs."""

import jax
import jax.numpy as jnp

from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Trace
from kythera.core.stage import AbstractStage
from kythera.core.types import Array, Float, Key
from kythera.instruments.inferno_toy.design import Analysis


class Logits(AbstractStage[Analysis, dict[str, Array], dict[str, Array]]):
    """The network of the design on the events of each sample."""

    def __call__(
        self, design: Analysis, x: dict[str, Array], *, key: Key
    ) -> dict[str, Array]:
        """Sample -> logits, shape (event, outputs)."""
        return {name: design.logits(features) for name, features in x.items()}


class CrossEntropy(PerEventLoss):
    """What a classifier is trained with: -log of the probability of the right class, nats.

    The network has two outputs, of which the second stands for the signal.
    """

    def loss(self, design: Analysis, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The one term, the mean of a signal and a background event."""
        signal, background = (odds(trace.reco[k]) for k in ("signal", "background"))
        both = jax.nn.softplus(-signal) + jax.nn.softplus(background)
        return {"cross_entropy": both / 2}


def odds(logits: Float[Array, "event 2"]) -> Float[Array, " event"]:
    """Logarithm of the odds that an event is signal."""
    return logits[..., 1] - logits[..., 0]


def probability(logits: Float[Array, "event 2"]) -> Float[Array, " event"]:
    """That an event is signal, were both as frequent."""
    return jnp.asarray(jax.nn.sigmoid(odds(logits)))
