"""A database of studies: SQLite by its path, PostgreSQL by its URL."""

import getpass
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from kythera import errors
from kythera.runs import schema
from kythera.runs.volume import Volume

STALE = 60.0  # seconds without a heartbeat after which a run is nobody's
BUSY = 30.0  # seconds that a writer waits for another one (SQLite)
HEAD = "0002"  # the newest version of the schema
_LOCK = 0x6B797468  # number of our lock in PostgreSQL: "kyth"


class Store:
    """Studies of all users, in one database and a folder beside it.

    Args:
        url: path of an SQLite file, made where it does not exist; or the URL of a
            PostgreSQL database, "postgresql://user:password@host/name".
        user: whose studies are meant by their bare names; by default the login name.
        files: folder for checkpoints and artifacts; by default beside the SQLite file.
        volume: where artifacts go instead, any fsspec URL.
        create: whether to make a store where there is none.
        versions: whether to refuse a schema of another version (`upgrade` does not).

    Raises:
        StoreError: it cannot be reached, is another program's, or of a newer version.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        user: str | None = None,
        files: str | Path | None = None,
        volume: str | None = None,
        create: bool = True,
        versions: bool = True,
    ):
        self.address = address(url)
        self.user = check_name("user", user or getpass.getuser())
        self.is_sqlite = self.address.get_backend_name() == "sqlite"
        if files is None and not self.is_sqlite:
            raise errors.StoreError(
                "A store in PostgreSQL needs a folder for checkpoints that all machines "
                "see, but none was given. Give `files`."
            )
        self.files = Path(files or f"{self.address.database}.files")
        self.volume = Volume(volume or self.files / "artifacts")
        self.engine = self._engine(create)
        try:
            with self._told():
                self._check_version(create, versions)
        except errors.StoreError:
            self.close()
            raise

    def __repr__(self) -> str:
        """The address, without its password."""
        return f"Store({plain_address(self.address)!r})"

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, all of it or nothing.

        Raises:
            StoreError: the database is lost, full, or not to be written.
        """
        with self._told(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read with.

        Raises:
            StoreError: the database is lost or broken.
        """
        with self._told(), self.engine.connect() as connection:
            yield connection.execution_options(reading=True)

    def account(self, connection: sa.Connection, name: str | None = None) -> int:
        """The number of a user, who is made known where new."""
        name = self.user if name is None else check_name("user", name)
        table = schema.account
        known = sa.select(table.c.id).where(table.c.name == name)
        found = connection.execute(known).scalar()
        if found is None:
            self.lock(connection)
            found = connection.execute(known).scalar()
        if found is not None:
            return int(found)
        made = connection.execute(table.insert().values(name=name))
        return int(made.inserted_primary_key[0])  # type: ignore[index]

    def allow(
        self, user: str, *, cpu_seconds: float | None, price: float | None
    ) -> None:
        """Limit what all runs of a user may cost together; None lifts a limit.

        Raises:
            InputError: a limit that is not above zero.
        """
        limits = {"cpu_seconds_limit": cpu_seconds, "price_limit": price}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise errors.InputError(
                    f"`{name}` must be > 0, but is {limit}. Give a larger one, or none."
                )
        table = schema.account
        with self.writing() as connection:
            number = self.account(connection, user)
            mine = table.update().where(table.c.id == number)
            connection.execute(mine.values(**limits))

    def usage(self) -> list[dict[str, Any]]:
        """What the runs of each user took: events, CPU seconds, price, and their limits."""
        a, s, r, t = schema.account, schema.study, schema.run, schema.trial
        events = (
            sa.select(t.c.run_id, sa.func.sum(t.c.events).label("events"))
            .group_by(t.c.run_id)
            .subquery()
        )
        price = r.c.cpu_seconds * r.c.price_per_hour / 3600
        with self.reading() as connection:
            rows = connection.execute(
                sa.select(
                    a.c.name.label("user"),
                    sa.func.count(r.c.id).label("runs"),
                    sa.func.coalesce(sa.func.sum(events.c.events), 0).label("events"),
                    sa.func.coalesce(sa.func.sum(r.c.cpu_seconds), 0.0).label(
                        "cpu_seconds"
                    ),
                    sa.func.coalesce(sa.func.sum(price), 0.0).label("price"),
                    a.c.cpu_seconds_limit,
                    a.c.price_limit,
                )
                .select_from(a)
                .outerjoin(s, s.c.account_id == a.c.id)
                .outerjoin(r, r.c.study_id == s.c.id)
                .outerjoin(events, events.c.run_id == r.c.id)
                .group_by(a.c.id)
                .order_by(a.c.name)
            ).mappings()
            return [dict(row) | {"events": int(row["events"])} for row in rows]

    def lock(self, connection: sa.Connection) -> None:
        """Until the end of the transaction nobody else begins or removes anything."""
        if not self.is_sqlite:  # where each writing transaction is alone anyway
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    def now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the clock of the database, one for all machines."""
        if self.is_sqlite:  # a file on this machine
            return time.time()
        clock = sa.func.extract("epoch", sa.func.clock_timestamp())
        return float(connection.execute(sa.select(clock)).scalar_one())

    def _engine(self, create: bool) -> sa.Engine:
        if self.is_sqlite:
            path = Path(self.address.database or "")
            if not create and not path.exists():
                raise errors.StoreError(
                    f"There is no store at '{path}'. Give the path of one, or begin a "
                    "study there."
                )
            _refuse_foreign(path)
        try:
            options: dict[str, Any] = {"pool_pre_ping": True}
            if self.is_sqlite:
                options["connect_args"] = {"timeout": BUSY}
            engine = sa.create_engine(self.address, **options)
        except (NoSuchModuleError, ImportError) as error:
            raise errors.StoreError(
                f"No driver for {self!r} is installed. Use an SQLite path, or "
                "`pip install 'kythera[postgresql]'`."
            ) from error
        if self.is_sqlite:
            listen(engine, "connect", _prepare_sqlite)
            listen(engine, "begin", _begin_sqlite)
        return engine

    def _check_version(self, create: bool, versions: bool) -> None:
        """Bring a new database to the newest version; refuse what is no store of ours."""
        with self.engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
        if "alembic_version" not in tables:
            if tables:
                raise errors.StoreError(
                    f"{self!r} belongs to another program: it holds "
                    f"{', '.join(sorted(tables)[:3])}. Give a database of its own."
                )
            if not create:
                raise errors.StoreError(f"{self!r} is empty. Begin a study there.")
            self.upgrade()
            return
        version = self.version()
        if versions and version != HEAD:
            remedy = (
                "Upgrade it: `kythera store upgrade`."
                if version < HEAD
                else "It was written by a newer kythera: install that one."
            )
            raise errors.StoreError(
                f"{self!r} has the schema {version}, this kythera has {HEAD}. {remedy}"
            )

    def version(self) -> str:
        """Of the schema; empty before there is one."""
        from alembic.runtime.migration import MigrationContext

        with self.reading() as connection:
            return MigrationContext.configure(connection).get_current_revision() or ""

    def upgrade(self) -> None:
        """Bring the schema to the newest version; nothing is lost."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "kythera:runs/migrations")
        with self.writing() as connection:
            self.lock(connection)  # of two that come at once, the second finds it done
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What a database complains of, as our error; passwords are never in it."""
        try:
            yield
        except DBAPIError as error:
            cause = str(error.orig).strip().splitlines()[0] if str(error.orig) else ""
            remedy = (
                f"Another program holds it for more than {BUSY:.0f} s: end that one, or "
                "take PostgreSQL for many writers"
                if "is locked" in cause
                else "Check that it is there, may be written and has room"
            )
            raise errors.StoreError(
                f"{self!r} cannot be used: {cause or type(error.orig).__name__}. {remedy}; "
                "what was stored is safe."
            ) from error
        except SQLAlchemyError as error:
            raise errors.StoreError(f"{self!r} cannot be used: {error}.") from error


def address(url: str | Path) -> sa.URL:
    """Of a database; a path is one of SQLite.

    Raises:
        InputError: it is neither.
    """
    text = str(url)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        found = sa.make_url(text)
    except (SQLAlchemyError, ValueError) as error:
        raise errors.InputError(
            "A store is the path of a file or a URL such as "
            "'postgresql://user@host/name'; what was given cannot be read."
        ) from error
    if found.get_backend_name() == "sqlite" and not found.database:
        raise errors.InputError(
            "A store in SQLite needs the path of a file, but the URL has none. "
            "Give --store runs.db."
        )
    if found.drivername in ("postgres", "postgresql"):
        found = found.set(drivername="postgresql+psycopg")
    return found


def plain_address(url: sa.URL) -> str:
    """An address without what is secret in it."""
    secret = {k: "***" for k in url.query if "pass" in k.lower()}
    return url.update_query_dict(secret).render_as_string(hide_password=True)


def check_name(what: str, name: str) -> str:
    """A name of a study or a user as it is, where a database can hold it.

    Raises:
        InputError: empty, too long, or with characters that cannot be printed.
    """
    if not name.strip() or len(name) > schema.NAME or not name.isprintable():
        raise errors.InputError(
            f"The name of a {what} must have 1 to {schema.NAME} printable characters, but "
            f"{name[:40]!r} has {len(name)}. Give a shorter or plainer one."
        )
    return name


def holder() -> str:
    """Who writes a run: machine, process, and what no other process has."""
    return f"{_place()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def _place() -> str:
    """Where a process number means one process: containers may share a machine's name."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return socket.gethostname() + "/" + "".join(filter(str.isdigit, numbers))


def is_gone(who: str) -> bool:
    """Whether a holder was a process of this machine that has ended.

    Of other machines only their silence can tell.
    """
    host, _, rest = who.rpartition(":")[0].rpartition(":")
    if host != _place() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, under another user
        return False
    return False


def plain_json(value: Mapping[str, Any]) -> str:
    """As JSON text that every database holds alike."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _refuse_foreign(path: Path) -> None:
    """Refuse a file that is no SQLite database, before anything writes to it."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise errors.StoreError(
            f"'{path}' cannot be read: {error.strerror}. Give the path of a store."
        ) from error
    if start and start != b"SQLite format 3\x00":
        raise errors.StoreError(
            f"'{path}' is no store: it is not an SQLite database, or its first bytes "
            "were lost. Give the path of another one."
        )


def _prepare_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    """Many readers beside one writer, and what is committed outlives a kill."""
    connection.isolation_level = (
        None  # transactions begin where we say, not where it does
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    """Wait for the writer's place at once: a reader that turns writer would fail."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
