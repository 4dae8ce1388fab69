"""A quadratic model of mean tallies in the neighbourhood of a design, in closed form."""

from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from kythera.core.types import Array, Float, Key, Vector
from kythera.surrogates.base import AbstractSurrogate, Model, Samples

ROWS_PER_FEATURE = 10  # with fewer, a control variate adds more noise than it removes
JITTER = 1e-5  # of the spread: rounding of float32
STEPS, RATE = 60, 0.1  # of the climb to the most likely hyperparameters


class Moments(NamedTuple):
    """What the rows of one design say about mean tallies.

    Args:
        rows: their number, a scalar.
        feature: mean of the control variates, shape (q,).
        tally: mean of the tallies, shape (m,).
        features: covariance of the control variates, shape (q, q).
        both: covariance of control variates and tallies, shape (q, m).
        spread: variances of the tallies, shape (m,).
    """

    rows: Array
    feature: Vector
    tally: Vector
    features: Float[Array, "q q"]
    both: Float[Array, "q m"]
    spread: Vector


class _Fitted(eqx.Module):
    """Posterior mean: offset + scale * (k(z, designs) @ weights)."""

    design: Float[Array, "design n"]
    weights: Float[Array, "m design"]
    log: Float[Array, "m 4"]
    offset: Vector
    scale: Vector

    def __call__(
        self, design: Vector, truth: Float[Array, "row k"], *, key: Key
    ) -> Float[Array, "row m"]:
        rows = jax.vmap(lambda h: _kernel(h, design[None], self.design)[0])(self.log)
        mean = self.offset + self.scale * jnp.sum(rows * self.weights, -1)
        return jnp.broadcast_to(mean, (truth.shape[0], mean.size))


class Quadratic(AbstractSurrogate):
    """Bayesian regression of the mean tallies on 1, z and z z' of the designs z.

    Every score is a function of the mean tally, so that a model of means is enough, and the
    mean over truths needs no model of truths: they serve as control variates (they and
    their squares, with the regression coefficients pooled over the designs), which removes
    the part of the noise that they explain. The noise of each design is then known from
    its rows; beyond it the model may err by a remainder that grows as the cube of the
    distance. Sizes of slope, curvature and remainder are those of the greatest marginal
    likelihood, found for each column; everything else is linear algebra. With fewer designs than
    parameters the slope lies in the span of the designs.
    """

    references: ClassVar[tuple[str, ...]] = (
        "C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT "
        "Press 2006, ch. 2 and 5",
        "A. R. Conn, K. Scheinberg, L. N. Vicente, Introduction to Derivative-Free "
        "Optimization, SIAM 2009, ch. 4 and 10",
    )
    models: ClassVar[Literal["tally", "signal"]] = "tally"

    def keep(
        self, truth: Float[Array, "row k"], target: Float[Array, "row m"]
    ) -> Moments:
        """Moments: memory does not grow with the rows."""
        rows = target.shape[0]
        features = jnp.concatenate([truth, truth**2], -1)
        if features.shape[-1] * ROWS_PER_FEATURE > rows:
            features = features[:, :0]
        feature, tally = jnp.mean(features, 0), jnp.mean(target, 0)
        f, t = features - feature, target - tally
        return Moments(
            rows=jnp.asarray(float(rows)),
            feature=feature,
            tally=tally,
            features=f.T @ f / rows,
            both=f.T @ t / rows,
            spread=jnp.mean(t**2, 0),
        )

    def fit(self, key: Key, samples: Samples) -> tuple[Model, Float[Array, " step"]]:
        """See the base class; the course is that of the negative log likelihood."""
        means, noise = _adjusted(samples.kept, samples.weight)
        w = samples.weight / jnp.maximum(jnp.sum(samples.weight), 1.0)
        offset = w @ means
        scale = jnp.sqrt(w @ (means - offset) ** 2)
        scale = jnp.where(scale > 0, scale, 1.0)
        y = samples.weight[:, None] * (means - offset) / scale
        logs, weights, courses = jax.vmap(_solve, (None, 1, 1, None))(
            samples.design, y, noise / scale**2, samples.weight
        )
        model = _Fitted(samples.design, weights, logs, offset, scale)
        return model, jnp.sum(courses, 0)


def _adjusted(kept: Moments, weight: Vector) -> tuple[Array, Array]:
    """Mean tallies without what their truths explain, and their variances, (design, m)."""
    total = jnp.maximum(jnp.sum(weight), 1.0)
    features = jnp.tensordot(weight, kept.features, 1) / total
    both = jnp.tensordot(weight, kept.both, 1) / total
    # What all truths share has size 0; its square would be lost in float32.
    size = jnp.sqrt(jnp.maximum(jnp.diag(features), 1e-30))
    whitened = features / (size[:, None] * size) + 1e-3 * jnp.eye(size.size)
    solved = jnp.linalg.solve(whitened, both / size[:, None])
    slope = solved / size[:, None]
    centre = weight @ kept.feature / total
    means = kept.tally - (kept.feature - centre) @ slope
    left = (
        kept.spread
        - 2 * jnp.einsum("qm,dqm->dm", slope, kept.both)
        + jnp.einsum("qm,dqr,rm->dm", slope, kept.features, slope)
    )
    return means, jnp.maximum(left, 0) / jnp.maximum(kept.rows - 1, 1)[:, None]


def _kernel(log: Vector, a: Float[Array, "a n"], b: Float[Array, "b n"]) -> Array:
    """Covariance of constant, linear and quadratic functions."""
    constant, slope, curvature = jnp.exp(log[:3])
    product = a @ b.T
    return constant + slope * product + curvature * product**2


def _solve(
    z: Float[Array, "design n"], y: Vector, noise: Vector, weight: Vector
) -> tuple[Array, Array, Array]:
    """Hyperparameters, weights of the designs, and the course of the likelihood."""
    n = z.shape[1]
    far = (jnp.sum(z**2, -1) / n) ** 3
    real = weight > 0

    def factor(log: Vector) -> Array:
        matrix = jnp.where(real[:, None] & real, _kernel(log, z, z), 0.0)
        own = noise + JITTER + jnp.exp(log[3]) * far
        return jnp.linalg.cholesky(matrix + jnp.diag(jnp.where(real, own, 1.0)))

    def loss(log: Vector) -> Array:
        lower = factor(log)
        white = jax.scipy.linalg.solve_triangular(lower, y, lower=True)
        prior = jnp.sum((log - start) ** 2) / 2 / 3.0**2  # keeps what is not determined
        return jnp.sum(white**2) / 2 + jnp.sum(jnp.log(jnp.diag(lower))) + prior

    start = jnp.log(jnp.array([1.0, 1 / n, 0.1 / n**2, 1e-3]))
    rule = optax.adam(RATE)

    def step(carry: tuple, _: None) -> tuple[tuple, Array]:
        log, state = carry
        value, slope = jax.value_and_grad(loss)(log)
        update, state = rule.update(slope, state)
        return (log + update, state), value

    (log, _), course = jax.lax.scan(step, (start, rule.init(start)), None, STEPS)
    return log, jax.scipy.linalg.cho_solve((factor(log), True), y), course
