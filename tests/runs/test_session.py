"""Searches that a study keeps: what is read while they run, what ends them, what they cost."""

import json
import resource
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import sqlalchemy as sa

import kythera as ky
from kythera import errors, testing
from kythera.instruments import telescope
from kythera.runs import schema, tables
from kythera.runs.check import check
from kythera.runs.checkpoint import Checkpoints
from kythera.runs.store import Store
from kythera.runs.study import Study

from ..laws.test_resume import same

KEY = jax.random.key(4)


@pytest.fixture(scope="module")
def problem():
    return telescope.problem(events=20)


def search(study: Study, problem, trials: int = 6, **options) -> ky.Solution:
    return study.optimise(
        problem,
        ky.adam(0.05),
        key=KEY,
        max_trials=trials,
        report_events=40,
        **options,
    )


def test_a_study_is_a_result(kept, problem):
    study = Study.of(kept, "first", problem)
    with pytest.raises(errors.StoreError, match="no run 1, but 0"):
        study.result()
    solution = search(study, problem)
    found = Study.open(kept, "first").result()
    assert found.finished
    np.testing.assert_array_equal(found.best, problem.space.values(solution.u_best))
    assert found.gain.value == solution.gain.value
    assert found.table() == solution.table()
    assert set(found.figures) == set(
        problem.draw(problem, {"start": solution.start, "best": solution.best}, KEY)
    )
    row = study.run()
    assert (row["state"], row["holder"]) == ("finished", "")
    assert study.count() == 6
    numbers = study.drawings()
    assert numbers[0] == 0
    assert numbers[-1] == 6, "the best design is drawn behind the last trial"
    assert all(study.drawing(n) for n in numbers)
    assert study.drawing(99) == {}


def test_what_was_found_so_far_can_be_read(kept, problem):
    study, seen = Study.of(kept, "first", problem), []

    def look(trial) -> None:
        if trial.number == 4:
            seen.append(Study.open(kept, "first").result())

    search(study, problem, callbacks=[look])
    (found,) = seen
    assert not found.finished
    assert len(found.trials["number"]) == 4
    assert found.record["terms"] == ["slope"]
    assert found.events == 80
    assert np.isnan(found.gain.value)
    assert not np.array_equal(found.best, found.start), "what it would build now"
    assert "not finished" in found.table()
    from kythera.report.page import page

    assert "telescope" in page(found)


def test_columns_are_those_of_a_file(kept, problem, tmp_path):
    study = Study.of(kept, "first", problem)
    solution = search(study, problem)
    from kythera.runs.describe import save

    saved = ky.load(save(solution, tmp_path / "folder")).trials
    found = study.result().trials
    assert set(found) == set(saved)
    for name, column in saved.items():
        if name != "seconds":
            np.testing.assert_array_equal(found[name], column, err_msg=name)
    later = study.columns(after=3)
    assert later["number"].tolist() == [4, 5]


def test_a_limit_may_be_raised(kept, problem):
    whole = search(Study.of(kept, "whole", problem), problem, 8)
    study = Study.of(kept, "first", problem)
    search(study, problem, 3)
    assert study.count() == 3
    again = search(Study.of(kept, "first", problem), problem, 8)
    same(again.trials, whole.trials)
    assert study.run()["seconds"] > 0


def test_another_problem_is_no_study_of_that_name(kept, problem):
    Study.of(kept, "first", problem)
    with pytest.raises(errors.StoreError, match=r"has the parameters z\[0\]"):
        Study.of(kept, "first", testing.noisy_sphere())


def test_metrics_are_written_in_batches(kept, problem, monkeypatch):
    study = Study.of(kept, "first", problem)
    with study.begin() as run:
        writes = []
        real = run._write
        monkeypatch.setattr(run, "_write", lambda **v: (writes.append(1), real(**v)))
        for step in range(2500):
            run.log({"loss of the network": step / 7, "broken": float("nan")}, step)
        run.flush()
    assert len(writes) <= 5 + 3  # 5000 rows in thousands, and what a slow second adds
    found = study.metrics()
    assert set(found) == {"loss of the network", "broken"}
    steps, values = found["loss of the network"]
    np.testing.assert_array_equal(steps, np.arange(2500))
    np.testing.assert_array_equal(values, np.arange(2500) / 7)
    assert np.isnan(found["broken"][1]).all()
    with study.begin() as run, pytest.raises(errors.InputError, match="printable"):
        run.log({"": 1.0}, 0)


