"""Means over Monte Carlo chains, what is derived from them, and their errors.

To first order the fluctuations of F(A_1, A_2, ...) are those of its arguments,

    d_F(i) = sum_k (dF / dA_k) d_k(i),

measurement by measurement (U. Wolff, hep-lat/0306017; A. Ramos, arXiv:1809.01289). An
`Observables` carries its values together with their fluctuations on each ensemble, and every
function of it carries them on: correlations between all quantities are kept, and the error
of anything is asked for at the end.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kythera import errors
from kythera.physics.statistics.autocorrelation import Window
from kythera.physics.statistics.ensembles import (
    FEWEST,
    Constant,
    Ensemble,
    Rows,
    check_samples,
    checked_numbers,
    checked_settings,
    merged_constants,
    merged_ensembles,
)
from kythera.physics.statistics.entries import numbers as checked
from kythera.text import format_measured

RAMOS = "A. Ramos, Comput. Phys. Commun. 238 (2019) 19, arXiv:1809.01289"


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """Values with errors.

    Args:
        value: any shape.
        stderr: standard errors, all ensembles and constants together, of that shape.
        stderr_error: statistical errors of the standard errors.
        ensembles: what each contributes, with autocorrelation times, of that shape.
        constants: standard errors that constants contribute.
    """

    value: np.ndarray
    stderr: np.ndarray
    stderr_error: np.ndarray
    ensembles: Mapping[str, Window]
    constants: Mapping[str, np.ndarray]

    def __str__(self) -> str:
        """One line for each quantity, rounded to the error."""
        taus = {
            name: np.ravel(window.tau)
            for name, window in self.ensembles.items()
        }  # fmt: skip
        return "\n".join(
            format_measured(value, stderr)
            + "".join(f"   tau({name}) {tau[i]:.2f}" for name, tau in taus.items())
            for i, (value, stderr) in enumerate(
                zip(np.ravel(self.value), np.ravel(self.stderr))
            )
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Observables:
    """Values of any shape, and how they fluctuate on each ensemble.

    Made by `observables`, `constants`, `derive`, by arithmetic and by indices.

    Args:
        value: any shape; its entries are called observables below.
        ensembles: fluctuations by name of the ensemble.
        constants: dependence on what comes from outside, by name.
    """

    value: np.ndarray
    ensembles: Mapping[str, Ensemble]
    constants: Mapping[str, Constant]

    __array_ufunc__ = None  # so that `array * observables` comes here

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return self.value.shape

    @property
    def size(self) -> int:
        """Number of observables."""
        return self.value.size

    def __repr__(self) -> str:
        where = ", ".join(f"{k!r} ({e.described()})" for k, e in self.ensembles.items())
        return (
            f"Observables of shape {self.shape} on {where or 'no ensemble'}"
            + f"; constants {list(self.constants)}" * bool(self.constants)
        )

    def __str__(self) -> str:
        """Values and errors with the usual settings."""
        return str(self.estimate())

    def __len__(self) -> int:
        if not self.shape:
            raise errors.InputError(
                "Entries are counted along the leading axis, but the shape is (): this is "
                "one observable. Use it as it is, or `stack([it])`."
            )
        return len(self.value)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> "Observables":
        chosen: Any = np.arange(self.size).reshape(self.shape)[index].ravel()
        if chosen.size and np.array_equal(chosen, chosen[0] + np.arange(chosen.size)):
            chosen = slice(chosen[0], chosen[-1] + 1)  # a view instead of a copy
        return carried(self.value[index], [(self, lambda rows: rows[chosen])])

    def estimate(
        self,
        *,
        S: float | Mapping[str, float] = 2.0,
        tau_exp: float | Mapping[str, float] = 0.0,
        n_sigma: float | Mapping[str, float] = 1.0,
    ) -> Estimate:
        """Standard errors by the Gamma method, see `autocorrelation.gamma_method`.

        Args:
            S: for the window; 0 takes measurements as independent.
            tau_exp: where positive, the tail of the slowest mode is added.
            n_sigma: see `tau_exp`. Each is a number, or one for each ensemble by name.

        Raises:
            InputError: no number or a negative one, a name that is no ensemble's, a chain
                that is too short for its tail.
        """
        chosen = {"S": S, "tau_exp": tau_exp, "n_sigma": n_sigma}
        settings = checked_settings(self.ensembles, chosen)
        windows = {
            name: one.window(name, settings[name])
            for name, one in self.ensembles.items()
        }
        outside = {
            name: np.sqrt(np.einsum("ij,jk,ik->i", c.slopes, c.covariance, c.slopes))
            for name, c in self.constants.items()
        }
        parts = [*(w.stderr for w in windows.values()), *outside.values()]
        total = np.sqrt(sum((p**2 for p in parts), np.zeros(self.size)))
        spread = np.sqrt(
            sum(
                ((w.stderr * w.stderr_error) ** 2 for w in windows.values()),
                np.zeros(self.size),
            )
        )
        own = np.divide(spread, total, out=np.zeros(self.size), where=total > 0)
        return Estimate(
            self.value,
            total.reshape(self.shape),
            own.reshape(self.shape),
            {
                n: Window(*(v.reshape(self.shape) for v in w))
                for n, w in windows.items()
            },
            {n: v.reshape(self.shape) for n, v in outside.items()},
        )

    def __neg__(self) -> "Observables":
        return carried(-self.value, [(self, lambda rows: -rows)])

    def __add__(self, other: Any) -> "Observables":
        return _arithmetic(np.add, self, other, 1.0, 1.0)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Observables":
        return _arithmetic(np.subtract, self, other, 1.0, -1.0)

    def __rsub__(self, other: Any) -> "Observables":
        return -self + other

    def __mul__(self, other: Any) -> "Observables":
        return _arithmetic(np.multiply, self, other, _value(other), self.value)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Observables":
        b = _value(other)
        with _quiet():
            slopes = 1 / b, -self.value / b**2
        return _arithmetic(np.divide, self, other, *slopes)

    def __rtruediv__(self, other: Any) -> "Observables":
        with _quiet():
            slope = -_value(other) / self.value**2
        return _arithmetic(lambda a, b: b / a, self, other, slope, 0.0)

    def __pow__(self, other: Any) -> "Observables":
        a, b = self.value, _value(other)
        with _quiet():
            slope = np.where(b == 0, 0.0, b * a ** (b - 1))
            other_slope = np.log(a) * a**b if isinstance(other, Observables) else 0.0
        return _arithmetic(np.power, self, other, slope, other_slope)

    def __rpow__(self, other: Any) -> "Observables":
        with _quiet():
            slope = np.log(_value(other)) * _value(other) ** self.value
        return _arithmetic(lambda a, b: b**a, self, other, slope, 0.0)


def observables(
    samples: Any,
    ensemble: str = "events",
    *,
    numbers: Any = None,
    allow_constant: bool = False,
) -> Observables:
    """Means over the samples of one ensemble.

    Args:
        samples: shape (configuration, ...): the leading axis is Monte Carlo time, as that of
            events is everywhere; what follows are observables measured together. Several
            independent chains of the ensemble are a mapping of names to such arrays.
        ensemble: its name. Quantities on ensembles of different names are independent;
            those on the same have to be measured on the same configurations.
        numbers: increasing whole numbers of the configurations, shape (configuration,),
            where some are missing or not all were measured; a mapping where `samples` is.
        allow_constant: accept observables that do not vary, such as an empty bin, and give
            them no error.

    Returns:
        the means over all samples, of shape (...).

    Raises:
        InputError: fewer than 5 samples in a chain, samples that are no real numbers, are
            not finite or do not vary, chains of different observables, numbers that do not
            increase.
    """
    named = samples if isinstance(samples, Mapping) else {"": samples}
    at = numbers if isinstance(numbers, Mapping) else dict.fromkeys(named, numbers)
    what = f"Samples of ensemble {ensemble!r}"
    arrays = {name: checked(named[name], what, "biuf") for name in sorted(named)}
    if not arrays or set(at) != set(arrays):
        raise errors.InputError(
            f"`numbers` must name the chains of `samples`, which are {sorted(arrays)}, but "
            f"names {sorted(at)}. Give at least one chain, and the numbers of each."
        )
    _check_shapes(ensemble, {name: array.shape for name, array in arrays.items()})
    means, rows, counted = [], [], []
    for name, array in arrays.items():
        chain = f"chain {name!r} of ensemble {ensemble!r}"
        flat = array.reshape(len(array), -1).T  # (observable, configuration)
        means.append(np.mean(flat, 1))
        rows.append(np.empty(flat.shape))
        np.subtract(flat, means[-1][:, None], out=rows[-1])
        check_samples(chain, means[-1], rows[-1], allow_constant)
        counted.append(checked_numbers(chain, at[name], len(array)))
    counts = [len(n) for n in counted]
    value = np.average(means, axis=0, weights=counts)
    joined = rows[0] if len(rows) == 1 else np.concatenate(rows, 1)
    own = Ensemble(tuple(arrays), tuple(counted), joined)
    shape = next(iter(arrays.values())).shape[1:]
    return Observables(value.reshape(shape), {ensemble: own}, {})


def _check_shapes(ensemble: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    shortest = min(shape[0] if shape else 0 for shape in shapes.values())
    if shortest < FEWEST:
        raise errors.InputError(
            f"A chain must have at least {FEWEST} samples, but those of ensemble "
            f"{ensemble!r} have the shapes {dict(shapes)}. The leading axis is Monte Carlo "
            "time: give more samples, or transpose the arrays."
        )
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise errors.InputError(
            f"All chains of ensemble {ensemble!r} must hold the same observables, but their "
            f"shapes are {dict(shapes)}, the leading axis being Monte Carlo time. Give each "
            "chain all observables, in one order."
        )


def constants(values: Any, covariance: Any, name: str) -> Observables:
    """Numbers from outside: a lattice scale, a previous measurement, a prior.

    Args:
        values: any shape, k numbers.
        covariance: shape (k, k); k variances; or one variance where k is 1.
        name: what is given twice under one name is the same, fully correlated.

    Raises:
        InputError: what are no finite real numbers, a covariance that has another shape, is
            not symmetric or not positive-semidefinite.
    """
    value = checked(values, f"The constants {name!r}")
    matrix = checked(covariance, f"The covariance of the constants {name!r}")
    if not np.isfinite(value).all() or not np.isfinite(matrix).all():
        raise errors.InputError(
            f"The constants {name!r} and their covariance must be finite, but are "
            f"{value.tolist()} and {matrix.tolist()}. Leave out what is not known."
        )
    if matrix.ndim < 2:
        matrix = np.diag(np.atleast_1d(matrix))
    size = value.size
    law = f"The covariance of the constants {name!r} must be "
    if matrix.shape != (size, size):
        raise errors.InputError(
            f"{law}of shape {(size, size)}, but is {matrix.shape}. Give one row for each "
            "number, or their variances."
        )
    if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=0):
        gap = np.max(np.abs(matrix - matrix.T))
        raise errors.InputError(
            f"{law}symmetric, but differs from its transpose by {gap:.3g}. Give "
            "(C + C.T) / 2 if this is rounding."
        )
    lowest = np.linalg.eigvalsh(matrix)
    if not lowest[0] >= -1e-12 * np.max(np.abs(lowest)):
        raise errors.InputError(
            f"{law}positive-semidefinite, but its lowest eigenvalue is {lowest[0]:.3g}. "
            "No quantities can be correlated like that: look for a wrong sign."
        )
    return Observables(value, {}, {name: Constant(matrix, np.eye(size))})


def stack(parts: Any) -> Observables:
    """Observables of equal shapes along a new leading axis.

    Raises:
        InputError: none, something else among them, or other shapes.
    """
    parts = list(parts)
    shapes = [getattr(part, "shape", ()) for part in parts]
    others = [part for part in parts if not isinstance(part, Observables)]
    if not parts or others or len(set(shapes)) > 1:
        raise errors.InputError(
            "Observables of equal shapes can be stacked, but there are "
            f"{len(parts)} parts, {len(others)} of which are none, with the shapes {shapes}. "
            "Write `number + 0 * a` for a number that has no error."
        )
    value = np.stack([part.value for part in parts])
    pieces, begin = [], 0
    for part in parts:
        rows = slice(begin, begin + part.size)
        pieces.append((part, lambda own, rows=rows: _placed(own, rows, value.size)))
        begin += part.size
    return carried(value, pieces)


def carried(value: Any, parts: list[tuple[Observables, Rows]]) -> Observables:
    """A quantity, and for each that it depends on how fluctuations pass on to it.

    Raises:
        InputError: values that are not finite, ensembles of one name that have different
            configurations, or constants of one name with different covariances.
    """
    value = np.asarray(value, float)
    check_finite(value, "values")
    return Observables(
        value,
        merged_ensembles([(part.ensembles, rows) for part, rows in parts]),
        merged_constants([(part.constants, rows) for part, rows in parts]),
    )


def check_finite(numbers: np.ndarray, what: str) -> None:
    """Refuse values, or slopes, that a function does not have at its arguments.

    Args:
        numbers: any shape.
        what: their name, for errors.

    Raises:
        InputError: some are not finite.
    """
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise errors.InputError(
            f"Errors pass on only to finite {what}, but {bad.size} of {np.size(numbers)} are "
            f"not (the first is number {bad[0]}: {np.ravel(numbers)[bad[0]]:g}). Look at "
            "where the function is defined and smooth: a logarithm, a root, a division."
        )


def _arithmetic(
    function: Callable, one: Observables, other: Any, slope: Any, other_slope: Any
) -> Observables:
    """An elementwise function of two, of which the second may be a number."""
    b = _value(other)
    with _quiet():
        value = np.asarray(function(one.value, b), float)
    parts = [(one, _elementwise(one.shape, slope, value.shape))]
    if isinstance(other, Observables):
        parts.append((other, _elementwise(other.shape, other_slope, value.shape)))
    return carried(value, parts)


def _elementwise(shape: tuple, slope: Any, out: tuple) -> Rows:
    factor = np.broadcast_to(slope, out)[..., None]
    check_finite(factor, "slopes")

    def rows(own: np.ndarray) -> np.ndarray:
        count = own.shape[1]
        return (factor * own.reshape(*shape, count)).reshape(-1, count)

    return rows


def _placed(own: np.ndarray, rows: slice, size: int) -> np.ndarray:
    found = np.zeros((size, own.shape[1]))
    found[rows] = own
    return found


def _quiet() -> np.errstate:
    """No warnings of NumPy: what is not finite is refused with a sentence."""
    return np.errstate(all="ignore")


def _value(other: Any) -> np.ndarray:
    if isinstance(other, Observables):
        return other.value
    return checked(other, "What observables are combined with", "biuf")
