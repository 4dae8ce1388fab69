"""What a signal tells about the truth, where no reconstruction exists yet."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float


class MutualInformation(PerEventLoss):
    """Minus a lower bound on the mutual information of truth x and signal y, in nats.

    The inference is a learned critic g(y) with k outputs, trained under `Retrain`; with k
    fixed features f of the truth

        I(x; y) >= E[ t(x, y) - log E_x' exp t(x', y) ],   t(x, y) = f(x) . g(y),

    where x' are truths of the source, independent of y. It is the bound of Donsker and
    Varadhan that MINE maximises, normalised for each y, which makes it tighter, a mean over
    events, and free of its bias; equality holds for t = log p(y | x) + c(y), which powers
    of x up to the second reach where the resolution is Gaussian.

    Args:
        features: truth -> f, shape (event, k), of order one.
        reference: features of many truths of the source, shape (reference, k):
            `features(source(512, key=key))`.
        name: of the term.
    """

    features: Callable[[Any], Float[Array, "event k"]] = eqx.field(static=True)
    reference: Float[Array, "reference k"]
    name: str = eqx.field(static=True, default="information")
    references: ClassVar[tuple[str, ...]] = (
        "M. I. Belghazi et al., Mutual information neural estimation, ICML 2018, "
        "arXiv:1801.04062",
        "B. Poole, S. Ozair, A. van den Oord, A. Alemi, G. Tucker, On variational bounds "
        "of mutual information, ICML 2019, arXiv:1905.06922",
        "K. Wozniak, S. Mulligan, J. Kieseler, M. Klute, F. Fleuret, T. Golling, End-to-end "
        "optimal detector design with mutual information surrogates, Mach. Learn.: Sci. "
        "Technol. 6 (2025) 045047, arXiv:2503.14342",
    )

    def loss(self, design: Any, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The one term, minus what the bound says of each event."""
        critic = jnp.asarray(trace.result, float)
        own = jnp.sum(critic * self.features(trace.truth), -1)
        others = critic @ self.reference.T
        norm = jax.nn.logsumexp(others, -1) - jnp.log(others.shape[-1])
        return {self.name: norm - own}
