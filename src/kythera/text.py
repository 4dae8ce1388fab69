"""Numbers and tables as people read them. Pure Python and NumPy: reading needs no JAX."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kythera import units


def in_unit(value: Any, unit: str) -> np.ndarray:
    """Native values in the unit of that name: `in_unit(0.2, "cm")` is 20.

    Args:
        value: native value or values.
        unit: name in `kythera.units`; "" or an unknown name leaves them as they are.
    """
    return np.asarray(value, float) / native_per(unit)


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


def parameter_rows(
    names: Sequence[str],
    units: Sequence[str],
    start: np.ndarray,
    best: np.ndarray,
    rows: int = 40,
) -> list[tuple[str, str, str, str]]:
    """Parameter, start, best, unit, as text; a choice is one row that names its options.

    Args:
        names: of the coordinates; those of a choice end in "=option".
        units: of the coordinates.
        start: native values, shape (n,).
        best: native values, shape (n,).
        rows: the most rows that are wanted.
    """
    found: list[tuple[str, str, str, str]] = []
    i = 0
    while i < len(names) and len(found) < rows:
        stem, is_choice, _ = names[i].partition("=")
        if is_choice:
            j = i
            while j < len(names) and names[j].startswith(f"{stem}="):
                j += 1
            options = [name.partition("=")[2] for name in names[i:j]]
            pair = [options[int(np.argmax(v[i:j]))] for v in (start, best)]
            found.append((stem, pair[0], pair[1], ""))
            i = j
            continue
        pair = in_unit(np.array([start[i], best[i]]), units[i])
        found.append((names[i], f"{pair[0]:.5g}", f"{pair[1]:.5g}", units[i]))
        i += 1
    return found


def count_rows(names: Sequence[str]) -> int:
    """How many rows all parameters make, a choice being one."""
    return len({name.partition("=")[0] for name in names})


def solution_table(
    names: Sequence[str],
    units: Sequence[str],
    start: np.ndarray,
    best: np.ndarray,
    losses: Sequence[tuple[str, str, str, str]],
    summary: str,
    rows: int = 40,
) -> str:
    """What a solution prints: parameters, losses, one line on the price.

    Args:
        names: of the coordinates.
        units: of the coordinates.
        start: native values, shape (n,).
        best: native values, shape (n,).
        losses: (label, start, best, gain) as text; labels are shown where there are two.
        summary: the last line.
        rows: the most parameters that are shown.
    """
    lines = [("parameter", "start", "best", "unit")]
    lines += parameter_rows(names, units, start, best, rows)
    widths = [max(len(line[k]) for line in lines) for k in range(3)]
    text = [
        f"{a:<{widths[0]}}  {b:>{widths[1]}} -> {c:>{widths[2]}}  {d}".rstrip()
        for a, b, c, d in lines
    ]
    more = count_rows(names) - (len(lines) - 1)
    if more > 0:
        text.append(f"... and {more:,} more")
    for label, first, last, gain in losses:
        shown = f" ({label})" if len(losses) > 1 else ""
        text.append(f"loss{shown}: {first} -> {last}, gain {gain}")
    return "\n".join([*text, summary])


def price_line(
    trials: int, failed: int, events: int, report: int, seconds: float, reason: str
) -> str:
    """One line: what an optimisation cost, and why it ended."""
    return (
        f"{trials} trials ({failed} failed), {events:,} events and {report:,} for the "
        f"report, {seconds:.1f} s; {reason}"
    )
