"""The only door between physics and optimisers: a design tree and the unit cube.

A design is any PyTree with physical field names in native units. Everything in it is frozen
unless it is named; what is named becomes coordinates of [0, 1]^n.
"""

import abc
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.types import Array, Float, Vector
from kythera.text import in_unit, known_unit

D = TypeVar("D")


class AbstractDomain(eqx.Module):
    """What values one free leaf of a design may take, and how the unit cube maps to them."""

    if TYPE_CHECKING:  # for pyright an abstract variable would be the first argument
        unit: ClassVar[str]
    else:
        unit: eqx.AbstractVar[str]

    @abc.abstractmethod
    def check(self, path: str, leaf: np.ndarray) -> None:
        """Raise `SpaceError` where the start `leaf` (native units) is not allowed."""

    @abc.abstractmethod
    def encode(self, leaf: Array) -> Array:
        """Native values to cube coordinates, of the same shape."""

    @abc.abstractmethod
    def decode(self, u: Array, *, hard: bool) -> Array:
        """Cube coordinates to native values, of the same shape."""

    @abc.abstractmethod
    def label(self, index: tuple[int, ...]) -> str:
        """What stands behind the path in the name of coordinate `index`."""

    @abc.abstractmethod
    def describe(self) -> str:
        """The domain in a few words, for tables."""


def _plain(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]" if index else ""


def _offending(path: str, leaf: np.ndarray, bad: np.ndarray) -> tuple[str, float]:
    index = tuple(int(i) for i in np.argwhere(bad)[0]) if leaf.ndim else ()
    return path + _plain(index), float(leaf[index])


class Real(AbstractDomain):
    """A real parameter between two bounds, on a linear or logarithmic scale.

    Args:
        lower: lower bound, native units; a number or an array that broadcasts to the leaf.
        upper: upper bound, likewise.
        unit: the unit that tables show, a name of `kythera.units` such as "cm";
            what is no name ("", "1/m") is shown as it is, beside native values.
        log: map the cube to the logarithm (both bounds must be positive).
    """

    lower: Float[Array, "..."]
    upper: Float[Array, "..."]
    unit: str = eqx.field(static=True)
    log: bool = eqx.field(static=True)

    def __init__(self, lower: Any, upper: Any, unit: str = "", *, log: bool = False):
        """See the class."""
        low, up = np.asarray(lower, float), np.asarray(upper, float)
        finite = np.all(np.isfinite(low)) and np.all(np.isfinite(up))
        if not (finite and np.all(low < up)):
            raise errors.SpaceError(
                "`lower < upper` must hold and both be finite, but got "
                f"lower={lower}, upper={upper}. Exchange or separate the bounds."
            )
        if log and np.any(low <= 0):
            raise errors.SpaceError(
                "A logarithmic scale needs positive bounds, but got "
                f"lower={lower}. Raise the lower bound or set log=False."
            )
        self.lower, self.upper = jnp.asarray(low, float), jnp.asarray(up, float)
        self.unit, self.log = known_unit(unit), log

    def check(self, path: str, leaf: np.ndarray) -> None:
        """See the base class."""
        low = np.broadcast_to(np.asarray(self.lower, float), leaf.shape)
        up = np.broadcast_to(np.asarray(self.upper, float), leaf.shape)
        slop = 1e-6 * (up - low)  # float32 bounds against a float64 start
        bad = ~((leaf >= low - slop) & (leaf <= up + slop))
        if bad.any():
            name, value = _offending(path, leaf, bad)
            first = tuple(np.argwhere(bad)[0]) if leaf.ndim else ()
            unit = f" {self.unit}" if self.unit else ""
            shown = in_unit(np.array([value, low[first], up[first]]), self.unit)
            raise errors.SpaceError(
                f"'{name}' starts at {shown[0]:.6g}{unit}, outside its bounds "
                f"[{shown[1]:.6g}, {shown[2]:.6g}]{unit}. "
                "Move the start or widen the bounds."
            )

    def encode(self, leaf: Array) -> Array:
        """See the base class."""
        low, up = self.lower, self.upper
        if self.log:
            leaf, low, up = jnp.log(leaf), jnp.log(low), jnp.log(up)
        return (leaf - low) / (up - low)

    def decode(self, u: Array, *, hard: bool) -> Array:
        """See the base class."""
        if self.log:
            low, up = jnp.log(self.lower), jnp.log(self.upper)
            return jnp.exp(low + u * (up - low))
        return self.lower + u * (self.upper - self.lower)

    def label(self, index: tuple[int, ...]) -> str:
        """See the base class."""
        return _plain(index)

    def describe(self) -> str:
        """See the base class."""
        low = in_unit(np.asarray(self.lower), self.unit)
        up = in_unit(np.asarray(self.upper), self.unit)
        scale = " log" if self.log else ""
        return f"[{low.min():.6g}, {up.max():.6g}]{scale}"


