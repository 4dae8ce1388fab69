"""Executors: their texts, schedulers that are not there, workers that cannot be used."""

import asyncio
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import cloudpickle
import distributed
import pytest

from kythera import errors
from kythera.runs import executors
from kythera.runs.executors import AbstractExecutor, places, pool, work

# Workers have no tests: functions of this file travel with what they hold.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("loacl", "no executor 'loacl'. Did you mean 'local'"),
        ("local:workers=2", "'local' has no setting 'workers'"),
        ("dask", "either the number of workers"),
        ("dask:workers=2,address=tcp://a:1", "either the number of workers"),
        ("dask:worker=2", "no setting 'worker'. Did you mean 'workers'"),
        ("dask:workers=two", "'workers' .* must be a number > 0, but is 'two'"),
        ("dask:workers=0", "must be a number > 0, but is '0'"),
        ("dask:workers=1.5", "must be a number > 0, but is '1.5'"),
        ("dask:workers=5000", "one for each core"),
        ("dask:workers=2,workers=3", "each once"),
        ("dask:workers", "NAME=VALUE"),
        ("dask:workers=2,attempts=nan", "'attempts' .* but is 'nan'"),
        ("dask:workers=inf", "'workers' .* but is 'inf'"),
        ("dask:address=tls://a:1,ca=x", "TLS needs the three files"),
        (
            "dask:address=tls://a:1,ca=x,cert=y,key=z",
            "'x' of the setting 'ca' does not",
        ),
        ("slurm:job=4", "no setting 'job'. Did you mean 'jobs'"),
        ("slurm", "needs a value for 'jobs'"),
    ],
)
def test_texts_are_checked(text, cause):
    with pytest.raises(errors.InputError, match=cause):
        executors.make(text)


def test_texts_are_kept():
    executor = executors.make(" dask:workers=3,wait=5,attempts=2")
    assert executor.workers == 3
    assert executor.describe() == " dask:workers=3,wait=5,attempts=2"
    assert executors.make("slurm:jobs=4,wait=7").workers == 4


def test_an_executor_works_between_with_and_its_end():
    with pytest.raises(errors.InputError, match="between `with` and its end"):
        executors.make("dask:workers=1")(abs, [1])


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://", "tcp://x:y"])
def test_a_scheduler_that_is_not_there(address, monkeypatch):
    monkeypatch.setattr(places, "CONNECT", 1.0)
    began = time.monotonic()
    with (
        pytest.raises(errors.ClusterError, match="none does .*Start it"),
        executors.make(f"dask:address={address}"),
    ):
        pass
    assert time.monotonic() - began < 15


@pytest.fixture(scope="module")
def one() -> Iterator[AbstractExecutor]:
    """One worker, and its scheduler."""
    with executors.make("dask:workers=1") as executor:
        assert list(executor(abs, [-1])) == [1]
        yield executor


def _address(one: AbstractExecutor) -> str:
    """How somebody else reaches that scheduler."""
    place = one._place
    files = zip(("ca", "cert", "key"), place._command[-5::2], strict=True)
    options = ",".join(f"{name}={path}" for name, path in files)
    return f"dask:address={place._cluster.scheduler_address},{options}"


def test_a_running_scheduler_with_tls(one):
    with executors.make(_address(one)) as executor:
        assert list(executor(abs, [-2, 3])) == [2, 3]
        assert executor.workers == 1
    assert list(one(abs, [-4])) == [4]  # it still runs


def test_strangers_do_not_get_in(one, monkeypatch):
    monkeypatch.setattr(places, "CONNECT", 1.0)
    address = one._place._cluster.scheduler_address.replace("tls", "tcp")
    with (
        pytest.raises(errors.ClusterError, match="none does"),
        executors.make(f"dask:address={address}"),
    ):
        pass


@pytest.mark.parametrize("name", ["kythera", "jax"])
def test_another_version_is_refused_before_anything_runs(one, monkeypatch, name):
    theirs, version = work.versions()[name], importlib.metadata.version
    monkeypatch.setattr(
        work, "__version__", "9.9" if name == "kythera" else work.__version__
    )
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "9.9" if n == name else version(n)
    )
    found = f"it has {name} {theirs} where 9.9 is here. Start it from"
    with (
        pytest.raises(errors.UnsupportedError, match=found),
        executors.make(_address(one)),
    ):
        pass


def test_a_worker_without_kythera_is_refused():
    said = ModuleNotFoundError("No module named 'kythera'")
    refusal = work.refusal("tcp://a:1", said)
    assert "of tcp://a:1 it says: ModuleNotFoundError: No module named" in refusal


