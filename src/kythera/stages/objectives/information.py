"""What a signal tells about the truth, where no reconstruction exists yet."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera import errors
from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Trace
from kythera.core.types import Array, Float


class MutualInformation(PerEventLoss):
    """Minus a lower bound on the mutual information of truth x and signal y, in nats.

    The inference is a learned critic g(y) with k outputs, trained under `Retrain`; with k
    fixed features f of the truth

        I(x; y) >= E[ t(x, y) - log mean exp t(x', y) ],   t(x, y) = f(x) . g(y),

    where the mean is over x itself and K truths x' of the source, independent of y
    (InfoNCE, arXiv:1807.03748). It is the bound of Donsker and Varadhan that MINE maximises,
    normalised for each y, which makes it a mean over events. It holds on average over the
    references. They are fixed, so a critic that is trained learns how they differ from the
    source, and reads more than I by about k / 2K nats: where y says nothing, critics of
    k = 2 features trained on 10,000 events read 0.03 for K = 32, 0.008 for 128, 0.002 for
    512 and 0.0002 for 4096 in the mean, and several times as much with an unlucky draw.
    Take many, as they cost little, and other ones for the number that you publish. No
    critic passes log(K + 1), 8.3 nats for K = 4096: take more where the truth is known to
    one part in a thousand. I is reached for t = log p(y | x) + c(y), which powers of x up
    to the second give where the resolution is Gaussian.

    Args:
        features: truth -> f, shape (event, k), of order one.
        reference: features of many truths of the source, shape (reference, k):
            `features(source(4096, key=key))`.
        name: of the term.
    """

    features: Callable[[Any], Float[Array, "event k"]] = eqx.field(static=True)
    reference: Float[Array, "reference k"]
    name: str = eqx.field(static=True, default="information")
    references: ClassVar[tuple[str, ...]] = (
        "M. I. Belghazi et al., Mutual information neural estimation, ICML 2018, "
        "arXiv:1801.04062",
        "A. van den Oord, Y. Li, O. Vinyals, Representation learning with contrastive "
        "predictive coding, arXiv:1807.03748",
        "B. Poole, S. Ozair, A. van den Oord, A. Alemi, G. Tucker, On variational bounds "
        "of mutual information, ICML 2019, arXiv:1905.06922",
        "K. Wozniak, S. Mulligan, J. Kieseler, M. Klute, F. Fleuret, T. Golling, End-to-end "
        "optimal detector design with mutual information surrogates, Mach. Learn.: Sci. "
        "Technol. 6 (2025) 045047, arXiv:2503.14342",
    )

    def loss(self, design: Any, trace: Trace) -> dict[str, Float[Array, " event"]]:
        """The one term, minus what the bound says of each event."""
        critic, features = jnp.asarray(trace.result, float), self.features(trace.truth)
        shapes = critic.shape, features.shape, (len(critic), self.reference.shape[-1])
        if len(set(shapes)) > 1:
            raise errors.InputError(
                "A critic needs as many outputs as the truth has features, but critic, "
                f"features and references have the shapes {shapes}. Give the `Network` "
                f"{features.shape[-1]} outputs, and `features(source(4096, key=key))` as "
                "`reference`."
            )
        own = jnp.sum(critic * features, -1, keepdims=True)
        seen = jnp.concatenate([critic @ self.reference.T, own], -1)
        norm = jax.nn.logsumexp(seen, -1) - jnp.log(seen.shape[-1])
        return {self.name: norm - own[:, 0]}
