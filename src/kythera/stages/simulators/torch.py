"""PyTorch modules as stages: their derivatives, forward and reverse, inside JAX."""

import contextlib
import dataclasses
import functools
import importlib.util
import threading
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kythera import errors
from kythera.core.stage import AbstractPathwiseSimulator
from kythera.core.types import Key
from kythera.stages.simulators.host import repeated

_lock = threading.Lock()  # PyTorch has one stream of random numbers


def leaves(design: Any, x: Any) -> tuple[Any, ...]:
    """The arrays of the design, then those of the record: what a module is called with."""
    return tuple(
        leaf for leaf in jax.tree.leaves((design, x)) if eqx.is_array_like(leaf)
    )


class TorchStage(AbstractPathwiseSimulator):
    """A PyTorch module, a trained network or a differentiable simulator, as a stage.

    It runs in PyTorch, on the processor, also inside of `jit`, `vmap` and `grad`: PyTorch's own
    Jacobian products are the derivatives in the design and in the record, in forward and in
    reverse mode, so that it can stand in any slot under `Pathwise`. Derivatives of
    derivatives are not there. Its weights are constants of the stage and never changed; they
    are converted to the precision of the arguments at each call.

    Random numbers of the module (`torch.randn`, dropout) are drawn from a seed of the key: the
    same at each call with the same key, and in the derivatives.

    Args:
        module: a `torch.nn.Module`, called with tensors; returns a tensor, or a tuple or list
            of them, all of real numbers. Set `module.eval()`, unless dropout is meant:
            PyTorch cannot differentiate what changes a module, as batch normalisation
            does while it trains.
        row: the output of one event, as a tree of `jax.ShapeDtypeStruct` or arrays without
            the leading axis `event`; its leaves stand for the tensors, in their order. The
            precision is that of the arguments.
        arguments: (design, x) -> a tuple of arrays, in JAX; by default the leaves of the
            design and then those of the record.

    Raises:
        UnsupportedError: PyTorch is not installed.
        InputError: no module, or outputs that are not real.
    """

    module: Any = eqx.field(static=True)
    row: Any
    arguments: Callable[[Any, Any], tuple[Any, ...]] = eqx.field(
        static=True, default=leaves
    )

    def __check_init__(self):
        """Refuse what is no module."""
        if not isinstance(self.module, _torch().nn.Module):
            raise errors.InputError(
                "`TorchStage` needs a `torch.nn.Module`, but was given a "
                f"{type(self.module).__name__}. Wrap it in a module."
            )
        if not all(_is_real(v) for v in jax.tree.leaves(repeated(self.row, 1))):
            raise errors.InputError(
                f"A `TorchStage` must give real numbers, but `row` is {self.row}. Declare "
                "floating-point types."
            )

    def __call__(self, design: Any, x: Any, *, key: Key) -> Any:
        """Run the module.

        Raises:
            SimulationError: it raised, or gave other shapes than declared.
        """
        given = [jnp.asarray(v) for v in self.arguments(design, x)]
        events = next(np.shape(v)[0] for v in jax.tree.leaves(x) if eqx.is_array(v))
        want = repeated(self.row, events)
        shapes, tree = jax.tree.flatten(want)
        real = [v.dtype for v in given if _is_real(v)] or [float]
        kind = jnp.result_type(*real)
        call = _Call(self.module, tuple((s.shape, kind) for s in shapes))
        seed = jax.random.bits(key, dtype=jnp.uint32)
        return jax.tree.unflatten(tree, _value(call, seed, given))


def _torch() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise errors.UnsupportedError(
            "`TorchStage` needs PyTorch, which is not installed. Run `pip install "
            "'kythera[torch]'`; where there is no GPU, install the processor's build first: "
            "https://pytorch.org/get-started/locally."
        )
    import torch

    return torch


@dataclasses.dataclass(frozen=True)
class _Call:
    """What JAX compiles with: the module, and shapes and types of what it returns."""

    module: Any
    shapes: tuple[tuple[tuple[int, ...], Any], ...]


def _function(call: _Call, seed: Any, real: list[bool], arrays: list[Any]) -> Any:
    """The module as a function of its real arguments alone, and these, as tensors."""
    torch = _torch()
    tensors = [torch.tensor(np.asarray(v)) for v in arrays]
    moving = tuple(t for t, r in zip(tensors, real) if r)
    kind = moving[0].dtype if moving else torch.get_default_dtype()

    def constant(value: Any) -> Any:  # a copy, so that buffers may be written to
        value = value.detach().cpu().clone()
        return value.to(kind) if value.is_floating_point() else value

    module = call.module
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights = {name: constant(value) for name, value in state.items()}

    def function(*moved: Any) -> tuple[Any, ...]:
        rest = iter(moved)
        given = tuple(next(rest) if r else t for t, r in zip(tensors, real))
        with _surroundings(torch, int(np.asarray(seed)), kind):
            found = torch.func.functional_call(module, weights, given)
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    return function, moving


