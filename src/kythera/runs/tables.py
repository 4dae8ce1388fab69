"""Trials as tables of other libraries, and as files of theirs."""

import io
import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kythera import errors, text
from kythera.drawing import plain as plain_numbers
from kythera.runs.result import Result

COUNTS = ("number", "state", "total", "stderr", "events", "spent", "seconds")


def columns(result: Result) -> dict[str, np.ndarray]:
    """One column for each number of a trial, parameters in the units that are shown.

    "number", "state", "value", "stderr", "events", "spent", "seconds", the trial's point as
    "z[0] (cm)", terms as "term:resolution" and "term:resolution stderr", constraints as
    "slack:cost" likewise.
    """
    trials = result.trials
    found = {("value" if k == "total" else k): trials[k] for k in COUNTS}
    values = trials["values"]
    for i, (name, unit) in enumerate(zip(result.names, result.units, strict=True)):
        label = f"{name} ({unit})" if unit else name
        found[label] = text.in_unit(values[:, i], unit)
    for key, mark in (("terms", "term"), ("slack", "slack")):
        for i, name in enumerate(result.record[key]):
            found[f"{mark}:{name}"] = trials[key][:, i]
            found[f"{mark}:{name} stderr"] = trials[f"{key}_stderr"][:, i]
    return found


def frame(result: Result, library: Literal["pandas", "polars"] = "pandas") -> Any:
    """The trials as a data frame of that library.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        if library == "polars":
            import polars as frames
        else:
            import pandas as frames
    except ImportError as error:
        raise errors.UnsupportedError(
            f"A table needs {library}, which is not installed. "
            "Install it: pip install 'kythera[tables]'."
        ) from error
    return frames.DataFrame({k: v.copy() for k, v in columns(result).items()})


def plain(result: Result) -> dict[str, Any]:
    """What `kythera export --json` prints: the summary, and `trials` one by one."""
    trials, factors = result.trials, [text.native_per(unit) for unit in result.units]
    shown = plain_numbers(trials["values"] / np.array(factors), digits=None)
    return result.summary() | {
        "trials": [
            {
                "number": int(trials["number"][i]),
                "value": _finite(trials["total"][i]),
                "stderr": _finite(trials["stderr"][i]),
                "design": dict(zip(result.names, shown[i], strict=True)),
                "state": str(trials["state"][i]),
                "events": int(trials["events"][i]),
                "terms": _named(result, "terms", i),
                "slack": _named(result, "slack", i),
            }
            for i in range(len(trials["number"]))
        ]
    }


def encode(result: Result, suffix: str) -> bytes:
    """The trials as the bytes of a file.

    Args:
        result: whose trials.
        suffix: ".parquet", ".csv" or ".json".

    Raises:
        InputError: another one.
        UnsupportedError: what writes Parquet is not installed.
    """
    writers: dict[str, Callable[[Result], bytes]] = {
        ".parquet": _parquet,
        ".csv": _csv,
        ".json": lambda r: json.dumps(plain(r), indent=1, allow_nan=False).encode(),
    }
    if suffix not in writers:
        raise errors.InputError(
            f"Trials are written as {', '.join(writers)}, but {suffix or 'no suffix'!r} "
            "was asked for. Name the file with one of them."
        )
    return writers[suffix](result)


def _parquet(result: Result) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise errors.UnsupportedError(
            "Parquet files need pyarrow, which is not installed. "
            "Install it: pip install 'kythera[parquet]', or write .csv."
        ) from error
    table = pa.table({k: pa.array(v) for k, v in columns(result).items()})
    about = {b"kythera": json.dumps(result.summary()).encode()}
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(about), buffer)
    return buffer.getvalue()


def _csv(result: Result) -> bytes:
    import csv

    found, buffer = columns(result), io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(found)
    writer.writerows(zip(*(v.tolist() for v in found.values()), strict=True))
    return buffer.getvalue().encode()


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _named(result: Result, key: str, row: int) -> dict[str, Any]:
    values, errs = (result.trials[k][row] for k in (key, f"{key}_stderr"))
    return {
        name: {"value": _finite(value), "stderr": _finite(error)}
        for name, value, error in zip(result.record[key], values, errs, strict=True)
    }
