"""A diffusion model of signals: noise that is turned into events, step by step."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from kythera import errors
from kythera.core import random
from kythera.core.types import Array, Float, Key, Scalar, Vector
from kythera.surrogates.base import (
    AbstractSurrogate,
    Model,
    Samples,
    Scale,
    joined,
    scale_of,
)
from kythera.surrogates.training import Batch, train

NARROW, WIDE = -12.0, 6.0  # logarithm of the variance that the normal part may have
GAIN = 6**0.5  # from Equinox' first weights to those that keep the size of a signal


class Denoiser(eqx.Module):
    """The velocity v of one row, in standardised numbers: a normal part and a network.

    Args:
        line: condition -> mean and logarithm of the variance of the normal part.
        network: condition, noisy row, cosine and sine of the angle -> the rest.
    """

    line: eqx.nn.Linear
    network: eqx.nn.MLP

    def __call__(self, condition: Vector, x: Vector, angle: Scalar) -> Vector:
        """Shape (m,)."""
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        mean, log = jnp.split(self.line(condition), 2)
        variance = jnp.exp(jnp.clip(log, NARROW, WIDE))
        slope = cos * sin * (1 - variance) / (cos**2 * variance + sin**2)
        normal = slope * (x - cos * mean) - sin * mean
        seen = jnp.concatenate([condition, x, jnp.stack([cos, sin])])
        return normal + self.network(seen)


class _Fitted(eqx.Module):
    """A trained model of native values."""

    denoiser: Denoiser
    truth: Scale
    target: Scale
    passes: int = eqx.field(static=True)

    def __call__(
        self, design: Vector, truth: Float[Array, "row k"], *, key: Key
    ) -> Float[Array, "row m"]:
        condition = joined(design, self.truth.enter(truth))
        length = jnp.pi / 2 / self.passes

        def velocity(x: Array, angle: Scalar) -> Array:
            return jax.vmap(self.denoiser, (0, 0, None))(condition, x, angle)

        @jax.checkpoint  # memory: rows of each step, not what happens within
        def turn(x: Array, angle: Scalar) -> tuple[Array, None]:
            middle = x - length / 2 * velocity(x, angle)
            return x - length * velocity(middle, angle - length / 2), None

        noise = random.normal(key, (truth.shape[0], self.target.mean.size))
        angles = jnp.pi / 2 - length * jnp.arange(self.passes)
        made, _ = jax.lax.scan(turn, noise, angles)
        return self.target.leave(made)


class Diffusion(AbstractSurrogate):
    """Conditional diffusion model with deterministic sampling.

    A row x is mixed with normal noise e along a quarter of a circle,

        x_a = cos(a) x + sin(a) e,   0 <= a <= pi / 2,

    and a network learns the velocity v = cos(a) e - sin(a) x from (design, truth, x_a, a) by
    least squares (arXiv:2202.00512). Samples start as noise at a = pi / 2 and follow
    dx / da = v to a = 0 (probability flow, arXiv:2010.02502, in midpoint steps): at fixed noise
    they move smoothly with the design. The circle ends in noise exactly. (The published
    setting of 50 steps with variances 1e-4 to 0.02, arXiv:2502.02152, keeps 78% of the signal
    at its end, where its sampling begins with pure noise.)

    Part of v has a closed form: that of a normal distribution whose mean and logarithm of the
    variance are linear in design and truth. It starts as the standard normal and is trained
    with the network, which gives the rest and starts at zero, so that directions in which no
    design was simulated get no slope.

    Args:
        width: of the three hidden layers.
        steps: of Adam, whose rate falls to zero along half a cosine.
        batch: rows in each.
        rate: at which Adam starts.
        passes: midpoint steps from noise to sample, two calls of the network each.
    """

    width: int = eqx.field(static=True, default=64)
    steps: int = eqx.field(static=True, default=600)
    batch: int = eqx.field(static=True, default=512)
    rate: float = eqx.field(static=True, default=5e-3)
    passes: int = eqx.field(static=True, default=10)
    models: ClassVar[Literal["tally", "signal"]] = "signal"
    references: ClassVar[tuple[str, ...]] = (
        "J. Ho, A. Jain, P. Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020, "
        "arXiv:2006.11239",
        "J. Song, C. Meng, S. Ermon, Denoising diffusion implicit models, ICLR 2021, "
        "arXiv:2010.02502",
        "T. Salimans, J. Ho, Progressive distillation for fast sampling of diffusion models, "
        "ICLR 2022, arXiv:2202.00512",
    )

    def __check_init__(self):
        """Refuse counts below one."""
        for name in ("width", "steps", "batch", "passes"):
            value = getattr(self, name)
            if int(value) != value or value < 1:
                raise errors.InputError(
                    f"`{name}` must be a whole number >= 1, but is {value}. Try 10."
                )

    def fresh(self, key: Key, n: int, k: int, m: int) -> Denoiser:
        """Initial weights for designs of n numbers, truths of k and signals of m."""
        line = eqx.nn.Linear(n + k, 2 * m, key=key)
        network = eqx.nn.MLP(n + k + m + 2, m, self.width, 3, jax.nn.silu, key=key)

        def parts(v: Denoiser) -> list:
            *inner, last = v.network.layers
            return [v.line, last, *(layer.weight for layer in inner)]

        first = Denoiser(line, network)
        *ends, one, two, three = parts(first)
        zeros = jax.tree.map(jnp.zeros_like, ends)
        return eqx.tree_at(parts, first, [*zeros, GAIN * one, GAIN * two, GAIN * three])

    def fit(self, key: Key, samples: Samples) -> tuple[Model, Vector]:
        """See the base class; the course is that of the mean squared error of v."""
        weights, course = jax.random.split(key)
        truth, target = samples.kept.truth, samples.kept.target
        sizes = (samples.design.shape[1], truth.shape[2], target.shape[2])
        model, found = self.refit(course, samples, self.fresh(weights, *sizes))
        return model, found

    def refit(
        self,
        key: Key,
        samples: Samples,
        denoiser: Denoiser,
        count: Array | None = None,
    ) -> tuple[_Fitted, Vector]:
        """Train further; pure, and compiled once for any number of steps.

        Args:
            key: of batches.
            samples: what was simulated.
            denoiser: weights to start from.
            count: steps that are taken, at most and by default `steps`.

        Returns:
            the model, and the course of its loss, zero behind the last step.
        """
        truth = scale_of(samples.kept.truth, samples.weight)
        target = scale_of(samples.kept.target, samples.weight)

        def loss(free: Denoiser, held: Denoiser, data: Batch, key: Key) -> Array:
            when, noise = jax.random.split(key)
            x = target.enter(data.target)
            e = random.normal(noise, x.shape)
            angle = jnp.pi / 2 * random.uniform(when, (len(x), 1))
            mixed = jnp.cos(angle) * x + jnp.sin(angle) * e
            wanted = jnp.cos(angle) * e - jnp.sin(angle) * x
            condition = joined(data.design, truth.enter(data.truth))
            told = jax.vmap(free)(condition, mixed, angle[:, 0])
            return jnp.mean((told - wanted) ** 2)

        total = self.steps if count is None else jnp.minimum(count, self.steps)
        rule = optax.adam(lambda i: self.rate * (1 + jnp.cos(jnp.pi * i / total)) / 2)
        trained, course = train(
            key, denoiser, loss, samples,
            rule=rule, steps=self.steps, batch=self.batch, count=count,
        )  # fmt: skip
        return _Fitted(trained, truth, target, self.passes), course
