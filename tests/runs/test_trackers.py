"""Trackers log what the search found, once, read back from the programs' own files."""

import importlib.metadata
import json
import math
import struct
import threading
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.runs import trackers
from kythera.runs.result import Result
from kythera.runs.trackers import base

REASON = "all trials are done"


class Sink(base.AbstractSink):
    """Keeps what it is given; `held` trials are there before."""

    def __init__(self, held=0, fail="", gate=None):
        self.held, self.fail, self.gate = held, fail, gate
        self.rows, self.config, self.calls = [], {}, []
        self.found: Any = None

    def _called(self, what):
        if self.gate is not None:
            self.gate.wait(20)
        self.calls.append(what)
        if what == self.fail:
            raise ConnectionError("the server\nis away")

    def open(self, id, name, config):
        self.id, self.name, self.config = id, name, dict(config)
        self._called("open")
        return self.held

    def write(self, rows):
        self._called("write")
        self.rows += rows

    def close(self, found):
        self._called("close")
        self.found = found


def follow(tracker, solution, result, first=None, report=None) -> None:
    """What a search tells a tracker; one of only `first` trials was broken off."""
    with tracker:
        tracker.begin(result.record)
        for trial in solution.trials[:first]:
            assert tracker(trial) is None
        if first is None:
            tracker.end(result, report=report)


def expected(result: Result) -> dict[int, dict[str, float]]:
    """What must be logged of each trial, from the result's columns."""
    columns, found = result.trials, {}
    for i, number in enumerate(columns["number"]):
        row = {"loss": columns["total"][i], "loss_stderr": columns["stderr"][i]}
        for group in ("terms", "slack"):
            for k, name in enumerate(result.record[group]):
                row[f"{group}/{name}"] = columns[group][i, k]
                row[f"{group}/{name}_stderr"] = columns[f"{group}_stderr"][i, k]
        z, panels, iron, lead = columns["values"][i]
        row |= {"parameters/z_cm": 100 * z, "parameters/panels": panels}
        row |= {"parameters/material.iron": iron, "parameters/material.lead": lead}
        row |= {"events": columns["spent"][i], "seconds": columns["seconds"][i]}
        row["failed"] = float(columns["state"][i] == "failed")
        found[int(number)] = {k: v for k, v in row.items() if math.isfinite(v)}
    return found


def same(
    logged: dict[str, list[tuple[int, float]]], result: Result, exact: bool = True
) -> None:
    """Each number of each trial was logged once, in order, and nothing else."""
    wanted = defaultdict(list)
    for step, row in expected(result).items():
        for name, value in row.items():
            wanted[name].append((step, value))
    ours = {k: v for k, v in logged.items() if not k.startswith("result/")}
    assert set(ours) == set(wanted)
    for name, points in wanted.items():
        assert [step for step, _ in ours[name]] == [step for step, _ in points], name
        values = [[v for _, v in pairs] for pairs in (ours[name], points)]
        np.testing.assert_allclose(*values, rtol=1e-12 if exact else 1e-6)


