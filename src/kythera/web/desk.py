"""What the page shows, read from a store as plain numbers and text."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from kythera import errors, text
from kythera.drawing import plain
from kythera.report import figures
from kythera.runs import schema
from kythera.runs.result import Number, Result
from kythera.runs.store import STALE, Store, is_gone, plain_address
from kythera.runs.study import Study
from kythera.web.memory import Memory, Watched

MOST_ROWS = 200  # of a table of parameters
MOST_CAUSES = 50
CAUSE = 600  # characters of one


class Missing(errors.StoreError):
    """There is no such study, run or drawing, or the user may not read it."""


class Desk:
    """Reads one store for the page.

    Args:
        store: whose user's studies, and those shared with the user, are shown.
    """

    def __init__(self, store: Store):
        self.store, self.memory = store, Memory()
        self._gains: dict[int, tuple[float, dict[str, Any] | None]] = {}
        self._file = self._identity()

    def check(self) -> None:
        """Make sure that the database is still the one that was opened.

        An open SQLite file that was removed or replaced can be read for ever, but holds
        the past.

        Raises:
            StoreError: it is gone.
        """
        found = self._identity()
        if found is None:
            raise errors.StoreError(
                f"{self.store!r} is gone: its file was there, and is no longer. Bring it "
                "back; this page goes on by itself."
            )
        if found != self._file:
            self.store.close()
            self._file = found

    def studies(self) -> dict[str, Any]:
        """All studies with their runs, the newest first, and what each user spent."""
        listed = Study.list(self.store)
        rows = self._runs([study.id for study in listed])
        users: dict[str, dict[str, float]] = {}
        shown = []
        for study in reversed(listed):
            runs = [self._run_facts(row) for row in rows.get(study.id, [])]
            total = users.setdefault(
                study.user,
                {"studies": 0, "runs": 0, "events": 0, "seconds": 0.0}
                | {"cpu_seconds": 0.0, "price": 0.0},
            )
            total["studies"] += 1
            total["runs"] += len(runs)
            for run in runs:
                for name in ("events", "seconds", "cpu_seconds", "price"):
                    total[name] += run[name]
            shown.append(self._study_facts(study) | {"runs": runs})
        return {
            "store": plain_address(self.store.address),
            "user": self.store.user,
            "users": [{"user": name, **users[name]} for name in sorted(users)],
            "studies": shown,
        }

    def study(self, number: int) -> Watched:
        """A study by its number in the store.

        Raises:
            Missing: there is none that the user may read.
        """
        for study in Study.list(self.store):
            if study.id == number:
                return Watched(**vars(study), memory=self.memory)
        raise Missing(
            f"There is no study {number} that {self.store.user!r} may read. It was "
            "deleted, is not shared, or is in another store: see the list of studies, or "
            "`kythera studies`."
        )

    def result(self, study: Watched, run: int) -> Result:
        """A run with its trials.

        Raises:
            Missing: there is none, or it has not begun to search.
        """
        self.row(study, run)
        try:
            return study.result(run)
        except errors.StoreError as error:
            if "has not begun" in str(error):
                raise Missing(str(error)) from error
            raise

    def row(self, study: Study, run: int) -> dict[str, Any]:
        """The state of a run.

        Raises:
            Missing: there is none of that number.
        """
        for row in self._runs([study.id]).get(study.id, []):
            if row["number"] == run:
                return row
        raise Missing(
            f"The study {study.name!r} has no run {run}. Begin one: `kythera optimise "
            "--store ... --name ...`."
        )

    def header(self, study: Study, row: dict[str, Any]) -> dict[str, Any]:
        """What stands above a study's curves: small, asked for again and again."""
        runs = self._runs([study.id]).get(study.id, [])
        return {
            **self._study_facts(study),
            "runs": [self._run_facts(other) for other in runs],
            "run": self._run_facts(row) | {"limits": json.loads(row["limits"])},
        }

    def has_begun(self, row: dict[str, Any]) -> bool:
        """Whether a run says what it is: its process may still be compiling."""
        table = schema.run
        with self.store.reading() as connection:
            wanted = sa.select(table.c.record != "").where(table.c.id == row["id"])
            return bool(connection.execute(wanted).scalar())

    def drawings(self, study: Study, run: int) -> dict[str, Any]:
        """Which trials were drawn, their losses, and the figures of the whole run."""
        drawn = study.drawings(run)  # before the trials: none of these is newer then
        result = self.result(self.study(study.id), run)
        trials, places = result.trials, []
        last = max(trials["number"], default=-1)
        for found in drawn:
            place: dict[str, Any] = {"number": found, "loss": None, "state": "best"}
            if found <= last:  # the one behind all trials is the recommended design
                i = int(np.searchsorted(trials["number"], found))
                entry = dict(
                    zip(
                        ("value", "stderr"), (trials[k][i] for k in ("total", "stderr"))
                    )
                )
                place |= {
                    "loss": number(plain(entry, digits=None)),
                    "state": str(trials["state"][i]),
                }
            places.append(place)
        return {
            "drawn": places,
            "figures": result.figures,
            "failed": result.record["drawing_failed"],
        }

    def compared(self, of: list[str], axis: figures.Axis) -> dict[str, Any]:
        """Several runs side by side.

        Args:
            of: "study.run", by their numbers.
            axis: what they spent.

        Raises:
            Missing: there is none of that number.
        """
        results, rows = {}, []
        for name in of:
            study, run = self.study(int(name.split(".")[0])), int(name.split(".")[1])
            row, result = self.row(study, run), self.result(study, run)
            label = (
                study.name
                if study.user == self.store.user
                else f"{study.user}/{study.name}"
            )
            label += f" {run}" if run > 1 or label in results else ""
            results[label] = result
            rows.append(
                {"of": name, "label": label}
                | self._study_facts(study)
                | {"run": self._run_facts(row), "facts": facts(result)}
            )
        try:
            return {"runs": rows, "figure": figures.compare(results, axis), "why": ""}
        except errors.InputError as error:  # losses of two instruments
            return {"runs": rows, "figure": None, "why": str(error)}

    def check_idle(self, study: Study) -> None:
        """Make sure that nobody writes a study.

        Raises:
            InputError: a run of it is alive.
        """
        for row in self._runs([study.id]).get(study.id, []):
            if row["state"] == "running":
                raise errors.InputError(
                    f"Run {row['number']} of the study {study.name!r} is running, held by "
                    f"{row['holder'].rpartition(':')[0]}. Stop it first."
                )

    def _identity(self) -> tuple[int, int] | None:
        if not self.store.is_sqlite:
            return 0, 0
        try:
            found = Path(self.store.address.database or "").stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _study_facts(self, study: Study) -> dict[str, Any]:
        return {
            "id": study.id,
            "name": study.name,
            "user": study.user,
            "mine": study.user == self.store.user,
            "instrument": study.instrument,
            "created": study.created,
        }

    def _runs(self, studies: list[int]) -> dict[int, list[dict[str, Any]]]:
        """The runs of studies: their rows, and what they spent up to the last trial."""
        r, t = schema.run, schema.trial
        mine = t.c.run_id == r.c.id

        def last(column: sa.Column[Any]) -> Any:
            newest = sa.select(column).where(mine).order_by(t.c.number.desc()).limit(1)
            return newest.correlate(r).scalar_subquery()

        with self.store.reading() as connection:
            now = self.store.now(connection)
            # The record of a run with many parameters is long, and seldom asked for.
            small = [c for c in r.c if c.name not in ("record", "recommended")]
            ends = last(t.c.number).label("last"), last(t.c.spent).label("spent")
            found = connection.execute(
                sa.select(*small, *ends)
                .where(r.c.study_id.in_(studies))
                .order_by(r.c.study_id, r.c.number)
            ).mappings()
            grouped: dict[int, list[dict[str, Any]]] = {}
            for row in found:
                silent = now - row["heartbeat"] > STALE or is_gone(row["holder"])
                state = row["state"]
                if state == "running" and (silent or not row["holder"]):
                    state = "silent"
                grouped.setdefault(row["study_id"], []).append({**row, "state": state})
        return grouped

    def _run_facts(self, row: dict[str, Any]) -> dict[str, Any]:
        last = -1 if row["last"] is None else row["last"]
        return {
            "number": row["number"],
            "state": row["state"],
            "reason": row["reason"],
            "holder": row["holder"].rpartition(":")[0],
            "heartbeat": row["heartbeat"],
            "began": row["began"],
            "executor": row["executor"],
            "trials": last + 1,
            "events": row["spent"] or 0,
            "seconds": row["seconds"],
            "cpu_seconds": row["cpu_seconds"],
            "price": row["cpu_seconds"] * row["price_per_hour"] / 3600,
            "gain": self._gain(row),
        }

    def _gain(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """What a run that has ended gained; its record is read once."""
        if row["state"] in ("running", "silent"):
            return None
        at, gain = self._gains.get(row["id"], (None, None))
        if at != row["heartbeat"]:
            table = schema.run
            with self.store.reading() as connection:
                wanted = sa.select(table.c.record).where(table.c.id == row["id"])
                record = json.loads(connection.execute(wanted).scalar() or "{}")
            gain = number(record["gain"]) if record.get("finished") else None
            self._gains[row["id"]] = row["heartbeat"], gain
        return gain


def number(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """A measurement with its text; None where it is unknown."""
    if entry is None or entry.get("value") is None:
        return None
    return {**entry, "text": str(Number.of(entry))}


def facts(result: Result) -> dict[str, Any]:
    """What a run is and what it found: the parts of the record that the page shows."""
    record, quoted = result.record, result.quoted
    state = result.trials["state"]
    good = np.flatnonzero(state == "complete")
    latest = None
    if len(good):
        pair = result.trials["total"][good[-1]], result.trials["stderr"][good[-1]]
        latest = number(plain(dict(zip(("value", "stderr"), pair)), digits=None))
    return {
        "finished": result.finished,
        "built": bool(record["hard"]),
        **{key: number(quoted[key]) for key in ("start", "best", "gain")},
        "latest": latest,
        "failed": int(np.sum(state == "failed")),
        "report_events": record["events"]["report"],
        "parameters": text.count_parameters(result.names),
        "optimiser": record["optimiser"]["option"] or record["optimiser"]["name"],
        "estimator": record["estimator"]["option"] or record["estimator"]["name"],
        "seed": record["seed"],
        "command": record["command"],
        "settings": record["instrument"]["settings"],
        "reference": record["instrument"]["reference"],
        "rows": record["instrument"]["rows"],
        "versions": {key: record[key] for key in ("kythera", "jax", "python")},
        "weights": record["instrument"]["weights"],
        "terms": _latest(result, "terms"),
        "slack": _latest(result, "slack"),
    }


def _latest(result: Result, key: str) -> list[dict[str, Any]]:
    """Each term or constraint at the start and at best, or at the last good trial."""
    good = np.flatnonzero(result.trials["state"] == "complete")
    rows = []
    for i, name in enumerate(result.record[key]):
        pair = result.quoted[key].get(name)
        if pair is not None:
            ends = [number(pair["start"]), number(pair["best"])]
        else:
            ends: list[dict[str, Any] | None] = [None, None]
            for k, trial in enumerate((good[:1], good[-1:])):
                for j in trial:
                    columns = result.trials[key], result.trials[f"{key}_stderr"]
                    entry = dict(zip(("value", "stderr"), (c[j, i] for c in columns)))
                    ends[k] = number(plain(entry, digits=None))
        rows.append({"name": name, "start": ends[0], "best": ends[1]})
    return rows


def parameters(result: Result, find: str = "") -> dict[str, Any]:
    """Parameters that contain a text, the largest moves first where not all are shown.

    Args:
        result: the run.
        find: part of a name, in either case; empty for all.
    """
    many = len(result.names) + 1  # no array is shown by its mean
    every = text.parameter_rows(
        result.names, result.units, result.start, result.best, many
    )
    found = [row for row in every if find.casefold() in row.label.casefold()]
    shown = found
    if len(found) > MOST_ROWS:
        moved = figures.moves(result)
        shown = sorted(found, key=lambda row: -moved[row.where].max())[:MOST_ROWS]
    space, rows = result.record["space"], []
    cube = [np.array(result.record[key]["cube"], float) for key in ("start", "best")]
    for row in shown:
        first = row.where.start
        is_choice = "=" in result.names[first]
        bounds = [
            float(text.in_unit(space[end][first], row.unit))
            for end in ("lower", "upper")
        ]
        rows.append(
            {
                "name": row.label,
                "unit": row.unit,
                "start": row.start,
                "best": row.best,
                "bounds": None if is_choice else [f"{end:.5g}" for end in bounds],
                "cube": None if is_choice else [float(u[first]) for u in cube],
            }
        )
    return {"total": len(every), "found": len(found), "rows": rows}


def failures(result: Result) -> dict[str, Any]:
    """Why trials failed: causes that differ only in their numbers are one."""
    groups: dict[str, dict[str, Any]] = {}
    for trial, cause in sorted(result.causes.items()):
        key = re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", cause, flags=re.IGNORECASE)
        group = groups.setdefault(
            key[:CAUSE], {"cause": cause[:CAUSE], "count": 0, "trials": []}
        )
        group["count"] += 1
        if len(group["trials"]) < 8:
            group["trials"].append(trial)
    ordered = sorted(groups.values(), key=lambda group: -group["count"])
    return {
        "failed": len(result.causes),
        "trials": len(result.trials["number"]),
        "causes": ordered[:MOST_CAUSES],
        "more": max(0, len(ordered) - MOST_CAUSES),
    }