def test_nobody_comes(monkeypatch):
    monkeypatch.setattr(pool, "QUIET", 0.3)
    monkeypatch.setattr(places.Processes, "_started", lambda self: _Sleeper())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with (
            executors.make("dask:workers=1,wait=1") as executor,
            pytest.raises(errors.ClusterError, match="a worker within 1 s"),
        ):
            list(executor(abs, [1]))
    (line,) = [str(w.message) for w in said if w.category is UserWarning]
    assert "has no worker for" in line
    assert "waiting for one up to 1 s" in line


def test_a_scheduler_that_dies(tmp_path, monkeypatch):
    """At work; a pause of it would be waited for."""
    monkeypatch.setattr(pool, "ANSWER", 1.0)
    monkeypatch.setattr(pool, "SILENT", 2.0)
    file = tmp_path / "scheduler.json"
    words = [
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    words += ["--no-dashboard", "--scheduler-file", str(file)]
    quiet = {"env": os.environ | {"DASK_LOGGING__DISTRIBUTED": "critical"}}
    scheduler = subprocess.Popen([sys.executable, *words], **quiet)
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    address = json.loads(file.read_text())["address"]
    words = [
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--no-nanny",
        "--nthreads",
        "1",
    ]
    words += ["--no-dashboard", "--local-directory", str(tmp_path)]
    worker = subprocess.Popen([sys.executable, *words], **quiet)
    try:
        with executors.make(f"dask:address={address}") as executor:
            assert list(executor(abs, [-1])) == [1]
            future = executor.submit(time.sleep, 600)
            while not future.running():
                time.sleep(0.01)
            scheduler.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            scheduler.send_signal(signal.SIGCONT)
            time.sleep(1.5)
            assert not future.done()
            scheduler.kill()
            with pytest.raises(
                errors.ClusterError, match=r"answer within 2 s.*is kept"
            ):
                future.result(60)
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def test_a_death_while_results_travel_costs_no_other_result(monkeypatch):
    """Results that come at about the same time are fetched together."""
    with executors.make("dask:workers=2") as executor:
        assert list(executor(_rested, [0.5, 0.5])) == [0.5, 0.5]
        client, real = executor._client, executor._client._gather_remote

        async def late(*arguments):
            await asyncio.sleep(4)
            return await real(*arguments)

        first = executor._idle[0].address
        pid = client.run(os.getpid)[first]
        monkeypatch.setattr(client, "_gather_remote", late)
        futures = [executor.submit(_rested, seconds) for seconds in (0.0, 0.5)]
        time.sleep(2)
        monkeypatch.setattr(client, "_gather_remote", real)
        os.kill(pid, signal.SIGKILL)
        assert [future.result(60) for future in futures] == [0.0, 0.5]


def _rested(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class _Sleeper:
    """A process that runs and never comes."""

    def poll(self) -> None:
        return

    def kill(self) -> None:
        return

    def wait(self) -> int:
        return 0


def test_workers_that_cannot_start_are_an_error(monkeypatch):
    monkeypatch.setattr(
        places.Processes,
        "_started",
        lambda self: subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]),
    )
    with (  # when it begins, or when it is first asked: whichever comes first
        pytest.raises(errors.ClusterError, match="ended with the code 3"),
        executors.make("dask:workers=1") as executor,
    ):
        list(executor(abs, [1]))


def test_a_scheduler_too_busy_to_say_goodbye_costs_nothing(monkeypatch):
    """What was computed has been handed out: only the goodbye is missing."""

    def silent(self, timeout=None):
        if timeout is None:  # one that another test has left behind
            return closed(self)
        closed(self, timeout=timeout)
        raise TimeoutError(f"timed out after {timeout} s.")

    closed = distributed.Client.close
    monkeypatch.setattr(distributed.Client, "close", silent)
    with executors.make("dask:workers=1") as executor:
        found = list(executor(abs, [-1, 2]))
    assert found == [1, 2]


def test_leaving_does_not_wait_for_what_runs(one):
    """The last test of that worker."""
    futures = [one.submit(time.sleep, 60) for _ in range(3)]
    while not futures[0].running():
        time.sleep(0.01)
    began = time.monotonic()
    one.__exit__(None, None, None)
    assert time.monotonic() - began < 6
    with pytest.raises(errors.ClusterError, match="was closed while this"):
        futures[0].result()
    assert all(future.cancelled() for future in futures[1:])


ORPHANS = """
import os, time
from kythera.runs import executors
with executors.make("dask:workers=2") as executor:
    print(*[p.pid for p, _ in executor._place._running.values()], flush=True)
    list(executor(abs, [1]))
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed():
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(_runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.5)
    assert not [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