def test_metrics_behind_a_checkpoint_are_dropped_with_its_trials(kept, problem):
    study = Study.of(kept, "first", problem)

    def log(stored):
        return lambda trial: stored.log({"number": trial.number}, trial.number)

    with study.begin() as run:
        ky.optimise(
            problem,
            ky.adam(0.05),
            key=KEY,
            max_trials=3,
            recorder=run,
            callbacks=[log(run)],
            report_events=40,
        )
        run.log({"number": 3.0}, 3)
    with study.begin() as run:
        run.resume()
    assert study.metrics()["number"][0].tolist() == [0, 1, 2]


def test_files_are_kept_by_their_hash(kept, problem):
    study = Study.of(kept, "first", problem)
    other = Study.of(kept, "second", problem)
    for one in (study, other):
        with one.begin() as run:
            run.keep("notes", b"the same", "text/plain")
    with study.begin() as run:
        run.keep("weights", b"w" * 100_000)
        run.keep("weights", b"v" * 100_000)
    assert study.artifact("weights") == b"v" * 100_000
    assert [a["name"] for a in study.artifacts()] == ["notes", "weights"]
    contents = [p for p in (kept.files / "artifacts").rglob("*") if p.is_file()]
    assert len(contents) == 3
    study.delete(name="first")
    assert other.artifact("notes") == b"the same"
    with pytest.raises(errors.StoreError, match="Did you mean 'notes'"):
        other.artifact("note")
    (left,) = [
        p
        for p in (kept.files / "artifacts").rglob("*")
        if p.is_file() and p.read_bytes() == b"the same"
    ]
    left.write_bytes(b"the sane")
    with pytest.raises(errors.StoreError, match="cut short or altered"):
        other.artifact("notes")
    assert any("altered" in fault for fault in check(kept)[1])
    left.unlink()
    with pytest.raises(errors.StoreError, match="cannot be read"):
        other.artifact("notes")


def test_a_volume_may_be_elsewhere(tmp_path, problem):
    kept = Store(tmp_path / "runs.db", user="ada", volume="memory://kythera")
    study = Study.of(kept, "first", problem)
    with study.begin() as run:
        run.keep("notes", b"far away")
        run.keep("notes", b"far away")
    assert study.artifact("notes") == b"far away"
    assert not (kept.files / "artifacts").exists()
    import fsspec

    system = fsspec.filesystem("memory")
    (place,) = [p for p in system.find("/kythera") if system.size(p) == len("far away")]
    system.pipe_file(place, b"far")  # as one that a lost connection cut short
    with study.begin() as run:
        run.keep("again", b"far away")
    assert study.artifact("notes") == b"far away"
    study.delete(name="first")
    with pytest.raises(errors.StoreError, match="cannot be read"):
        kept.volume.get("0" * 64, "nothing")
    kept.close()


def test_a_search_stops_when_its_price_is_spent(kept, problem):
    study = Study.of(kept, "first", problem)
    solution = study.optimise(
        problem,
        ky.adam(0.05),
        key=KEY,
        max_cpu_seconds=1e-6,
        report_events=40,
    )
    assert len(solution.trials) == 1
    assert solution.reason == "the CPU time is spent"
    (mine,) = kept.usage()
    assert mine["events"] == 20
    assert mine["cpu_seconds"] > 0
    assert mine["price"] == 0
    dear = Study.of(kept, "dear", problem)
    solution = dear.optimise(
        problem,
        ky.adam(0.05),
        key=KEY,
        max_price=1e-9,
        price_per_hour=3600.0,
        report_events=40,
    )
    assert solution.reason == "the price is spent"
    (mine,) = kept.usage()
    assert mine["price"] == pytest.approx(dear.run()["cpu_seconds"])
    assert json.loads(dear.run()["limits"])["price"] == 1e-9


