"""Studies by command: begun, gone on with, read, compared, replayed, shared, deleted."""

import json
import sqlite3

import numpy as np
import pytest

from kythera import cli
from kythera.runs.checkpoint import Checkpoints
from kythera.runs.store import Store
from kythera.runs.study import Study

SMALL = ("optimise", "telescope", "--set", "events=200", "--report-rows", "400")
TWO = """
import kythera as ky
defaults = {"optimiser": "adam:step=0.1", "trials": 4}
def problem(width=1.0):
    return ky.from_function(
        lambda x, y: (x - 0.3 * width) ** 2 + y**2,
        {"x": ky.Real(0, 1, "cm"), "y": ky.Real(-1, 1)},
        start={"x": 0.9, "y": 0.5},
        differentiable=True,
    ).replace(name="bowl")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in, with a store and a user's module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "two.py").write_text(TWO)
    monkeypatch.setenv("KYTHERA_STORE", "runs.db")
    monkeypatch.setenv("KYTHERA_USER", "ada")
    return tmp_path


@pytest.fixture
def run(place, capsys):
    """Call the command line; exit code, standard output, standard error."""

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def first(run):
    """A study of four trials."""
    code, out, err = run(*SMALL, "--trials", 4, "--name", "first")
    assert code == 0, err
    assert "study   first, run 1" in out
    return "first"


def trials(run, name: str) -> list[dict]:
    code, out, err = run("export", name)
    assert code == 0, err
    return json.loads(out)["trials"]


def test_a_study_goes_on(run, first, place):
    code, _, err = run("resume", first, "--trials", 7)
    assert code == 0, err
    assert run(*SMALL, "--trials", 7, "--name", "whole")[0] == 0
    assert trials(run, first) == trials(run, "whole")
    found = trials(run, first)
    assert [t["number"] for t in found] == list(range(7))
    assert set(found[0]) >= {"number", "value", "stderr", "design", "state", "events"}
    assert set(found[0]["design"]) == {f"z[{i}]" for i in range(4)}
    assert not (place / "results").exists()


def test_the_same_command_goes_on(run, first):
    code, _, err = run(*SMALL, "--trials", 4, "--name", first)
    assert code == 2
    assert "already" in err
    assert "kythera resume" in err
    assert run(*SMALL, "--trials", 6, "--name", first, "--resume")[0] == 0
    for other in (("--seed", 2), ("--optimiser", "random"), ("--set", "planes=6")):
        code, _, err = run(*SMALL, *other, "--trials", 6, "--name", first, "--resume")
        assert code == 2
        assert "another --name" in err
    assert len(trials(run, first)) == 6
    assert run(*SMALL, "--trials", 2, "--name", "new", "--resume")[0] == 0


def test_names_are_found(run):
    for _ in range(2):
        assert run(*SMALL, "--trials", 1)[0] == 0
    _, out, _ = run("studies", "--json")
    assert [s["study"] for s in json.loads(out)] == ["telescope-1", "telescope-2"]
    assert "telescope-2  run 1  finished" in run("studies")[1]


def test_show_report_compare(run, first, place):
    assert (
        run(*SMALL, "--trials", 2, "--optimiser", "random", "--name", "other")[0] == 0
    )
    code, table, _ = run("show", first)
    assert code == 0
    assert "gain" in table
    summary = json.loads(run("show", first, "--json")[1])
    assert summary["trials"] == 4
    code, _, err = run("report", first)
    assert code == 2
    assert "--out" in err
    assert run("report", first, "--out", "page.html")[0] == 0
    assert b"kythera report" in (place / "page.html").read_bytes()
    _, out, _ = run("compare", first, "other")
    assert len(out.splitlines()) == 3
    rows = json.loads(run("compare", first, "other", "--json")[1])
    assert [row["name"] for row in rows] == [first, "other"]
    assert rows[0]["gain"] == summary["gain"]


def test_a_folder_is_read_before_a_study(run, first):
    assert run(*SMALL, "--trials", 1, "--name", "second", "--out", "kept")[0] == 0
    assert run("show", "kept")[0] == 0
    assert (
        run("show", "second")[1].splitlines()[1:]
        == run("show", "kept")[1].splitlines()[1:]
    )


def test_export(run, first, place):
    for name in ("a.parquet", "a.csv", "a.json"):
        assert run("export", first, "--out", name) == (0, f"{name}\n", "")
    import pyarrow.parquet as parquet

    assert parquet.read_table(place / "a.parquet").num_rows == 4
    assert json.loads((place / "a.json").read_text())["trials"] == trials(run, first)
    code, _, err = run("export", first, "--out", "a.csv")
    assert code == 2
    assert "not overwritten" in err
    assert run("export", first, "--out", "a.xls")[0] == 2


def test_replay(run, first, place):
    for number in (0, 3):
        assert run("replay", first, number) == (
            0,
            f"trial {number}: bit-identical\n",
            "",
        )
    code, _, err = run("replay", first, 4)
    assert code == 2
    assert "no trial 4, but 4 from 0 on" in err


@pytest.mark.parametrize(
    "optimiser", ["evolution:population=4", "lbfgsb", "multi_start:optimiser=(adam)"]
)
def test_replay_of_batches(run, optimiser):
    options = ("--optimiser", optimiser, "--name", "first", "--trials", 7)
    assert run(*SMALL, *options)[0] == 0
    last = len(trials(run, "first")) - 1
    assert last >= 1
    assert run("replay", "first", last) == (0, f"trial {last}: bit-identical\n", "")


def test_replay_of_designs_in_flight(run):
    options = ("--optimiser", "random", "--in-flight", 2, "--name", "first")
    assert run(*SMALL, *options, "--trials", 4)[0] == 0
    assert run("replay", "first", 3) == (0, "trial 3: bit-identical\n", "")


def test_what_differs_is_said(run, first, place):
    """A trial that was edited, and a store from other versions."""
    with sqlite3.connect(place / "runs.db") as connection:
        connection.execute("update trial set value = value + 0.001 where number = 2")
        (spec,) = connection.execute("select spec from study").fetchone()
        changed = json.loads(spec)
        changed["environment"]["libraries"]["jax"] = "0.0.1"
        connection.execute("update study set spec = ?", (json.dumps(changed),))
    connection.close()
    code, out, _ = run("replay", first, 2)
    assert code == 1
    assert "standard errors" in out
    assert "jax 0.0.1 -> " in out
    _, _, err = run("resume", first, "--trials", 5)
    assert "may differ in its bits: jax 0.0.1 -> " in err


def test_a_partial_task_starts_from_anothers_result(run):
    """The white paper's way of working in teams: freeze some, go on with the others."""
    assert run("optimise", "two:problem", "--set", "width=2", "--name", "first")[0] == 0
    found = trials(run, "first")
    options = ("--start", "first:3", "--freeze", "x", "--name", "second")
    code, out, err = run("optimise", *options, "--trials", 3)
    assert code == 0, err
    assert "x " not in out
    second = trials(run, "second")
    assert second[0]["design"] == {"y": pytest.approx(found[3]["design"]["y"])}
    for number in range(3):
        x, y = found[3]["design"]["x"] / 100, second[number]["design"]["y"]
        value = (x - 0.3 * 2) ** 2 + y**2
        assert second[number]["value"] == pytest.approx(value, rel=1e-5)
    assert run("replay", "second", 2) == (0, "trial 2: bit-identical\n", "")
    store = Store("runs.db", user="ada")
    origin = Study.open(store, "second").spec["origin"]
    store.close()
    assert origin == {"study": "first", "user": "ada", "run": 1, "trial": 3}
    third = ("--start", "second", "--freeze", "y", "--name", "third")
    assert run("optimise", *third, "--trials", 1)[0] == 0
    assert trials(run, "third")[0]["design"] == {
        "x": pytest.approx(found[3]["design"]["x"])
    }, "what the second task had frozen stays as it was"


