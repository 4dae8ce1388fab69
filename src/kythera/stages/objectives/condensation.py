"""The loss that trains a network to find objects among hits."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax

from kythera.core.compilation import jit
from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float, Int
from kythera.stages.reconstruction.object_condensation import (
    Condensed,
    check_objects,
    check_words,
    condensation,
    payload_loss,
)


class CondensationLoss(PerEventLoss):
    """Object condensation: L = L_payload + s_C (L_V + seeds + s_B noise), a term for each.

    The reconstruction gives `Condensed`, as `GravNet` does; formulas are at `condensation`
    and `payload_loss`.

    Args:
        truth: (design, trace) -> for each hit its object, 1 to `objects`, or below 1 for
            noise, shape (event, hit), and how wrong its payload is, the same shape, >= 0.
            Hits of larger numbers are refused, or left out where JAX traces.
        objects: the most objects that an event can have.
        noise: s_B.
        scale: s_C.
        least_charge: q_min.
        normalised: of attraction and repulsion, "hits" or "objects".
        repulsion: "hinge" or "gaussian".

    Raises:
        InputError: objects below 1, or a word that is not known; at the call, a hit of an
            object above `objects`.
    """

    truth: Callable[
        [Any, Trace], tuple[Int[Array, "event hit"], Float[Array, "event hit"]]
    ] = eqx.field(static=True)
    objects: int = eqx.field(static=True)
    noise: float = 0.1
    scale: float = 1.0
    least_charge: float = 0.5
    normalised: str = eqx.field(static=True, default="hits")
    repulsion: str = eqx.field(static=True, default="hinge")
    references: ClassVar[tuple[str, ...]] = (
        "J. Kieseler, Object condensation: one-stage grid-free multi-object reconstruction "
        "in physics detectors, graph, and image data, Eur. Phys. J. C 80 (2020) 886, "
        "arXiv:2002.03605",
    )

    def __check_init__(self):
        """Refuse options that cannot be."""
        check_words(self.objects, self.normalised, self.repulsion)

    def loss(self, design: Any, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """Terms of the names attraction, repulsion, seeds, noise and payload."""
        object_of, wrong = self.truth(design, trace)
        check_objects(object_of, self.objects, trace.reco.present)
        return _terms(self, trace.reco, object_of, wrong)


@jit
def _terms(
    goal: CondensationLoss, found: Condensed, object_of: Array, wrong: Array
) -> dict[str, Array]:
    kwargs = {
        "least_charge": goal.least_charge,
        "normalised": goal.normalised,
        "repulsion": goal.repulsion,
    }

    def event(
        beta: Array, place: Array, present: Array, own: Array, wrong: Array
    ) -> dict[str, Array]:
        terms = condensation(beta, place, own, goal.objects, present=present, **kwargs)
        terms = terms._replace(noise=goal.noise * terms.noise)
        named = {k: goal.scale * v for k, v in terms._asdict().items()}
        said = payload_loss(beta, wrong, own, goal.objects, present=present)
        return {**named, "payload": said}

    return jax.vmap(event)(found.beta, found.place, found.present, object_of, wrong)