def gained(result: Result) -> dict[str, float]:
    """The most important of what is logged at the end."""
    best = result.record["soft"]["best"]["value"]
    return {
        "result/gain": result.gain.value,
        "result/gain_stderr": result.gain.stderr,
        "result/best_loss": best,
        "result/best/z_cm": 100 * result.best[0],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text("<p>report</p>")
    return file


# The thread, the queue, what is logged


def test_a_tracker_logs_trials_settings_and_gain(toy_solution, toy_result, page):
    sink = Sink()
    follow(base.Tracker(sink), toy_solution, toy_result, report=page)
    logged = defaultdict(list)
    for row in sink.rows:
        for name, value in row.values.items():
            logged[name].append((row.step, value))
    same(logged, toy_result)
    assert sink.name == "toy Evolution"
    assert sink.config["instrument.settings.panels"] == 3
    assert sink.config["seed"] == 7
    assert sink.config["parameters"] == 4
    assert gained(toy_result).items() <= sink.found.numbers.items()
    assert sink.found[1:] == (REASON, 23, page, True)


def test_what_a_tracker_holds_is_not_logged_again(toy_solution, toy_result):
    sink = Sink(held=10)
    follow(base.Tracker(sink), toy_solution, toy_result)
    assert [row.step for row in sink.rows] == list(range(10, 24))


def test_a_search_that_is_broken_off_closes_its_tracker(toy_solution, toy_result):
    sink = Sink()
    follow(base.Tracker(sink), toy_solution, toy_result, first=5)
    assert [row.step for row in sink.rows] == [0, 1, 2, 3, 4]
    assert sink.found == base.Found({}, "", 4, None, False)


def test_an_unfinished_result_has_no_gain(toy_solution, toy_result):
    nothing = {"value": None, "stderr": None}
    record = toy_result.record | {
        "finished": False,
        "gain": nothing,
        "hard": None,
        "soft": toy_result.record["soft"] | {"start": nothing, "best": nothing},
    }
    sink = Sink()
    tracker = base.Tracker(sink)
    tracker.begin(record)
    tracker.end(Result(record, toy_result.trials, {}))
    assert "result/gain" not in sink.found.numbers
    assert "result/best/z_cm" in sink.found.numbers
    assert not sink.found.finished


@pytest.mark.parametrize("when", ["open", "write", "close"])
def test_a_failing_tracker_warns_once_and_is_dropped(toy_solution, toy_result, when):
    sink = Sink(fail=when)
    tracker = base.Tracker(sink)
    with pytest.warns(trackers.TrackerWarning) as told:
        follow(tracker, toy_solution, toy_result)
    waiting = tracker._queue.qsize()
    for trial in toy_solution.trials:
        tracker(trial)
    tracker.end(toy_result)
    assert tracker._queue.qsize() == waiting
    assert len(told) == 1  # and nothing since, which would be an error
    assert "Sink failed: ConnectionError: the server." in str(told[0].message)
    assert sink.calls[-1] == when


def test_a_failing_tracker_leaves_the_search_as_it_is(toy_problem, toy_solution):
    tracker = base.Tracker(Sink(fail="open"))
    tracker.begin({"space": {"names": [], "units": []}} | NAMES)
    assert tracker._thread is not None
    tracker._thread.join(20)
    with pytest.warns(trackers.TrackerWarning):
        found = ky.optimise(
            toy_problem,
            ky.Evolution(population=8),
            key=jax.random.key(7),
            max_trials=24,
            report_events=8,
            callbacks=[tracker],
        )
    assert found.reason == toy_solution.reason
    for ours, theirs in zip(found.trials, toy_solution.trials, strict=True):
        np.testing.assert_array_equal(ours.u, theirs.u)


NAMES = {"instrument": {"name": "toy"}, "optimiser": {"name": "Evolution"}}


def test_a_server_that_hangs_slows_nothing(
    toy_solution, toy_result, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "PATIENCE", 0.1)
    gate = threading.Event()
    sink = Sink(gate=gate)
    tracker = base.Tracker(sink)
    tracker.begin(toy_result.record)
    start = time.process_time()
    for _ in range(1000):
        tracker(toy_solution.trials[0])
    assert time.process_time() - start < 0.5  # half a millisecond each is plenty
    assert not sink.calls
    thread = tracker._thread
    assert thread is not None
    with pytest.warns(trackers.TrackerWarning, match="not all was written in 0 s"):
        tracker.end(toy_result)
    gate.set()
    thread.join(20)


def test_trials_that_trickle_are_gathered(toy_solution, toy_result):
    sink = Sink()
    tracker = base.Tracker(sink)
    tracker.begin(toy_result.record)
    for trial in toy_solution.trials:
        tracker(trial)
        time.sleep(0.02)
    tracker.end(toy_result)
    assert len(sink.rows) == 24
    assert sink.calls.count("write") <= 6


def test_of_many_parameters_the_first_are_logged_and_it_says_so(toy_solution):
    trial = toy_solution.trials[-1]
    size = 12_000
    space = {"names": [f"x[{i}]" for i in range(size)], "units": ["mm"] * size}
    sink = Sink()
    with base.Tracker(sink) as tracker:
        tracker.begin({"space": space} | NAMES)
        values = np.arange(size) / 1000
        tracker(ky.Trial(0, 0, values, values, trial.evaluation, 1.0, 4))
    (row,) = sink.rows
    shown = {k: v for k, v in row.values.items() if k.startswith("parameters/")}
    assert list(shown) == [f"parameters/x.{i}_mm" for i in range(base.MOST_PARAMETERS)]
    np.testing.assert_allclose(list(shown.values()), np.arange(100))
    assert sink.config["parameters"] == "the first 100 of 12,000"


def test_labels_differ_and_every_program_takes_them():
    tracker = base.Tracker(Sink())
    names = ["a[0]", "a.0", "a(0)", "a_0_", "ä b=c", "x" * 300, "x" * 301]
    labels = [tracker._label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert labels == [tracker._label(name) for name in names]
    assert all(len(label) < 250 and label.isascii() for label in labels)
    assert labels[:2] == ["a.0", "a.0_2"]


# Texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mlflaw:uri=x", "no tracker 'mlflaw'. Did you mean 'mlflow'"),
        ("mlflow:url=x", "no setting 'url'. Did you mean 'uri'"),
        ("mlflow:uri", "NAME=VALUE, but got 'uri'. Write mlflow:uri=VALUE"),
        ("mlflow:uri=", "NAME=VALUE"),
        ("wandb:_run=x", "no setting '_run'"),
        ("wandb:project=a,project=b", "'project' twice"),
    ],
)
def test_a_text_that_names_no_tracker(text, message):
    with pytest.raises(errors.InputError, match="tracker") as caught:
        trackers.make(text)
    assert message in str(caught.value)


