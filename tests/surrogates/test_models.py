"""Surrogates of a known simulator: means, slopes, distributions, and training that fails."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.compilation import jit
from kythera.surrogates.base import Samples
from kythera.surrogates.diffusion import Diffusion
from kythera.surrogates.flow import Flow
from kythera.surrogates.gan import CramerGAN
from kythera.surrogates.quadratic import Quadratic
from kythera.surrogates.regressor import Regressor

KEY = jax.random.key(6)
SLOPE = np.array([2.0, -1.0, 0.0])
CURVE = np.array([0.0, 0.5, 1.0])


def simulated(surrogate, noise: float = 1.0, designs: int = 24, rows: int = 300):
    """Target = truth + SLOPE z + CURVE z^2 + noise, and as many slots that hold nothing."""
    keys = jax.random.split(KEY, 3)
    z = jax.random.uniform(keys[0], (designs, 3), minval=-1.0)
    truth = 3 * jax.random.normal(keys[1], (designs, rows, 1))
    mean = z @ SLOPE + z**2 @ CURVE
    target = (
        truth + mean[:, None, None] + noise * jax.random.normal(keys[2], truth.shape)
    )
    kept = jax.vmap(surrogate.keep)(truth, target)
    padded = jax.tree.map(lambda v: jnp.concatenate([v, jnp.full_like(v, 50.0)]), kept)
    weight = jnp.repeat(jnp.array([1.0, 0.0]), designs)
    return Samples(jnp.concatenate([z, 0 * z]), padded, weight)


@jit
def fit(surrogate, key, samples):
    model, course = surrogate.fit(key, samples)
    truth = jnp.zeros((4000, 1))

    def mean(z):
        return jnp.mean(model(z, truth, key=KEY))

    signals = model(jnp.zeros(3), truth, key=KEY)
    return mean(jnp.zeros(3)), jax.grad(mean)(jnp.zeros(3)), signals, course


MODELS = {  # and how far slopes may be off
    "quadratic": (Quadratic(), 0.06),
    "regressor": (Regressor(width=32, steps=300, batch=512), 0.25),
    "gan": (CramerGAN(width=32, steps=400, batch=128), 0.5),
    "diffusion": (Diffusion(width=32, steps=300, batch=256), 0.3),
    "flow": (Flow(layers=1, width=16, steps=300, batch=256), 0.4),
}


GENERATIVE = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("gan", "flow", "diffusion")
]


@pytest.mark.parametrize("name", ["quadratic", "regressor", *GENERATIVE])
def test_slopes_are_found(name):
    surrogate, tolerance = MODELS[name]
    _, slope, signals, course = fit(surrogate, KEY, simulated(surrogate))
    assert np.all(np.isfinite(course))
    np.testing.assert_allclose(slope, SLOPE, atol=tolerance)
    if (
        surrogate.models == "signal"
    ):  # given the truth, the noise is left: mean 0, spread 1
        assert abs(np.mean(signals)) < 0.7
        assert 0.6 < np.std(signals) < 1.5


def test_truths_take_away_the_noise_that_they_explain():
    """Of 3 of the truth and 1 beside it the second is left; without truths both are."""
    errors = {}
    for hidden in (False, True):
        samples = simulated(Quadratic())
        if hidden:
            kept = samples.kept
            kept = kept._replace(both=0 * kept.both)
            samples = samples._replace(kept=kept)
        errors[hidden] = np.abs(fit(Quadratic(), KEY, samples)[1] - SLOPE).max()
    assert errors[False] < errors[True] / 2


def test_what_no_design_tells_has_no_slope():
    """Three designs in a space of three: what they span is all that is known."""
    samples = simulated(Quadratic(), designs=3)
    samples = samples._replace(design=samples.design.at[:, 2].set(0.0))
    assert abs(fit(Quadratic(), KEY, samples)[1][2]) < 1e-5


def test_training_that_diverges_is_seen():
    wild = Regressor(width=16, steps=30, batch=64, rate=1e30)
    course = fit(wild, KEY, simulated(wild))[3]
    assert not np.all(np.isfinite(course))


@pytest.mark.parametrize(
    "name", ["quadratic", pytest.param("regressor", marks=pytest.mark.slow)]
)
def test_a_fit_of_the_same_shapes_compiles_once(name, caplog):
    surrogate = MODELS[name][0]
    samples = [simulated(surrogate, noise) for noise in (0.5, 1.0, 2.0)]
    fresh = jit(lambda s, k, v: surrogate.fit(k, v)[1] * s)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for i, sample in enumerate(samples):
            fresh(1.0, jax.random.fold_in(KEY, i), sample)
    compiled = re.findall(r"Compiling (?:jit\()?(\S+)", caplog.text)
    assert len([c for c in compiled if "lambda" in c]) == 1, compiled
