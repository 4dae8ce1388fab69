"""A normalising flow: a density of signals that can be drawn from."""

import importlib.util
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from kythera import errors
from kythera.core.types import Array, Float, Key, Vector
from kythera.surrogates.base import (
    AbstractSurrogate,
    Model,
    Samples,
    Scale,
    joined,
    scale_of,
)
from kythera.surrogates.training import Batch, train


class _Fitted(eqx.Module):
    """A trained flow of native values."""

    flow: Any
    truth: Scale
    target: Scale

    def __call__(
        self, design: Vector, truth: Float[Array, "row k"], *, key: Key
    ) -> Float[Array, "row m"]:
        condition = joined(design, self.truth.enter(truth))
        return self.target.leave(self.flow.sample(key, (), condition))


class Flow(AbstractSurrogate):
    """Conditional masked autoregressive flow with rational quadratic splines (flowjax).

    Trained by maximum likelihood, which does not oscillate as a game does. A signal of m
    numbers is drawn in m passes, of which each is kept: signals of 256 numbers at most.

    Args:
        layers: of the flow.
        width: of the network in each.
        knots: of the splines, in +- 4 spreads.
        steps: of Adam, whose rate falls to zero along half a cosine.
        batch: rows in each.
        rate: at which Adam starts.

    Raises:
        UnsupportedError: flowjax is not installed.
    """

    layers: int = eqx.field(static=True, default=2)
    width: int = eqx.field(static=True, default=32)
    knots: int = eqx.field(static=True, default=8)
    steps: int = eqx.field(static=True, default=400)
    batch: int = eqx.field(static=True, default=512)
    rate: float = eqx.field(static=True, default=5e-3)
    models: ClassVar[Literal["tally", "signal"]] = "signal"
    longest: ClassVar[float] = 256
    references: ClassVar[tuple[str, ...]] = (
        "G. Papamakarios, T. Pavlakou, I. Murray, Masked autoregressive flow for density "
        "estimation, NeurIPS 2017, arXiv:1705.07057",
        "C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, Neural spline flows, NeurIPS "
        "2019, arXiv:1906.04032",
        "D. Ward, FlowJax: distributions and normalizing flows in Jax, "
        "github.com/danielward27/flowjax",
    )

    def __check_init__(self):
        """Refuse where the library is missing."""
        if importlib.util.find_spec("flowjax") is None:
            raise errors.UnsupportedError(
                "`Flow` needs the library flowjax, which is not installed. Install it: "
                "pip install 'kythera[flows]', or use `CramerGAN` or `Quadratic`."
            )

    def fit(self, key: Key, samples: Samples) -> tuple[Model, Vector]:
        """See the base class; the course is that of the mean negative log density."""
        from flowjax.bijections import RationalQuadraticSpline
        from flowjax.distributions import Normal
        from flowjax.flows import masked_autoregressive_flow
        from paramax import NonTrainable

        weights, course = jax.random.split(key)
        truth = scale_of(samples.kept.truth, samples.weight)
        target = scale_of(samples.kept.target, samples.weight)
        flow = masked_autoregressive_flow(
            weights,
            base_dist=Normal(jnp.zeros(samples.kept.target.shape[2])),
            transformer=RationalQuadraticSpline(knots=self.knots, interval=4),
            cond_dim=samples.design.shape[1] + samples.kept.truth.shape[2],
            flow_layers=self.layers,
            nn_width=self.width,
            nn_activation=jax.nn.silu,
        )

        def loss(free: Any, held: Any, data: Batch, key: Key) -> Array:
            condition = joined(data.design, truth.enter(data.truth))
            return -jnp.mean(free.log_prob(target.enter(data.target), condition))

        rule = optax.adam(optax.cosine_decay_schedule(self.rate, self.steps))
        trained, found = train(
            course, flow, loss, samples, rule=rule, steps=self.steps, batch=self.batch,
            is_leaf=lambda v: isinstance(v, NonTrainable),
        )  # fmt: skip
        return _Fitted(trained, truth, target), found
