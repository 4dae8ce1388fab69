#!/usr/bin/env python3
"""Time kythera's store beside those of Optuna and MLflow, and print the rates.

    python benchmarks/store.py [--quick] [--folder ON_DISK] [--out FILE.md]

All three write to databases of their own, in SQLite and in a PostgreSQL server that is
started for it (`apt-get install postgresql`; without it that column is empty), each as it
comes. What is timed is wall time, because a store mostly waits for the disk: the median of
three repetitions, the programs taking turns. Ratios are of one run; rates of different
runs, or of a machine that does other things, are not to be compared. Reading is timed in
CPU seconds of the reader.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import pwd
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kythera.core.evaluation import Trial

PARAMETERS = [f"x[{i}]" for i in range(8)]
REPEATS = 3
MANY = 50_000  # trials of the study that is read
Rate = Callable[[int], float]  # writes n rows or trials; how many it wrote
# Quantity -> (what is written, n, aims on SQLite and PostgreSQL)
METRIC, TRIAL, READ = "metrics, rows/s", "trials/s", "trials read/s"
QUANTITIES: dict[str, tuple[str, int, tuple[int | None, int | None]]] = {
    "kythera, one a call": (METRIC, 20_000, (5_000, 2_000)),
    "kythera, ten a call": (METRIC, 50_000, (5_000, 2_000)),
    "kythera, written at each call": (METRIC, 300, (None, None)),
    "Optuna, `trial.report`": (METRIC, 300, (None, None)),
    "MLflow, `log_metric`": (METRIC, 200, (None, None)),
    "MLflow, `log_batch` of 1000": (METRIC, 10_000, (None, None)),
    "kythera, written one by one": (TRIAL, 300, (None, None)),
    "kythera, a hundred at once": (TRIAL, 5_000, (None, None)),
    "Optuna, `ask` and `tell`": (TRIAL, 50, (None, None)),
    "Optuna, `add_trial`": (TRIAL, 50, (None, None)),
    "MLflow, a run each": (TRIAL, 50, (None, None)),
}
RATIOS = (
    ("kythera, written at each call", "Optuna, `trial.report`"),
    ("kythera, written at each call", "MLflow, `log_metric`"),
    ("kythera, one a call", "Optuna, `trial.report`"),
    ("kythera, one a call", "MLflow, `log_metric`"),
    ("kythera, ten a call", "MLflow, `log_batch` of 1000"),
    ("kythera, written one by one", "Optuna, `ask` and `tell`"),
    ("kythera, written one by one", "Optuna, `add_trial`"),
    ("kythera, written one by one", "MLflow, a run each"),
)


def trial(number: int) -> Trial:
    """One of a search with eight parameters, two terms and their gradients."""
    from kythera.core.evaluation import Evaluation, Measured, Trial

    rng = np.random.default_rng(number)
    u = rng.uniform(size=8)
    found = [Measured(float(v), 0.1, rng.normal(size=8)) for v in rng.normal(size=3)]
    terms = {"image": found[1], "time": found[2]}
    evaluation = Evaluation(found[0], terms, {}, np.eye(2), 1000)
    return Trial(number, number, u, u, evaluation, 0.01, 1000 * (number + 1))


class Kythera:
    """A study in a store of its own."""

    def __init__(self, url: str, folder: Path):
        from kythera.runs.store import Store
        from kythera.runs.study import Study

        self.store = Store(url, user="ada", files=folder / "files")
        self.study = Study.create(
            self.store,
            "benchmark",
            instrument="none",
            spec={},
            space={"names": PARAMETERS},
        )
        self.runs = 0

    def run(self) -> Any:
        """A new run."""
        self.runs += 1
        return self.study.begin(self.runs)

    def rates(self) -> dict[str, Rate]:
        """What is timed."""
        return {
            "kythera, one a call": self.one,
            "kythera, ten a call": self.ten,
            "kythera, written at each call": self.written,
            "kythera, written one by one": lambda n: self.trials(n, 1),
            "kythera, a hundred at once": lambda n: self.trials(n, 100),
        }

    def one(self, n: int) -> float:
        """Metrics, one at each call."""
        with self.run() as run:
            start = time.perf_counter()
            for i in range(n):
                run.log({"loss": 1.0 / (i + 1)}, step=i)
            run.flush()
            return time.perf_counter() - start

    def ten(self, n: int) -> float:
        """Metrics, ten at each call."""
        names = [f"metric {k}" for k in range(10)]
        with self.run() as run:
            start = time.perf_counter()
            for i in range(n // 10):
                run.log({name: 1.0 / (i + 1) for name in names}, step=i)
            run.flush()
            return time.perf_counter() - start

    def written(self, n: int) -> float:
        """Metrics, each in the database before the next."""
        with self.run() as run:
            start = time.perf_counter()
            for i in range(n):
                run.log({"loss": 1.0 / (i + 1)}, step=i)
                run.flush()
            return time.perf_counter() - start

    def trials(self, n: int, batch: int) -> float:
        """Trials, so many in a transaction."""
        made = [trial(i) for i in range(n)]
        with self.run() as run:
            start = time.perf_counter()
            for i, one in enumerate(made):
                run.add(one)
                if (i + 1) % batch == 0:
                    run.flush()
            run.flush()
            return time.perf_counter() - start

    def read(self, url: str, folder: Path, n: int) -> dict[str, float]:
        """Open the store anew and read a study of n trials, CPU seconds of the reader."""
        from kythera.runs.store import Store
        from kythera.runs.study import Study

        self.trials(n, 1000)
        start = time.process_time()
        store = Store(url, user="ada", files=folder / "files", create=False)
        study = Study.open(store, "benchmark")
        opened = time.process_time()
        columns = study.columns(self.runs)
        read = time.process_time()
        last = study.columns(self.runs, after=n - 11)
        tail = time.process_time()
        assert len(columns["number"]) == n
        assert len(last["number"]) == 10
        assert columns["values"].shape == (n, 8)
        assert columns["total"][-1] == trial(n - 1).evaluation.total.value
        store.close()
        return {"open": opened - start, "columns": read - opened, "tail": tail - read}


class Optuna:
    """A study in Optuna's storage."""

    def __init__(self, url: str):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna = optuna
        self.study = optuna.create_study(
            storage=url, sampler=optuna.samplers.RandomSampler(seed=1)
        )
        self.domains: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(0, 1) for name in PARAMETERS
        }

    def rates(self) -> dict[str, Rate]:
        """What is timed."""
        return {
            "Optuna, `trial.report`": self.report,
            "Optuna, `ask` and `tell`": self.ask,
            "Optuna, `add_trial`": self.add,
        }

    def report(self, n: int) -> float:
        """Metrics; Optuna keeps one series for each trial."""
        asked = self.study.ask()
        start = time.perf_counter()
        for i in range(n):
            asked.report(1.0 / (i + 1), step=i)
        return time.perf_counter() - start

    def ask(self, n: int) -> float:
        """Trials as a search makes them, points drawn at random."""
        start = time.perf_counter()
        for i in range(n):
            self.study.tell(self.study.ask(self.domains), 1.0 / (i + 1))
        return time.perf_counter() - start

    def add(self, n: int) -> float:
        """Trials that are known already."""
        made = [
            self.optuna.trial.create_trial(
                value=1.0,
                params=dict(zip(PARAMETERS, trial(i).u.tolist(), strict=True)),
                distributions=self.domains,
            )
            for i in range(n)
        ]
        start = time.perf_counter()
        self.study.add_trials(made)
        return time.perf_counter() - start


