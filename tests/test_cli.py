"""The command line: what it writes, what it refuses, how it stops."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kythera as ky
from kythera import cli
from kythera.cli.base import Stop, prepare_jax
from kythera.core import comparison, measure

SMALL = ("--set", "events=200", "--trials", "6")

NEW = "my_counter"
MODULES = {
    "good": """
        import kythera as ky
        defaults = {"optimiser": "adam:step=0.1", "trials": 3}
        def problem(width=1.0, count: int = 2, *, label: str = "a"):
            if width > 5:
                raise RuntimeError("too wide for the hall")
            return ky.from_function(
                lambda x, y: (x - 0.3 * width) ** 2 + y**2,
                {"x": ky.Real(0, 1, "cm"), "y": ky.Real(-1, 1)},
                start={"x": 0.9},
                differentiable=True,
            ).replace(name="bowl")
        ready = problem()
        number = 3
        needs = lambda size: problem(size)
    """,
    "slow": """
        import time
        import kythera as ky
        def step(x):
            time.sleep(0.5)
            return x**2
        def problem():
            return ky.from_function(step, {"x": ky.Real(-1, 2)})
    """,
    "dying": """
        import kythera as ky
        calls = []
        def step(x):
            calls.append(x)
            if len(calls) > 4:
                raise RuntimeError("no beam")
            return x**2
        def problem():
            return ky.from_function(step, {"x": ky.Real(-1, 2)})
    """,
    "raises_here": """
        import json
        value = json.loads("{")
    """,
    "needs_more": "import a_package_that_is_not_there",
    "no_python": "def problem(:",
    "leaves": "import sys; sys.exit(3)",
    "bad_defaults": "defaults = {'optimizer': 'adam'}\nfrom good import problem",
    "crooked_defaults": "defaults = 3\nfrom good import problem",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to run in, with a user's modules beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    modules = tmp_path / "modules"
    modules.mkdir()
    for name, code in MODULES.items():
        lines = [line.removeprefix("        ") for line in code.splitlines()]
        (modules / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(modules), *sys.path])
    for name in (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    ):
        monkeypatch.setenv(name, os.environ.get(name, "0"))
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] in (*MODULES, NEW)]:
        del sys.modules[name]


@pytest.fixture
def run(place, capsys):
    """Call the command line here; exit code, standard output, standard error."""

    def call(*arguments):
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def nothing_simulated(monkeypatch):
    def refuse(*_):
        raise AssertionError("something was simulated")

    monkeypatch.setattr(measure, "evaluate", refuse)
    monkeypatch.setattr(comparison, "compare", refuse)


REFUSED = {
    "unknown instrument": (
        "optimise telescop",
        "'telescope'",
        "package.module:problem",
    ),
    "no instrument": ("optimise", "needs an instrument"),
    "unknown setting": ("optimise telescope --set pitch=3", "'pitch'", "'planes'"),
    "unknown parameter": ("optimise telescope --set zz=3", "Did you mean 'z'"),
    "unknown entry": ("optimise telescope --set z[9]=0.5", "(4,)", "z[0]"),
    "outside the bounds": (
        "optimise telescope --set z[2]=1.6",
        "'z[2]'",
        "1.6",
        "[0, 1]",
    ),
    "wrong shape": ("optimise telescope --set z=[0.1,0.2]", "(4,)", "(2,)"),
    "not finite": ("optimise telescope --set z[0]=nan", "finite", "nan"),
    "not finite, keyword": (
        "optimise good:problem --set width=inf",
        "'width'",
        "finite",
    ),
    "not a number": ("optimise telescope --set z=left", "'z'", "'left'"),
    "not whole": ("optimise telescope --set planes=4.5", "a whole number", "4.5"),
    "events not whole": ("optimise good:problem --set events=1.5", "`events`", "1.5"),
    "no events": ("optimise telescope --set events=0", "`events`", ">= 1"),
    "unknown unit": ("optimise telescope --set z=3furlong", "'furlong'", "no unit"),
    "no value": ("optimise telescope --set z", "NAME=VALUE"),
    "twice": ("optimise telescope --set z=0.1 --set z=0.2", "twice"),
    "unknown optimiser": ("optimise telescope --optimiser adma", "Did you mean 'adam'"),
    "unknown estimator": ("optimise telescope --estimator path", "'pathwise'"),
    "optimiser's setting": ("optimise telescope --optimiser adam:stp=1", "'step'"),
    "optimiser's value": ("optimise telescope --optimiser adam:step=0", "> 0"),
    "no gradient": ("optimise telescope --estimator direct", "`Direct`", "gradients"),
    "unsupported": (
        "optimise slow:problem --estimator pathwise --optimiser adam",
        "Use",
    ),
    "small budget": ("optimise telescope --events 10", "10 events", "1,000 events"),
    "no budget": ("optimise telescope --trials 0", "`max_trials`", "> 0"),
    "budget not a number": ("optimise telescope --seconds nan", "`max_seconds`", "nan"),
    "seed": ("optimise telescope --seed -1", "seed", "-1"),
    "report rows": ("optimise telescope --report-rows 0", "`report_rows`", "0"),
    "unknown device": ("optimise telescope --device gup", "Did you mean 'gpu'"),
    "no such device": ("optimise telescope --device tpu", "tpu", "cpu"),
    "unknown option": ("optimise telescope --evnts 3", "--evnts", "--events"),
    "option's value": ("optimise telescope --trials many", "--trials"),
    "unknown command": ("optimize telescope", "optimize", "optimise"),
    "unwritable": ("optimise telescope --out /proc/none/here", "/proc/none", "--out"),
    "no module": ("optimise nowhere.at_all:problem", "'nowhere'", "Check the spelling"),
    "no attribute": ("optimise good:prblem", "Did you mean 'problem'"),
    "no problem": ("optimise good:number", "must be a Problem", "int"),
    "needs a value": ("optimise good:needs", "'size'", "--set size=VALUE"),
    "raises when made": ("optimise good:problem --set width=9", "too wide", "good.py"),
    "raises on import": ("optimise raises_here:p", "JSONDecodeError", "raises_here.py"),
    "imports what is missing": ("optimise needs_more:p", "a_package_that_is_not_there"),
    "no syntax": ("optimise no_python:p", "SyntaxError", "no_python.py, line 1"),
    "leaves on import": ("optimise leaves:p", "SystemExit: 3"),
    "unknown default": ("optimise bad_defaults:problem", "'optimiser'", "bad_defaults"),
    "defaults": ("optimise crooked_defaults:problem", "mapping", "3"),
    "no spec": ("optimise telescope --spec none.toml", "none.toml", "cannot be read"),
    "show nothing": ("show nowhere", "result.json", "'nowhere'"),
    "report nothing": ("report nowhere", "result.json"),
    "cite nothing": ("cite telescop", "Did you mean 'telescope'"),
    "sensitivity, unknown": ("sensitivity telescop", "'telescope'"),
    "sensitivity, replicas": ("sensitivity telescope --replicas 1", "at least 2"),
    "sensitivity, engine": ("sensitivity telescope --estimator direct", "`Direct`"),
    "new: no name": ("new My-Counter", "'My-Counter'", "my_counter"),
    "new: keyword": ("new class", "'class'"),
    "new: taken": ("new json", "'json'"),
}


@pytest.mark.usefixtures("nothing_simulated")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, run, place):
    line, *fragments = REFUSED[case]
    code, out, err = run(*line.split())
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("kythera: ")
    assert err.count("\n") == 1, "one message, one line"
    for fragment in fragments:
        assert fragment in err
    assert list(place.iterdir()) == []


def test_a_final_measurement_that_fails_keeps_the_files(run, place):
    line = "optimise dying:problem --optimiser random:batch=2 --trials 4 --out kept"
    code, out, _ = run(*line.split())
    assert code == 1
    assert "start and best could not be measured anew" in out
    assert "no beam" in out
    code, out, _ = run("show", "kept")
    assert code == 0
    assert "4 trials (0 failed)" in out
    assert (place / "kept" / "report.html").is_file()


def test_usage_is_shown_without_a_command(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in ("list", "new", "sensitivity", "optimise", "show", "report", "cite"):
        assert command in out


def test_version(run):
    assert run("--version") == (0, f"kythera {ky.__version__}\n", "")


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    assert re.search(r"^telescope +The toy with a known answer", out, re.MULTILINE)
    assert "muon_portal" in out


@pytest.mark.parametrize(
    "command", ["list", "--help", "optimise --help", "cite", "show x"]
)
def test_reading_starts_fast(command, place):
    code = (
        "import sys; from kythera.cli import main; main(sys.argv[1:]);"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], check=False)
    assert done.returncode == 0


THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1"),
        ({"OPENBLAS_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "2"}, "None"),
    ],
)
@pytest.mark.parametrize("what", ["cli", "dev"])
def test_matrices_have_one_thread_unless_the_user_says_otherwise(what, given, expected):
    spy = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy':\n"
        "            print(os.environ.get('OPENBLAS_NUM_THREADS'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "import kythera.cli"
    )
    dev = "import dev; print(dev.environment().get('OPENBLAS_NUM_THREADS'))"
    env = {k: v for k, v in os.environ.items() if k not in THREADS} | given
    done = subprocess.run(
        [sys.executable, "-c", {"cli": spy, "dev": dev}[what]],
        env=env,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the telescope: its folder, what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    command = (
        *(sys.executable, "-m", "kythera.cli", "optimise", "telescope", *SMALL),
        *("--optimiser", "adam:step=0.1", "--seed", "5", "--set", "z[1]=35 cm"),
    )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "telescope-1", done


def test_optimise_ends_with_table_gain_and_report(finished):
    folder, done = finished
    found = ky.load(folder)
    assert str(found) in done.stdout
    assert "gain" in done.stdout
    assert done.stdout.splitlines()[-1] == "report  results/telescope-1/report.html"
    names = {p.name for p in folder.iterdir()}
    assert names == {"result.json", "trials.npz", "figures.json", "report.html"}
    assert re.search(r"trial 6 .*loss .*\+-.* gain so far .*1,200 events", done.stderr)


def test_the_settings_were_used_and_kept(finished):
    found = ky.load(finished[0])
    assert found.start[1] == pytest.approx(0.35)
    assert len(found.trials["number"]) == 6
    assert found.events == 6 * 200
    assert found.record["seed"] == 5
    settings = found.record["instrument"]["settings"]
    assert settings == {"events": 200, "z[1]": pytest.approx(0.35)}
    assert found.record["optimiser"]["option"] == "adam:step=0.1"
    assert found.record["budget"] == {"events": None, "trials": 6, "seconds": None}
    assert any("arXiv:2203.13818" in r for r in found.record["references"])


def test_the_kept_command_repeats_the_run(finished, run, place):
    found = ky.load(finished[0])
    import shlex

    program, *arguments = shlex.split(found.record["command"])
    assert program == "kythera"
    code, out, _ = run(*arguments, "--out", "again")
    assert code == 0
    again = ky.load(place / "again")
    np.testing.assert_array_equal(again.trials["u"], found.trials["u"])
    np.testing.assert_array_equal(again.trials["total"], found.trials["total"])
    assert again.record["gain"] == found.record["gain"]


def test_show(finished, run):
    found = ky.load(finished[0])
    code, out, _ = run("show", finished[0])
    assert (code, out.split("\n", 1)[1]) == (0, f"{found}\n")
    code, out, _ = run("show", finished[0] / "result.json", "--json")
    shown = json.loads(out)
    assert shown["instrument"] == "telescope"
    assert (shown["seed"], shown["events"]) == (5, 1200)
    assert shown["start"]["z[0]"] == pytest.approx(0.3)
    assert set(shown["best"]) == set(found.names)
    assert shown["gain"] == found.record["gain"]
    assert set(shown["gain"]) == {"value", "stderr"}


def test_report(finished, run, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run("report", finished[0], "--out", page)
    assert (code, out) == (0, f"{page}\n")
    assert page.read_bytes() == (finished[0] / "report.html").read_bytes()
    page.write_text("mine")
    assert run("report", finished[0], "--out", page)[0] == 2
    assert page.read_text() == "mine"


def test_a_result_cut_short(finished, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    data = (copy / "trials.npz").read_bytes()
    (copy / "trials.npz").write_bytes(data[:-100])
    for command in ("show", "report", "cite"):
        code, out, err = run(command, copy)
        assert (code, out) == (2, "")
        assert f"{len(data) - 100} bytes of {len(data)}" in err


def test_an_existing_result_is_never_overwritten(finished, run, nothing_simulated):
    before = {p.name: p.read_bytes() for p in finished[0].iterdir()}
    code, _, err = run("optimise", "telescope", "--out", finished[0])
    assert code == 2
    assert "never overwritten" in err
    assert {p.name: p.read_bytes() for p in finished[0].iterdir()} == before


def test_results_are_numbered(run, place):
    for _ in range(2):
        assert run("optimise", "good:ready", "--trials", 1)[0] == 0
    names = sorted(p.name for p in (place / "results").iterdir())
    assert names == ["bowl-1", "bowl-2"]


def test_spec_defaults_and_command_line(run, place):
    (place / "run.toml").write_text(
        'instrument = "good:problem"\nseed = 4\ntrials = 5\n[set]\nwidth = 2\n'
    )
    assert run("optimise", "--spec", "run.toml", "--out", "a")[0] == 0
    a = ky.load("a")
    assert (a.record["seed"], len(a.trials["number"])) == (4, 5)
    assert a.record["optimiser"]["option"] == "adam:step=0.1"
    command = "optimise --spec run.toml --trials 2 --set width=1 --set x=40cm --out b"
    assert run(*command.replace("40cm", "0.4cm").split())[0] == 0
    b = ky.load("b")
    assert len(b.trials["number"]) == 2
    assert b.record["instrument"]["settings"] == {"width": 1, "x": 0.004}
    assert run("optimise", "good:problem", "--out", "c")[0] == 0
    assert len(ky.load("c").trials["number"]) == 3
    assert ky.load("c").record["events"]["report"] == 2 * 8
    assert run("optimise", "good:problem", "--report-rows", 20, "--out", "d")[0] == 0
    assert ky.load("d").record["events"]["report"] == 2 * 20
    assert "--report-rows 20" in ky.load("d").record["command"]


def test_sensitivity(run):
    code, out, _ = run("sensitivity", "good:problem", "--rows", 1)
    assert code == 0
    assert out.splitlines()[1].startswith("x ")
    assert "... and 1 more" in out


def test_cite(run, finished):
    code, plain, _ = run("cite")
    assert code == 0
    assert "arXiv:2203.13818" in plain
    code, out, _ = run("cite", finished[0])
    assert out.startswith(plain)
    assert "arXiv:1906.10652" in out  # of the gradient engine
    code, out, _ = run("cite", "telescope")
    assert (code, out.startswith(plain)) == (0, True)


def test_devices(run, monkeypatch):
    import jax

    before = getattr(jax.config, "jax_default_device")  # noqa: B009
    try:
        code, _, err = run("optimise", "good:problem", "--device", "cpu", "--trials", 1)
    finally:
        jax.config.update("jax_default_device", before)
    assert (code, err.count("trial 1")) == (0, 1)


def test_compiled_programs_are_kept_for_the_user(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("JAX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    prepare_jax(None)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "kythera" / "jax")
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    prepare_jax(None)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"


def start(place, *arguments):
    """A run in a process of its own, once it has shown its first trial."""
    modules = place.parent / "modules"
    process = subprocess.Popen(
        [sys.executable, "-m", "kythera.cli", "optimise", *arguments],
        cwd=modules,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial"):
            return process, modules
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_cleanly(place, name):
    arguments = ("good:problem", "--trials", "100000000", "--out", "kept")
    process, modules = start(place, *arguments)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = ky.load(modules / "kept")
    assert found.record["reason"] == "interrupted"
    assert 0 < len(found.trials["number"]) < 100_000_000
    assert str(found) in out
    assert (modules / "kept" / "report.html").is_file()
    assert "stopping after this trial" in err


def test_a_second_signal_aborts(place):
    arguments = ("slow:problem", "--trials", "100000", "--out", "lost")
    process, modules = start(place, *arguments)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "once more to abort" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "kythera: aborted"
    assert not (modules / "lost").exists()


def test_an_abort_that_got_lost_comes_later():
    """A signal may arrive where no exception can leave, in a destructor."""
    with Stop() as stop:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), stop.patient():
            pass
    with Stop() as stop, stop.patient():
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked


def test_new_writes_what_runs(run, place):
    code, out, _ = run("new", "my_counter")
    assert code == 0
    assert "kythera optimise my_counter.problem:problem" in out
    files = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
    assert {
        "my_counter/pyproject.toml",
        "my_counter/reference.md",
        "my_counter/src/my_counter/simulator.py",
        "my_counter/tests/test_laws.py",
    } <= files
    assert not any("{{" in p.read_text() for p in place.rglob("*") if p.is_file())
    os.chdir("my_counter")
    code, out, err = run("optimise", "my_counter.problem:problem", "--trials", 3)
    assert code == 0, err
    found = ky.load("results/my_counter-1")
    assert found.record["optimiser"]["option"] == "adam:step=0.02"
    assert found.figures


def test_new_overwrites_nothing(run, place):
    (place / "my_counter").mkdir()
    (place / "my_counter" / "mine").write_text("x")
    code, _, err = run("new", "my_counter")
    assert code == 2
    assert "exists" in err
    assert [p.name for p in (place / "my_counter").iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_laws_of_a_new_instrument_hold(run, place):
    assert run("new", "my_counter")[0] == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=place / "my_counter", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
