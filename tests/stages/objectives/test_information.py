"""Mutual information against a channel whose information is an integral."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats

import kythera as ky
from kythera import errors, testing
from kythera.core.pipeline import Trace
from kythera.testing import published

KEY = jax.random.key(11)


class Channel(ky.AbstractPathwiseSimulator):
    """y = (1 - log t2) s + t1 n: the toy of kingusiu/mutual_info_estimopti."""

    def __call__(self, design, x, *, key):
        noise = jax.random.normal(key, x.shape)
        return (1 - jnp.log(design.x[1])) * x + design.x[0] * noise


def powers(truth):
    s = truth / 2 - 1  # s is uniform in [0, 4]
    return jnp.concatenate([s, s**2], -1)


@jax.jit
def excess(weights, truth, reference):
    """What a critic reads that does not look at y, and its derivative."""

    def loss(w):
        critic = jnp.broadcast_to(w, (len(truth), 2))
        objective = ky.MutualInformation(powers, reference)
        rows = objective.loss(None, Trace(truth, truth, truth, critic))
        return jnp.mean(rows["information"])

    return jax.value_and_grad(loss)(weights)


@pytest.mark.parametrize("count", [32, 128])
def test_a_trained_critic_reads_half_a_feature_for_each_reference_too_much(x64, count):
    """Where y says nothing: k / 2K nats on average over references, on fresh events."""
    source, found = published.Uniform((0.0,), (4.0,)), []
    for key in jax.random.split(KEY, 12):
        one, two, three = jax.random.split(key, 3)
        truth, fresh = source(10_000, key=one), source(10_000, key=two)
        reference = powers(source(count, key=three))
        trained = scipy.optimize.minimize(
            lambda w, r=reference, x=truth: excess(w, x, r), np.zeros(2), jac=True
        )
        found.append(-float(excess(trained.x, fresh, reference)[0]))
    assert 0.4 < np.mean(found) / (2 / (2 * count)) < 2.5


def problem(events=4000):
    source = published.Uniform((0.0,), (4.0,))
    pipeline = ky.Pipeline(
        source, Channel(), inference=ky.Network(lambda design, y: y / 2 - 1, 1, 2)
    )
    reference = powers(source(1024, key=jax.random.key(1)))
    start = testing.Point(jnp.array([1.0, 1.0]))
    return ky.Problem(
        space=ky.Space(start, {"x": ky.Real(0.2, 2.2)}),
        pipeline=pipeline,
        objective=ky.MutualInformation(powers, reference),
        events=events,
    )


def exact(t1, t2):
    """h(y) - h(noise), with the density of a uniform number plus a Gaussian one."""
    width = 4 * (1 - np.log(t2))
    phi = scipy.stats.norm.cdf

    def entropy(y):
        p = (phi(y / t1) - phi((y - width) / t1)) / width
        return scipy.special.entr(p)

    total, _ = scipy.integrate.quad(entropy, -8 * t1, width + 8 * t1, limit=200)
    return total - np.log(t1 * np.sqrt(2 * np.pi * np.e))


@pytest.fixture(scope="module")
def followed():
    """Thirty evaluations at the start, with warm starts."""
    case, engine = problem(), ky.Retrain(ky.Pathwise(), events=4000, steps=60)
    engine.check(case)
    state, found = engine.init(case, key=KEY), []
    for i in range(30):
        keys = jax.random.fold_in(KEY, i)[None]
        [one], state = engine(case, case.space.start[None], state, key=keys, map=map)
        found.append(one)
    return found


def test_the_bound_is_reached(followed):
    """Of 0.419 nats nearly all, and not more than there are but for the references' excess."""
    last = -np.mean([f.total.value for f in followed[-20:]])
    limit = exact(1.0, 1.0)
    assert limit - 0.03 < last < limit + 0.015


def test_the_gradient_is_that_of_the_information(followed):
    """In the cube of side 2, by differences of the integral, within 3 errors and 2%."""
    slopes = np.array([f.total.gradient for f in followed[-20:]])
    slope, error = slopes.mean(0), slopes.std(0, ddof=1) / np.sqrt(len(slopes))
    h = 1e-3
    wanted = [
        -2 * (exact(1 + h, 1) - exact(1 - h, 1)) / (2 * h),
        -2 * (exact(1, 1 + h) - exact(1, 1 - h)) / (2 * h),
    ]
    assert np.all(error < 0.06 * np.abs(wanted))
    assert np.all(np.abs(slope - wanted) < 3 * error + 0.02 * np.abs(wanted))


def test_an_untrained_critic_bounds_from_below():
    """A critic that says nothing finds no information, whatever the features."""
    case = problem(200)
    silent = jax.tree.map(
        lambda v: 0 * v if eqx.is_inexact_array(v) else v, case.pipeline.inference
    )
    case = case.replace(
        pipeline=ky.Pipeline(case.pipeline.source, Channel(), inference=silent)
    )
    [found], _ = ky.Direct()(case, case.space.start[None], None, key=KEY[None], map=map)
    assert abs(found.total.value) < 1e-5


@pytest.mark.parametrize("sigma", [0.1, 0.01])
def test_the_exact_critic_does_not_pass_the_information(sigma):
    """x and n normal, y = x + sigma n, and the exact critic: I = log(1 + 1 / sigma^2) / 2."""
    x, n, others = jax.random.normal(KEY, (3, 4000, 1))
    y, others = x + sigma * n, others[:512]

    def squares(truth):
        return jnp.concatenate([truth, truth**2], -1)

    critic = jnp.concatenate([y, jnp.full_like(y, -0.5)], -1) / sigma**2
    objective = ky.MutualInformation(squares, squares(others))
    found = -objective.loss(None, Trace(x, y, y, critic))["information"]
    limit = 0.5 * np.log(1 + 1 / sigma**2)
    error = float(jnp.std(found)) / np.sqrt(found.size)
    assert limit - 0.3 < float(jnp.mean(found)) < limit + 3 * error
    with pytest.raises(errors.InputError, match="as many outputs as the truth has"):
        objective.loss(None, Trace(x, y, y, critic[:, :1]))