class MLflow:
    """An experiment in MLflow's database, without its server."""

    def __init__(self, url: str, folder: Path):
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow's own tables
            from mlflow.tracking import MlflowClient

            self.client = MlflowClient(tracking_uri=url)
            self.place = self.client.create_experiment(
                "benchmark", artifact_location=str(folder / "artifacts")
            )

    def rates(self) -> dict[str, Rate]:
        """What is timed."""
        return {
            "MLflow, `log_metric`": self.metric,
            "MLflow, `log_batch` of 1000": self.batch,
            "MLflow, a run each": self.runs,
        }

    def metric(self, n: int) -> float:
        """Metrics, one at each call."""
        run = self.client.create_run(self.place).info.run_id
        start = time.perf_counter()
        for i in range(n):
            self.client.log_metric(run, "loss", 1.0 / (i + 1), step=i)
        return time.perf_counter() - start

    def batch(self, n: int) -> float:
        """Metrics, as many in a call as MLflow allows."""
        from mlflow.entities import Metric

        run = self.client.create_run(self.place).info.run_id
        rows = [Metric("loss", 1.0 / (i + 1), 0, i) for i in range(n)]
        start = time.perf_counter()
        for i in range(0, n, 1000):
            self.client.log_batch(run, metrics=rows[i : i + 1000])
        return time.perf_counter() - start

    def runs(self, n: int) -> float:
        """Trials: a run for each, as a search by hand makes them."""
        from mlflow.entities import Metric, Param

        start = time.perf_counter()
        for i in range(n):
            run = self.client.create_run(self.place).info.run_id
            params = [Param(f"x.{k}", str(v)) for k, v in enumerate(trial(i).u)]
            metrics = [Metric("loss", 1.0 / (i + 1), 0, 0)]
            self.client.log_batch(run, metrics=metrics, params=params)
            self.client.set_terminated(run)
        return time.perf_counter() - start


