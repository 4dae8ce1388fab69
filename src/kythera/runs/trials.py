"""Trials as rows of a table, and back, bit for bit."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kythera.core.evaluation import Measured, Trial

READ = (  # what `columns` looks at
    *("number", "sample", "point", "design", "value", "stderr", "terms", "slack"),
    *("events", "spent", "seconds", "state"),
)
BYTES = ("point", "design", "arrays")
MARKED = (
    *("number", "sample", "point", "design", "value", "stderr", "terms", "slack"),
    *("arrays", "events", "spent", "cause"),
)
TOTAL, TERM, SLACK, COVARIANCE = "total", "term.", "slack.", "covariance"


def to_row(trial: "Trial") -> dict[str, Any]:
    """The columns of a trial, without that of its run.

    Numbers stand in columns to be searched; gradients and the covariance of the terms in
    the bytes of a safetensors file, by the names of what they belong to.
    """
    from safetensors.numpy import save

    found = trial.evaluation
    gradients = {
        TOTAL: found.total.gradient,
        **{TERM + name: term.gradient for name, term in found.terms.items()},
        **{SLACK + name: slack.gradient for name, slack in found.slack.items()},
    }
    arrays = {
        name: np.ascontiguousarray(gradient)
        for name, gradient in gradients.items()
        if gradient is not None
    }
    return {
        "number": trial.number,
        "sample": trial.sample,
        "point": np.asarray(trial.u, "<f8").tobytes(),
        "design": np.asarray(trial.values, "<f8").tobytes(),
        "value": _column(found.total.value),
        "stderr": _column(found.total.stderr),
        "terms": _text(found.terms),
        "slack": _text(found.slack),
        "arrays": save(arrays | {COVARIANCE: np.ascontiguousarray(found.covariance)}),
        "events": found.events,
        "spent": trial.spent,
        "seconds": trial.seconds,
        "state": trial.state,
        "cause": storable(found.cause),
    }


def mark(row: Mapping[str, Any]) -> str:
    """Hash of what a trial is, without the time that it took: the same bits, the same mark."""
    marked = [(name, row[name]) for name in MARKED]
    fields = [bytes(v) if k in BYTES else str(v).encode() for k, v in marked]
    return hashlib.sha256(b"".join(b"%d:%b" % (len(f), f) for f in fields)).hexdigest()


def storable(text: str) -> str:
    """Text as every database holds it: without NUL, and with a ? for what is no letter."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def from_row(row: Mapping[str, Any]) -> "Trial":
    """The trial of a row."""
    from safetensors.numpy import load

    from kythera.core.evaluation import Evaluation, Measured, Trial

    arrays = load(bytes(row["arrays"]))

    def named(text: str, prefix: str) -> dict[str, Measured]:
        return {
            name: Measured(_back(value), _back(stderr), arrays.get(prefix + name))
            for name, (value, stderr) in json.loads(text).items()
        }

    evaluation = Evaluation(
        Measured(_back(row["value"]), _back(row["stderr"]), arrays.get(TOTAL)),
        named(row["terms"], TERM),
        named(row["slack"], SLACK),
        arrays[COVARIANCE],
        int(row["events"]),
        row["cause"],
    )
    return Trial(
        int(row["number"]),
        int(row["sample"]),
        np.frombuffer(row["point"], "<f8"),
        np.frombuffer(row["design"], "<f8"),
        evaluation,
        float(row["seconds"]),
        int(row["spent"]),
    )


def columns(rows: Sequence[Mapping[str, Any]], parameters: int) -> dict[str, Any]:
    """Rows as the columns of `trials.npz`, without JAX.

    Args:
        rows: of one run, in order.
        parameters: coordinates of the space, where there are no rows.

    Returns:
        the columns, each with a leading axis `trial`, and the sorted names of terms and
        constraints under "names".
    """
    found: dict[str, Any] = {
        name: np.array([row[name] for row in rows], kind)
        for name, kind in (
            *(("number", np.int64), ("sample", np.int64), ("events", np.int64)),
            *(("spent", np.int64), ("seconds", float), ("state", "U8")),
        )
    }
    width = len(rows[0]["point"]) // 8 if rows else parameters
    for name, column in (("u", "point"), ("values", "design")):
        data = b"".join(row[column] for row in rows)
        found[name] = np.frombuffer(data, "<f8").reshape(len(rows), width)
    for name, column in (("total", "value"), ("stderr", "stderr")):
        found[name] = np.array([_back(row[column]) for row in rows], float)
    names = {}
    for key in ("terms", "slack"):
        read = json.loads(f"[{','.join(row[key] for row in rows)}]")  # in one go
        names[key] = sorted({name for named in read for name in named})
        pairs = [[named.get(n, (None, None)) for n in names[key]] for named in read]
        table = np.array([[list(map(_back, p)) for p in row] for row in pairs], float)
        table = table.reshape(len(rows), len(names[key]), 2)
        found[key], found[f"{key}_stderr"] = table[..., 0], table[..., 1]
    return found | {"names": names}


def _column(value: float) -> float | None:
    """Databases do not agree on what nan is; all know null."""
    return None if math.isnan(value) else float(value)


def _back(value: float | str | None) -> float:
    return float("nan") if value is None else float(value)


def _text(named: "Mapping[str, Measured]") -> str:
    """As JSON, which has no infinity: that is text in it."""

    def entry(value: float) -> float | str | None:
        plain = _column(value)
        return plain if plain is None or math.isfinite(plain) else repr(plain)

    return json.dumps(
        {name: [entry(m.value), entry(m.stderr)] for name, m in named.items()}
    )
