"""A PostgreSQL server of the tests' own, on loopback, that ends with them."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USER = "postgres"  # the server does not run as root


def programs() -> Path | None:
    """Where PostgreSQL's programs are."""
    if BINARIES:
        return BINARIES[-1]
    found = shutil.which("postgres")
    return Path(found).parent if found else None


def as_server(*command: str) -> list[str]:
    """A command as a user that may run the server."""
    return ["runuser", "-u", USER, "--", *command] if os.getuid() == 0 else [*command]


class Server:
    """A cluster in a folder of its own.

    Args:
        folder: which the server's user may write.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._call("initdb", "-A", "trust", "-U", "ada", "--no-sync", "-D", "data")
        self.start()

    def _call(self, program: str, *arguments: str) -> None:
        path = str((programs() or Path()) / program)
        subprocess.run(
            as_server(path, *arguments),
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self) -> None:
        """And wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        self._call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """At once: who is connected is cut off."""
        self._call("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        address = f"postgresql+psycopg://ada@127.0.0.1:{self.port}"
        engine = sa.create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        engine.dispose()
        return f"postgresql://ada:secret@127.0.0.1:{self.port}/{name}"


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Start one, and leave nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="kythera-postgresql-"))
    if os.getuid() == 0:
        owner = pwd.getpwnam(USER)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    found = None
    try:
        found = Server(folder)
        yield found
    finally:
        if found is not None:
            with contextlib.suppress(subprocess.CalledProcessError):
                found.stop()
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
