"""Any Python callable on NumPy arrays as a simulator, and any function as a problem."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype

from kythera import errors
from kythera.core.objective import PerEventLoss
from kythera.core.pipeline import Pipeline, Trace
from kythera.core.problem import Problem
from kythera.core.space import AbstractDomain, Choice, Integer, Real, Space
from kythera.core.stage import (
    AbstractHostSimulator,
    AbstractPathwiseSimulator,
    AbstractSource,
)
from kythera.core.types import Array, Float, Key


class Rows(AbstractSource):
    """A source without physics: the numbers 0 ... events - 1, for simulators that draw all.

    Args:
        primaries: what one row costs, in simulated particles.
    """

    primaries: int = eqx.field(static=True, default=1)

    def __call__(self, events: int, *, key: Key) -> Float[Array, " event"]:
        """The row numbers."""
        return jnp.arange(events, dtype=float)


def repeated(row: Any, events: int) -> Any:
    """A row that stands for one event, as shapes with a leading axis `event`.

    Args:
        row: a tree of `jax.ShapeDtypeStruct`, arrays or numbers; the types of the latter do
            not count.
        events: how many.
    """
    return jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(
            (events, *np.shape(v)), canonicalize_dtype(getattr(v, "dtype", float))
        ),
        row,
    )


class HostSimulator(AbstractHostSimulator):
    """A Python callable on NumPy arrays.

    Args:
        function: (design, x, seed) -> output; the design is hard, x is what the source
            drew, the seed one integer; equal seeds must give equal outputs.
        row: the output of one event, as a tree of `jax.ShapeDtypeStruct` or arrays
            without the leading axis `event`; types count, of plain numbers not.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    row: Any

    def run(self, design: Any, x: Any, *, seed: int) -> Any:
        """Call the function."""
        return self.function(design, x, seed)

    def shapes(self, events: int) -> Any:
        """The declared row, `events` times."""
        return repeated(self.row, events)


