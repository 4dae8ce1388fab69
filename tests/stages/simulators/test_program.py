"""External programs as simulators: what they are given, and all the ways they fail."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.stages.simulators import files
from kythera.stages.simulators.host import Rows

KEY = jax.random.key(2)
NUMBER = jax.ShapeDtypeStruct((), float)
X = jnp.arange(4.0)
PYTHON = (sys.executable, "-S", "-c")  # without site-packages it starts in 20 ms

# Reads and writes JSON alone: value = a * event + seed / 2^32.
LINE = """
import json
given = json.load(open("design.json"))
events = json.load(open("events.json"))["value"]
a, seed = given["design"]["a"], given["seed"]
json.dump({"value": [a * x + seed / 2**32 for x in events]}, open("output.json", "w"))
"""
# The same for one or several designs; those with a < 0 make it fail.
LINES = """
import json
given = json.load(open("design.json"))
events = json.load(open("events.json"))["value"]
runs = given.get("runs", [given])
with open(LOG, "a") as log:
    print(len(runs), file=log)
out = []
for run in runs:
    a = run["design"]["a"]
    assert a >= 0, "a is negative"
    for _ in range(given["rows"]):
        out.append(a * events[len(out)] + run["seed"] / 2**32)
json.dump({"value": out}, open("output.json", "w"))
"""


def escaped(text):
    return text.replace("{", "{{").replace("}", "}}")


def json_program(text, **options):
    command = [*PYTHON, escaped(text)]
    options = {"events_format": "json", "output_format": "json", **options}
    return ky.ProgramSimulator(command, NUMBER, **options)


def shell(script, row=NUMBER, names=False, **options):
    script = script if names else escaped(script)
    options = {"output_format": "json", **options}
    return ky.ProgramSimulator(["sh", "-c", script], row, **options)


def answer(numbers):
    """The script that writes these numbers."""
    return f"echo '{{\"value\": {numbers}}}' > output.json"


def call(simulator, a=2.0, x=X, key=KEY):
    return simulator({"a": jnp.array(a)}, x, key=key)


def alive(pid):
    """Whether a process runs; what waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pid):
    end = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < end, f"process {pid} was left behind"
        time.sleep(0.01)


def test_values_and_seed():
    simulator = json_program(LINE)
    seed = int(jax.random.bits(KEY, dtype=jnp.uint32))
    np.testing.assert_allclose(call(simulator), 2 * X + seed / 2**32, rtol=1e-6)
    other = call(simulator, key=jax.random.key(3))
    assert float(other[0]) != float(call(simulator)[0])


class Plate(eqx.Module):
    gap: jax.Array
    choice: jax.Array
    count: int
    name: str = eqx.field(static=True, default="plate")


class Hits(NamedTuple):
    energy: jax.Array
    where: jax.Array


READ = {
    "npz": "import numpy; e = dict(numpy.load('events.npz'))",
    "json": "import json; e = json.load(open('events.json'))",
    "hdf5": "import h5py; e = {k: v[()] for k, v in h5py.File('events.hdf5').items()}",
    "csv": (
        "import csv; r = list(csv.reader(open('events.csv')));"
        "e = {k: [float(v) for v in c] for k, *c in zip(*r)}"
    ),
    "parquet": (
        "from pyarrow import parquet; e = parquet.read_table('events.parquet');"
        "e = e.to_pydict()"
    ),
}
WRITE = {
    "npz": "import numpy; numpy.savez('output.npz', **o)",
    "json": "import json; json.dump(o, open('output.json', 'w'))",
    "hdf5": (
        "import h5py\nwith h5py.File('output.hdf5', 'w') as f:\n"
        "    for k, v in o.items(): f[k] = v"
    ),
    "csv": (
        "import csv\nwith open('output.csv', 'w') as f:\n"
        "    csv.writer(f).writerows([list(o), *zip(*o.values())])"
    ),
    "parquet": (
        "import pyarrow; from pyarrow import parquet;"
        "parquet.write_table(pyarrow.table(o), 'output.parquet')"
    ),
}
SWAP = """
import numpy
if "where" in e:
    where = numpy.array(e["where"])
else:
    where = numpy.stack([e["where[0]"], e["where[1]"]], 1)
back = where[:, ::-1]
number = numpy.array(e["energy"]).astype(int)
o = {"hits.energy": e["energy"], "number": number.tolist()}
"""