class Integer(AbstractDomain):
    """A whole number between two bounds, both included.

    A soft decode gives the real number in between (for simulators that say how they read
    it), a hard one the whole number; each number owns an equal part of the cube.
    """

    lower: int = eqx.field(static=True)
    upper: int = eqx.field(static=True)
    unit: str = eqx.field(static=True, default="")

    def __check_init__(self):
        """Refuse an empty range, and unknown units."""
        known_unit(self.unit)
        if int(self.lower) != self.lower or int(self.upper) != self.upper:
            raise errors.SpaceError(
                "Bounds of an Integer must be whole numbers, but got "
                f"lower={self.lower}, upper={self.upper}. Round them or use Real."
            )
        if self.lower >= self.upper:
            raise errors.SpaceError(
                f"`lower < upper` must hold, but got lower={self.lower}, "
                f"upper={self.upper}. Exchange or separate the bounds."
            )

    def check(self, path: str, leaf: np.ndarray) -> None:
        """See the base class."""
        bad = ~((leaf >= self.lower) & (leaf <= self.upper) & (leaf == np.round(leaf)))
        if bad.any():
            name, value = _offending(path, leaf, bad)
            raise errors.SpaceError(
                f"'{name}' starts at {value:.6g}, but must be a whole number in "
                f"[{self.lower}, {self.upper}]. Move the start or widen the bounds."
            )

    def encode(self, leaf: Array) -> Array:
        """See the base class."""
        return (leaf - self.lower) / (self.upper - self.lower)

    def decode(self, u: Array, *, hard: bool) -> Array:
        """See the base class."""
        steps = self.upper - self.lower
        if hard:
            return self.lower + jnp.clip(jnp.floor(u * (steps + 1)), 0, steps)
        return self.lower + u * steps

    def label(self, index: tuple[int, ...]) -> str:
        """See the base class."""
        return _plain(index)

    def describe(self) -> str:
        """See the base class."""
        return f"{{{self.lower} ... {self.upper}}}"


class Choice(AbstractDomain):
    """One of k named options.

    The leaf holds k weights in its last axis, which sum to one (one-hot where a choice is
    made); they take k coordinates u of the cube, w = u / sum(u), all equal at u = 0. A hard
    decode gives the one-hot vector of the largest weight.

    Args:
        options: names of the options, at least two, all different.
    """

    options: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    unit: str = eqx.field(static=True, default="")

    def __check_init__(self):
        """Refuse fewer than two options, or two of one name."""
        if len(self.options) < 2 or len(set(self.options)) < len(self.options):
            raise errors.SpaceError(
                "A Choice needs at least two options with different names, but got "
                f"{self.options}. Name the options, or leave the leaf frozen."
            )

    def check(self, path: str, leaf: np.ndarray) -> None:
        """See the base class."""
        k = len(self.options)
        if leaf.ndim < 1 or leaf.shape[-1] != k:
            raise errors.SpaceError(
                f"'{path}' must hold one weight for each of the {k} options "
                f"{self.options} in its last axis, but has shape {leaf.shape}. "
                "Start from a one-hot vector."
            )
        if np.any(leaf < 0) or np.any(np.abs(leaf.sum(-1) - 1) > 1e-5):
            raise errors.SpaceError(
                f"The weights of '{path}' must be >= 0 and sum to one, but are "
                f"{leaf.tolist()}. Start from a one-hot vector or equal weights."
            )

    def encode(self, leaf: Array) -> Array:
        """See the base class."""
        return leaf

    def decode(self, u: Array, *, hard: bool) -> Array:
        """See the base class."""
        k = len(self.options)
        if hard:
            return jax.nn.one_hot(jnp.argmax(u, -1), k, dtype=u.dtype)
        total = jnp.sum(u, -1, keepdims=True)
        return jnp.where(total > 0, u / jnp.where(total > 0, total, 1), 1 / k)

    def label(self, index: tuple[int, ...]) -> str:
        """See the base class."""
        return f"{_plain(index[:-1])}={self.options[index[-1]]}"

    def describe(self) -> str:
        """See the base class."""
        return " | ".join(self.options)


