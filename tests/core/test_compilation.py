"""Compiled functions: options where the compiler knows them, plain inside of others."""

import jax
import jax.numpy as jnp
import pytest

from kythera.core import compilation


@pytest.fixture
def anew():
    """The check of the options, forgotten before and after."""
    compilation._options.cache_clear()
    yield
    compilation._options.cache_clear()


def test_a_function_is_traced_once_for_each_shape():
    shapes = []

    @compilation.jit
    def square(x):
        shapes.append(x.shape)
        return x**2

    for x in (jnp.arange(3.0), jnp.arange(3.0) + 1, jnp.arange(4.0)):
        assert jnp.all(square(x) == x * x)
    assert shapes == [(3,), (4,)]


@pytest.mark.parametrize("outer", [jax.jit, jax.grad, jax.vmap])
def test_inside_of_a_transformation_it_is_the_function(outer):
    square = compilation.jit(lambda x: x**2)
    x = jnp.arange(3.0) if outer is jax.vmap else jnp.asarray(3.0)
    assert jnp.all(outer(square)(x) == outer(lambda v: v**2)(x))


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch, anew):
    monkeypatch.setattr(compilation, "OPTIONS", {"xla_no_such_option": True})
    assert compilation._options() is None
    assert compilation.jit(lambda x: x + 1)(jnp.asarray(1.0)) == 2