@contextlib.contextmanager
def postgresql(parent: Path) -> Iterator[Callable[[], str] | None]:
    """A server with its own settings, on loopback: a function that makes databases."""
    import sqlalchemy as sa

    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=parent))
    root = os.getuid() == 0
    if root:  # it does not run as root
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [str(binaries[-1] / program), "-D", "data", *arguments]
        user = ["runuser", "-u", "postgres", "--"] if root else []
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*user, *command], cwd=folder, check=True, **quiet)  # type: ignore

    def database() -> str:
        name, address = f"b{uuid.uuid4().hex[:12]}", f"ada@127.0.0.1:{port}"
        engine = sa.create_engine(
            f"postgresql+psycopg://{address}/postgres", isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        engine.dispose()
        return f"postgresql+psycopg://{address}/{name}"

    call("initdb", "-A", "trust", "-U", "ada")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    call("pg_ctl", "-w", "-l", "log", "-o", options, "start")
    try:
        yield database
    finally:
        call("pg_ctl", "-w", "-m", "fast", "stop")


def measure(
    database: Callable[[], str], folder: Path, share: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Rates by quantity, and the CPU seconds of reading a large study."""
    url = database()
    kythera = Kythera(url, folder)
    mlflow = MLflow(database(), folder)
    rates = {**kythera.rates(), **Optuna(database()).rates(), **mlflow.rates()}
    sizes = {name: max(20, int(n * share)) for name, (_, n, _) in QUANTITIES.items()}
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for _ in range(REPEATS):
        for name, write in rates.items():
            found[name].append(sizes[name] / write(sizes[name]))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians, kythera.read(url, folder, int(MANY * share))


def table(
    found: dict[str, tuple[dict[str, float], dict[str, float]]], trials: int
) -> str:
    """What was measured, in markdown."""
    kinds = ("SQLite", "PostgreSQL")
    lines = [
        "| quantity | SQLite | aim | PostgreSQL | aim |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]

    def line(name: str, values: list[str], aims: tuple[Any, Any]) -> None:
        shown = [f"{a:,}" if a else "" for a in aims]
        pairs = zip(values, shown, strict=True)
        lines.append(f"| {name} | " + " | ".join(f"{v} | {a}" for v, a in pairs) + " |")

    def shown(function: Callable[[dict, dict], float], pattern: str) -> list[str]:
        return [
            pattern.format(function(*found[kind])) if kind in found else ""
            for kind in kinds
        ]

    for name, (what, _, aims) in QUANTITIES.items():
        line(f"{what}: {name}", shown(lambda r, _, n=name: r[n], "{:,.0f}"), aims)
    for ours, theirs in RATIOS:
        values = shown(lambda r, _, a=ours, b=theirs: r[a] / r[b], "{:,.3g}")
        what = QUANTITIES[ours][0].removesuffix("/s").removesuffix(", rows")
        line(f"{what}: {ours} / {theirs}", values, (None, None))
    for key, words in (
        ("open", "open the store and its study"),
        ("columns", f"read the columns of {trials:,} trials"),
        ("tail", "read those of the last ten"),
    ):
        line(
            f"kythera: {words}, CPU ms",
            shown(lambda _, s, k=key: 1e3 * s[k], "{:,.0f}"),
            (None, None),
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    given = parser.parse_args()
    share = 0.02 if given.quick else 1.0
    folder = Path(tempfile.mkdtemp(prefix="kythera-store-", dir=given.folder))
    folder.chmod(0o755)  # the server's user must reach its own folder in it
    found = {}
    try:
        with postgresql(folder) as database:
            found["SQLite"] = measure(
                lambda: f"sqlite:///{folder}/{uuid.uuid4().hex}.db", folder, share
            )
            if database is None:
                print("PostgreSQL is not installed, and not measured.")
            else:
                other = folder / "with-postgresql"
                found["PostgreSQL"] = measure(database, other, share)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = table(found, int(MANY * share))
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}\n\n{text}")
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