def test_a_user_may_be_limited(kept, problem):
    kept.allow("ada", cpu_seconds=1e-6, price=None)
    solution = search(Study.of(kept, "first", problem), problem)
    assert solution.reason == "the CPU time of 'ada' is spent"
    kept.allow("ada", cpu_seconds=None, price=None)
    solution = search(Study.of(kept, "first", problem), problem)
    assert len(solution.trials) == 1, "the reason to stop was kept"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_cpu_seconds": 0.0}, "`max_cpu_seconds` must be > 0"),
        ({"max_price": 1.0}, "needs `price_per_hour`"),
        ({"price_per_hour": -1.0}, "`price_per_hour` must be >= 0"),
    ],
)
def test_crooked_limits_are_refused(kept, problem, options, match):
    with pytest.raises(errors.InputError, match=match):
        search(Study.of(kept, "first", problem), problem, **options)
    assert Study.open(kept, "first").runs() == []


def test_a_search_that_fails_says_so(kept):
    def broken(x):
        raise RuntimeError("no beam")

    problem = ky.from_function(broken, {"x": ky.Real(0, 1)})
    study = Study.of(kept, "first", problem)
    with pytest.raises(errors.SimulationError, match="no beam"):
        study.optimise(problem, ky.RandomSearch(4), key=KEY, max_trials=40)
    row = study.run()
    assert row["state"] == "failed"
    assert "no beam" in row["reason"]
    assert study.count() == 20
    assert set(study.result().causes.values()) == {
        t.evaluation.cause for t in study.trials()
    }


def test_another_task_starts_from_a_result(kept, problem):
    study = Study.of(kept, "first", problem)
    solution = search(study, problem)
    begun = study.start(problem)
    np.testing.assert_allclose(begun.space.start, solution.u_best, atol=1e-6)
    begun = study.start(problem, trial=3)
    np.testing.assert_allclose(begun.space.start, solution.trials[3].u, atol=1e-6)
    with pytest.raises(errors.StoreError, match="no trial 6, but 6 from 0 on"):
        study.start(problem, trial=6)


def test_a_task_starts_from_the_whole_numbers_that_were_built(kept):
    built: list[float] = []
    problem = ky.from_function(lambda n: built.append(n) or n, {"n": ky.Integer(2, 5)})
    study = Study.of(kept, "first", problem)
    study.optimise(problem, ky.RandomSearch(4), key=KEY, max_trials=12)
    for i in range(12):
        assert study.start(problem, trial=i).space.template["n"] == built[i]


def test_tables(kept, problem):
    study = Study.of(kept, "first", problem)
    search(study, problem)
    found = study.result()
    for library in ("pandas", "polars"):
        frame = tables.frame(found, library)
        assert len(frame) == 6
        np.testing.assert_allclose(frame["z[0] (m)"], found.trials["values"][:, 0])
        np.testing.assert_array_equal(frame["term:slope"], found.trials["terms"][:, 0])
    import io

    import pyarrow.parquet as parquet

    table = parquet.read_table(io.BytesIO(tables.encode(found, ".parquet")))
    assert table["value"].to_pylist() == found.trials["total"].tolist()
    assert json.loads(table.schema.metadata[b"kythera"])["instrument"] == "telescope"
    lines = tables.encode(found, ".csv").decode().splitlines()
    assert lines[0].startswith("number,state,value,stderr")
    assert len(lines) == 7
    with pytest.raises(errors.InputError, match=r"\.parquet, \.csv, \.json"):
        tables.encode(found, ".xls")


SCRIPT = """
import sys, jax, kythera as ky
from kythera import testing
store = ky.Store(sys.argv[1], user="ada", files=sys.argv[2])
problem = testing.noisy_sphere()
study = ky.Study.of(store, "first", problem)
{before}
found = study.optimise(problem, ky.adam(0.05), key=jax.random.key(4), max_trials={trials},
                       report_events=16)
print(found.reason)
store.close()
"""


