"""Where a Dask scheduler and its workers are: started here, running, or handed to a cluster."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from kythera import errors
from kythera.runs.executors import settings

CONNECT = 10.0  # seconds in which a scheduler must take a connection
PAUSE = 1.0  # seconds at least between two starts of a worker in one place


class Place(Protocol):
    """A scheduler, and who looks after its workers."""

    @property
    def size(self) -> int:
        """Workers that were asked for."""
        ...

    def connect(self) -> Any:
        """A client of the scheduler, which is started where it must be."""
        ...

    def tend(self, met: bool) -> None:
        """Bring back what has ended; `met` where a worker is there."""
        ...

    def close(self, client: Any) -> None:
        """Let go of the scheduler, and end what was started."""
        ...


class Processes:
    """Processes of this machine, started again when they die.

    They listen on the loopback interface, encrypted by certificates that live as long as
    they do: another user of the machine cannot speak to them.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int):
        self.size = workers
        self._cluster: Any = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._command: list[str] = []
        self._running: dict[int, tuple[subprocess.Popen, float]] = {}
        self._met = False

    def connect(self) -> Any:
        """Start the scheduler in this process, and the workers beside it."""
        factory = settings.attribute("distributed", "LocalCluster")
        security = _temporary_security()
        config = settings.attribute("dask", "config")
        # Dask fails what was given to workers that died; here that is counted otherwise.
        with config.set({"distributed.scheduler.allowed-failures": 100}):
            self._cluster = factory(
                n_workers=0,
                host="127.0.0.1",
                protocol="tls" if security else "tcp",
                security=security,
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            )
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="kythera-workers-")
            self._command = self._worker_command(security, Path(self._folder.name))
            self.tend(False)
            return _client(self._cluster, security)
        except BaseException:
            self.close(None)
            raise

    def _worker_command(self, security: Any, folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "distributed.cli.dask_worker",
            self._cluster.scheduler_address,
            # A nanny misses the death of a worker that has just come.
            "--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard",
            "--death-timeout", "30", "--local-directory", str(folder),
            *_written(security, folder),
        ]  # fmt: skip

    def tend(self, met: bool) -> None:
        """Start what does not run.

        Raises:
            ClusterError: none was ever seen, and one has ended by itself.
        """
        self._met = self._met or met
        now = time.monotonic()
        for i in range(self.size):
            process, began = self._running.get(i, (None, -PAUSE))
            code = None if process is None else process.poll()
            if process is not None and code is None:
                continue
            if code is not None and code > 0 and not self._met:
                raise errors.ClusterError(
                    "A worker must start from this environment, but it ended with the "
                    f"code {code}. Look at what it said above."
                )
            if now - began >= PAUSE:
                self._running[i] = self._started(), now

    def _started(self) -> subprocess.Popen:
        assert self._folder is not None
        environment = os.environ | {
            # As for any child: it finds the modules that this process found.
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "DASK_LOGGING__DISTRIBUTED": "critical",
            "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
        }
        for name in settings.THREADS:
            environment.setdefault(name, "1")
        # A session of its own: Ctrl-C is for the one who watches, not for workers.
        return subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self, client: Any) -> None:
        """End all of it at once: what was under way is dropped anyway."""
        for process, _ in self._running.values():
            process.kill()
        for process, _ in self._running.values():
            process.wait()
        self._running.clear()
        _let_go(client)
        _let_go(self._cluster)
        if self._folder is not None:
            self._folder.cleanup()


@dataclasses.dataclass
class Running:
    """A scheduler that runs somewhere; its workers are its owner's business.

    Args:
        address: such as tcp://host:8786 or tls://host:8786.
        ca: file of the authority's certificate.
        cert: file of the client's certificate.
        key: file of its key.
    """

    address: str
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def size(self) -> int:
        """One, until it is known."""
        return 1

    def connect(self) -> Any:
        """Connect within ten seconds.

        Raises:
            ClusterError: nobody answers there.
        """
        security = None
        if self.ca:
            security = settings.attribute("distributed", "Security")(
                tls_ca_file=self.ca,
                tls_client_cert=self.cert,
                tls_client_key=self.key,
                require_encryption=True,
            )
        return _client(self.address, security)

    def tend(self, met: bool) -> None:
        """Nothing here is ours."""
        return

    def close(self, client: Any) -> None:
        """Only let go."""
        _let_go(client)


@dataclasses.dataclass
class Submitted:
    """Jobs of a batch system, or pods of Kubernetes.

    Args:
        kind: a key of `kythera.runs.executors.clusters.KINDS`.
        given: its settings, checked.
        size: workers that are asked for.
    """

    kind: str
    given: Mapping[str, Any]
    size: int
    _cluster: Any = None

    def connect(self) -> Any:
        """Hand the workers over; the batch system starts them when it pleases."""
        from kythera.runs.executors import clusters

        self._cluster = clusters.build(self.kind, self.given)
        return _client(self._cluster, self._cluster.security)

    def tend(self, met: bool) -> None:
        """The cluster looks after its jobs."""
        return

    def close(self, client: Any) -> None:
        """Give the jobs back."""
        _let_go(client)
        _let_go(self._cluster, 5.0)


def _client(where: Any, security: Any) -> Any:
    """A client that stays out of the way of others."""
    factory = settings.attribute("distributed", "Client")
    try:
        return factory(where, timeout=CONNECT, security=security, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise errors.ClusterError(
            f"A scheduler must answer at '{getattr(where, 'scheduler_address', where)}' "
            f"within {CONNECT:.0f} s, but none does ({type(error).__name__}: {error}). "
            "Start it (dask scheduler), or mend the address and the TLS files."
        ) from error


def _let_go(connected: Any, seconds: float = 2.0) -> None:
    """Close a client or a cluster; its scheduler may be too busy, or gone, to answer."""
    if connected is not None:
        with contextlib.suppress(TimeoutError):
            connected.close(timeout=seconds)


def _temporary_security() -> Any:
    """Certificates for one run, where they can be made."""
    try:
        return settings.attribute("distributed", "Security").temporary()
    except ImportError:
        return None


def _written(security: Any, folder: Path) -> list[str]:
    """Options of a worker, their files in a folder that only this user can read."""
    if security is None:
        return []
    options = []
    for option, text in (
        ("--tls-ca-file", security.tls_ca_file),
        ("--tls-cert", security.tls_worker_cert),
        ("--tls-key", security.tls_worker_key),
    ):
        path = folder / option.removeprefix("--")
        path.write_text(text, encoding="ascii")
        options += [option, str(path)]
    return options