@pytest.mark.parametrize("format", files.NEEDS)
def test_every_format_both_ways(format):
    """Columns in tables, arrays elsewhere; a program that uses the format's own library."""
    columns = "o |= {'hits.where[0]': back[:, 0], 'hits.where[1]': back[:, 1]}"
    arrays = "o |= {'hits.where': back.tolist()}"
    program = "\n".join(
        [
            READ[format],
            SWAP,
            columns if format in ("csv", "parquet") else arrays,
            WRITE[format],
        ]
    )
    row = {
        "hits": Hits(NUMBER, jax.ShapeDtypeStruct((2,), float)),
        "number": jax.ShapeDtypeStruct((), jnp.int32),
    }
    simulator = ky.ProgramSimulator(
        [sys.executable, "-c", escaped(program)],
        row,
        events_format=format,
        output_format=format,
    )
    truth = Hits(jnp.array([3.0, 1.0, 2.0]), jnp.arange(6.0).reshape(3, 2) / 7)
    out = call(simulator, x=truth)
    np.testing.assert_array_equal(out["hits"].energy, truth.energy)
    np.testing.assert_array_equal(out["hits"].where, truth.where[:, ::-1])
    assert out["number"].dtype == jnp.int32
    assert out["number"].tolist() == [3, 1, 2]


def test_the_command_names_files_leaves_and_numbers(tmp_path):
    design = Plate(jnp.array(0.25), jnp.array([0.0, 1.0]), 3)
    copy = tmp_path / "words.json"
    program = (
        "import json, sys; from pathlib import Path; w = sys.argv[1:];"
        f"Path({str(copy)!r}).write_text(json.dumps([w, json.load(open(w[0]))]));"
        "json.dump({'value': [0] * 4}, open(w[2], 'w'))"
    )
    words = ["{design}", "{events}", "{output}", "{folder}", "{seed}", "{rows}"]
    words += ["--gap={gap:.3f}", "{choice[1]}", "{count}", "{{}}"]
    command = [*PYTHON, escaped(program), *words]
    simulator = ky.ProgramSimulator(command, NUMBER, output_format="json")
    simulator(design, X, key=KEY)
    (given, read) = json.loads(copy.read_text())
    folder = Path(given[3])
    assert given[:3] == [
        str(folder / name) for name in ("design.json", "events.npz", "output.json")
    ]
    seed = int(jax.random.bits(KEY, dtype=jnp.uint32))
    assert given[4:] == [str(seed), "4", "--gap=0.250", "1.0", "3", "{}"]
    assert read["design"] == {
        "gap": 0.25,
        "choice": [0.0, 1.0],
        "count": 3,
        "name": "plate",
    }
    assert (read["seed"], read["rows"]) == (seed, 4)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("true", "must write the file 'output.json'"),
        (
            "echo oh no >&2; exit 3",
            "ended with 3. Its standard error ended with: oh no",
        ),
        ("echo only said; exit 1", "standard output ended with: only said"),
        ("exit 1", "It said nothing"),
        ("kill -SEGV $$", "was ended by SIGSEGV"),
        ("sleep 30", "end within 0.3 s"),
        ("echo nonsense > output.json", "must be a json file of numbers"),
        ("echo '[1, 2]' > output.json", "must be a json file of numbers"),
        ("echo '{\"values\": [1]}' > output.json", "must hold 'value'.*'values'"),
        (answer("[1, 2, 3]"), r"\(4,\).*but has \(3,\)"),
        (answer("[[1], 2, 3, 4]"), "cannot be read"),
        (answer("[1, 2, 3, NaN]"), "row 3, is nan"),
        (answer("[1, 2, Infinity, 4]"), "row 2, is inf"),
        (answer("[1, 1e300, 3, 4]"), "row 1, is 1e\\+300"),
        (answer("[1, 2, 3, null]"), "must hold real numbers"),
        (answer('"1234"'), "but has"),
        ("mkdir output.json", "must write the file"),
    ],
)
def test_what_fails_is_a_failed_trial_with_its_cause(script, cause):
    with pytest.raises(errors.SimulationError, match=cause):
        call(shell(script, timeout=0.3 if "sleep" in script else 30))


