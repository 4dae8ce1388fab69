"""The diffusion model against distributions that are known."""

import dataclasses
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.core.compilation import jit
from kythera.surrogates.base import Rows, Samples, Scale
from kythera.surrogates.diffusion import Denoiser, Diffusion, _Fitted

KEY = jax.random.key(8)
LOG = logging.getLogger(__name__)  # shown by --log-cli-level=INFO
PLAIN = Scale(jnp.zeros(1), jnp.ones(1))


@jit
def drawn(model, z, truth):
    return model(z, truth, key=KEY)


@pytest.mark.parametrize("width", [0.05, 0.3, 1.0, 2.0])
def test_a_normal_part_alone_gives_that_normal_distribution(width):
    """Nothing is trained: mean 1 + 0.5 z, any width; only the steps' length is at fault."""
    denoiser = Diffusion(width=4).fresh(KEY, 1, 1, 1)
    line = denoiser.line
    log = 2 * np.log(width)
    line = eqx.tree_at(
        lambda v: (v.weight, v.bias),
        line,
        (jnp.array([[0.5, 0.0], [0.0, 0.0]]), jnp.array([1.0, log])),
    )
    model = _Fitted(Denoiser(line, denoiser.network), PLAIN, PLAIN, 10)
    made = drawn(model, jnp.array([0.4]), jnp.zeros((4000, 1)))
    assert np.mean(made) == pytest.approx(1.2, abs=0.01 + 4 * width / 63)
    assert np.std(made) == pytest.approx(width, rel=0.05, abs=0.02)
    slope = jax.grad(lambda z: jnp.mean(drawn(model, z, jnp.zeros((50, 1)))))
    assert slope(jnp.array([0.4]))[0] == pytest.approx(0.5, rel=0.02)


def samples(designs=24, rows=400, origin=0.0, key=KEY):
    """Of z and truth t: t + 2 z_1 - z_2 + e^(0.3 z_1) noise; two peaks +-(2 + z_2 / 2).

    Designs are counted from the origin.
    """
    key = jax.random.split(key, 5)
    u = jax.random.uniform(key[0], (designs, 2), minval=-1.0)
    z = u + origin
    t = 3 * jax.random.normal(key[1], (designs, rows, 1))
    one, two = z[:, :1, None], z[:, 1:, None]
    first = t + 2 * one - two + jnp.exp(0.3 * one) * jax.random.normal(key[2], t.shape)
    sign = jnp.where(jax.random.uniform(key[3], t.shape) < 0.5 + 0.2 * one, 1.0, -1.0)
    second = sign * (2 + two / 2) + 0.3 * jax.random.normal(key[4], t.shape)
    return Samples(u, Rows(t, jnp.concatenate([first, second], -1)), jnp.ones(designs))


@jit
def fitted(surrogate, data):
    model, course = surrogate.fit(KEY, data)

    def moments(z):
        made = model(z, jnp.zeros((4000, 1)), key=KEY)
        return jnp.concatenate([jnp.mean(made, 0), jnp.log(jnp.std(made, 0))]), made

    slopes, made = jax.jacrev(moments, has_aux=True)(jnp.zeros(2))
    return slopes, made, course


@pytest.mark.slow
def test_a_known_distribution_and_its_slopes():
    slopes, made, course = fitted(Diffusion(), samples())
    assert np.all(np.isfinite(course))
    np.testing.assert_allclose(np.mean(made, 0), [0.0, 0.0], atol=0.15)
    assert np.std(made[:, 0]) == pytest.approx(1.0, rel=0.1)
    # Two peaks of equal weight: what is there, and what is between them.
    second = np.asarray(made[:, 1])
    assert np.mean(second > 0) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.abs(np.abs(second) - 2) < 0.6) > 0.85
    assert np.mean(np.abs(second) < 1) < 0.06
    # d mean: (2, -1) and 2 (0.4, 0); d log width: (0.3, 0) and (0, 1/4 * 4 / 4.09).
    np.testing.assert_allclose(slopes[0], [2.0, -1.0], atol=0.15)
    np.testing.assert_allclose(slopes[1], [0.8, 0.0], atol=0.25)
    np.testing.assert_allclose(slopes[2], [0.3, 0.0], atol=0.12)
    np.testing.assert_allclose(slopes[3], [0.0, 0.25], atol=0.12)


def test_bad_settings_are_refused():
    with pytest.raises(errors.InputError, match="`passes` must be a whole number"):
        ky.Diffusion(passes=0)


@jit
def trained(surrogate, data, denoiser, count):
    model, course = surrogate.refit(KEY, data, denoiser, count)
    return model.denoiser, course


@pytest.mark.slow
def test_warm_starts_need_fewer_steps():
    """Half a radius further: a tenth of the steps is as good as half of them from scratch."""
    surrogate = Diffusion(width=32)
    judge = dataclasses.replace(surrogate, batch=20_000, steps=1)
    cold = surrogate.fresh(KEY, 2, 1, 2)
    first, _ = trained(surrogate, samples(), cold, 600.0)
    further = jnp.array([0.5, -0.5])
    data = samples(origin=further, key=jax.random.key(9))
    held = samples(origin=further, key=jax.random.key(10))

    def left(start, steps):
        after, _ = trained(surrogate, data, start, steps)
        return float(trained(judge, held, after, 1.0)[1][0])

    warm = left(first, 60.0)
    LOG.info("%s", {n: round(left(cold, n), 4) for n in (60.0, 150.0, 300.0, 600.0)})
    LOG.info("warm %.4f", warm)
    assert warm < left(cold, 300.0)
