"""SLURM: job scripts; and, slowly, a real one on loopback that takes jobs away."""

import concurrent.futures
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import kythera as ky
from kythera.runs import executors
from kythera.runs.executors import batch, clusters
from kythera.runs.store import Store
from kythera.runs.study import Study

from ..laws.test_resume import same
from . import slurm
from .support import require

WAITS = pytest.mark.filterwarnings("ignore:.*has no worker")
ROOT = Path(__file__).parents[2]


def lines(tmp_path, **settings) -> list[str]:
    given = {"jobs": 4, "folder": str(tmp_path), **settings}
    return clusters.script("slurm", given).splitlines()


def test_what_is_asked_for(tmp_path):
    found = lines(
        tmp_path,
        cores=2,
        memory="4GiB",
        walltime="02:00:00",
        queue="spot",
        account="mode",
        extra="[--gres=gpu:1, --constraint=avx2]",
    )
    for line in (
        "#SBATCH -J kythera",
        f"#SBATCH -o {tmp_path}/kythera-%J.out",
        "#SBATCH -p spot",
        "#SBATCH -A mode",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=4G",
        "#SBATCH -t 02:00:00",
        "#SBATCH --requeue",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --constraint=avx2",
        "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
    ):
        assert line in found


def test_the_worker_has_no_nanny_and_one_evaluation(tmp_path):
    words = lines(tmp_path, cores=2, interface="ib0", port=8786)[-1].split()
    options = dict(zip(words, words[1:]))  # the last of two counts, as for the worker
    assert "--no-nanny" in words
    assert "--nworkers" not in words
    assert "tls://SCHEDULER:8786" in words
    assert options["--nthreads"] == "1"
    assert options["--memory-limit"] == "0"
    assert options["--death-timeout"] == "120"
    assert options["--interface"] == "ib0"
    assert options["--local-directory"] == "${TMPDIR:-/tmp}"


def test_the_site_decides_where_the_user_does_not(tmp_path):
    found = "\n".join(lines(tmp_path))
    assert "#SBATCH -p" not in found
    assert "#SBATCH -A" not in found


def problem(seconds: float) -> ky.Problem:
    """Outside JAX, so many seconds for each design, and random."""

    def loss(z: float, seed: int) -> float:
        import random
        import time

        time.sleep(seconds)
        return (z - 0.3) ** 2 + 0.01 * random.Random(seed).gauss(0, 1)

    return ky.from_function(loss, {"z": ky.Real(0, 1, "m")}, start={"z": 0.9}, events=1)


def search(trials: int, **options: Any) -> ky.Solution:
    """With a `map`, slow enough for jobs to vanish meanwhile."""
    return ky.optimise(
        problem(0.25 if options else 0.0),
        ky.Evolution(population=4),
        key=jax.random.key(3),
        max_trials=trials,
        report_events=2,
        **options,
    )


@pytest.fixture(scope="module")
def system() -> Iterator[slurm.Slurm]:
    require(slurm.PROGRAMS, slurm.INSTALL)
    with slurm.running() as found:
        yield found


@pytest.fixture
def workers(system, tmp_path, monkeypatch) -> Iterator[Callable[..., Any]]:
    """A function that gives an executor of two jobs; no job is left behind."""

    def make(partition: str) -> Any:
        return executors.make(
            f"slurm:jobs=2,cores=1,memory=1GB,walltime=00:30:00,queue={partition},"
            f"interface=lo,folder={tmp_path}/jobs"
        )

    monkeypatch.setattr(batch, "LISTED", 5.0)  # this system has time for us
    yield make
    system.wait(0)


@pytest.mark.slow
def test_trials_are_those_of_this_process(workers):
    with workers("batch") as executor:
        assert executor.workers == 2
        found = search(24, map=executor)
    same(found.trials, search(24).trials)


