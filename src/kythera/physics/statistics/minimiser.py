"""Maximum likelihood in a box, with derivatives of the estimate by the implicit function.

A fit is a root: the gradient vanishes. So the derivative of the estimate with respect to
anything that the likelihood depends on is one linear solve, dx/dphi = -(d2f/dx2)^-1
d2f/dx dphi, however many steps the search took; no step is unrolled.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.types import Array, Float, Scalar, Vector
from kythera.physics.statistics.checks import known, listed

Function = Callable[[Vector], Scalar]


class Minimum(eqx.Module):
    """Where a function of parameters in a box is least.

    Args:
        parameters: x, shape (n,); derivatives of any order are implicit.
        value: f(x). Its first derivative is exact by the envelope theorem, which needs no
            derivative of x; for second ones differentiate f(parameters) instead.
        distance: sqrt(2 (f - f_min)) as Newton's model predicts it: the distance from the
            minimum, in standard deviations where f is -log L.
        converged: whether the search ended at a minimum; if not, parameters and value are
            NaN.
        steps: that were tried.
    """

    parameters: Vector
    value: Scalar
    distance: Scalar
    converged: Array
    steps: Array


class _State(NamedTuple):
    x: Vector
    value: Scalar
    gradient: Vector
    hessian: Float[Array, "n n"]
    damping: Scalar
    decrease: Scalar  # that Newton's model predicts
    steps: Array


def minimise(
    function: Function,
    start: Vector,
    low: Vector,
    up: Vector,
    *,
    max_steps: int = 200,
) -> Minimum:
    """The minimum of a smooth function, parameters held in [low, up].

    Newton steps on the parameters that are not pressed against a bound (D. P. Bertsekas,
    SIAM J. Control Optim. 20 (1982) 221), damped as by Levenberg and Marquardt where the
    function does not fall or curves down. A parameter with low = up is fixed there. The
    search ends where Newton's model promises less than rounding hides, and the estimate is
    finished by one step of the implicit derivative.

    Args:
        function: f, twice differentiable, of shape (n,); what it closes over may be traced
            and differentiated, as may the bounds.
        start: shape (n,); clipped to the box.
        low: lower bounds, `-inf` for none.
        up: upper bounds, `inf` for none.
        max_steps: of the search.

    Returns:
        the minimum.

    Raises:
        InputError: bounds that cross.
        SimulationError: the search did not converge.
        Inside `jit` and `vmap` both are NaN.
    """
    low, up = jnp.asarray(low, float), jnp.asarray(up, float)
    crossed = low > up
    if known(crossed) and crossed.any():
        raise errors.InputError(
            "A lower bound must not exceed the upper one, but those of parameters "
            f"{listed(np.flatnonzero(crossed))} do. Swap them."
        )
    low = jnp.where(crossed, jnp.nan, low)
    state = _search(function, jnp.asarray(start, float), low, up, max_steps)
    converged = (state.decrease <= _tolerance(state.value)) & jnp.isfinite(state.value)
    if known(converged) and not converged:
        raise errors.SimulationError(_lost(state, max_steps))
    at_low, at_up = _pressed(state.x, state.gradient, low, up)
    x = _implicit(function, state, at_low, at_up, low, up)
    # By the envelope theorem only what is held moves the value at first order.
    held = jnp.where(at_low, low, jnp.where(at_up, up, jax.lax.stop_gradient(x)))
    return Minimum(
        jnp.where(converged, x, jnp.nan),
        jnp.where(converged, function(held), jnp.nan),
        jnp.sqrt(2 * jnp.maximum(state.decrease, 0.0)),
        converged,
        state.steps,
    )


def _search(
    function: Function, start: Vector, low: Vector, up: Vector, most: int
) -> _State:
    """Damped Newton steps until nothing is left to gain."""
    stop = jax.lax.stop_gradient
    start, low, up = stop(start), stop(low), stop(up)
    start = jnp.clip(start, low, up)

    def slope(x: Vector) -> tuple[Vector, tuple[Scalar, Vector]]:
        value, gradient = jax.value_and_grad(function)(x)
        return gradient, (value, gradient)

    def advance(s: _State) -> _State:
        step = _step(s.x, s.gradient, s.hessian, s.damping, low, up)
        x = jnp.clip(s.x + step, low, up)
        x = jnp.where(jnp.all(jnp.isfinite(x)), x, s.x)
        hessian, (value, gradient) = stop(jax.jacfwd(slope, has_aux=True)(x))
        moved = jnp.any(x != s.x) | (s.steps == 0)
        better = moved & (value < s.value + _tolerance(s.value))
        eased = jnp.where(s.damping <= 1e-3, 0.0, s.damping / 10)
        damping = jnp.where(better, eased, jnp.maximum(10 * s.damping, 1e-3))
        new = (x, value, gradient, hessian)
        x, value, gradient, hessian = (
            jnp.where(better, n, o) for n, o in zip(new, s[:4])
        )
        newton = _step(x, gradient, hessian, jnp.zeros_like(damping), low, up)
        decrease = -(gradient @ newton) / 2
        # Where the model curves down nothing is predicted, so the search goes on.
        decrease = jnp.where(jnp.isfinite(decrease), decrease, jnp.inf)
        return _State(x, value, gradient, hessian, damping, decrease, s.steps + 1)

    def go_on(s: _State) -> Array:
        gain = (s.decrease > _tolerance(s.value)) | (s.steps == 0)
        return gain & (s.steps < most) & (s.damping < 1e12)

    # The first step is none: it looks at the start.
    infinite, n = jnp.full((), jnp.inf, start.dtype), len(start)
    zero = jnp.zeros((), start.dtype)
    first = _State(
        start,
        infinite,
        jnp.zeros_like(start),
        jnp.eye(n, dtype=start.dtype),
        zero,
        infinite,
        jnp.zeros((), int),
    )
    return stop(jax.lax.while_loop(go_on, advance, first))


def _tolerance(value: Scalar) -> Scalar:
    """So small a fall of the function that one Newton step does the rest.

    In float64 2e-12, or 2e-6 standard deviations of a fit, and their square when finished.
    """
    return jnp.finfo(value.dtype).eps ** 0.75 * (1 + jnp.abs(value))


def _pressed(
    x: Vector, gradient: Vector, low: Vector, up: Vector
) -> tuple[Array, Array]:
    """Which parameters the function presses against their lower and upper bounds."""
    low, up = jax.lax.stop_gradient((low, up))
    at_low = (x <= low) & (gradient >= 0) | (low == up)
    return at_low, (x >= up) & (gradient <= 0) & ~at_low


def _step(
    x: Vector,
    gradient: Vector,
    hessian: Float[Array, "n n"],
    damping: Scalar,
    low: Vector,
    up: Vector,
) -> Vector:
    """The damped Newton step of the free parameters; NaN where the model curves down."""
    at_low, at_up = _pressed(x, gradient, low, up)
    free = ~(at_low | at_up)
    # Parameters have units: the damping is relative to the curvature of each.
    scale = jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(hessian)), 1e-30))
    unit = hessian / (scale[:, None] * scale)
    both = free[:, None] & free
    matrix = jnp.where(both, unit, 0.0) + jnp.diag(jnp.where(free, damping, 1.0))
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    slope = jnp.where(free, gradient, 0.0) / scale
    return -jax.scipy.linalg.cho_solve(factor, slope) / scale


def _implicit(
    function: Function,
    state: _State,
    at_low: Array,
    at_up: Array,
    low: Vector,
    up: Vector,
) -> Vector:
    """The root of the gradient, finished by one Newton step, differentiable."""
    stop = jax.lax.stop_gradient
    none = jnp.zeros_like(state.value)
    last = stop(_step(state.x, state.gradient, state.hessian, none, low, up))

    def residual(p: Vector) -> Vector:
        slope = jax.grad(function)(p)
        return jnp.where(at_low, p - low, jnp.where(at_up, p - up, slope))

    def finish(f: Callable[[Vector], Vector], near: Vector) -> Vector:
        whole = jnp.where(jnp.isfinite(last), near + last, near)
        return jnp.clip(whole, stop(low), stop(up))

    def solve(linear: Callable[[Vector], Vector], y: Vector) -> Vector:
        return jnp.linalg.solve(jax.jacobian(linear)(y), y)

    return jax.lax.custom_root(residual, state.x, finish, solve)


def _lost(state: _State, most: int) -> str:
    """Why a search did not end at a minimum."""
    law = "A fit must end at a minimum of the function"
    if not np.isfinite(np.asarray(state.value)):
        return (
            f"{law}, but it is not finite at {np.asarray(state.x)}. Move the start, or "
            "narrow the bounds to where the likelihood is defined."
        )
    if int(state.steps) >= most:
        cause = f"`max_steps` of {most} were not enough"
        remedy = "Move the start or allow more steps."
    else:
        cause = "no step makes it smaller although its slope does not vanish"
        remedy = "Fix or constrain parameters that the data do not tell apart, or use float64."
    return (
        f"{law}, but {cause}: at {np.asarray(state.x)}, with slope "
        f"{np.asarray(state.gradient)}. {remedy}"
    )
