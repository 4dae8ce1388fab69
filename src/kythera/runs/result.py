"""What an optimisation leaves behind: the result format, version 1.

A result is a folder with `result.json`, `trials.npz` and `figures.json`; every field is
described in docs/results-format.md. Nothing in it can be executed: reading it unpickles
nothing and imports no JAX.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kythera import errors, text
from kythera.drawing import plain
from kythera.runs import folder as folders

FORMAT, VERSION = "kythera-result", 1
RECORD, TRIALS, FIGURES = "result.json", "trials.npz", "figures.json"
COLUMNS = (
    *("number", "sample", "u", "values", "total", "stderr", "terms", "terms_stderr"),
    *("slack", "slack_stderr", "events", "spent", "seconds", "state"),
)
NUMBER = (int, float)
MEASURED = ("start", "best", "gain")
# What every record holds, so that a foreign or broken one is refused at once.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "kythera": str,
    "jax": str,
    "python": str,
    "date": str,
    "command": str,
    "instrument.name": str,
    "instrument.reference": str,
    "instrument.settings": dict,
    "instrument.weights": dict,
    "instrument.rows": int,
    "optimiser.name": str,
    "optimiser.settings": dict,
    "optimiser.option": str,
    "estimator.name": str,
    "estimator.settings": dict,
    "estimator.option": str,
    "seed": (int, type(None)),
    "budget": dict,
    "events.search": int,
    "events.report": int,
    "events.evaluation": int,
    "reason": str,
    "seconds": NUMBER,
    "space.groups": list,
    "space.names": list,
    "space.units": list,
    "space.lower": list,
    "space.upper": list,
    "space.kinds": list,
    "start.cube": list,
    "start.values": list,
    "best.cube": list,
    "best.values": list,
    **{f"soft.{name}": dict for name in (*MEASURED, "terms", "slack")},
    "hard": (dict, type(None)),
    "gain": dict,
    "terms": list,
    "slack": list,
    "causes": dict,
    "drawing_failed": str,
    "references": list,
    "files": dict,
}


class Number(NamedTuple):
    """A value and its standard error; nan where it is unknown."""

    value: float
    stderr: float

    def __str__(self) -> str:
        """Value and error, rounded to the error."""
        return text.format_measured(self.value, self.stderr)

    @classmethod
    def of(cls, entry: Mapping[str, float | None]) -> "Number":
        """From `{"value": ..., "stderr": ...}`, null standing for nan."""
        value, stderr = entry["value"], entry["stderr"]
        return cls(
            float("nan") if value is None else float(value),
            float("nan") if stderr is None else float(stderr),
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """A saved optimisation.

    Args:
        record: what `result.json` holds.
        trials: arrays of `trials.npz` by name, each with a leading axis `trial`.
        figures: drawings by name, each a dict in plotly's JSON format.
        folder: where it was read from; None for one that was never written.
    """

    record: dict[str, Any]
    trials: dict[str, np.ndarray]
    figures: dict[str, dict[str, Any]]
    folder: Path | None = None

    @property
    def instrument(self) -> str:
        """The problem's name."""
        return self.record["instrument"]["name"]

    @property
    def names(self) -> list[str]:
        """A name for each coordinate."""
        return self.record["space"]["names"]

    @property
    def units(self) -> list[str]:
        """The unit of each coordinate, as tables show it."""
        return self.record["space"]["units"]

    @property
    def start(self) -> np.ndarray:
        """Native values of the start, as built, shape (n,)."""
        return np.array(self.record["start"]["values"], float)

    @property
    def best(self) -> np.ndarray:
        """Native values of the recommended design, as built, shape (n,)."""
        return np.array(self.record["best"]["values"], float)

    @property
    def gain(self) -> Number:
        """Loss at the start minus loss at the end, on the same fresh events."""
        return Number.of(self.record["gain"])

    @property
    def quoted(self) -> dict[str, Any]:
        """The measurement to be quoted: of the detector as built where there is one."""
        return self.record["hard"] or self.record["soft"]

    @property
    def events(self) -> int:
        """Primaries that the search simulated."""
        return int(self.record["events"]["search"])

    @property
    def finished(self) -> bool:
        """Whether start and best were measured anew (a study may be read before)."""
        return bool(self.record.get("finished", True))

    @property
    def causes(self) -> dict[int, str]:
        """Number of each failed trial -> why it failed."""
        return {int(k): v for k, v in self.record["causes"].items()}

    def pareto(self, *terms: str) -> np.ndarray:
        """Indices of the trials that no other one beats in all terms.

        Args:
            terms: names of terms of the loss; by default all of them.

        Returns:
            of complete trials whose constraints hold, in order. Noise is not looked at:
            the luckiest of many noisy trials are among them.

        Raises:
            InputError: an unknown name.
        """
        known = list(self.record["terms"])
        for name in terms:
            if name not in known:
                raise errors.InputError(
                    f"There is no term {name!r}. {errors.nearest(name, known)}"
                )
        columns = [known.index(name) for name in terms or known]
        holds = np.all(self.trials["slack"] >= 0, axis=1)
        good = np.flatnonzero((self.trials["state"] == "complete") & holds)
        return good[non_dominated(self.trials["terms"][good][:, columns])]

    def table(self, rows: int = 40) -> str:
        """Parameter, start, best, unit; the losses and the gain with their errors."""
        losses = [
            (
                label,
                str(Number.of(found["start"])),
                str(Number.of(found["best"])),
                str(Number.of(found["gain"])),
            )
            for label, found in (
                ("as searched", self.record["soft"]),
                ("as built", self.record["hard"]),
            )
            if found and (self.finished or np.isfinite(self.gain.value))
        ]
        summary = text.price_line(
            len(self.trials["number"]),
            int(np.sum(self.trials["state"] == "failed")),
            self.events,
            int(self.record["events"]["report"]),
            float(self.record["seconds"]),
            self.record["reason"],
        )
        slack = {
            name: Number.of(pair["best"])
            for name, pair in (self.quoted or {}).get("slack", {}).items()
        }
        return text.solution_table(
            self.names, self.units, self.start, self.best, losses, slack, summary, rows
        )

    def summary(self) -> dict[str, Any]:
        """What `kythera show --json` prints; parameters are in the units it names."""
        factors = np.array([text.native_per(unit) for unit in self.units])
        start, best = self.start / factors, self.best / factors
        return {
            "instrument": self.instrument,
            "settings": self.record["instrument"]["settings"],
            "optimiser": self.record["optimiser"],
            "estimator": self.record["estimator"],
            "seed": self.record["seed"],
            "events": self.events,
            "trials": len(self.trials["number"]),
            "seconds": self.record["seconds"],
            "reason": self.record["reason"],
            "units": dict(zip(self.names, self.units, strict=True)),
            "start": dict(zip(self.names, plain(start, digits=None), strict=True)),
            "best": dict(zip(self.names, plain(best, digits=None), strict=True)),
            "loss": {k: self.quoted[k] for k in ("start", "best")},
            "gain": self.record["gain"],
        }

    def __str__(self) -> str:
        """The table."""
        return self.table()


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which points no other one beats: smaller in one column, larger in none.

    Args:
        points: shape (n, k).

    Returns:
        truth values, shape (n,).
    """
    order = np.lexsort(points.T[::-1])  # what comes later cannot beat what came before
    front: list[int] = []
    for i in order:
        others = points[front]
        beaten = (others <= points[i]).all(1) & (others < points[i]).any(1)
        if not beaten.any():
            front.append(int(i))
    found = np.zeros(len(points), bool)
    found[front] = True
    return found


def write(result: Result, folder: Path) -> None:
    """Write the three files into a folder that is at hand, the record last.

    Raises:
        StoreError: the folder cannot be written, or holds a result.
    """
    folders.check_free(folder)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **result.trials)
    contents = {
        TRIALS: buffer.getvalue(),
        FIGURES: json.dumps(result.figures, allow_nan=False).encode(),
    }
    record = _finite(result.record)
    record["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }
    contents[RECORD] = json.dumps(record, indent=1, allow_nan=False).encode() + b"\n"
    for name, data in contents.items():
        folders.write_atomically(folder / name, data)


def _finite(value: Any) -> Any:
    """The same with None where a number is not finite: JSON has no word for it."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def load(path: str | Path) -> Result:
    """Read a result; no JAX is imported and nothing is executed.

    Args:
        path: its folder, or the `result.json` in it.

    Raises:
        StoreError: there is none, it is cut short, or it is something else.
    """
    path = Path(path)
    folder = path.parent if path.name == RECORD else path
    record = _read_record(folder)
    contents = {name: _read(folder, name, record) for name in (TRIALS, FIGURES)}
    try:
        with np.load(io.BytesIO(contents[TRIALS]), allow_pickle=False) as arrays:
            trials = {name: arrays[name] for name in arrays.files}
        figures = json.loads(contents[FIGURES])
        lengths = {len(trials[name]) for name in COLUMNS}
        space = record["space"]
        sizes = {len(space[k]) for k in ("names", "units", "lower", "upper", "kinds")}
        sizes |= {len(record[k][of]) for k in ("start", "best") for of in record[k]}
        sizes |= {sum(group["size"] for group in space["groups"])}
        sizes |= {trials[name].shape[1] for name in ("u", "values")}
        for gain in (record["soft"], record["hard"]):
            if gain is None:
                continue
            numbers = [gain[name] for name in MEASURED]
            for pair in (*gain["terms"].values(), *gain["slack"].values()):
                numbers += [pair["start"], pair["best"]]
            for number in (*numbers, record["gain"]):
                Number.of(number)
    except (
        *(AttributeError, IndexError, KeyError, TypeError, ValueError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise _broken(folder, f"{type(error).__name__}: {error}") from error
    if len(lengths) != 1 or len(sizes) != 1 or not isinstance(figures, dict):
        raise _broken(folder, f"columns of {lengths} trials, {sizes} parameters")
    return Result(record, trials, figures, folder)


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    try:
        record = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.StoreError(
            f"A result is a folder with a {RECORD}, but '{folder}' has none. "
            "Give the folder that `kythera optimise` printed."
        ) from error
    except OSError as error:
        raise errors.StoreError(
            f"'{file}' cannot be read: {error.strerror}. Check who may read it."
        ) from error
    except ValueError as error:  # both of JSON and of UTF-8
        raise _broken(folder, f"{RECORD} ends early or is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record)
        raise errors.StoreError(
            f"The `format` of a result is {FORMAT!r}, but that of '{file}' is "
            f"{found!r}. Give a folder that kythera wrote."
        )
    if record.get("version") != VERSION:
        raise errors.StoreError(
            f"This kythera reads version {VERSION} of the format, but '{file}' has "
            f"{record.get('version')!r}. Use the kythera that wrote it, "
            f"{record.get('kythera')}."
        )
    for path, kind in REQUIRED.items():
        value: Any = record
        for name in path.split("."):
            value = value.get(name, ...) if isinstance(value, dict) else ...
        if not isinstance(value, kind):
            raise _broken(folder, f"{RECORD} has no usable '{path}'")
    return record


def _read(folder: Path, name: str, record: dict[str, Any]) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise _broken(folder, f"{name}: {error.strerror}") from error
    written = record["files"].get(name)
    size, digest = (
        (written.get("bytes"), written.get("sha256"))
        if isinstance(written, dict)
        else (None, None)
    )
    if len(data) != size:
        raise _broken(folder, f"{name} has {len(data)} bytes of {size}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise _broken(folder, f"{name} was changed after it was written")
    return data


def _broken(folder: Path, what: str) -> errors.StoreError:
    return errors.StoreError(
        f"A result must be whole, but '{folder}' is not: {what}. "
        "Copy it again, or repeat the run."
    )


def as_built(space: Mapping[str, Any], u: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Native values with whole numbers where a parameter is one; a search may see between.

    Args:
        space: of a record.
        u: point of the cube, shape (n,).
        values: native values as they are recorded, shape (n,).
    """
    found = np.array(values, float)
    whole = np.array(space["kinds"]) == "integer"
    lower, upper = (np.array(space[k], float)[whole] for k in ("lower", "upper"))
    steps = upper - lower  # each number owns an equal part of the cube
    found[whole] = lower + np.clip(np.floor(u[whole] * (steps + 1)), 0, steps)
    return found
