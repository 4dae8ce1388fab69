"""HTCondor: the submit description says what was asked, and a worker comes of it."""

import gc
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed
import pytest

from kythera import errors
from kythera.runs.executors import batch, clusters

from . import condor


def description(tmp_path, **settings) -> tuple[dict[str, str], list[str]]:
    given = {"jobs": 4, "folder": str(tmp_path), **settings}
    return condor.read(clusters.script("htcondor", given))


def test_quotes_are_read():
    assert condor.unquoted("\"3 'a b' c\"") == ["3", "a b", "c"]
    assert condor.unquoted("\"one ''\"") == ["one", ""]
    assert condor.unquoted("\"-c 'say ''so'' \"\"now\"\"'\"") == [
        "-c",
        "say 'so' \"now\"",
    ]


def test_what_is_asked_for(tmp_path):
    entries, arguments = description(
        tmp_path, cores=2, memory="4GB", disk="3GB", walltime="02:00:00", account="lhcb"
    )
    assert entries["universe"] == "vanilla"
    assert entries["executable"] == "/bin/sh"
    assert entries["my.daskworkercores"] == "2"
    assert entries["requestcpus"] == "MY.DaskWorkerCores"
    assert entries["my.daskworkermemory"] == str(4 * 10**9)
    assert entries["requestmemory"] == "floor(MY.DaskWorkerMemory / 1048576)"  # MiB
    assert entries["my.daskworkerdisk"] == str(3 * 10**9)
    assert entries["requestdisk"] == "floor(MY.DaskWorkerDisk / 1024)"  # KiB
    assert entries["allowed_job_duration"] == "7200"
    assert entries["accounting_group"] == "lhcb"
    assert entries["logdirectory"] == str(tmp_path)
    assert arguments[0] == "-c"
    assert len(arguments) == 2


def test_the_worker_has_no_nanny_and_one_evaluation(tmp_path):
    _, (_, command) = description(tmp_path, cores=2, python="/opt/my env/bin/python")
    exports, worker = map(shlex.split, command.split("; "))
    assert exports == [
        "export", "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
    ]  # fmt: skip
    assert worker[:3] == ["/opt/my env/bin/python", "-m", "distributed.cli.dask_worker"]
    assert worker[3] == "tls://SCHEDULER:PORT"
    assert "--no-nanny" in worker
    options = dict(zip(worker, worker[1:]))  # the last of two counts, as for the worker
    assert options["--nthreads"] == "1"
    assert options["--memory-limit"] == "0"
    assert options["--death-timeout"] == "120"


def test_a_container_and_further_entries(tmp_path):
    entries, (_, command) = description(
        tmp_path,
        image="docker://collaboration/kythera:1",
        extra="[+MaxRuntime=3600, requirements=(OpSysAndVer == AlmaLinux9)]",
    )
    assert entries["universe"] == "container"
    assert entries["container_image"] == "docker://collaboration/kythera:1"
    assert entries["transfer_executable"] == "False"
    assert "; python3 -m distributed.cli.dask_worker" in command
    assert entries["+maxruntime"] == "3600"
    assert entries["requirements"] == "(OpSysAndVer == AlmaLinux9)"


def test_a_line_that_is_no_entry():
    with pytest.raises(errors.InputError, match=r"'--gres=gpu'.*MaxRuntime"):
        clusters.read("htcondor", {"jobs": 1, "extra": ["--gres=gpu"]})


@pytest.fixture
def pool(tmp_path, monkeypatch) -> Path:
    """Programs that stand in for HTCondor's, in a folder."""
    condor.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def until(holds: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_worker_comes_and_goes(pool):
    """With certificates, which go too."""
    settings = {"jobs": 1, "interface": "lo", "folder": str(pool / "jobs")}
    with clusters.build("htcondor", settings) as cluster:
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        (folder,) = (pool / "jobs").glob("tls-*")
        assert folder.stat().st_mode & 0o77 == 0
        with distributed.Client(cluster) as client:
            client.wait_for_workers(1, timeout=240)
            work = client.submit(lambda: os.environ["OPENBLAS_NUM_THREADS"])
            assert work.result(timeout=60) == "1"
            (worker,) = client.scheduler_info()["workers"].values()
            assert worker["nthreads"] == 1
    until(lambda: not condor.alive(pool))
    del cluster, client, work
    gc.collect()
    assert not folder.exists()


def test_a_job_that_ends_before_its_worker_comes_is_replaced(pool, monkeypatch):
    """Also where the batch system is too busy for a while to take the next one."""
    monkeypatch.setattr(batch, "CHECKED", "200 ms")
    monkeypatch.setattr(batch, "LISTED", 0.2)
    settings = {
        "jobs": 1,
        "interface": "lo",
        "folder": str(pool / "jobs"),
        "tls": False,
    }
    with clusters.build("htcondor", settings) as cluster:
        (pool / "busy").touch()
        (first,) = condor.alive(pool)
        gone = list(cluster.workers.values())  # the library still knows it at the end
        os.killpg(first, signal.SIGKILL)
        until(lambda: all(job.job_id is None for job in cluster.workers.values()))
        assert len(list(pool.glob("*.sub"))) == 1
        (pool / "busy").unlink()
        with distributed.Client(cluster) as client:
            client.wait_for_workers(1, timeout=240)
            assert len(list(pool.glob("*.sub"))) == 2
    assert gone[0] not in cluster.workers.values()
    until(lambda: not condor.alive(pool))
