"""Trials as files that other programs read: CSV, JSON, Parquet."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from kythera import errors, text
from kythera.drawing import plain
from kythera.runs.result import Result

ROWS = 100  # of a CSV file that are sent at once


def table(result: Result) -> dict[str, np.ndarray]:
    """Flat columns: what each trial cost and gave, its terms, its parameters in their units.

    Returns:
        name -> array of shape (trials,): "value", "term.time", "term.time.stderr",
        "slack.height", "z[0] (m)".
    """
    trials = result.trials
    causes = result.causes
    found = {
        "number": trials["number"],
        "state": trials["state"],
        "value": trials["total"],
        "stderr": trials["stderr"],
        **{name: trials[name] for name in ("events", "spent", "seconds", "sample")},
    }
    for key, name in (("terms", "term"), ("slack", "slack")):
        for i, term in enumerate(result.record[key]):
            found[f"{name}.{term}"] = trials[key][:, i]
            found[f"{name}.{term}.stderr"] = trials[f"{key}_stderr"][:, i]
    for i, (name, unit) in enumerate(zip(result.names, result.units, strict=True)):
        shown = f"{name} ({unit})" if unit else name
        found[shown] = text.in_unit(trials["values"][:, i], unit)
    found["cause"] = np.array([causes.get(int(n), "") for n in trials["number"]], str)
    return found


def as_csv(result: Result) -> Iterator[str]:
    """Line by line, so that a long table is never whole in memory."""
    columns = table(result)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([_cell(name) for name in columns])
    for first in range(0, len(columns["number"]), ROWS):
        part = [column[first : first + ROWS].tolist() for column in columns.values()]
        for row in zip(*part, strict=True):
            writer.writerow(_cell(value) for value in row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """Spreadsheets compute what begins with one of these signs; text must stay text."""
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    return "" if isinstance(value, float) and np.isnan(value) else value


def as_json(result: Result) -> str:
    """One object: what was run, and `trials`, each with its design by name."""
    trials, units = result.trials, result.units
    factors = np.array([text.native_per(unit) for unit in units])
    causes = result.causes
    rows = [
        {
            "number": int(trials["number"][i]),
            "state": str(trials["state"][i]),
            "value": plain(trials["total"][i], digits=None),
            "stderr": plain(trials["stderr"][i], digits=None),
            "events": int(trials["events"][i]),
            "seconds": float(trials["seconds"][i]),
            "design": dict(
                zip(result.names, plain(trials["values"][i] / factors, digits=None))
            ),
            "cause": causes.get(int(trials["number"][i]), ""),
        }
        for i in range(len(trials["number"]))
    ]
    about = {"instrument": result.instrument, "units": dict(zip(result.names, units))}
    return json.dumps(about | {"trials": rows}, allow_nan=False)


def as_parquet(result: Result) -> bytes:
    """With the types of the columns kept.

    Raises:
        UnsupportedError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise errors.UnsupportedError(
            "Parquet needs pyarrow, which is not installed. Take the CSV file, or "
            "`pip install 'kythera[parquet]'` where `kythera serve` runs."
        ) from error
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(table(result)), buffer)
    return buffer.getvalue()


def file_name(study: str, run: int, ending: str) -> str:
    """Of a download: what no file name should hold becomes "_"."""
    plain_name = re.sub(r"[^A-Za-z0-9.-]+", "_", study).strip("._")[:80] or "study"
    return f"{plain_name}-{run}.{ending}"