@contextlib.contextmanager
def _surroundings(torch: Any, seed: int, kind: Any) -> Iterator[None]:
    """The seed, and the precision of the numbers that a module makes itself."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


def _checked(call: _Call, found: tuple[Any, ...]) -> list[np.ndarray]:
    """Tensors as arrays of the declared types.

    Raises:
        SimulationError: other shapes than declared.
    """
    got, want = [tuple(v.shape) for v in found], [s for s, _ in call.shapes]
    if got != want:
        raise errors.SimulationError(
            f"`{type(call.module).__name__}` must return tensors of the shapes {want}, as "
            f"`row` declares, but gave {got}. Mend one of the two."
        )
    return [
        v.detach().numpy().astype(dtype) for v, (_, dtype) in zip(found, call.shapes)
    ]


def _guarded(run: Callable[..., Any]) -> Callable[..., Any]:
    """What PyTorch raises, as the failure of the trial."""

    @functools.wraps(run)
    def guarded(call: _Call, *arguments: Any) -> Any:
        try:
            with _lock:
                return run(call, *arguments)
        except errors.KytheraError:
            raise
        except Exception as error:  # a module may raise anything
            raise errors.SimulationError(
                f"`{type(call.module).__name__}` failed with {type(error).__name__}: "
                f"{error}. The trial is marked as failed; mend the module."
            ) from error

    return guarded


def _is_real(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


@_guarded
def _run(call: _Call, seed: Any, arrays: list[Any]) -> list[np.ndarray]:
    function, moving = _function(call, seed, [_is_real(v) for v in arrays], arrays)
    with _torch().no_grad():
        return _checked(call, function(*moving))


@_guarded
def _push(call: _Call, seed: Any, arrays: list, tangents: list) -> list[np.ndarray]:
    """Forward mode: the Jacobian times the tangents of the real arguments."""
    torch = _torch()
    function, moving = _function(call, seed, [_is_real(v) for v in arrays], arrays)
    along = tuple(torch.tensor(np.asarray(t)) for t in tangents)
    return _checked(call, torch.func.jvp(function, moving, along)[1])


@_guarded
def _pull(call: _Call, seed: Any, arrays: list, cotangents: list) -> list[np.ndarray]:
    """Reverse mode: the cotangents times the Jacobian, for the real arguments."""
    torch = _torch()
    function, moving = _function(call, seed, [_is_real(v) for v in arrays], arrays)
    found, pull = torch.func.vjp(function, *moving)
    back = tuple(
        torch.tensor(np.asarray(c)).to(v.dtype) for c, v in zip(cotangents, found)
    )
    return [v.detach().numpy() for v in pull(back)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value(call: _Call, seed: Any, arrays: list[Any]) -> list[Any]:
    shapes = [jax.ShapeDtypeStruct(*s) for s in call.shapes]
    run = functools.partial(_run, call)
    return jax.pure_callback(run, shapes, seed, arrays, vmap_method="sequential")


@_value.defjvp
def _value_jvp(call: _Call, primals: Any, tangents: Any) -> tuple[list, list]:
    seed, arrays = primals
    along = [t for t, v in zip(tangents[1], arrays) if _is_real(v)]
    out = _value(call, seed, arrays)
    if not along:
        return out, [jnp.zeros_like(v) for v in out]
    how = {"call": call, "count": len(arrays), "forward": True}
    return out, _product.bind(seed, *arrays, *along, **how)


# Jacobian products are linear in their last arguments: JAX transposes forward into reverse
# mode. (`jax.custom_vjp` would leave out forward mode, `linear_call` does not work under vmap.)
_product = Primitive("torch_product")
_product.multiple_results = True


def _product_shapes(*arguments: Any, call: _Call, count: int, forward: bool) -> list:
    """Those of the outputs, or of the real arguments."""
    if forward:
        return [ShapedArray(*s) for s in call.shapes]
    real = [v for v in arguments[1 : count + 1] if _is_real(v)]
    return [ShapedArray(v.shape, v.dtype) for v in real]


def _product_run(*arguments: Any, call: _Call, count: int, forward: bool) -> list[Any]:
    found = _product_shapes(*arguments, call=call, count=count, forward=forward)
    shapes = [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in found]
    seed, arrays, vectors = (
        arguments[0],
        list(arguments[1 : count + 1]),
        list(arguments[count + 1 :]),
    )
    run = functools.partial(_push if forward else _pull, call)
    return jax.pure_callback(run, shapes, seed, arrays, vectors)


def _product_jvp(primals: Any, tangents: Any, *, count: int, **how: Any) -> Any:
    first, along = tangents[1 : count + 1], tangents[count + 1 :]
    if any(type(t) is not ad.Zero and _is_real(t) for t in first):
        raise errors.UnsupportedError(
            "`TorchStage` has first derivatives only, but those of derivatives are asked "
            "for. Use an objective without nuisance parameters, or a stage in JAX."
        )
    how["count"] = count
    vectors = [ad.instantiate_zeros(t) for t in along]
    constants = primals[: count + 1]
    return _product.bind(*primals, **how), _product.bind(*constants, *vectors, **how)


def _product_transpose(
    cotangents: Any, *arguments: Any, count: int, forward: bool, call: _Call
) -> list[Any]:
    back = _product.bind(
        *arguments[: count + 1],
        *(ad.instantiate_zeros(c) for c in cotangents),
        call=call,
        count=count,
        forward=not forward,
    )
    return [None] * (count + 1) + list(back)


def _product_batch(arguments: Any, axes: Any, **how: Any) -> tuple[list, list[int]]:
    """One after the other, as the callbacks themselves."""
    moved = {
        i: jnp.moveaxis(v, axis, 0)
        for i, (v, axis) in enumerate(zip(arguments, axes))
        if axis is not None
    }

    def one(rows: dict[int, Any]) -> list[Any]:
        return _product.bind(*(rows.get(i, v) for i, v in enumerate(arguments)), **how)

    found = jax.lax.map(one, moved)
    return found, [0] * len(found)


_product.def_impl(_product_run)
_product.def_abstract_eval(_product_shapes)
ad.primitive_jvps[_product] = _product_jvp
ad.primitive_transposes[_product] = _product_transpose
batching.primitive_batchers[_product] = _product_batch
mlir.register_lowering(_product, mlir.lower_fun(_product_run, multiple_results=True))
