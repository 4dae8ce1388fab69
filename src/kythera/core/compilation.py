"""Compilation of whole pipelines: the one place that chooses the compiler's options."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax.core import Tracer

F = TypeVar("F", bound=Callable)

# On CPUs XLA writes the code of its loops by one of two emitters. For pipelines, hundreds of
# small loops, the older one compiles in half of the time (portal, gradient of a step: 9 CPU
# seconds against 20) and its code is as fast (185 ms against 220 for 10 000 muons).
OPTIONS = {"xla_cpu_use_fusion_emitters": False}


@functools.cache
def _options() -> dict[str, bool] | None:
    """The options, or None where this version of XLA does not know them."""
    try:
        jax.jit(lambda x: x, compiler_options=OPTIONS).lower(0.0).compile()
    except Exception:  # XLA's own type of error differs between versions
        return None
    return OPTIONS


def jit(function: F) -> F:
    """`equinox.filter_jit` with options under which pipelines compile fast.

    Inside of another transformation it is the function itself: options are those of the
    outermost compilation.

    Args:
        function: a pure function.
    """

    @functools.cache
    def compiled() -> Callable:
        options: Any = {"compiler_options": _options()}  # handed on to `jax.jit`
        return eqx.filter_jit(function, **options)

    @functools.wraps(function)
    def call(*args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return function(*args, **kwargs)
        return compiled()(*args, **kwargs)

    return call  # type: ignore[return-value]