@pytest.mark.parametrize(
    ("format", "script", "cause"),
    [
        ("npz", "echo PK > output.npz", "not a zip archive"),
        ("npz", "head -c 60 events.npz > output.npz", "not a zip archive"),
        ("csv", ": > output.csv", "must hold 'value'"),
        ("csv", "printf 'value\n1\n2\nthree\n4\n' > output.csv", "cannot be read"),
        ("csv", "printf 'value\n1\n2\n' > output.csv", r"but has \(2,\)"),
        ("csv", "printf 'value\n' > output.csv", r"but has \(0,\)"),
        ("csv", "printf 'value,w\n1\n2\n3\n4\n' > output.csv", "2 names and 1 col"),
        ("csv", "printf 'value,value\n1,2\n' > output.csv", "stands twice"),
        ("parquet", "echo no > output.parquet", "must be a parquet file"),
        ("hdf5", "echo no > output.hdf5", "must be a hdf5 file"),
    ],
)
def test_malformed_files(format, script, cause):
    with pytest.raises(errors.SimulationError, match=cause):
        call(shell(script, output_format=format))


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "bad.npz", value=np.array([{}] * 4, dtype=object))
    with pytest.raises(errors.SimulationError, match="cannot be read"):
        call(shell(f"cp {tmp_path}/bad.npz output.npz", output_format="npz"))


@pytest.mark.parametrize(("value", "fits"), [(2.0, True), (2.5, False), (3e9, False)])
def test_whole_numbers_stay_whole(value, fits):
    whole = jax.ShapeDtypeStruct((), jnp.int32)
    simulator = shell(answer([1, 2, 3, value]), whole)
    if fits:
        assert call(simulator).tolist() == [1, 2, 3, 2]
        return
    with pytest.raises(errors.SimulationError, match="fit int32"):
        call(simulator)


def test_a_program_that_is_not_there():
    simulator = ky.ProgramSimulator(["no-such-program"], NUMBER)
    with pytest.raises(errors.SimulationError, match="'no-such-program'.*No such file"):
        call(simulator)


def test_relative_paths_of_programs_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sim").write_text("#!/bin/sh\n" + answer([1, 2, 3, 4]))
    (tmp_path / "sim").chmod(0o755)
    simulator = ky.ProgramSimulator(["./sim"], NUMBER, output_format="json")
    assert call(simulator).tolist() == [1, 2, 3, 4]


