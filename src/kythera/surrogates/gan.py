"""A generator of signals that plays against a critic."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

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

TINY = 1e-12  # under roots, whose slope is infinite at zero


class _Generator(eqx.Module):
    """Noise, design and truth -> signal, in standardised numbers."""

    network: eqx.nn.MLP
    noise: int = eqx.field(static=True)

    def __call__(self, design: Array, truth: Array, key: Key) -> Array:
        condition = joined(design, truth)
        noise = jax.random.normal(key, (condition.shape[0], self.noise))
        return jax.vmap(self.network)(jnp.concatenate([noise, condition], -1))


class _Fitted(eqx.Module):
    """A trained generator of native values."""

    generator: _Generator
    truth: Scale
    target: Scale

    def __call__(
        self, design: Vector, truth: Float[Array, "row k"], *, key: Key
    ) -> Float[Array, "row m"]:
        made = self.generator(design, self.truth.enter(truth), key)
        return self.target.leave(made)


class CramerGAN(AbstractSurrogate):
    """Conditional generative adversarial network with the Cramer (energy) distance.

    The critic h maps (signal, design, truth) to a vector; with real x, generated x' and x"
    of the same condition, f(y) = |h(y) - h(x")| - |h(y)|. The critic maximises
    f(x) - f(x') with a penalty on |df/dy| != 1 in between; the generator minimises
    |h(x) - h(x')| + |h(x) - h(x")| - |h(x') - h(x")| (Algorithm 1 of arXiv:1705.10743).
    Both take a step on each batch.

    Args:
        width: of the three hidden layers of both networks.
        features: length of the critic's vector.
        noise: numbers from which a signal is generated.
        blur: noise on all signals that the critic sees, in their spreads.
        penalty: weight of the penalty on the critic's slope.
        steps: of Adam.
        batch: rows in each.
        rate: of Adam, with b1 = 0.5.
    """

    width: int = eqx.field(static=True, default=64)
    features: int = eqx.field(static=True, default=32)
    noise: int = eqx.field(static=True, default=16)
    blur: float = eqx.field(static=True, default=0.01)
    penalty: float = eqx.field(static=True, default=10.0)
    steps: int = eqx.field(static=True, default=600)
    batch: int = eqx.field(static=True, default=256)
    rate: float = eqx.field(static=True, default=2e-3)
    models: ClassVar[Literal["tally", "signal"]] = "signal"
    references: ClassVar[tuple[str, ...]] = (
        "M. G. Bellemare et al., The Cramer distance as a solution to biased Wasserstein "
        "gradients, arXiv:1705.10743",
    )

    def fit(self, key: Key, samples: Samples) -> tuple[Model, Vector]:
        """See the base class; the course is that of both losses together."""
        first, second, course = jax.random.split(key, 3)
        truth = scale_of(samples.kept.truth, samples.weight)
        target = scale_of(samples.kept.target, samples.weight)
        columns = samples.design.shape[1] + samples.kept.truth.shape[2]
        out = samples.kept.target.shape[2]
        generator = _Generator(
            eqx.nn.MLP(columns + self.noise, out, self.width, 3, jnp.tanh, key=first),
            self.noise,
        )
        critic = eqx.nn.MLP(
            columns + out, self.features, self.width, 3, jax.nn.leaky_relu, key=second
        )

        def losses(free: tuple, held: tuple, data: Batch, key: Key) -> Array:
            scaled = data._replace(
                truth=truth.enter(data.truth), target=target.enter(data.target)
            )
            generating = self._losses(free[0], held[1], scaled, key)[0]
            return generating + self._losses(held[0], free[1], scaled, key)[1]

        trained, found = train(
            course, (generator, critic), losses, samples,
            rule=optax.adam(self.rate, b1=0.5), steps=self.steps, batch=self.batch,
        )  # fmt: skip
        return _Fitted(trained[0], truth, target), found

    def _losses(
        self, generator: _Generator, critic: eqx.nn.MLP, data: Batch, key: Key
    ) -> tuple[Array, Array]:
        """Of the generator, and of the critic, on the same generated signals."""
        one, two, blur, mix = jax.random.split(key, 4)
        condition = joined(data.design, data.truth)
        made = [generator(data.design, data.truth, k) for k in (one, two)]
        noise = self.blur * jax.random.normal(blur, (3, *data.target.shape))
        real, fake, other = (
            data.target + noise[0],
            made[0] + noise[1],
            made[1] + noise[2],
        )

        def h(y: Array, c: Array) -> Array:
            return critic(jnp.concatenate([y, c], -1))

        def f(y: Vector, c: Vector, against: Vector) -> Array:
            seen = h(y, c)
            return _length(seen - h(against, c)) - _length(seen)

        hs = [jax.vmap(h)(y, condition) for y in (real, fake, other)]
        generating = (
            _length(hs[0] - hs[1]) + _length(hs[0] - hs[2]) - _length(hs[1] - hs[2])
        )
        gap = _length(hs[0] - hs[2]) - _length(hs[0])
        gap = gap - _length(hs[1] - hs[2]) + _length(hs[1])
        part = jax.random.uniform(mix, (real.shape[0], 1))
        between = part * real + (1 - part) * fake
        slope = jax.vmap(jax.grad(f))(between, condition, other)
        penalty = self.penalty * (_length(slope) - 1) ** 2
        return jnp.mean(generating), jnp.mean(penalty - gap)


def _length(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2, -1) + TINY)
