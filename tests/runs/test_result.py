"""The result format: what is written is read again, and nothing else is accepted."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.runs import folder as folders
from kythera.runs.result import FIGURES, RECORD, TRIALS, load, non_dominated, write


@pytest.fixture
def saved(toy_result, tmp_path):
    write(toy_result, tmp_path)
    return tmp_path


def test_round_trip(toy_result, saved):
    found = load(saved)
    files = found.record.pop("files")
    assert found.record == {k: v for k, v in toy_result.record.items() if k != "files"}
    assert set(files) == {TRIALS, FIGURES}
    assert found.figures == toy_result.figures
    assert found.trials.keys() == toy_result.trials.keys()
    for name, column in toy_result.trials.items():
        np.testing.assert_array_equal(found.trials[name], column, err_msg=name)
    assert found.folder == saved
    assert str(load(saved / RECORD)) == str(toy_result)


def test_a_result_says_what_the_solution_says(toy_solution, toy_result):
    assert str(toy_result) == str(toy_solution)
    assert toy_result.gain == (toy_solution.gain.value, toy_solution.gain.stderr)
    assert toy_result.events == toy_solution.events
    assert toy_result.record["seed"] == 7
    assert toy_result.names == list(toy_solution.problem.space.names)


def test_trials_are_the_loop_s(toy_solution, toy_result):
    trials = toy_solution.trials
    found = toy_result.trials
    assert {len(column) for column in found.values()} == {len(trials)}
    assert found["u"].shape == (len(trials), toy_solution.problem.space.size)
    failed = [t.number for t in trials if t.state == "failed"]
    assert failed
    assert list(toy_result.causes) == failed
    assert list(found["number"][found["state"] == "failed"]) == failed
    good = next(t for t in trials if t.state == "complete")
    terms = toy_result.record["terms"]
    for i, name in enumerate(terms):
        measured = good.evaluation.terms[name]
        assert found["terms"][good.number, i] == measured.value
        assert found["terms_stderr"][good.number, i] == measured.stderr
    assert found["slack"][good.number, 0] == good.evaluation.slack["height"].value


def test_json_has_no_nan_and_no_code(saved):
    def refuse(word):
        raise AssertionError(word)

    for name in (RECORD, FIGURES):
        json.loads((saved / name).read_text(), parse_constant=refuse)
    with np.load(saved / TRIALS, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} <= set("fiuU")


def test_a_start_on_the_record_is_as_built(toy_result):
    values = dict(zip(toy_result.names, toy_result.best, strict=True))
    assert values["panels"] == round(values["panels"])
    assert sorted([values["material=iron"], values["material=lead"]]) == [0, 1]


def test_summary_is_in_the_units_it_names(toy_result):
    summary = toy_result.summary()
    assert summary["units"]["z"] == "cm"
    assert summary["start"]["z"] == pytest.approx(10)
    assert toy_result.start[0] == pytest.approx(0.1)
    assert set(summary["gain"]) == {"value", "stderr"}


def test_save_refuses_a_folder_with_a_result(toy_solution, saved):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(errors.StoreError, match="never overwritten"):
        ky.save(toy_solution, saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_save_and_load_from_the_front_door(toy_solution, tmp_path):
    folder = ky.save(toy_solution, tmp_path / "a" / "b", settings={"x": np.float32(1)})
    assert ky.load(folder).record["instrument"]["settings"] == {"x": 1.0}


@pytest.mark.parametrize("name", [RECORD, TRIALS, FIGURES])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_a_file_cut_short_is_refused(saved, name, part):
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(errors.StoreError, match=r"whole|JSON"):
        load(saved)


@pytest.mark.parametrize("name", [TRIALS, FIGURES])
def test_a_changed_or_missing_file_is_refused(saved, name):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(errors.StoreError, match="changed after it was written"):
        load(saved)
    (saved / name).unlink()
    with pytest.raises(errors.StoreError, match=name):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "'another'"),
        ({"version": 2}, "version 1"),
        ({"space": None}, "space.groups"),
        ({"gain": {}}, "whole"),
        ({"events": {"search": 3}}, "events.report"),
        ({"best": {"cube": [], "values": []}}, "parameters"),
        ({"hard": {}}, "whole"),
        ({"files": {}}, "bytes of None"),
    ],
)
def test_a_foreign_record_is_refused(saved, change, message):
    record = json.loads((saved / RECORD).read_text())
    (saved / RECORD).write_text(json.dumps(record | change))
    with pytest.raises(errors.StoreError, match=message):
        load(saved)


@pytest.mark.parametrize("text", ["[]", "3", "\xff\xfe", "{}"])
def test_another_json_is_refused(tmp_path, text):
    (tmp_path / RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.StoreError):
        load(tmp_path)


def test_a_pickle_inside_is_refused(saved, toy_result):
    columns = dict(toy_result.trials)
    columns["u"] = np.array([{"a": 1}] * len(columns["number"]), object)
    with open(saved / TRIALS, "wb") as stream:
        np.savez(stream, **columns)
    data = (saved / TRIALS).read_bytes()
    record = json.loads((saved / RECORD).read_text())
    import hashlib

    record["files"][TRIALS] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (saved / RECORD).write_text(json.dumps(record))
    with pytest.raises(errors.StoreError, match="allow_pickle"):
        load(saved)


def test_infinite_numbers_do_not_cost_a_result(toy_solution, tmp_path):
    folder = ky.save(toy_solution, tmp_path / "r", budget={"events": math.inf})
    assert ky.load(folder).record["budget"]["events"] is None


def test_a_drawing_that_fails_does_not_cost_a_result(toy_solution, tmp_path):
    import dataclasses

    def broken(problem, designs, key):
        raise RuntimeError("no ink")

    problem = toy_solution.problem.replace(draw=broken)
    broken_one = dataclasses.replace(toy_solution, problem=problem)
    found = ky.load(ky.save(broken_one, tmp_path / "r"))
    assert found.figures == {}
    assert "no ink" in found.record["drawing_failed"]


def test_reading_imports_no_jax(saved):
    code = (
        "import sys, kythera as ky; print(ky.load(sys.argv[1]));"
        "assert 'jax' not in sys.modules and 'equinox' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)


def test_numbered_folders_are_never_shared(tmp_path):
    claims = [folders.claim_next(tmp_path / "results", "a/b c") for _ in range(3)]
    assert [c.path.name for c in claims] == ["a_b_c-1", "a_b_c-2", "a_b_c-3"]
    claims[0].release()
    assert not claims[0].path.exists()
    assert folders.claim_next(tmp_path / "results", "a/b c").path == claims[0].path


def test_release_takes_away_only_what_it_made(tmp_path):
    claimed = folders.claim(tmp_path / "a" / "b")
    claimed.release()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    folders.claim(tmp_path / "mine").release()
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.StoreError, match=r"Not a directory|is a file"):
        folders.claim(tmp_path / "file" / "below")
    with pytest.raises(errors.StoreError, match="is a file"):
        folders.claim(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    folders.write_atomically(target, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(errors.StoreError, match="No space left"):
        folders.write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_the_front_is_what_nothing_beats(terms):
    points = np.random.default_rng(5).integers(0, 6, (60, terms)).astype(float)
    beaten = [
        any((q <= p).all() and (q < p).any() for q in points) for p in points
    ]  # by the definition
    np.testing.assert_array_equal(non_dominated(points), ~np.array(beaten))


def test_the_front_of_a_result(toy_result):
    front = toy_result.pareto()
    assert len(front)
    trials = toy_result.trials
    assert (trials["state"][front] == "complete").all()
    assert (trials["slack"][front] >= 0).all()
    (lowest,) = toy_result.pareto("image")[:1]
    good = (trials["state"] == "complete") & (trials["slack"] >= 0).all(1)
    image = trials["terms"][:, toy_result.record["terms"].index("image")]
    assert image[lowest] == image[good].min()
    with pytest.raises(errors.InputError, match="Did you mean 'image'"):
        toy_result.pareto("imag")
