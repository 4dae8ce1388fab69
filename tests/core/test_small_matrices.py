"""Small matrices: LAPACK's answers, and derivatives of the solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core import small_matrices


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_it_is_lapacks_answer(n, x64):
    rng = np.random.default_rng(n)
    matrices = rng.normal(size=(50, n, n))
    matrices[0, 0, 0] = 0.0  # needs an exchange of rows, where there are some
    if n == 1:
        matrices[0] = 2.0
    right = rng.normal(size=(50, n, 3))
    found = jax.jit(jax.vmap(small_matrices.solve))(matrices, right)
    np.testing.assert_allclose(found, np.linalg.solve(matrices, right), rtol=1e-8)
    one = small_matrices.solve(jnp.asarray(matrices[1]), jnp.asarray(right[1, :, 0]))
    np.testing.assert_allclose(one, found[1, :, 0], rtol=1e-10)
    found = jax.jit(jax.vmap(small_matrices.inverse))(matrices)
    np.testing.assert_allclose(found, np.linalg.inv(matrices), rtol=1e-7, atol=1e-9)


def test_definite_ones_need_no_exchanges(x64):
    half = (
        np.random.default_rng(5).normal(size=(50, 5, 7))
        * np.logspace(-3, 3, 5)[:, None]
    )
    matrices, right = half @ np.swapaxes(half, 1, 2), half[:, :, 0]
    found = jax.jit(jax.vmap(small_matrices.solve_definite))(matrices, right)
    exact = np.linalg.solve(matrices, right[..., None])[..., 0]
    np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_derivatives_are_those_of_the_solution(x64):
    rng = np.random.default_rng(1)
    matrix, right = rng.normal(size=(4, 4)), rng.normal(size=4)

    def ours(a, b):
        return jnp.sum(jnp.sin(small_matrices.solve(a, b)))

    def lapacks(a, b):
        return jnp.sum(jnp.sin(jnp.linalg.solve(a, b)))

    for derivative in (jax.grad, jax.hessian, jax.jacfwd):
        found, exact = (derivative(f, (0, 1))(matrix, right) for f in (ours, lapacks))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact)):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n", [3, 12])
def test_pivots_tell_what_is_positive_definite(n, x64):
    rng = np.random.default_rng(n)
    half = rng.normal(size=(n, n))
    good = jnp.asarray(half @ half.T)
    found = small_matrices.pivots(good)
    lower = np.linalg.cholesky(good)
    np.testing.assert_allclose(found, np.diag(lower) ** 2, rtol=1e-9)
    assert found.min() >= np.linalg.eigvalsh(good).min()
    least = np.linalg.eigvalsh(good)[0]
    assert small_matrices.pivots(good - 1.01 * least * jnp.eye(n)).min() < 0
    twice = jnp.asarray(half[: n - 1].T @ half[: n - 1])  # a rank less
    assert small_matrices.pivots(twice).min() == pytest.approx(0, abs=1e-9)


def test_pivots_of_large_indefinite_matrices_do_not_overflow():
    """In single precision, compiled."""
    rng = np.random.default_rng(3)
    half = 1e3 * rng.normal(size=(1000, 5, 5)).astype(np.float32)
    found = jax.jit(jax.vmap(small_matrices.pivots))(half + np.swapaxes(half, 1, 2))
    assert np.all(np.isfinite(found))
    assert not np.any(np.all(np.asarray(found) > 0, 1) & (half[:, 0, 0] < 0))
