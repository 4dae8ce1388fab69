"""Batch systems: SLURM, PBS and HTCondor, through dask-jobqueue.

A job is one worker that does one evaluation at a time. It may vanish at any moment: the
batch system starts it again where it can, and where a job is lost its place is filled by
a new one.
"""

import abc
import asyncio
import contextlib
import dataclasses
import getpass
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from kythera import errors
from kythera.runs.executors import settings

CHECKED = "10 s"  # how often the number of jobs is looked at
LISTED = 60.0  # seconds between two questions to the batch system, which is busy
OWNED = ("ca", "cert", "key")  # files of a collaboration's certificates


@dataclasses.dataclass(frozen=True)
class Batch(abc.ABC):
    """What is asked of any batch system.

    Args:
        jobs: workers, one in each job.
        cores: of a job; its one evaluation may use them all.
        memory: of a job, such as "4GB"; the batch system holds it.
        walltime: of a job, as hours:minutes:seconds.
        account: who pays.
        interface: network interface of scheduler and workers, such as "ib0".
        port: of the scheduler; 0 takes a free one.
        python: the environment's interpreter on the workers; by default this one.
        folder: shared by all machines, for logs and certificates.
        scratch: a worker's own folder; the shell there expands it.
        extra: further directives of the batch system.
        tls: encrypt and authenticate; without, whoever reaches the scheduler's port can
            run code as you.
        ca: file of the authority's certificate; with it `cert` and `key`. Without the
            three, certificates that last as long as the cluster are made.
        cert: file of the certificate.
        key: file of its key.
    """

    jobs: int
    cores: int = 1
    memory: str = "2GB"
    walltime: str = "01:00:00"
    account: str = ""
    interface: str = ""
    port: int = 0
    python: str = ""
    folder: str = "kythera-jobs"
    scratch: str = "${TMPDIR:-/tmp}"
    extra: tuple[str, ...] = ()
    tls: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""

    library: ClassVar[str] = "dask_jobqueue"
    named: ClassVar[str]  # the library's class, less "Cluster"
    submits: ClassVar[str]  # the program that takes a job

    @property
    def size(self) -> int:
        """How many workers there will be."""
        return self.jobs

    @property
    def seconds(self) -> int:
        """The wall time."""
        hours, minutes, seconds = map(int, self.walltime.split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def check(self, kind: str) -> None:
        """Refuse what no batch system would take.

        Raises:
            InputError: a number, a time or a size that makes no sense.
        """
        settings.check_positive(kind, jobs=self.jobs, cores=self.cores)
        settings.check_memory(kind, self.memory)
        if not 0 <= self.port < 65536:
            raise errors.InputError(
                f"'port' of {kind!r} must be from 0 to 65535, but is {self.port}. "
                "0 takes a free one."
            )
        if not re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", self.walltime) or not self.seconds:
            raise errors.InputError(
                f"'walltime' of {kind!r} must be hours:minutes:seconds, but is "
                f"{self.walltime!r}. Write walltime=01:30:00."
            )
        given = [name for name in OWNED if getattr(self, name)]
        if given and (len(given) < len(OWNED) or not self.tls):
            raise errors.InputError(
                f"Certificates of {kind!r} are the three files 'ca', 'cert' and 'key', "
                f"with tls=true, but tls={str(self.tls).lower()} and {given} are given. "
                "Give all or none of them."
            )

    @property
    @abc.abstractmethod
    def listing(self) -> list[str]:
        """The command that prints the numbers of the user's jobs, one on a line."""

    @abc.abstractmethod
    def directives(self) -> Any:
        """What the library does not write by itself."""

    def options(self) -> dict[str, Any]:
        """Of a job, as the library names them."""
        found = {
            "cores": self.cores,
            "memory": self.memory,
            "processes": 1,
            # A nanny beside a worker that dies early never restarts it; a job's end is
            # the batch system's business anyway.
            "nanny": False,
            "death_timeout": settings.PATIENCE,
            "local_directory": self.scratch,
            "log_directory": str(Path(self.folder).absolute()),
            "python": shlex.quote(self.python or sys.executable),
            "job_name": "kythera",
            "job_script_prologue": [
                "export " + " ".join(f"{n}=1" for n in settings.THREADS)
            ],
            "job_extra_directives": self.directives(),
            # The last of two words counts: one evaluation at a time, with all cores. The
            # worker itself limits no memory: above its limit it would pause for ever.
            "worker_extra_args": ["--nthreads", "1", "--memory-limit", "0"],
        }
        return found | ({"interface": self.interface} if self.interface else {})

    def script(self) -> str:
        """The text that is handed to the batch system, for a scheduler to come."""
        job = settings.attribute(self.library, f"{self.named}Cluster").job_cls
        protocol = "tls" if self.tls else "tcp"
        address = f"{protocol}://SCHEDULER:{self.port or 'PORT'}"
        return job(address, name="kythera-0", **self.options()).job_script()

    def build(self) -> Any:
        """The cluster, its jobs submitted.

        Raises:
            UnsupportedError: the batch system or a library is not there.
            InputError: the batch system refuses the jobs.
        """
        factory = settings.attribute(self.library, f"{self.named}Cluster")
        if shutil.which(self.submits) is None:
            raise errors.UnsupportedError(
                f"Jobs are handed over by `{self.submits}`, which is not on this "
                "machine. Start from one that may submit jobs, or use 'dask:workers=2' "
                "for the processors of this one."
            )
        with contextlib.ExitStack() as stack:
            folder = _made(Path(self.folder).absolute())
            cluster = factory(
                n_workers=0,
                scheduler_options={
                    "port": self.port,
                    # what a worker was at when it vanished is not at fault
                    "allowed_failures": settings.DEATHS,
                    # its own page asks for no password: for this machine alone
                    "dashboard_address": "127.0.0.1:0",
                },
                security=self._security(folder, stack),
                **self.options(),
            )
            certificates = stack.pop_all()
        weakref.finalize(cluster, certificates.close)
        try:
            said = cluster.sync(_submit, cluster, self.jobs)
            if said:
                raise errors.InputError(
                    f"`{self.submits}` must take the jobs of the workers, but said: "
                    f"{said}. Mend the settings of the executor."
                )
            cluster.adapt(
                Adaptive=_keeper(self.listing),
                minimum=self.jobs,
                maximum=self.jobs,
                interval=CHECKED,
            )
        except BaseException:
            cluster.close(timeout=settings.PATIENCE)
            raise
        return cluster

    def _security(self, folder: Path, stack: contextlib.ExitStack) -> Any:
        """Of the cluster; files that are made for it go when the stack is closed."""
        if not self.tls:
            return None
        factory = settings.attribute("distributed", "Security")
        ca, cert, key = (Path(getattr(self, name)).absolute() for name in OWNED)
        if not self.ca:
            try:
                made = factory.temporary()
            except ImportError as error:
                raise errors.UnsupportedError(
                    "Certificates are made by the package `cryptography`, which is not "
                    "installed. Install it (pip install cryptography), give files of "
                    "your own (ca=, cert=, key=), or write tls=false where nobody else "
                    "can reach the scheduler's port."
                ) from error
            own = Path(tempfile.mkdtemp(prefix="tls-", dir=folder))  # mode 0700
            stack.callback(shutil.rmtree, own, ignore_errors=True)
            ca, cert, key = own / "cert.pem", own / "cert.pem", own / "key.pem"
            cert.write_text(made.tls_ca_file, encoding="utf-8")
            key.write_text(made.tls_worker_key, encoding="utf-8")
        roles = {
            f"tls_{role}_{what}": str(file)
            for role in ("client", "scheduler", "worker")
            for what, file in (("cert", cert), ("key", key))
        }
        return factory(require_encryption=True, tls_ca_file=str(ca), **roles)


@dataclasses.dataclass(frozen=True)
class Slurm(Batch):
    """SLURM.

    Args:
        queue: the partition; one for spot jobs may take a job away, and gives it back.
    """

    queue: str = ""

    named: ClassVar[str] = "SLURM"
    submits: ClassVar[str] = "sbatch"

    @property
    def listing(self) -> list[str]:
        """See the base class."""
        return ["squeue", "--noheader", "--format=%i", "--me"]

    def directives(self) -> list[str]:
        """Start a job again that was preempted, and keep its first log."""
        return ["--requeue", "--open-mode=append", *self.extra]

    def options(self) -> dict[str, Any]:
        """With partition, account and time."""
        return super().options() | _where(self)


@dataclasses.dataclass(frozen=True)
class Pbs(Batch):
    """PBS Pro, OpenPBS or Torque.

    Args:
        queue: name of the queue.
    """

    queue: str = ""

    named: ClassVar[str] = "PBS"
    submits: ClassVar[str] = "qsub"

    @property
    def listing(self) -> list[str]:
        """See the base class."""
        return ["qselect", "-u", getpass.getuser()]

    def directives(self) -> list[str]:
        """Start a job again whose node went away."""
        return ["-r y", *self.extra]

    def options(self) -> dict[str, Any]:
        """With queue, account and time."""
        return super().options() | _where(self)


@dataclasses.dataclass(frozen=True)
class HTCondor(Batch):
    """HTCondor: an evicted job starts again by itself.

    Args:
        disk: of a job.
        image: container to run in, where the pool does that; `python` is then its own
            interpreter, by default `python3`.
    """

    disk: str = "1GB"
    image: str = ""

    named: ClassVar[str] = "HTCondor"
    submits: ClassVar[str] = "condor_submit"

    def check(self, kind: str) -> None:
        """Further directives are entries of the submit description."""
        super().check(kind)
        for line in self.extra:
            if not re.fullmatch(r"\s*[+\w.]+\s*=.*", line):
                raise errors.InputError(
                    f"'extra' of {kind!r} takes entries of a submit description, but "
                    f"got {line!r}. Write extra=[+MaxRuntime=3600]."
                )

    @property
    def listing(self) -> list[str]:
        """See the base class."""
        return ["condor_q", "-format", "%d.", "ClusterId", "-format", r"%d\n", "ProcId"]

    def directives(self) -> dict[str, Any]:
        """Universe, time, account, container."""
        found: dict[str, Any] = {"universe": "container" if self.image else "vanilla"}
        if self.image:
            # the shell of the container starts the worker
            found |= {"container_image": self.image, "transfer_executable": "False"}
        found["allowed_job_duration"] = self.seconds
        found["periodic_remove"] = "JobStatus == 5"  # held: it would only be in the way
        if self.account:
            found["accounting_group"] = self.account
        pairs = (line.partition("=") for line in self.extra)
        return found | {name.strip(): value.strip() for name, _, value in pairs}

    def options(self) -> dict[str, Any]:
        """With disk, and with a container's interpreter."""
        found = super().options() | {"disk": self.disk}
        return found | ({"python": "python3"} if self.image and not self.python else {})


def _where(batch: Slurm | Pbs) -> dict[str, Any]:
    """Queue, account and time: what the user said; else the site's configuration."""
    given = {"queue": batch.queue, "account": batch.account}
    return {k: v for k, v in given.items() if v} | {"walltime": batch.walltime}


def _made(folder: Path) -> Path:
    """The folder, made where it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.InputError(
            "'folder' must be one that this and the workers' machines can write, but "
            f"'{folder}' cannot be made: {error.strerror}. Choose another."
        ) from error
    return folder


async def _submit(cluster: Any, jobs: int) -> str:
    """Hand over the jobs; what the batch system has against them, empty for nothing."""
    for _ in range(jobs):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        await cluster
    except RuntimeError as error:
        for job in cluster.workers.values():
            _forget(job)
        said = str(error).partition("stderr:")[2] or str(error)
        return " ".join(said.split())[:500]
    return ""


def _forget(job: Any) -> None:
    """A job that does not run any more: a cluster that has known it can be closed."""
    job.status = settings.attribute("distributed.core", "Status").closed


def _keeper(listing: Sequence[str]) -> type:
    """The class that keeps the number of jobs.

    Dask replaces a worker that it has known. Left to itself it would wait for ever for a
    job that was refused while the batch system was busy, or that ended before its worker
    came.

    Args:
        listing: command that prints the numbers of the user's jobs, one on a line.
    """
    adaptive = settings.attribute("distributed.deploy.adaptive", "Adaptive")

    class Keeper(adaptive):
        listed = time.monotonic()

        async def adapt(self) -> None:
            cluster = self.cluster
            absent = {
                k: v for k, v in cluster.workers.items() if k not in self.observed
            }
            numbers = {name: job.job_id for name, job in absent.items()}
            lost = [  # refused; while it is being handed over its lock is taken
                name
                for name, job in absent.items()
                if job.job_id is None and not job.lock.locked()
            ]
            if absent and time.monotonic() - self.listed > LISTED:
                self.listed = time.monotonic()
                known = await _numbers(
                    listing, next(iter(absent.values())).job_id_regexp
                )
                if known:
                    lost += [k for k, v in numbers.items() if v and not known(v)]
            for name in set(lost):
                # A new name: what is still on its way about the old one is not for it.
                cluster.worker_spec.update(cluster.new_worker_spec())
                del cluster.worker_spec[name]
                _forget(cluster.workers.pop(name))
            await super().adapt()

    return Keeper


async def _numbers(
    listing: Sequence[str], pattern: str
) -> Callable[[str | None], bool] | None:
    """Whether a job is in the batch system, or None where that does not say.

    Args:
        listing: command that prints the numbers of jobs, one on a line.
        pattern: of a number, in a group "job_id".
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *listing, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        said, _ = await process.communicate()
    except OSError:
        return None
    if process.returncode != 0:
        return None
    matches = (re.match(rf"\s*{pattern}", line) for line in said.decode().splitlines())
    return {match["job_id"] for match in matches if match}.__contains__
