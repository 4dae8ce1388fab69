"""A whole SLURM on this machine's loopback, for tests: daemons, keys and spool in a folder.

It needs root and the programs of Debian's packages `slurm-wlm` and `munge`, touches
nothing of the system's own configuration, and is gone when its block ends. Two
partitions share one node: jobs of "batch" take the place of those of "spot", which go
back into the queue.
"""

import contextlib
import dataclasses
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
INSTALL = "apt-get install --no-install-recommends slurm-wlm munge"
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
# one core for each job: the node pretends to have two and a half gigabytes
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2
ReturnToService=2
KillWait=5
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2500 State=UNKNOWN
PartitionName=batch Nodes={host} Default=YES State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=spot Nodes={host} State=UP PriorityTier=1 PreemptMode=REQUEUE
"""


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A running one.

    Args:
        folder: of all it has.
    """

    folder: Path

    def call(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """The output of a program of SLURM."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.returncode == 0, f"{command}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def jobs(self, *states: str) -> dict[str, str]:
        """Numbers of the jobs that are not done, and their states, such as "RUNNING"."""
        lines = self.call("squeue", "-h", "-o", "%i %T").splitlines()
        found = dict(line.split() for line in lines)
        return {k: v for k, v in found.items() if not states or v in states}

    def wait(self, count: int, *states: str, seconds: float = 120) -> dict[str, str]:
        """The jobs, as soon as there are so many in these states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(found := self.jobs(*states)) == count:
                return found
            time.sleep(0.2)
        raise AssertionError(
            f"{count} jobs {states}, but: {self.jobs()}\n{self.logs()}"
        )

    def logs(self) -> str:
        """The last lines of what the daemons said."""
        parts = [
            f"{path.name}:\n" + "\n".join(path.read_text().splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        ]
        return "\n".join(parts)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[subprocess.Popen]:
    """A program in the foreground, ended with its block."""
    name = Path(command[0]).name
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running() -> Iterator[Slurm]:
    """Start one; the environment of this process points to it until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    before = os.environ.get("SLURM_CONF")
    try:
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        key, conf = folder / "munge" / "key", folder / "slurm.conf"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        conf.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                ports=_free_ports(2),
                folder=folder,
            )
        )
        os.environ["SLURM_CONF"] = str(conf)
        with contextlib.ExitStack() as stack:
            munge = [
                f"--{name}={folder}/munge/{file}"
                for name, file in (("socket", "socket"), ("key-file", "key"),
                                   ("pid-file", "pid"), ("seed-file", "seed"))
            ]  # fmt: skip
            stack.enter_context(_daemon(folder, "munged", "-F", "-f", *munge))
            stack.enter_context(_daemon(folder, "slurmctld", "-c", "-D"))
            stack.enter_context(_daemon(folder, "slurmd", "-D"))
            slurm = Slurm(folder)
            stack.callback(_empty, slurm)
            _until_idle(slurm)
            yield slurm
    finally:
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _until_idle(slurm: Slurm) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True
        )
        if "idle" in done.stdout:
            return
        time.sleep(0.2)
    raise AssertionError(f"no idle node:\n{slurm.logs()}")


def _empty(slurm: Slurm) -> None:
    """No job outlives the daemons."""
    if jobs := slurm.jobs():
        slurm.call("scancel", *jobs)
        slurm.wait(0)