def test_timeout_kills_all_that_the_program_started(tmp_path):
    log = tmp_path / "pids"
    began = time.monotonic()
    script = f"sh -c 'sleep 60' & echo $! >> {log}; echo $$ >> {log}; wait"
    with pytest.raises(errors.SimulationError, match="within 0.5 s"):
        call(shell(script, timeout=0.5))
    assert time.monotonic() - began < 5
    pids = [int(line) for line in log.read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        wait_until_dead(pid)


def test_nothing_runs_on_behind_a_program_that_ended(tmp_path):
    log = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {log}; {answer([1, 2, 3, 4])}"
    assert call(shell(script)).tolist() == [1, 2, 3, 4]
    wait_until_dead(int(log.read_text()))


def test_an_interrupt_kills_the_program(tmp_path):
    log = tmp_path / "pid"

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            call(shell(f"echo $$ > {log}; sleep 60", scratch=tmp_path))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until_dead(int(log.read_text()))
    assert os.listdir(tmp_path) == ["pid"]


def test_folders_are_removed_or_kept_and_named(tmp_path):
    call(json_program(LINE, scratch=tmp_path, keep=True))
    assert not list(tmp_path.iterdir())
    with pytest.raises(errors.SimulationError):
        call(shell("exit 1", scratch=tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(errors.SimulationError) as caught:
        call(shell("echo why >&2; exit 1", scratch=tmp_path, keep=True))
    (folder,) = tmp_path.iterdir()
    assert f"Its folder is kept: {folder}" in str(caught.value)
    assert (folder / "stderr.txt").read_text() == "why\n"
    assert json.loads((folder / "design.json").read_text())["design"] == {"a": 2.0}


def test_only_the_end_of_what_it_said_is_kept():
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1"
    with pytest.raises(errors.SimulationError) as caught:
        call(shell(script))
    assert str(caught.value).endswith("line 1999")
    assert len(str(caught.value)) < 2300


@pytest.mark.parametrize(
    ("make", "error", "cause"),
    [
        (lambda: ky.ProgramSimulator("sim -x", NUMBER), errors.InputError, "shlex"),
        (lambda: ky.ProgramSimulator([], NUMBER), errors.InputError, "no words"),
        (lambda: shell("{", names=True), errors.InputError, "Braces"),
        (lambda: shell("{}", names=True), errors.InputError, "pair is empty"),
        (lambda: shell("", timeout=0), errors.InputError, "positive"),
        (lambda: shell("", batch=0), errors.InputError, "`batch`"),
        (lambda: shell("{a}", names=True, batch=2), errors.InputError, "'a'.*its own"),
        (
            lambda: shell("{seed}", names=True, batch=2),
            errors.InputError,
            "'seed'.*its own",
        ),
        (lambda: shell("", output_format="hdf"), errors.InputError, "mean 'hdf5'"),
        (
            lambda: call(shell("{b}", names=True)),
            errors.SpaceError,
            "no leaf 'b'.*Known: 'a'",
        ),
        (
            lambda: call(shell("{a}", names=True), a=[1.0, 2.0]),
            errors.InputError,
            r"shape \(2,\)",
        ),
        (lambda: call(shell(""), a=np.nan), errors.SimulationError, "finite"),
        (lambda: shell("")({"a": print}, X, key=KEY), errors.InputError, "HostSim"),
    ],
)
def test_what_is_refused(make, error, cause):
    with pytest.raises(error, match=cause):
        make()


@pytest.mark.parametrize("format", ["hdf5", "parquet"])
def test_a_missing_library_names_its_extra(format, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UnsupportedError, match=rf"kythera\[{format}\]"):
        shell("", events_format=format)


class Square(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"loss": trace.signal**2}


def problem(simulator, **options):
    space = ky.Space({"a": jnp.array(0.5)}, {"a": ky.Real(-1, 1)})
    return ky.Problem(space, ky.Pipeline(Rows(), simulator), Square(), **options)


def evaluated(tmp_path, values, batch, **options):
    """Evaluations of these values of a, and the number of designs in each call."""
    log = tmp_path / f"calls{batch}"
    simulator = json_program(LINES.replace("LOG", repr(str(log))), batch=batch)
    us = (jnp.array(values)[:, None] + 1) / 2
    keys = jax.random.split(KEY, len(us))
    options = {"events": 4, **options}
    found, _ = ky.Direct()(problem(simulator, **options), us, None, key=keys)
    return found, [int(line) for line in log.read_text().split()]


@pytest.mark.parametrize("chunk", [None, 2])
def test_designs_in_one_call_are_as_alone(tmp_path, chunk):
    values = [0.1, 0.6, 0.7, 0.8, 0.9]
    alone, singles = evaluated(tmp_path, values, 1, chunk=chunk)
    together, calls = evaluated(tmp_path, values, 3, chunk=chunk)
    chunks = 1 if chunk is None else 2
    assert singles == [1] * 5 * chunks
    assert calls == [3] * chunks + [2] * chunks
    for a, b in zip(alone, together, strict=True):
        assert a.total.value == b.total.value
        assert a.total.stderr == b.total.stderr
    assert len({a.total.value for a in alone}) == 5


def test_a_design_that_fails_costs_no_other(tmp_path):
    found, calls = evaluated(tmp_path, [0.1, -0.5, 0.7], 3)
    assert calls == [3, 1, 1, 1]
    assert [bool(e.cause) for e in found] == [False, True, False]
    assert "a is negative" in found[1].cause


def test_a_search_goes_on_after_failures(tmp_path):
    """Half of the range makes the program fail; the best is where it does not."""
    simulator = json_program(LINES.replace("LOG", repr(str(tmp_path / "log"))), batch=4)
    trials = []
    solution = ky.optimise(
        problem(simulator, events=2),
        ky.RandomSearch(4),
        key=KEY,
        max_trials=12,
        report_events=2,
        callbacks=[trials.append],
    )
    states = {t.state for t in trials}
    assert states == {"complete", "failed"}
    assert all("a is negative" in t.evaluation.cause for t in trials if t.values[0] < 0)
    assert float(solution.best["a"]) >= 0