def test_users(run, first, monkeypatch):
    monkeypatch.setenv("KYTHERA_USER", "bob")
    code, _, err = run("show", "ada/first")
    assert code == 2
    assert "no study" in err
    monkeypatch.setenv("KYTHERA_USER", "ada")
    assert run("share", first, "bob")[0] == 0
    monkeypatch.setenv("KYTHERA_USER", "bob")
    assert run("show", "ada/first")[0] == 0
    assert "ada/first" in run("studies")[1]
    assert run("replay", "ada/first", 1)[0] == 0
    for refused in (
        ("resume", "ada/first", "--trials", 9),
        ("delete", "ada/first", "--name", "first"),
        ("share", "ada/first", "eve"),
    ):
        code, _, err = run(*refused)
        assert code == 2, refused
        assert "read it only" in err or "read" in err
    options = ("--start", "ada/first", "--name", "mine", "--trials", 1)
    assert run("optimise", *options)[0] == 0


def test_delete(run, first):
    code, _, err = run("delete", first, "--name", "fist")
    assert code == 2
    assert "once more" in err
    assert run("delete", first, "--name", first)[0] == 0
    assert json.loads(run("studies", "--json")[1]) == []


def test_stores_are_looked_after(run, first, place):
    code, out, _ = run("store", "check")
    assert code == 0
    assert "1 studies, 1 runs, 4 trials, 2 checkpoints" in out
    _, out, _ = run("store", "usage")
    assert out.splitlines()[1].split()[:3] == ["ada", "1", "800"]
    assert json.loads(run("store", "usage", "--json")[1])[0]["events"] == 800
    assert run("store", "allow", "ada", "--cpu-seconds", 0.001)[0] == 0
    assert run("resume", first, "--trials", 9)[0] == 0
    assert len(trials(run, first)) == 5
    code, _, err = run("store", "allow", "adda", "--price", 3)
    assert code == 2
    assert "Did you mean 'ada'" in err
    (
        place / "runs.db.files/checkpoints/1-1/checkpoint-000000004.safetensors"
    ).write_bytes(b"")
    code, out, _ = run("store", "check")
    assert code == 0, "the one before it can be read"
    for file in (place / "runs.db.files/checkpoints/1-1").glob("*"):
        file.write_bytes(b"")
    code, out, _ = run("store", "check")
    assert code == 1
    assert "was cut short" in out