def test_settings_of_a_text():
    tracker = trackers.make("mlflow: uri=sqlite:///a=b.db , experiment=portal")
    assert tracker.sink.uri == "sqlite:///a=b.db"
    assert tracker.sink.experiment == "portal"
    assert trackers.make("tensorboard").sink.folder == "runs"


def test_an_id_that_is_none():
    with pytest.raises(errors.InputError, match="32 hexadecimal digits"):
        trackers.make("mlflow", id="x' OR '1'='1")


@pytest.mark.parametrize("name", trackers.SINKS)
def test_a_missing_library_names_its_extra(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, trackers.SINKS[name][2], None)
    with pytest.raises(errors.UnsupportedError, match=rf"kythera\[{name}\]"):
        trackers.make(name)
    assert name in importlib.metadata.metadata("kythera").get_all("Provides-Extra")


# The programs themselves


@pytest.fixture
def patient(monkeypatch):
    """A busy machine takes long to import these libraries."""
    monkeypatch.setattr(base, "HURRY", 300.0)
    monkeypatch.setattr(base, "PATIENCE", 300.0)


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory):
    """A database of MLflow, without a word to anybody."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("mlflow")
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield f"sqlite:///{folder}/mlflow.db"


# MLflow's own tables speak of a loader that SQLAlchemy will drop.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.usefixtures("patient")
def test_mlflow(mlflow_uri, toy_solution, toy_result, page):
    text = f"mlflow:uri={mlflow_uri},experiment=portal"
    tracker = trackers.make(text)
    follow(tracker, toy_solution, toy_result, first=9)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri)
    portal = client.get_experiment_by_name("portal")
    assert portal is not None
    place = portal.experiment_id
    (run,) = client.search_runs([place])
    assert run.info.status == "KILLED"
    assert run.data.metrics["trial"] == 8

    again = trackers.make(text, id=tracker.id)
    assert again.id == tracker.id
    follow(again, toy_solution, toy_result, report=page)
    (run,) = client.search_runs([place])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "toy Evolution"
    assert run.data.tags["kythera.id"] == tracker.id
    assert run.data.tags["kythera.reason"] == REASON
    assert run.data.params["instrument.settings.panels"] == "3"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [page.name]
    assert run.data.metrics.items() >= gained(toy_result).items()
    logged = {
        name: [
            (m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }
    assert logged.pop("trial") == [(i, i) for i in range(24)]
    same(logged, toy_result)


def read_wandb(file: Path) -> list:
    """The records of a file of W&B: a log of LevelDB, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2 as protocol

    data, found, part, at = file.read_bytes(), [], b"", 7  # behind ":W&B" and a version
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits: the rest of the block is empty
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = protocol.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


