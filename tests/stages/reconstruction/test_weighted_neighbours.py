"""Nearest neighbours that learn how much they count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.stages.reconstruction.weighted_neighbours import (
    WeightedNeighbours,
    weighted_mean,
)

KEY = jax.random.key(1)


def features(design, x):
    return x


def sample(events, seed, noise=0.05):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (events, 2))
    y = np.sin(3 * x[:, 0]) + x[:, 1] ** 2
    return x, y + noise * rng.normal(size=events), y


def test_the_formula():
    near = np.array([[0, 2], [2, 1]])
    y, b = np.array([[1.0], [2.0], [4.0]]), np.array([[0.5], [0.0], [-1.0]])
    w = np.array([1.0, 3.0, 2.0])
    found = weighted_mean(near, y, np.log(w), b)
    want = [[(1.5 + 2 * 3) / 3], [(2 * 3 + 3 * 2) / 5]]
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_training_beats_the_plain_mean_on_fresh_events():
    x, y, _ = sample(1000, 0)
    fresh, _, truth = sample(2000, 1)
    plain = WeightedNeighbours(features, x, y)
    trained, course = plain.trained(KEY)
    assert np.mean(course[-100:]) < np.mean(course[:10])
    off = [np.asarray(s(None, fresh, key=KEY))[:, 0] - truth for s in (plain, trained)]
    gain = off[0] ** 2 - off[1] ** 2
    error = np.std(gain) / np.sqrt(len(gain))
    assert np.mean(gain) > 5 * error
    assert np.mean(off[1] ** 2) < 0.7 * np.mean(off[0] ** 2)  # 0.0033 and 0.0066
    np.testing.assert_array_equal(trained.targets, plain.targets)  # as they were
    again = trained.fresh(KEY)
    np.testing.assert_array_equal(again.log_weights, plain.log_weights)
    # the plain one is the mean of the nearest
    near = np.argsort(np.sum((x - fresh[0]) ** 2, -1))[:20]
    np.testing.assert_allclose(off[0][0] + truth[0], np.mean(y[near]), rtol=1e-5)


def test_bad_input_is_refused():
    x = jnp.ones((4, 2))
    with pytest.raises(errors.InputError, match="the shapes are"):
        WeightedNeighbours(features, x, jnp.ones(3), neighbours=2)
    with pytest.raises(errors.InputError, match="there are 4 of 4"):
        WeightedNeighbours(features, x, jnp.ones(4), neighbours=4)
    with pytest.raises(errors.InputError, match="1 features and 0 targets"):
        WeightedNeighbours(features, x.at[1, 0].set(jnp.nan), jnp.ones(4), neighbours=2)
    with pytest.raises(errors.InputError, match="`neighbours` .* but is 3.5"):
        WeightedNeighbours(features, x, jnp.ones(4), neighbours=3.5)
    stage = WeightedNeighbours(features, x, jnp.ones(4), neighbours=2)
    for queries in (jnp.ones((5, 3)), jnp.ones((5, 1)), jnp.ones(2)):
        with pytest.raises(errors.InputError, match=r"shape \(event, 2\)"):
            stage(None, queries, key=KEY)
    for options, match in (
        ({"steps": -1}, "`steps` .* but is -1"),
        ({"batch": 0}, "`batch` .* but is 0"),
        ({"batch": 2.5}, "`batch` .* but is 2.5"),
        ({"rate": 0.0}, "are 0.0 and 0.3"),
        ({"rate": float("nan")}, "are nan and 0.3"),
        ({"pull": -1.0}, "are 0.01 and -1.0"),
    ):
        with pytest.raises(errors.InputError, match=match):
            stage.trained(KEY, **options)


def test_features_that_are_no_numbers_give_none():
    x, y, _ = sample(100, 0)
    stage = WeightedNeighbours(features, x, y, neighbours=5)
    good = jnp.asarray(x[:6], float)
    queries = good.at[1, 0].set(jnp.nan).at[2, 1].set(jnp.inf).at[3].set(1e30)
    want = np.array(stage(None, good, key=KEY))
    want[1:4] = np.nan
    for run in (stage, jax.jit(lambda *v, key: stage(*v, key=key))):
        np.testing.assert_allclose(run(None, queries, key=KEY), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "near", "match"),
    [
        (((3,), (3,), (3, 1)), 0, "the shapes are"),
        (((3, 1), (3,), (3,)), 0, "the shapes are"),
        (((3, 1), (2,), (3, 1)), 0, "the shapes are"),
        (((3, 1), (3,), (3, 1)), 3, "0 to 2, but go from 3 to 3"),
        (((3, 1), (3,), (3, 1)), -1, "0 to 2, but go from -1 to -1"),
    ],
)
def test_neighbours_that_are_none_are_refused(shapes, near, match):
    targets, logs, biases = map(jnp.zeros, shapes)
    with pytest.raises(errors.InputError, match=match):
        weighted_mean(jnp.full((4, 2), near), targets, logs, biases)
