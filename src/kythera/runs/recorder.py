"""The recorder of one run: what a search found, in the store before it goes on."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from kythera import errors
from kythera.runs import schema
from kythera.runs.checkpoint import Checkpoints
from kythera.runs.store import check_name, plain_json
from kythera.runs.trials import from_row, mark, storable, to_row

if TYPE_CHECKING:
    from kythera.core.evaluation import Trial
    from kythera.optimise import Resume
    from kythera.runs.study import Study

BEAT = 5.0  # seconds between heartbeats
FULL = 1000  # metrics that are written together,
WAIT = 1.0  # and seconds after which fewer are


class StoredRun:
    """What it was given is in the store before `checkpoint` or `flush` returns.

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
        study: "Study",
        id: int,
        holder: str,
        seconds: float = 0.0,
        cpu_seconds: float = 0.0,
    ):
        self.study, self.id, self.holder = study, id, holder
        self.checkpoints = Checkpoints(study.folder(id))
        self.workers: Callable[[], float] = lambda: 0.0
        self._before = seconds, cpu_seconds
        self._clock = time.perf_counter(), time.process_time()
        self._trials: list[Trial] = []
        self._metrics: list[dict[str, Any]] = []
        self._mark = ""  # of the last trial that was written
        self._written = time.monotonic()
        self._end = threading.Event()
        self._beat = threading.Thread(target=self._beats, daemon=True)

    def __enter__(self) -> "StoredRun":
        """Begin to give signs of life."""
        self._beat.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Write what waits and let go of the run, in whatever way it ends."""
        self._end.set()
        self._beat.join()
        try:
            left = {"state": "stopped"} if self._state() == "running" else {}
            self._write(holder="", **left)
        except errors.StoreError:
            if kind is None:
                raise  # else what is on its way says more

    @property
    def seconds(self) -> float:
        """Wall time of the run, what it took before an interruption included."""
        return self._before[0] + time.perf_counter() - self._clock[0]

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process and of the workers, over all interruptions."""
        own = time.process_time() - self._clock[1]
        return self._before[1] + own + self.workers()

    def resume(self) -> "Resume | None":
        """Where the run goes on; None where it begins.

        Trials behind the last checkpoint are dropped: they will be measured again, the same.
        """
        from kythera.optimise import Resume

        table, metric = schema.trial, schema.metric
        with self.study.store.writing() as connection:
            self._check_held(connection)
            mine = sa.select(table).where(table.c.run_id == self.id)
            found = connection.execute(mine.order_by(table.c.number)).mappings()
            rows = [dict(row) for row in found]
            saved = self._saved(rows)
            number = -1 if saved is None else int(saved[1]["number"])
            for behind in (
                table.delete().where(
                    table.c.run_id == self.id, table.c.number > number
                ),
                metric.delete().where(
                    metric.c.run_id == self.id, metric.c.step > number
                ),
            ):
                connection.execute(behind)
        if saved is None:
            return None
        self._mark = saved[1]["trial"]
        trials = [from_row(row) for row in rows[: number + 1]]
        return Resume(trials, saved[0], self._before[0])

    @property
    def _about(self) -> dict[str, Any]:
        """Whose the checkpoints are."""
        return {"study": self.study.name, "user": self.study.user, "run": self.id}

    def _saved(self, rows: list[dict[str, Any]]) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint of the trials of the database; None where none was made.

        One behind other trials is passed over: a process that was thought dead, and had
        the run taken from it, may have written it late.

        Raises:
            StoreError: there must be one, but it is not in this folder. Nothing is dropped.
        """

        def fits(about: Mapping[str, Any]) -> bool:
            ours = all(about.get(k) == v for k, v in self._about.items())
            return ours and about.get("trial") == mark(rows[int(about["number"])])

        saved = self.checkpoints.load(at_most=len(rows) - 1, fits=fits)
        there = self.checkpoints.folder.is_dir()
        missing = bool(rows) and not there
        if saved is None and (missing or self.checkpoints.numbers()):
            raise errors.StoreError(
                f"The study {self.study.name!r} has {len(rows)} trials, but their checkpoint "
                f"is not in '{self.checkpoints.folder}'. The database and that folder are "
                "not of one store: bring back its own, or give its `files`."
            )
        return saved

    def add(self, trial: "Trial") -> None:
        """Keep one trial; written with its batch."""
        self._trials.append(trial)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep metrics: any numbers by name, at the number of a trial.

        They are written in batches, within a second or with the next checkpoint.

        Raises:
            InputError: a name that no table can show.
        """
        for name, value in values.items():
            entry = float(value) if np.isfinite(value) else None
            row = {"run_id": self.id, "name": check_name("metric", name)}
            self._metrics.append(row | {"step": int(step), "value": entry})
        waited = time.monotonic() - self._written
        if len(self._metrics) >= FULL or waited > WAIT:
            self.flush()

    def keep(
        self,
        name: str,
        data: bytes,
        kind: str = "application/octet-stream",
        number: int = -1,
    ) -> None:
        """Keep a file: its contents in the volume, a reference in the database.

        Args:
            name: of the file; one of that name and number is replaced.
            data: its contents.
            kind: its media type.
            number: the trial it belongs to; -1 where it is of the whole run.

        Raises:
            StoreError: the volume or the database cannot be written.
        """
        table = schema.artifact
        key = {"run_id": self.id, "number": number, "name": check_name("file", name)}
        with self.study.store.writing() as connection:
            self._check_held(connection)
            self.study.store.lock(connection)
            about = {"sha256": self.study.store.volume.put(data), "bytes": len(data)}
            same = sa.and_(*(table.c[k] == v for k, v in key.items()))
            connection.execute(table.delete().where(same))
            connection.execute(table.insert().values(**key, **about, kind=kind))

    def describe(self, record: Mapping[str, Any], **values: Any) -> None:
        """Keep what is known of the run, in the format of `result.json`."""
        self._write(record=plain_json(record), **values)

    def checkpoint(self, number: int, state: Any, recommended: Any) -> None:
        """Write the trials that wait, then the state after them.

        Args:
            number: of the last trial.
            state: what `optimise` needs to go on.
            recommended: what the optimiser would build now: point of the cube and native
                values, shape (2, n).
        """
        self._write(recommended=np.asarray(recommended, "<f8").tobytes())
        self.checkpoints.save(number, state, self._about | {"trial": self._mark})

    def flush(self) -> None:
        """Write what waits.

        Raises:
            StoreError: the database is lost, or another process has taken the run over.
        """
        self._write()

    def finish(self, state: str, reason: str) -> None:
        """Say how the run ended: "finished", "stopped" or "failed"."""
        self._write(state=state, reason=storable(reason))

    def _beats(self) -> None:
        while not self._end.wait(BEAT):
            try:
                with self.study.store.writing() as connection:
                    self._update(connection)
            except errors.StoreError:
                continue  # what the search writes next will tell

    def _write(self, **values: Any) -> None:
        """Trials and metrics that wait, and what is to be said of the run, or nothing."""
        trials, metrics = list(self._trials), list(self._metrics)
        with self.study.store.writing() as connection:
            if trials:
                rows = [{"run_id": self.id, **to_row(trial)} for trial in trials]
                connection.execute(schema.trial.insert(), rows)
                self._mark = mark(rows[-1])
            if metrics:
                connection.execute(schema.metric.insert(), metrics)
            self._update(connection, **values)
        del self._trials[: len(trials)], self._metrics[: len(metrics)]
        self._written = time.monotonic()

    def _update(self, connection: sa.Connection, **values: Any) -> None:
        """Times and a sign of life, where the run is still ours."""
        table = schema.run
        self._check_held(connection)
        connection.execute(
            table.update()
            .where(table.c.id == self.id)
            .values(
                heartbeat=self.study.store.now(connection),
                seconds=self.seconds,
                cpu_seconds=self.cpu_seconds,
                **values,
            )
        )

    def _state(self) -> str:
        table = schema.run
        with self.study.store.reading() as connection:
            known = sa.select(table.c.state).where(table.c.id == self.id)
            return str(connection.execute(known).scalar())

    def _check_held(self, connection: sa.Connection) -> None:
        table = schema.run
        who = connection.execute(
            sa.select(table.c.holder).where(table.c.id == self.id).with_for_update()
        ).scalar()
        if who != self.holder:
            raise errors.StoreError(
                f"The run is no longer ours: it is held by {who or 'nobody'}, because it "
                "gave no sign of life, or was deleted. Nothing more is written."
            )