class _HostCalls(AbstractHostSimulator):
    """Calls a function once for each row."""

    function: Callable[..., Any] = eqx.field(static=True)
    terms: tuple[str, ...] = eqx.field(static=True)
    options: tuple[tuple[str, tuple[str, ...]], ...] = eqx.field(static=True)
    seeded: bool = eqx.field(static=True)

    def run(self, design: dict, x: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
        """Losses by name, each of shape (event,)."""
        options = dict(self.options)
        arguments = {
            name: options[name][int(np.argmax(value))]
            if name in options
            else np.asarray(value).item()
            for name, value in design.items()
        }
        seeds = np.random.SeedSequence(seed).generate_state(len(x))
        rows = [
            _named(
                self.function(**arguments, **({"seed": int(s)} if self.seeded else {})),
                self.terms,
            )
            for s in seeds
        ]
        return {k: np.array([row[k] for row in rows], float) for k in self.terms}

    def shapes(self, events: int) -> dict[str, jax.ShapeDtypeStruct]:
        """One loss for each row and term."""
        row = jax.ShapeDtypeStruct((events,), jnp.result_type(float))
        return dict.fromkeys(self.terms, row)


class _TracedCalls(AbstractPathwiseSimulator):
    """Calls a JAX function once for each row, under `vmap`."""

    function: Callable[..., Any] = eqx.field(static=True)
    terms: tuple[str, ...] = eqx.field(static=True)
    keyed: bool = eqx.field(static=True)

    def __call__(self, design: dict, x: Array, *, key: Key) -> dict[str, Array]:
        """Losses by name, each of shape (event,)."""

        def row(k: Key) -> dict[str, Array]:
            found = self.function(**design, **({"key": k} if self.keyed else {}))
            return _named(found, self.terms)

        return jax.vmap(row)(jax.random.split(key, x.shape[0]))


class _Losses(PerEventLoss):
    """What the function returned."""

    def loss(self, design: dict, trace: Trace) -> dict[str, Array]:
        """The simulator's output as it is."""
        return trace.signal


def _named(found: Any, terms: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        found = {"loss": found}
    if set(found) != set(terms):
        raise errors.SimulationError(
            f"The function must return the terms {list(terms)}, but gave {list(found)}. "
            "Name what it returns with `terms=`."
        )
    if empty := [name for name in terms if found[name] is None]:
        raise errors.SimulationError(
            f"The function gave None for {empty}. Is a `return` missing?"
        )
    return {name: found[name] for name in terms}


def _middle(domain: AbstractDomain) -> Any:
    if isinstance(domain, Real):
        low, up = np.asarray(domain.lower, float), np.asarray(domain.upper, float)
        return np.sqrt(low * up) if domain.log else (low + up) / 2
    if isinstance(domain, Integer):
        return float((domain.lower + domain.upper) // 2)
    if isinstance(domain, Choice):
        return np.eye(len(domain.options))[0]
    raise errors.SpaceError(
        f"A parameter must be a Real, an Integer or a Choice, but is {domain!r}."
    )


def from_function(
    function: Callable[..., Any],
    parameters: Mapping[str, AbstractDomain],
    *,
    start: Mapping[str, Any] | None = None,
    terms: tuple[str, ...] = ("loss",),
    events: int = 1,
    differentiable: bool = False,
) -> Problem[dict[str, Any]]:
    """A problem of any Python function of named parameters: the quick way in.

    Args:
        function: called with the parameters by name (a `Choice` as the option's name);
            returns a number to be minimised, or named ones. Where it has an argument
            `seed` (or `key` if differentiable) it is given a fresh one at each call.
        parameters: name -> `Real`, `Integer` or `Choice`; each one scalar.
        start: name -> start value; by default the middle of the range, the first option.
        terms: names of what it returns, where it returns a mapping.
        events: calls that make one evaluation; with more than one the mean has an error.
        differentiable: the function is written in JAX; `Pathwise` may differentiate it.

    Returns:
        a problem whose design is a dict.

    Raises:
        SpaceError: a start that the domains do not allow, or an unknown name.
        InputError: the function does not take the parameters.
    """
    given = dict(start or {})
    for name in given:
        if name not in parameters:
            raise errors.SpaceError(
                f"There is no parameter {name!r}. {errors.nearest(name, parameters)}"
            )
    _check_arguments(function, parameters, "key" if differentiable else "seed")
    accepted = inspect.signature(function).parameters
    template = {}
    for name, domain in parameters.items():
        value = given.get(name, _middle(domain))
        if isinstance(domain, Choice) and isinstance(value, str):
            if value not in domain.options:
                raise errors.SpaceError(
                    f"{name!r} has no option {value!r}. "
                    f"{errors.nearest(value, domain.options)}"
                )
            value = np.eye(len(domain.options))[domain.options.index(value)]
        template[name] = jnp.asarray(value, float)
        shape = (len(domain.options),) if isinstance(domain, Choice) else ()
        if template[name].shape != shape:
            raise errors.SpaceError(
                f"A parameter of a function must be a single number, but {name!r} has "
                f"the shape {template[name].shape}. Give its bounds and start as numbers, "
                "and each entry a name of its own."
            )
    if differentiable:
        simulator: Any = _TracedCalls(function, tuple(terms), "key" in accepted)
    else:
        options = tuple(
            (name, domain.options)
            for name, domain in parameters.items()
            if isinstance(domain, Choice)
        )
        simulator = _HostCalls(function, tuple(terms), options, "seed" in accepted)
    return Problem(
        space=Space(template, parameters),
        pipeline=Pipeline(Rows(), simulator),
        objective=_Losses(),
        events=events,
        name=getattr(function, "__name__", "function"),
    )


def _check_arguments(
    function: Callable[..., Any], parameters: Mapping[str, Any], random: str
) -> None:
    """Refuse parameters that a function does not take, and arguments nobody gives."""
    known = inspect.signature(function).parameters.values()
    named = {
        p.name: p for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in known)
    for name in parameters:
        if name not in named and not anything:
            raise errors.InputError(
                f"The function takes no argument {name!r}. "
                f"{errors.nearest(name, named)}"
            )
    for p in known:
        needed = p.default is p.empty and p.kind not in (
            p.VAR_POSITIONAL,
            p.VAR_KEYWORD,
        )
        if needed and (p.name not in {*parameters, random} or p.name not in named):
            raise errors.InputError(
                f"Each argument of the function must be a parameter, or `{random}`, or "
                f"have a default, but {p.name!r} is none of them in "
                f"{[*parameters]}. Name it in `parameters`, or give it a default."
            )