@jit  # once per trial: eager dispatch would cost more than the optimiser
def _decoded_leaves(space: "Space", u: Vector, hard: bool) -> list[Array]:
    return space._leaves(space.decode(u, hard=hard))


def _steps(path: str) -> list[str | int]:
    parts = re.findall(r"[^.\[\]]+|\[\d+\]", path)
    return [int(p[1:-1]) if p.startswith("[") else p for p in parts]


def _get(tree: Any, path: str) -> Any:
    for step in _steps(path):
        if isinstance(step, int) or isinstance(tree, Mapping):
            tree = tree[step]
        else:
            tree = getattr(tree, step)
    return tree


def leaf_paths(tree: Any) -> list[str]:
    """The path of every numeric leaf of a design, as `Space` spells it."""
    paths = []
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if eqx.is_inexact_array_like(leaf) or isinstance(leaf, int | np.ndarray):
            text = "".join(
                f".{k.name}"
                if hasattr(k, "name")
                else f"[{k.idx}]"
                if hasattr(k, "idx")
                else f".{k.key}"
                for k in keys
            )
            paths.append(text.removeprefix("."))
    return paths


def _leaf(tree: Any, path: str) -> Any:
    """The leaf at a path; an error that names the nearest one where there is none."""
    try:
        return _get(tree, path)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        hint = errors.nearest(path, leaf_paths(tree))
        raise errors.SpaceError(f"The design has no leaf '{path}'. {hint}") from error


def _array(path: str, leaf: Any) -> Array:
    try:
        return jnp.asarray(leaf, float)
    except (TypeError, ValueError) as error:
        raise errors.SpaceError(
            f"'{path}' must be a number or an array of numbers to be free, but is a "
            f"{type(leaf).__name__}. Name one of its fields instead."
        ) from error


