"""Studies: searches that outlive the process that runs them."""

import dataclasses
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kythera import errors
from kythera.runs import schema
from kythera.runs.checkpoint import Checkpoints
from kythera.runs.store import (
    STALE,
    Store,
    check_name,
    holder,
    is_gone,
    plain_json,
)
from kythera.runs.trials import from_row, to_row

if TYPE_CHECKING:
    from kythera.core.evaluation import Trial
    from kythera.optimise import Resume

BEAT = 5.0  # seconds between heartbeats


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
    def list(cls, store: Store) -> list["Study"]:
        """All that the user may read, in the order in which they began."""
        s, a, share = schema.study, schema.account, schema.share
        with store.reading() as connection:
            me = connection.execute(
                sa.select(a.c.id).where(a.c.name == store.user)
            ).scalar()
            shared = sa.select(share.c.study_id).where(share.c.account_id == me)
            rows = connection.execute(
                sa.select(s, a.c.name.label("user"))
                .join(a, a.c.id == s.c.account_id)
                .where(sa.or_(s.c.account_id == me, s.c.id.in_(shared)))
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
        runs = self.runs()
        with self.store.writing() as connection:
            connection.execute(
                schema.study.delete().where(schema.study.c.id == self.id)
            )
        for run in runs:
            Checkpoints(self.folder(run["id"])).clear()

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

    def trials(self, run: int = 1) -> "list[Trial]":
        """All trials of a run, in order.

        Args:
            run: its number, from 1.
        """
        r, t = schema.run, schema.trial
        with self.store.reading() as connection:
            rows = connection.execute(
                sa.select(t)
                .join(r, r.c.id == t.c.run_id)
                .where(r.c.study_id == self.id, r.c.number == run)
                .order_by(t.c.number)
            ).mappings()
            return [from_row(dict(row)) for row in rows]

    def folder(self, run_id: int) -> Path:
        """Where the checkpoints of a run are."""
        return self.store.files / "checkpoints" / f"{self.id}-{run_id}"

    def begin(self, run: int = 1) -> "StoredRun":
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
            now = self.store.now(connection)
            found = (
                connection.execute(
                    sa.select(table).where(
                        table.c.study_id == self.id, table.c.number == run
                    )
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
                    )
                )
                return StoredRun(self, int(made.inserted_primary_key[0]), me)  # type: ignore[index]
            since = now - found["heartbeat"]
            who = found["holder"]
            if who and since < STALE and not is_gone(who):
                raise errors.StoreError(
                    f"Run {run} of the study {self.name!r} is held by {who}, "
                    f"whose last sign of life is {since:.0f} s old. Stop it, or wait until "
                    f"it was silent for {STALE:.0f} s."
                )
            connection.execute(
                table.update()
                .where(table.c.id == found["id"])
                .values(holder=me, heartbeat=now, state="running", reason="")
            )
        return StoredRun(self, found["id"], me, found["seconds"], found["cpu_seconds"])

    def _own(self) -> None:
        if self.user != self.store.user:
            raise errors.StoreError(
                f"The study {self.name!r} is {self.user!r}'s: {self.store.user!r} may read "
                "it only. Begin one of your own from its result."
            )


class StoredRun:
    """The recorder of one run: what it was given is in the store before it returns.

    Use it in a `with` block: a thread says every five seconds that the run is alive, and at
    the end nobody holds it any more.

    Args:
        study: whose run.
        id: in the store.
        holder: this process.
        seconds, cpu_seconds: that the run took before.
    """

    def __init__(
        self,
        study: Study,
        id: int,
        holder: str,
        seconds: float = 0.0,
        cpu_seconds: float = 0.0,
    ):
        self.study, self.id, self.holder = study, id, holder
        self.checkpoints = Checkpoints(study.folder(id))
        self._before = seconds, cpu_seconds
        self._clock = time.perf_counter(), time.process_time()
        self._waiting: list[Trial] = []
        self._end = threading.Event()
        self._lost = ""
        self._beat = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> "StoredRun":
        """Begin to give signs of life."""
        self._beat.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Write what waits and let go of the run, in whatever way it ends."""
        self._end.set()
        self._beat.join()
        self.flush()
        state = "stopped" if kind is not None else None
        self._update(holder="", **({"state": state} if state else {}))

    def resume(self) -> "Resume | None":
        """Where the run goes on; None where it begins.

        Trials behind the last checkpoint are dropped: they will be measured again, the same.
        """
        from kythera.optimise import Resume

        saved = self.checkpoints.load()
        number = -1 if saved is None else int(saved[1]["number"])
        table = schema.trial
        with self.study.store.writing() as connection:
            self._check_held(connection)
            connection.execute(
                table.delete().where(table.c.run_id == self.id, table.c.number > number)
            )
            rows = connection.execute(
                sa.select(table)
                .where(table.c.run_id == self.id)
                .order_by(table.c.number)
            ).mappings()
            trials = [from_row(dict(row)) for row in rows]
        if saved is None:
            return None
        if len(trials) != number + 1:
            raise errors.StoreError(
                f"The study {self.study.name!r} has {len(trials)} trials where its "
                f"checkpoint counts {number + 1}. The database and the folder "
                f"'{self.study.store.files}' are not of one store: bring back its own."
            )
        return Resume(trials, saved[0], self._before[0])

    def add(self, trial: "Trial") -> None:
        """Keep one trial; written with its batch."""
        self._waiting.append(trial)

    def checkpoint(self, number: int, state: Any) -> None:
        """Write the trials that wait, then the state after them."""
        self.flush()
        about = {"study": self.study.name, "user": self.study.user, "run": self.id}
        self.checkpoints.save(number, state, about)

    def flush(self) -> None:
        """Write the trials that wait.

        Raises:
            StoreError: the database is lost, or another process has taken the run over.
        """
        waiting, table = list(self._waiting), schema.trial
        if waiting:
            with self.study.store.writing() as connection:
                self._check_held(connection)
                rows = [{"run_id": self.id, **to_row(trial)} for trial in waiting]
                connection.execute(table.insert(), rows)
            del self._waiting[: len(waiting)]
        self._update()

    def finish(self, state: str, reason: str) -> None:
        """Say how the run ended: "finished", "stopped" or "failed"."""
        self.flush()
        self._update(state=state, reason=reason)

    def _beats(self) -> None:
        while not self._end.wait(BEAT):
            try:
                self._update()
            except errors.StoreError:
                continue  # what the search writes next will tell

    def _update(self, **values: Any) -> None:
        """Times and a sign of life, and what else is to be said of the run."""
        wall, cpu = time.perf_counter(), time.process_time()
        table = schema.run
        with self.study.store.writing() as connection:
            self._check_held(connection)
            connection.execute(
                table.update()
                .where(table.c.id == self.id)
                .values(
                    heartbeat=self.study.store.now(connection),
                    seconds=self._before[0] + wall - self._clock[0],
                    cpu_seconds=self._before[1] + cpu - self._clock[1],
                    **values,
                )
            )

    def _check_held(self, connection: sa.Connection) -> None:
        table = schema.run
        who = connection.execute(
            sa.select(table.c.holder).where(table.c.id == self.id)
        ).scalar()
        if who != self.holder:
            raise errors.StoreError(
                f"The run is no longer ours: it is held by {who or 'nobody'}, because it "
                "gave no sign of life, or was deleted. Nothing more is written."
            )
