"""Studies: searches that outlive the process that runs them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from kythera import errors
from kythera.runs import folder as folders
from kythera.runs import queries, schema
from kythera.runs.checkpoint import Checkpoints
from kythera.runs.recorder import StoredRun
from kythera.runs.store import (
    STALE,
    Store,
    check_name,
    holder,
    is_gone,
    plain_json,
)
from kythera.runs.trials import READ, columns, from_row

if TYPE_CHECKING:
    from kythera.core.evaluation import Trial
    from kythera.core.problem import Problem
    from kythera.runs.result import Result
    from kythera.solution import Solution

RUN = 1  # the run that is meant where none is named
DRAWING = "application/vnd.plotly.v1+json"


@dataclasses.dataclass(frozen=True)
class Study:
    """One problem with one way to search, and the runs of that search.

    Args:
        store: where it is kept.
        id: in the store.
        name: unique among those of its user.
        user: whose it is.
        instrument: the problem's name.
        spec: what rebuilds problem and engines.
        space: names, units, bounds and kinds of the coordinates.
        created: seconds since 1970.
    """

    store: Store
    id: int
    name: str
    user: str
    instrument: str
    spec: dict[str, Any]
    space: dict[str, Any]
    created: float

    @classmethod
    def create(
        cls,
        store: Store,
        name: str,
        *,
        instrument: str,
        spec: Mapping[str, Any],
        space: Mapping[str, Any],
    ) -> "Study":
        """Begin a study.

        Raises:
            StoreError: the user has a study of that name already.
            InputError: a name that cannot be kept.
        """
        check_name("study", name)
        with store.writing() as connection:
            store.lock(connection)
            account = store.account(connection)
            table = schema.study
            known = sa.select(table.c.id).where(
                table.c.account_id == account, table.c.name == name
            )
            if connection.execute(known).scalar() is not None:
                raise errors.StoreError(
                    f"There is a study {name!r} of {store.user!r} already. Go on with it "
                    f"by `kythera resume`, or give another name."
                )
            connection.execute(
                table.insert().values(
                    account_id=account,
                    name=name,
                    created=store.now(connection),
                    instrument=instrument,
                    spec=plain_json(spec),
                    space=plain_json(space),
                )
            )
        return cls.open(store, name)

    @classmethod
    def open(cls, store: Store, name: str) -> "Study":
        """A study by its name, or by "user/name" where another user shares it.

        Raises:
            StoreError: there is none that the user may read.
        """
        for study in cls.list(store):
            if name in (study.name, f"{study.user}/{study.name}") and (
                study.user == store.user or "/" in name
            ):
                return study
        known = [
            study.name if study.user == store.user else f"{study.user}/{study.name}"
            for study in cls.list(store)
        ]
        raise errors.StoreError(
            f"There is no study {name!r} in {store!r} that {store.user!r} may read. "
            f"{errors.nearest(name, known) if known else 'It holds none.'}"
        )

    @classmethod
    def of(
        cls,
        store: Store,
        name: str,
        problem: "Problem",
        spec: Mapping[str, Any] | None = None,
    ) -> "Study":
        """The user's study of that name, begun where there is none yet.

        Args:
            store: where it is kept.
            name: of the study.
            problem: what it is about; its parameters must be those of the study.
            spec: what rebuilds problem and engines, from `RunSpec.plain`.

        Raises:
            StoreError: there is one, of other parameters.
        """
        from kythera.runs.describe import describe_space

        space = describe_space(problem.space)
        mine = [s for s in cls.list(store) if (s.user, s.name) == (store.user, name)]
        if not mine:
            return cls.create(
                store, name, instrument=problem.name, spec=spec or {}, space=space
            )
        if mine[0].space != space:
            raise errors.StoreError(
                f"The study {name!r} has the parameters {_some(mine[0].space)}, but the "
                f"problem has {_some(space)}, or other bounds. Give another name."
            )
        return mine[0]

    @classmethod
    def list(cls, store: Store, *, everyones: bool = False) -> list["Study"]:
        """All that the user may read, in the order in which they began.

        Args:
            store: where they are kept.
            everyones: all that there are, to look after the store.
        """
        s, a, share = schema.study, schema.account, schema.share
        with store.reading() as connection:
            me = connection.execute(
                sa.select(a.c.id).where(a.c.name == store.user)
            ).scalar()
            shared = sa.select(share.c.study_id).where(share.c.account_id == me)
            rows = connection.execute(
                sa.select(s, a.c.name.label("user"))
                .join(a, a.c.id == s.c.account_id)
                .where(
                    sa.true()
                    if everyones
                    else sa.or_(s.c.account_id == me, s.c.id.in_(shared))
                )
                .order_by(s.c.id)
            ).mappings()
            return [
                cls(
                    store,
                    row["id"],
                    row["name"],
                    row["user"],
                    row["instrument"],
                    json.loads(row["spec"]),
                    json.loads(row["space"]),
                    row["created"],
                )
                for row in rows
            ]

    def share(self, user: str) -> None:
        """Let another user read it.

        Raises:
            StoreError: it is not the caller's to share.
        """
        self._own()
        table = schema.share
        with self.store.writing() as connection:
            account = self.store.account(connection, user)
            keys = {"study_id": self.id, "account_id": account}
            same = sa.and_(*(table.c[k] == v for k, v in keys.items()))
            if connection.execute(sa.select(table).where(same)).first() is None:
                connection.execute(table.insert().values(**keys))

    def delete(self, *, name: str) -> None:
        """Delete all of it, given its name once more.

        Raises:
            StoreError: it is not the caller's, or the name is another one.
        """
        self._own()
        if name != self.name:
            raise errors.StoreError(
                f"To delete the study {self.name!r} its name must be given once more, but "
                f"{name!r} was."
            )
        runs, kept = self.runs(), schema.artifact
        for run in runs:
            self._check_free(run)
        mine = kept.c.run_id.in_([run["id"] for run in runs])
        with self.store.writing() as connection:
            digests = set(
                connection.execute(sa.select(kept.c.sha256).where(mine)).scalars()
            )
            connection.execute(
                schema.study.delete().where(schema.study.c.id == self.id)
            )
        for run in runs:
            Checkpoints(self.folder(run["id"])).clear()
        with self.store.writing() as connection:
            self.store.lock(connection)
            used = sa.select(kept.c.sha256).where(kept.c.sha256.in_(digests))
            for digest in digests - set(connection.execute(used).scalars()):
                self.store.volume.drop(digest)

    def runs(self) -> "list[dict[str, Any]]":
        """Number, state, reason, holder, times of each run."""
        table = schema.run
        with self.store.reading() as connection:
            rows = connection.execute(
                sa.select(table)
                .where(table.c.study_id == self.id)
                .order_by(table.c.number)
            ).mappings()
            return [dict(row) for row in rows]

    def run(self, run: int = RUN) -> "dict[str, Any]":
        """What `runs` says of one of them.

        Raises:
            StoreError: there is none of that number.
        """
        found = self.runs()
        for row in found:
            if row["number"] == run:
                return row
        raise errors.StoreError(
            f"The study {self.name!r} has no run {run}, but {len(found)} run(s). Count "
            "from 1; a study without any was not begun."
        )

    def count(self, run: int = RUN) -> int:
        """How many trials a run has."""
        return queries.count(self.store, self.id, run)

    def trials(self, run: int = RUN) -> "list[Trial]":
        """All trials of a run, in order.

        Args:
            run: its number, from 1.
        """
        return [from_row(r) for r in queries.trials(self.store, self.id, run)]

    def columns(self, run: int = RUN, after: int = -1) -> "dict[str, Any]":
        """Trials as the columns of a result's `trials.npz`, read without JAX.

        Args:
            run: its number, from 1.
            after: only trials behind this number.

        Returns:
            arrays by name, and under "names" those of terms and constraints.
        """
        wanted = [schema.trial.c[name] for name in READ]
        rows = queries.trials(self.store, self.id, run, after, wanted)
        return columns(rows, len(self.space["names"]))

    def result(self, run: int = RUN) -> "Result":
        """A run as a result, such as `ky.load` reads, finished or not.

        Where it is not finished, nothing was measured anew yet: its `best` is what the
        optimiser would build now, and the numbers of start and best are unknown.

        Raises:
            StoreError: there is no such run, or it has not begun to search.
        """
        from kythera.runs.result import Result

        row, trials = self.run(run), self.columns(run)
        record = json.loads(row["record"] or "{}")
        if not record:
            raise errors.StoreError(
                f"Run {run} of the study {self.name!r} has not begun to search: it is "
                f"{row['state']!r}. Wait, or begin it with `kythera resume`."
            )
        names = trials.pop("names")
        if not record["finished"]:
            causes = queries.causes(self.store, row["id"])
            record |= names | {"seconds": row["seconds"], "causes": causes}
            record["reason"] = row["reason"] or row["state"]
            record["events"]["search"] = int(trials["events"].sum())
            if row["recommended"]:
                now = np.frombuffer(row["recommended"], "<f8").reshape(2, -1)
                record["best"] = {"cube": now[0].tolist(), "values": now[1].tolist()}
        for key in ("terms", "slack"):  # in the order of the record
            order = [names[key].index(n) for n in record[key] if n in names[key]]
            for column in (key, f"{key}_stderr"):
                trials[column] = trials[column][:, order]
        figures = queries.file(self.store, row["id"], "figures.json")
        return Result(record, trials, json.loads(figures) if figures else {})

    def metrics(self, run: int = RUN) -> "dict[str, tuple[np.ndarray, np.ndarray]]":
        """What was logged: name -> (steps, values)."""
        return queries.metrics(self.store, self.run(run)["id"])

    def artifacts(self, run: int = RUN) -> "list[dict[str, Any]]":
        """The files that a run kept: number, name, sha256, bytes, kind."""
        return queries.artifacts(self.store, self.run(run)["id"])

    def artifact(self, name: str, run: int = RUN, number: int = -1) -> bytes:
        """The contents of a file that a run kept.

        Raises:
            StoreError: there is none of that name; it is missing or was altered.
        """
        found = queries.file(self.store, self.run(run)["id"], name, number)
        if found is None:
            known = [a["name"] for a in self.artifacts(run) if a["number"] == number]
            raise errors.StoreError(
                f"Run {run} of the study {self.name!r} kept no file {name!r}. "
                f"{errors.nearest(name, known) if known else 'It kept none.'}"
            )
        return found

    def drawings(self, run: int = RUN) -> "list[int]":
        """Numbers of the trials whose instrument was drawn."""
        kept = self.artifacts(run)
        return sorted({a["number"] for a in kept if a["kind"] == DRAWING})

    def drawing(self, number: int, run: int = RUN) -> "dict[str, dict]":
        """The instrument at a trial: plotly figures by name; empty where none was kept."""
        kept = queries.file(self.store, self.run(run)["id"], "drawing.json", number)
        return json.loads(kept) if kept else {}

    def folder(self, run_id: int) -> Path:
        """Where the checkpoints of a run are."""
        return self.store.files / "checkpoints" / f"{self.id}-{run_id}"

    def begin(self, run: int = RUN) -> "StoredRun":
        """Hold a run, a new one or one that was interrupted, to record its trials.

        Args:
            run: its number, from 1.

        A run is taken over where its holder has ended on this machine, or has given no
        sign of life for a minute.

        Raises:
            StoreError: another process holds it and is alive, or it is not the caller's.
        """
        self._own()
        me, table = holder(), schema.run
        with self.store.writing() as connection:
            self.store.lock(connection)
            now = self.store.now(connection)
            found = (
                connection.execute(
                    sa.select(table)
                    .where(table.c.study_id == self.id, table.c.number == run)
                    .with_for_update()
                )
                .mappings()
                .first()
            )
            if found is None:
                made = connection.execute(
                    table.insert().values(
                        study_id=self.id,
                        number=run,
                        state="running",
                        reason="",
                        holder=me,
                        heartbeat=now,
                        began=now,
                        seconds=0.0,
                        cpu_seconds=0.0,
                        record="",
                        recommended=b"",
                        limits="{}",
                        executor="",
                        price_per_hour=0.0,
                        tracker="{}",
                    )
                )
                id = int(made.inserted_primary_key[0])  # type: ignore[index]
                Checkpoints(self.folder(id)).clear()  # of one that was deleted long ago
                folders.make(self.folder(id))
                return StoredRun(self, id, me)
            self._check_free(dict(found), now)
            connection.execute(
                table.update()
                .where(table.c.id == found["id"])
                .values(holder=me, heartbeat=now, state="running", reason="")
            )
        return StoredRun(self, found["id"], me, found["seconds"], found["cpu_seconds"])

    def start(self, problem: "Problem", trial: int | None = None) -> "Problem":
        """A problem that starts where this study is: freeze what is not yours, and go on.

        Args:
            problem: of the same design.
            trial: number of the trial to start from; by default what the study would
                build now.
        """
        from kythera.runs.run_spec import design_of, started

        return started(problem, design_of(self, trial)[0])

    def optimise(
        self, problem: "Problem", *engines: Any, key: Any, **options: Any
    ) -> "Solution":
        """Search, as `ky.optimise` does, and keep all of it; go on where it stopped.

        Args:
            problem: what the study is about.
            engines: optimiser and, where not the default, estimator.
            key: root of all random numbers, the same one when it goes on.
            options: those of `kythera.runs.session.search`.
        """
        from kythera.runs.session import search

        return search(self, problem, *engines, key=key, **options)

    def _check_free(self, row: "dict[str, Any]", now: float | None = None) -> None:
        """Refuse to touch a run that another process holds."""
        if now is None:
            with self.store.reading() as connection:
                now = self.store.now(connection)
        since, who = now - row["heartbeat"], row["holder"]
        if who and since < STALE and not is_gone(who):
            raise errors.StoreError(
                f"Run {row['number']} of the study {self.name!r} is held by {who}, "
                f"whose last sign of life is {since:.0f} s old. Stop it, or wait until "
                f"it was silent for {STALE:.0f} s."
            )

    def _own(self) -> None:
        if self.user != self.store.user:
            raise errors.StoreError(
                f"The study {self.name!r} is {self.user!r}'s: {self.store.user!r} may read "
                "it only. Begin one of your own from its result."
            )


def _some(space: Mapping[str, Any]) -> str:
    names = list(space["names"])
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