@pytest.mark.usefixtures("patient")
def test_wandb(toy_solution, toy_result, page, tmp_path, monkeypatch):
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    text = f"wandb:project=portal,mode=offline,folder={tmp_path}"
    tracker = trackers.make(text)
    follow(tracker, toy_solution, toy_result, report=page)
    import wandb

    wandb.teardown()  # its own process writes the file, and may take its time
    (file,) = tmp_path.glob(f"wandb/offline-run-*/run-{tracker.id}.wandb")
    records = read_wandb(file)
    logged, summary = defaultdict(list), {}
    for record in records:
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
        for name, value in row.items():
            if not name.startswith("_"):
                logged[name].append((record.history.step.num, json.loads(value)))
    same(logged, toy_result)
    assert summary.items() >= gained(toy_result).items()
    assert summary["result/reason"] == REASON
    (run,) = [r.run for r in records if r.HasField("run")][:1]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["instrument.settings.panels"] == 3
    assert (run.project, run.display_name) == ("portal", "toy Evolution")
    assert page.name in [f.path for r in records for f in r.files.files]
    assert trackers.make(text, id=tracker.id).id != tracker.id
    assert trackers.make("wandb:mode=online", id=tracker.id).id == tracker.id


@pytest.mark.usefixtures("patient")
def test_comet(toy_solution, toy_result, page, tmp_path, monkeypatch):
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")
    text = f"comet:project=portal,offline={tmp_path}"
    tracker = trackers.make(text)
    follow(tracker, toy_solution, toy_result, report=page)
    with zipfile.ZipFile(tmp_path / f"{tracker.id}.zip") as archive:
        assert json.loads(archive.read("experiment.json"))["project_name"] == "portal"
        lines = archive.read("messages.json").splitlines()
        sizes = [entry.file_size for entry in archive.infolist()]
    messages = [json.loads(line) for line in lines]
    logged, parameters, others = defaultdict(list), {}, {}
    for message in messages:
        payload = message["payload"]
        if message["type"] == "metric_msg":
            metric = payload["metric"]
            point = metric["step"], metric["metricValue"]
            logged[metric["metricName"]].append(point)
        elif message["type"] == "parameter_msg":
            entry = payload["param"]
            parameters[entry["paramName"]] = entry["paramValue"]
        elif message["type"] == "log_other":
            others[payload["key"]] = payload["value"]
    same(logged, toy_result)
    assert {(k, logged[k][0][1]) for k in gained(toy_result)} == set(
        gained(toy_result).items()
    )
    assert parameters["instrument.settings.panels"] == 3
    assert (others["Name"], others["reason"]) == ("toy Evolution", REASON)
    assert page.stat().st_size in sizes
    assert page.name in json.dumps(messages)
    assert trackers.make(text, id=tracker.id).id != tracker.id


def read_tensorboard(file: Path) -> list:
    """The events of a file, whose checksums must fit, up to one that is cut short."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, at, found = file.read_bytes(), 0, []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            break
        head, body = data[at : at + 8], data[at + 12 : at + 12 + length]
        sums = struct.unpack_from("<I", data, at + 8)
        sums += struct.unpack_from("<I", data, at + 12 + length)
        assert sums == (masked_crc32c(head), masked_crc32c(body))
        found.append(Event.FromString(body))
        at += 16 + length
    return found


@pytest.mark.usefixtures("patient")
def test_tensorboard(toy_solution, toy_result, tmp_path):
    text = f"tensorboard:folder={tmp_path}"
    tracker = trackers.make(text)
    follow(tracker, toy_solution, toy_result, first=9)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"toy-Evolution-{tracker.id[:8]}"
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-5])  # a kill cut the last trial short
    follow(trackers.make(text, id=tracker.id), toy_solution, toy_result)
    files = set(folder.iterdir())
    assert len(files) == 2
    logged, words = defaultdict(list), {}
    (newer,) = files - {file}
    for event in read_tensorboard(file) + read_tensorboard(newer):
        for value in event.summary.value:
            if value.HasField("tensor"):
                words[value.tag] = value.tensor.string_val[0].decode()
            else:
                logged[value.tag].append((event.step, value.simple_value))
    same(logged, toy_result, exact=False)
    for name, value in gained(toy_result).items():
        assert logged[name] == [(23, pytest.approx(value, rel=1e-6))]
    assert "| instrument.settings.panels | 3 |" in words["settings/text_summary"]
    assert words["result/reason/text_summary"] == REASON