class Space(eqx.Module, Generic[D]):
    """Design space: which leaves of a design are free, within which bounds.

    Args:
        template: a whole design: the start values, and everything that is frozen.
        free: path of a leaf -> `Real`, `Integer` or `Choice`. A path is written as in
            Python: "upper.z", "layers[0].thickness"; keys of a mapping count as names.
        project: exact constraints that a design alone decides (no overlap, total length):
            maps a decoded design to the nearest allowed one.

    Raises:
        SpaceError: unknown path, start outside its bounds, not finite, empty, nothing free.
    """

    template: D
    domains: tuple[AbstractDomain, ...]
    paths: tuple[str, ...] = eqx.field(static=True)
    project: Callable[[D], D] | None = eqx.field(static=True)

    def __init__(
        self,
        template: D,
        free: Mapping[str, AbstractDomain],
        project: Callable[[D], D] | None = None,
    ):
        """See the class."""
        if not free:
            raise errors.SpaceError(
                "A space needs at least one free leaf, but none was named. "
                f"Name some of: {', '.join(leaf_paths(template)[:10])}."
            )
        leaves = []
        for path, domain in free.items():
            leaf = _array(path, _leaf(template, path))
            values = np.asarray(leaf, float)
            if not (values.size and np.all(np.isfinite(values))):
                raise errors.SpaceError(
                    f"'{path}' must start at finite numbers, one or more, but holds "
                    f"{values.tolist()}. Give it a start value."
                )
            domain.check(path, values)
            leaves.append(leaf)
        self.template = eqx.tree_at(
            lambda tree: [_get(tree, path) for path in free], template, leaves
        )
        self.domains = tuple(free.values())
        self.paths = tuple(free)
        self.project = project

    @property
    def free(self) -> dict[str, AbstractDomain]:
        """Path of each free leaf -> its domain."""
        return dict(zip(self.paths, self.domains, strict=True))

    def _leaves(self, design: D) -> list[Array]:
        return [jnp.asarray(_get(design, path), float) for path in self.paths]

    @property
    def size(self) -> int:
        """Number n of coordinates."""
        return sum(np.size(leaf) for leaf in self._leaves(self.template))

    @property
    def groups(self) -> dict[str, slice]:
        """Path of each free leaf -> its coordinates, in order."""
        groups, start = {}, 0
        for path, leaf in zip(self.paths, self._leaves(self.template), strict=True):
            groups[path] = slice(start, start + leaf.size)
            start += leaf.size
        return groups

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each coordinate: "upper.z[0]", "material=lead"."""
        return tuple(
            path + domain.label(index)
            for path, domain, leaf in zip(
                self.paths, self.domains, self._leaves(self.template), strict=True
            )
            for index in np.ndindex(leaf.shape)
        )

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each coordinate, as tables show it."""
        return self._each([domain.unit for domain in self.domains])

    def _each(self, words: list[str]) -> tuple[str, ...]:
        """A word for each domain, repeated for each of its coordinates."""
        leaves = self._leaves(self.template)
        pairs = zip(words, leaves, strict=True)
        return tuple(word for word, leaf in pairs for _ in range(leaf.size))

    @property
    def start(self) -> Vector:
        """The template's point in the cube, shape (n,)."""
        return self.encode(self.template)

    def encode(self, design: D) -> Vector:
        """Design to its point in the cube, shape (n,)."""
        return jnp.concatenate(
            [
                jnp.ravel(domain.encode(leaf))
                for domain, leaf in zip(self.domains, self._leaves(design), strict=True)
            ]
        )

    def decode(self, u: Vector, *, hard: bool = False) -> D:
        """Point of the cube, shape (n,), to a design; differentiable while soft.

        Args:
            u: coordinates in [0, 1].
            hard: whole numbers and one-hot choices instead of their relaxations.
        """
        old = self._leaves(self.template)
        new = [
            domain.decode(u[where].reshape(leaf.shape), hard=hard)
            for domain, where, leaf in zip(
                self.domains, self.groups.values(), old, strict=True
            )
        ]
        design = eqx.tree_at(self._select, self.template, new)
        return design if self.project is None else self.project(design)

    def _select(self, tree: D) -> list[Any]:
        return [_get(tree, path) for path in self.paths]

    def values(self, u: Vector, *, hard: bool = False) -> np.ndarray:
        """Native value of each coordinate of the decoded design, shape (n,), NumPy."""
        leaves = jax.device_get(_decoded_leaves(self, jnp.asarray(u, float), hard))
        return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in leaves])

    def freeze(self, *paths: str) -> "Space[D]":
        """The same space with the leaves at `paths` frozen at their start values.

        Raises:
            SpaceError: a path that is not free, or nothing left free.
        """
        for path in paths:
            if path not in self.paths:
                raise errors.SpaceError(
                    f"'{path}' is not free. {errors.nearest(path, self.paths)}"
                )
        left = {p: d for p, d in self.free.items() if p not in paths}
        return Space(self.template, left, self.project)

    def restart(self, template: D) -> "Space[D]":
        """The same space that starts from another design (checked as at construction)."""
        return Space(template, self.free, self.project)

    def with_leaf(self, path: str, value: Any) -> "Space[D]":
        """The same space with one leaf of the template, free or frozen, set to `value`.

        Raises:
            SpaceError: no such leaf, wrong shape, or outside the bounds of a free one.
        """
        shape = np.shape(_leaf(self.template, path))
        new = np.asarray(value, float)
        if new.shape not in (shape, ()):
            raise errors.SpaceError(
                f"'{path}' has shape {shape}, but got a value of shape {new.shape}. "
                "Give one number, or as many as it has."
            )
        leaf = jnp.broadcast_to(jnp.asarray(new, float), shape)
        template = eqx.tree_at(lambda tree: _get(tree, path), self.template, leaf)
        return Space(template, self.free, self.project)

    def table(self, rows: int = 40) -> str:
        """The space as text: name, start, domain, unit; at most `rows` lines."""
        start = self.values(self.start)
        units = self.units
        lines = [("parameter", "start", "domain", "unit")]
        names = self.names
        domains = self._each([domain.describe() for domain in self.domains])
        for i in range(min(rows, self.size)):
            value = float(in_unit(start[i], units[i]))
            lines.append((names[i], f"{value:.6g}", domains[i], units[i]))
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        text = "\n".join(
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip()
            for a, b, c, d in lines
        )
        more = self.size - rows
        return text + (f"\n... and {more:,} more" if more > 0 else "")

    def __str__(self) -> str:
        """The table."""
        return self.table()


def is_cube(u: np.ndarray) -> bool:
    """Whether all coordinates are finite and within [0, 1]."""
    return bool(np.all(np.isfinite(u)) and np.all(u >= 0) and np.all(u <= 1))
