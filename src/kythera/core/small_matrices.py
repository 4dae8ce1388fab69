"""Linear algebra of small matrices, one for each event, without LAPACK.

`jnp.linalg` calls LAPACK once for each matrix of a batch, and spreads a batch over the threads
of the processor while it waits on one of them: where two such calls meet on a machine with
two cores, both may wait for ever (jaxlib 0.10.2). These are plain operations of JAX, which run
side by side for all matrices under `vmap`, on any device, and cannot wait.
"""

import jax
import jax.numpy as jnp

from kythera.core.types import Array, Float


def solve(matrix: Float[Array, "n n"], right: Array) -> Array:
    """x of matrix x = right, by elimination with pivots.

    Derivatives are those of the solution, not of the elimination. Not finite where the
    matrix is singular.

    Args:
        matrix: any regular one.
        right: shape (n,) or (n, m).
    """
    fixed = jax.lax.stop_gradient(matrix)
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x,
        right,
        lambda _, b: _eliminated(fixed, b),
        lambda _, b: _eliminated(fixed.T, b),
    )


def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse; see `solve`."""
    return solve(matrix, jnp.eye(len(matrix), dtype=matrix.dtype))


def pivots(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """What elimination without exchanges divides by; of a symmetric matrix.

    All are positive if and only if the matrix is positive definite. The least is no smaller
    than the least eigenvalue. Behind one that is not positive they mean nothing.
    """

    def step(k: Array, a: Array) -> Array:
        pivot = jnp.where(a[k, k] > 0, a[k, k], jnp.inf)  # else nothing is taken off
        here = jnp.arange(len(a)) > k
        down = jnp.where(here, a[:, k] / pivot, 0.0)
        return a - down[:, None] * a[k]

    return jnp.diagonal(jax.lax.fori_loop(0, len(matrix), step, matrix))


def solve_definite(matrix: Float[Array, "n n"], right: Array) -> Array:
    """x of matrix x = right, by elimination without exchanges, several times as fast.

    Args:
        matrix: a positive definite one, symmetric.
        right: shape (n,).
    """
    n = len(matrix)

    def step(k: Array, a: Array) -> Array:
        top = a[k] / a[k, k]
        return jnp.where((jnp.arange(n) == k)[:, None], top, a - a[:, k, None] * top)

    both = jnp.concatenate([matrix, right[:, None]], 1)
    return jax.lax.fori_loop(0, n, step, both)[:, n]


def _eliminated(matrix: Array, right: Array) -> Array:
    """Gauss and Jordan's way, each pivot the largest entry left in its column."""
    n = len(matrix)
    row = jnp.arange(n)
    columns = right.reshape(n, -1)

    def step(k: Array, a: Array) -> Array:
        left = jnp.where(row >= k, jnp.abs(a[:, k]), -1.0)
        chosen = row == jnp.argmax(left)
        top = jnp.sum(jnp.where(chosen[:, None], a, 0.0), 0)
        a = jnp.where(chosen[:, None], a[k], a)
        top = top / top[k]
        a = a - a[:, k, None] * top
        return jnp.where((row == k)[:, None], top, a)

    both = jnp.concatenate([matrix, columns.astype(matrix.dtype)], 1)
    found = jax.lax.fori_loop(0, n, step, both)  # written out it takes longer
    return found[:, n:].reshape(right.shape)