def test_a_spoilt_checkpoint_costs_one_batch(run, first, place):
    """The one before it is taken; where none is left, the run says so."""
    whole = trials(run, first)
    kept = Checkpoints(place / "runs.db.files/checkpoints/1-1")
    data = bytearray(kept._path(3).read_bytes())
    data[-1] ^= 1
    kept._path(3).write_bytes(data)
    assert run("resume", first)[0] == 0
    assert trials(run, first) == whole
    for number in kept.numbers():
        kept._path(number).write_bytes(b"no checkpoint")
    code, _, err = run("resume", first)
    assert code in (1, 2)
    assert "cut short, altered" in err
    assert len(trials(run, first)) == 4, "nothing was dropped"


def test_a_study_from_python_is_no_command(run, place):
    import jax

    from kythera import testing
    from kythera.optimisers.gradient import adam

    store = Store("runs.db", user="ada")
    problem = testing.noisy_sphere()
    Study.of(store, "by hand", problem).optimise(
        problem, adam(0.1), key=jax.random.key(1), max_trials=2, report_events=8
    )
    store.close()
    assert run("show", "by hand")[0] == 0
    for command in (("resume",), ("replay", "0")):
        code, _, err = run(command[0], "by hand", *command[1:])
        assert code == 2
        assert "begun in Python" in err


def test_trackers_are_told(run, place):
    options = ("--tracker", "tensorboard:folder=boards", "--name", "first")
    assert run(*SMALL, *options, "--trials", 3)[0] == 0
    assert list((place / "boards").rglob("events.out.tfevents.*"))
    store = Store("runs.db", user="ada")
    (ids,) = [json.loads(r["tracker"]) for r in Study.open(store, "first").runs()]
    store.close()
    assert len(ids["tensorboard"]) == 32


REFUSED = {
    "no store": ("studies", "Give --store"),
    "no such store": ("studies --store none.db", "no store at 'none.db'"),
    "another program's": ("studies --store songs.db", "songs", "of its own"),
    "no database": ("studies --store two.py", "not an SQLite database"),
    "read-only": ("{small} --store sqlite:///file:old.db?mode=ro&uri=true", "readonly"),
    "unwritable": ("{small} --store /proc/none/runs.db", "cannot be used"),
    "no server": (
        "studies --store postgresql://ada:secret@127.0.0.1:1/x --files f",
        "ada:***@127.0.0.1",
    ),
    "no files": ("studies --store postgresql://ada:secret@h/x", "Give `files`"),
    "no URL": ("studies --store ://", "cannot be read"),
    "no driver": ("studies --store nosql://h/x --files f", "No driver"),
    "no study": ("resume nothing --store old.db", "no study 'nothing'"),
    "no start": ("{small} --start nothing:3 --store old.db", "no study 'nothing'"),
    "start without a store": ("{small} --start first", "--store"),
    "counted in a store": ("{small} --cpu-seconds 3", "--store runs.db"),
    "price": ("{small} --max-price 3 --store old.db", "`price_per_hour`"),
    "frozen": ("{small} --freeze zz --store old.db", "Did you mean 'z'"),
    "executor": ("{small} --executor dusk --store old.db", "Did you mean 'dask'"),
    "tracker": ("{small} --tracker mlfow --store old.db", "Did you mean 'mlflow'"),
    "name": ("{small} --store old.db --name \n", "printable"),
    "long name": ("{small} --store old.db --name " + "x" * 10_000, "1 to 200"),
    "in flight": ("{small} --in-flight 2 --optimiser adam", "`in_flight`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, run, place, monkeypatch):
    monkeypatch.delenv("KYTHERA_STORE")
    with sqlite3.connect(place / "songs.db") as connection:
        connection.execute("create table songs (id integer)")
    connection.close()
    Store("old.db", user="ada").close()
    line, *fragments = REFUSED[case]
    words = line.replace("{small}", "optimise telescope --trials 2").split(" ")
    code, out, err = run(*words)
    assert code == 2, err
    assert "Traceback" not in err
    assert "secret" not in err
    for fragment in fragments:
        assert fragment in err, err
    store = Store("old.db", user="ada")
    assert Study.list(store) == []
    store.close()
    assert not (place / "results").exists()


def test_strange_names(run, place):
    for name in ("it's", 'a "b"', "a/b", "../up", "ünïcode 光", "semi;colon --", "%s"):
        assert run(*SMALL, "--trials", 1, "--name", name)[0] == 0
        assert run("show", name)[0] == 0, name
        assert run("report", name, "--out", "page.html")[0] == 0
    assert len(json.loads(run("studies", "--json")[1])) == 7
    files = {
        path.parent.name for path in (place / "runs.db.files").rglob("*.safetensors")
    }
    assert all(np.char.isdigit(f.replace("-", "")) for f in files)
    assert not (place.parent / "up").exists()