def process(url: str, files, before: str = "", trials: int = 60) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=before, trials=trials), url, files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def goes_on(kept: Store, url: str, trials: int = 60) -> None:
    """After what happened, it ends with the trials of one to which nothing did."""
    last = process(url, str(kept.files), trials=trials)
    out, err = last.communicate(timeout=120)
    assert (last.returncode, out.strip()) == (0, "all trials are done"), err
    problem = testing.noisy_sphere()
    whole = ky.optimise(
        problem, ky.adam(0.05), key=KEY, max_trials=trials, report_events=16
    )
    same(Study.open(kept, "first").trials(), whole.trials)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_full_database_loses_nothing(kept, url):
    """SQLite refuses to grow, as on a full disk; then there is room again."""
    full = "\n".join(
        [
            "import sqlalchemy.event as event",
            "def limit(connection, record):",
            "    pages = connection.execute('pragma page_count').fetchone()[0]",
            "    connection.execute(f'pragma max_page_count={pages + 4}')",
            "store.engine.dispose()",
            "event.listen(store.engine, 'connect', limit)",
        ]
    )
    first = process(url, str(kept.files), full)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "database or disk is full" in err
    assert 0 < Study.open(kept, "first").count() < 60
    goes_on(kept, url)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_disk_that_takes_no_checkpoint_loses_nothing(kept, url):
    """No file may grow beyond some bytes, as with a quota; the database is there already."""
    Study.of(kept, "first", testing.noisy_sphere())
    small = "\n".join(
        [
            "import signal, resource, os",
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
            "from kythera.runs import folder",
            "whole, count = folder.write_atomically, []",
            "def write(path, data):",
            "    count.append(1)",
            "    if len(count) == 9:",
            "        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))",
            "    whole(path, data)",
            "folder.write_atomically = write",
        ]
    )
    first = process(url, str(kept.files), small)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "cannot be written: File too large" in err
    assert not list(kept.files.rglob("*.tmp"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 500
    goes_on(kept, url)


def test_a_checkpoint_behind_other_trials_is_passed_over(kept, problem):
    """As one that a process wrote late, after another one had taken the run over."""
    whole = search(Study.of(kept, "whole", problem), problem, 8)
    study = Study.of(kept, "first", problem)
    search(study, problem, 5)
    saved = Checkpoints(study.folder(study.run()["id"]))
    assert saved.numbers() == [4, 3]
    before = saved.load(at_most=3)
    assert before
    saved.save(4, *before)
    with study.begin() as run:
        resumed = run.resume()
        assert resumed
        assert len(resumed.trials) == 4
    same(search(study, problem, 8).trials, whole.trials)
    for number in saved.numbers():
        saved.save(number, before[0], {**before[1], "trial": "another"})
    with (
        study.begin() as run,
        pytest.raises(errors.StoreError, match="not of one store"),
    ):
        run.resume()
    assert study.count() == 8


def test_the_files_of_another_store_are_refused(open_as, problem, tmp_path, url):
    """And nothing is dropped from the database."""
    search(Study.of(open_as("ada"), "first", problem), problem)
    empty = Store(url, user="ada", files=tmp_path / "others")
    with pytest.raises(
        errors.StoreError, match=r"has 6 trials.*others.*give its `files`"
    ):
        search(Study.open(empty, "first"), problem, 8)
    assert Study.open(empty, "first").count() == 6
    empty.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_lost_connection_loses_nothing(kept, url, postgresql):
    """The server goes away in the middle, and comes back."""
    first = process(url, str(kept.files), trials=2000)
    until = time.monotonic() + 60
    while trials_in(kept) < 20 and time.monotonic() < until:
        time.sleep(0.05)
    postgresql.stop()
    _, err = first.communicate(timeout=60)
    postgresql.start()
    assert first.returncode == 1
    assert "cannot be used" in err
    assert "secret" not in err
    kept.close()
    count = trials_in(kept)
    assert count >= 20
    goes_on(kept, url, trials=count + 10)


def trials_in(kept: Store) -> int:
    with kept.reading() as connection:
        counted = sa.select(sa.func.count()).select_from(schema.trial)
        return int(connection.execute(counted).scalar_one())
