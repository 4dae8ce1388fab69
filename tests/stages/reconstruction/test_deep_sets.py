"""Sets: their order, what pads them, and a function that needs all of a set."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky

KEY = jax.random.key(4)
EVENTS, ELEMENTS, NUMBERS = 7, 5, 3


def elements(design, signal):
    return signal


@pytest.fixture
def network(x64):
    return ky.DeepSets(elements, NUMBERS, 2, key=jax.random.key(1))


@pytest.fixture
def signal(x64):
    rng = np.random.default_rng(2)
    return (
        jnp.asarray(rng.normal(size=(EVENTS, ELEMENTS, NUMBERS))),
        jnp.asarray(rng.uniform(0.5, 2, (EVENTS, ELEMENTS))),
    )


def told(network, signal):
    return np.asarray(network(None, signal, key=KEY))


def test_it_is_what_the_formula_says(network, signal):
    features, weights = signal
    for row, x, w in zip(told(network, signal), features, weights, strict=True):
        described = sum(w[i] * network.phi(x[i]) for i in range(ELEMENTS))
        np.testing.assert_allclose(row, network.rho(described), rtol=1e-12)
    assert told(network, signal).shape == (EVENTS, 2)


def test_the_order_does_not_count(network, signal):
    rng = np.random.default_rng(3)
    order = np.stack([rng.permutation(ELEMENTS) for _ in range(EVENTS)])
    rows = np.arange(EVENTS)[:, None]
    shuffled = tuple(v[rows, order] for v in signal)
    np.testing.assert_allclose(
        told(network, shuffled), told(network, signal), rtol=1e-12
    )
    # but which number belongs to which element does
    mixed = (signal[0][:, ::-1], signal[1])
    assert np.max(np.abs(told(network, mixed) - told(network, signal))) > 1e-3


@pytest.mark.parametrize("junk", [0.0, 1e30, np.nan])
def test_padding_is_not_there(network, signal, junk):
    features, weights = signal

    def padded(features, weights):
        more = jnp.full((EVENTS, 4, NUMBERS), junk)
        return (
            jnp.concatenate([more[:, :1], features, more[:, 1:]], 1),
            jnp.pad(weights, ((0, 0), (1, 3))),
        )

    plain = told(network, signal)
    np.testing.assert_allclose(told(network, padded(*signal)), plain, rtol=1e-12)

    def total(network, weights, pad):
        signal = padded(features, weights) if pad else (features, weights)
        return jnp.sum(network(None, signal, key=KEY) ** 2)

    slopes = [eqx.filter_grad(total)(network, weights, pad) for pad in (False, True)]
    leaves = [jax.tree.leaves(eqx.filter(s, eqx.is_array)) for s in slopes]
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12)


def test_an_empty_set_is_one_value(network, signal):
    features, weights = signal
    rows = told(network, (features, 0 * weights))
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))


def test_fresh_weights_are_others(network, signal):
    one, other = (network.fresh(jax.random.key(i)) for i in (1, 2))
    assert not np.allclose(told(one, signal), told(other, signal))
    np.testing.assert_array_equal(
        told(network.fresh(jax.random.key(1)), signal), told(network, signal)
    )