@pytest.mark.slow
@WAITS
def test_jobs_that_are_cancelled_at_random(system, workers):
    """Five of them; each is replaced, and nobody can tell from the trials."""
    lottery = random.Random(7)
    cancelled: list[str] = []

    def cancel(stop: threading.Event) -> None:
        while len(cancelled) < 5 and not stop.is_set():
            time.sleep(lottery.uniform(0.5, 8))
            if running := sorted(system.jobs("RUNNING")):
                cancelled.append(lottery.choice(running))
                system.call("scancel", cancelled[-1])

    with workers("batch") as executor, beside(cancel):
        found = search(160, map=executor)
        submitted = max(map(int, system.jobs()))
    assert len(cancelled) == 5
    assert submitted > 2
    assert not any(trial.evaluation.cause for trial in found.trials)
    same(found.trials, search(160).trials)


@pytest.mark.slow
@WAITS
def test_jobs_that_are_preempted(system, workers):
    """All workers go at once: those of "batch" come first."""
    again: list[bool] = []

    def preempt(stop: threading.Event) -> None:
        until(lambda: executor.cpu_seconds > 0, system)  # its workers have come
        before = set(system.wait(2, "RUNNING"))
        rush = ("sbatch", "--partition=batch", "--cpus-per-task=2", "--mem=100M")
        system.call(*rush, "--output=/dev/null", "--wrap=sleep 6")
        until(lambda: before & set(system.jobs("PENDING")), system)
        again.append(True)

    with workers("spot") as executor, beside(preempt):
        found = search(120, map=executor)
    assert again  # in the queue
    assert not any(trial.evaluation.cause for trial in found.trials)
    same(found.trials, search(120).trials)


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Something in a thread; its failure is the block's."""
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, stop)
        try:
            yield
        finally:
            stop.set()
        future.result(60)


@pytest.mark.slow
def test_a_study_that_is_preempted_itself(system, tmp_path):
    """The job of the example: preempted, queued again by SLURM, gone on with."""
    program = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{program}{os.pathsep}{os.environ['PATH']}",
        "KYTHERA_STORE": str(tmp_path / "runs.db"),
        "KYTHERA_WORKERS": "slurm:jobs=1,memory=1GB,walltime=00:30:00,queue=spot,"
        f"interface=lo,folder={tmp_path}/jobs",
    }
    trials = 160
    command = ["telescope", "--optimiser", "evolution:population=4", "--name", "first"]
    command += ["--trials", str(trials)]
    job = system.call(
        "sbatch", "--parsable", "--partition=spot", "--mem=1G", f"--chdir={tmp_path}",
        str(ROOT / "deploy" / "slurm" / "study.sh"), *command,
        environment=environment,
    ).strip()  # fmt: skip
    until(lambda: count(tmp_path) > 20, system)
    rush = ("sbatch", "--partition=batch", "--cpus-per-task=2", "--mem=100M")
    system.call(*rush, "--output=/dev/null", "--wrap=sleep 2")
    until(lambda: system.jobs().get(job) == "PENDING", system)
    assert 20 < count(tmp_path) < trials
    # SLURM waits two minutes before it starts such a job again
    until(lambda: release(system, job), system)
    until(lambda: count(tmp_path) == trials and job not in system.jobs(), system)
    program_here = [program / "kythera", "optimise", *command, "--store"]
    subprocess.run(
        [*program_here, tmp_path / "here.db"], check=True, capture_output=True
    )
    same(stored(tmp_path / "runs.db"), stored(tmp_path / "here.db"))


def release(system: slurm.Slurm, job: str) -> bool:
    """Whether the job runs, or may now start at once."""
    subprocess.run(
        ["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True
    )
    return system.jobs().get(job) == "RUNNING"


def until(
    holds: Callable[[], object], system: slurm.Slurm, seconds: float = 240
) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{system.jobs()}\n{system.logs()}"
        time.sleep(0.5)


def stored(path: Path) -> list[Any]:
    """The trials of the study."""
    store = Store(path)
    found = Study.open(store, "first").trials()
    store.close()
    return found


def count(folder: Path) -> int:
    """How many trials the store has."""
    path = folder / "runs.db"
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            (found,) = connection.execute("select count(*) from trial").fetchone()
        except sqlite3.OperationalError:  # there is no table yet
            found = 0
    return found
