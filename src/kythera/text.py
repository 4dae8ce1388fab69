"""Numbers and tables as people read them. Pure Python and NumPy: reading needs no JAX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kythera import errors, units

MANY = 8  # entries of an array that a crowded table shows one by one


def in_unit(value: Any, unit: str) -> np.ndarray:
    """Native values in the unit of that name: `in_unit(0.2, "cm")` is 20.

    Args:
        value: native value or values.
        unit: name in `kythera.units`; "" or an unknown name leaves them as they are.
    """
    return np.asarray(value, float) / native_per(unit)


def known_unit(unit: str) -> str:
    """The unit as it is, if it is a name in `kythera.units` or no name at all.

    Raises:
        SpaceError: a name that is unknown: native values would be shown as if in it.
    """
    names = [k for k, v in vars(units).items() if isinstance(v, float)]
    if unit.isidentifier() and unit not in names:
        raise errors.SpaceError(
            "The unit of a parameter must be a name in `kythera.units`, but is "
            f"{unit!r}. {errors.nearest(unit, names)}"
        )
    return unit


def native_per(unit: str) -> float:
    """How many native units make one of that name: 0.01 for "cm", 1 for unknown ones."""
    factor = getattr(units, unit, 1.0) if unit.isidentifier() else 1.0
    return float(factor) if isinstance(factor, int | float) else 1.0


def format_measured(value: float, stderr: float) -> str:
    """Value +- error with two digits of the error; the value alone where none is known."""
    if not np.isfinite(stderr) or stderr <= 0:
        return f"{value:.6g}"
    digits = int(max(0, 1 - np.floor(np.log10(stderr))))
    if digits > 8:
        return f"{value:.6g} +- {stderr:.2g}"
    return f"{value:.{digits}f} +- {stderr:.{digits}f}"


class Row(NamedTuple):
    """One line of a table of parameters.

    Args:
        label: name of the parameter; of many, what they share and how many they are.
        start: as text.
        best: as text.
        unit: of both.
        where: the coordinates that it stands for.
    """

    label: str
    start: str
    best: str
    unit: str
    where: slice


def parameter_rows(
    names: Sequence[str],
    units: Sequence[str],
    start: np.ndarray,
    best: np.ndarray,
    rows: int = 40,
) -> list[Row]:
    """Parameter, start, best, unit; a choice is one row that names its options.

    Where not all fit into `rows`, an array of more than `MANY` entries is one row too,
    with its mean values.

    Args:
        names: of the coordinates; those of a choice end in "=option".
        units: of the coordinates.
        start: native values, shape (n,).
        best: native values, shape (n,).
        rows: how many are wanted; there may be more of them.
    """
    crowded = count_parameters(names) > rows
    found: list[Row] = []
    i = 0
    while i < len(names):
        stem, is_choice, _ = names[i].partition("=")
        j = _run(names, i, f"{stem}=") if is_choice else i + 1
        if is_choice:
            options = [name.partition("=")[2] for name in names[i:j]]
            pair = [options[int(np.argmax(v[i:j]))] for v in (start, best)]
            found.append(Row(stem, pair[0], pair[1], "", slice(i, j)))
            i = j
            continue
        label = names[i]
        path = label.rpartition("[")[0]
        if crowded and path and label.endswith("]"):
            k = _run(names, i, f"{path}[")
            if k - i > MANY and names[k - 1].endswith("]"):
                j, label = k, f"{path} (mean of {k - i:,})"
        pair = in_unit(np.array([v[i:j].mean() for v in (start, best)]), units[i])
        found.append(
            Row(label, f"{pair[0]:.5g}", f"{pair[1]:.5g}", units[i], slice(i, j))
        )
        i = j
    return found


def _run(names: Sequence[str], first: int, beginning: str) -> int:
    """End of the run of names from `first` on that begin alike."""
    last = first + 1
    while last < len(names) and names[last].startswith(beginning):
        last += 1
    return last


def count_parameters(names: Sequence[str]) -> int:
    """How many parameters there are, a choice being one."""
    return len({name.partition("=")[0] for name in names})


def solution_table(
    names: Sequence[str],
    units: Sequence[str],
    start: np.ndarray,
    best: np.ndarray,
    losses: Sequence[tuple[str, str, str, str]],
    slack: Mapping[str, tuple[float, float]],
    summary: str,
    rows: int = 40,
) -> str:
    """What a solution prints: parameters, losses, one line on the price.

    Args:
        names: of the coordinates.
        units: of the coordinates.
        start: native values, shape (n,).
        best: native values, shape (n,).
        losses: (label, start, best, gain) as text; labels are shown where there are two. None
            of them where the search is not finished.
        slack: of each constraint at the best design, with its standard error.
        summary: the last line.
        rows: the most parameters that are shown.
    """
    found = parameter_rows(names, units, start, best, rows)
    lines = [("parameter", "start", "best", "unit"), *(r[:4] for r in found[:rows])]
    widths = [max(len(line[k]) for line in lines) for k in range(3)]
    text = [
        f"{a:<{widths[0]}}  {b:>{widths[1]}} -> {c:>{widths[2]}}  {d}".rstrip()
        for a, b, c, d in lines
    ]
    more = len(found) - rows
    if more > 0:
        text.append(f"... and {more:,} more")
    if not losses:
        text.append("not finished: start and best were not measured anew")
    for label, first, last, gain in losses:
        shown = f" ({label})" if len(losses) > 1 else ""
        text.append(f"loss{shown}: {first} -> {last}, gain {gain}")
    broken = [
        f"'{name}' (slack {format_measured(*found)})"
        for name, found in slack.items()
        if found[0] < 0
    ]
    if broken:
        text.append(f"the best design breaks {', '.join(broken)}")
    return "\n".join([*text, summary])


def price_line(
    trials: int, failed: int, events: int, report: int, seconds: float, reason: str
) -> str:
    """One line: what an optimisation cost, and why it ended."""
    return (
        f"{trials} trials ({failed} failed), {events:,} events and {report:,} for the "
        f"report, {seconds:.1f} s; {reason}"
    )
