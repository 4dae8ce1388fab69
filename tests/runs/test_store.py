"""Stores: what is written comes back, who may read, and who holds a run."""

import dataclasses
import sqlite3

import jax
import numpy as np
import pytest
import sqlalchemy as sa

import kythera as ky
from kythera import errors, testing
from kythera.runs import recorder, schema, store
from kythera.runs.store import Store
from kythera.runs.study import Study

from ..laws.test_resume import same

KEY = jax.random.key(4)
SPACE = {"names": ["x[0]"], "units": [""]}


def begin(kept: Store, name: str = "first") -> Study:
    return Study.create(kept, name, instrument="sphere", spec={"seed": 4}, space=SPACE)


def search(recorder=None, resume=None, trials: int = 12, callbacks=()):
    return ky.optimise(
        testing.noisy_sphere(),
        ky.Evolution(population=4),
        key=KEY,
        max_trials=trials,
        report_events=16,
        recorder=recorder,
        resume=resume,
        callbacks=callbacks,
    )


class Killed(BaseException):
    """The end of a process, as far as a thread can have one."""


def dies_after(run: recorder.StoredRun, trial: int):
    """As a kill between two writes: nothing is tidied up."""

    def callback(found) -> None:
        if found.number == trial:
            raise Killed

    try:
        search(run, run.resume(), callbacks=[callback])
    except Killed:
        return
    raise AssertionError("it lived")


def test_trials_come_back_bit_for_bit(kept):
    with begin(kept).begin() as run:
        whole = search(run)
        run.finish("finished", whole.reason)
    (row,) = Study.open(kept, "first").runs()
    assert (row["state"], row["reason"], row["holder"]) == (
        "finished",
        "all trials are done",
        "",
    )
    same(Study.open(kept, "first").trials(), whole.trials)


def test_failures_infinities_and_gradients_come_back(kept):
    from kythera.core.evaluation import Evaluation, Measured, Trial

    measured = Measured(
        float("-inf"), float("nan"), np.array([1.0, np.nan], np.float32)
    )
    evaluations = [
        Evaluation.failed("an \x00 'odd' cause; DROP TABLE trial", 7),
        Evaluation(
            Measured(0.1, 1e-300, np.array([0.1, -0.0])),
            {'a "b" é': measured},
            {"s": Measured(float("inf"), 0.0)},
            np.array([[float("inf")]]),
            2**40,
        ),
    ]
    trials = [
        Trial(i, i, np.array([0.1, 1 / 3]), np.array([1e300, 5.0]), e, 0.25, 2**41)
        for i, e in enumerate(evaluations)
    ]
    with begin(kept).begin() as run:
        for trial in trials:
            run.add(trial)
        run.flush()
    back = Study.open(kept, "first").trials()
    assert back[0].evaluation.cause == "an  'odd' cause; DROP TABLE trial"
    plain = dataclasses.replace(evaluations[0], cause=back[0].evaluation.cause)
    same(back, [dataclasses.replace(trials[0], evaluation=plain), trials[1]])


@pytest.mark.parametrize("last", [1, 3, 4, 9])
def test_a_run_that_was_killed_goes_on(kept, last):
    """In a batch or behind one: the same trials, none lost, none twice."""
    whole = search()
    begun = begin(kept)
    dies_after(begun.begin(), last)
    with kept.writing() as connection:  # it has been silent for long
        connection.execute(schema.run.update().values(heartbeat=0.0))
    with begun.begin() as run:
        resume = run.resume()
        again = search(run, resume)
        assert len(resume.trials if resume else []) == last // 4 * 4
    same(again.trials, whole.trials)
    same(begun.trials(), whole.trials)
    assert again.gain == whole.gain


def test_a_run_has_one_holder(kept):
    begun = begin(kept)
    first = begun.begin()
    with pytest.raises(
        errors.StoreError, match="is held by .* sign of life is 0 s old"
    ):
        begun.begin()
    with kept.writing() as connection:
        connection.execute(schema.run.update().values(heartbeat=0.0))
    with begun.begin() as second:
        assert second.holder != first.holder
        with pytest.raises(errors.StoreError, match="no longer ours"):
            first.flush()
        first.add(search(trials=4).trials[0])
        with pytest.raises(errors.StoreError, match="no longer ours"):
            first.flush()
    assert begun.trials() == []


def test_signs_of_life_are_given(kept, monkeypatch):
    monkeypatch.setattr(recorder, "BEAT", 0.01)
    begun = begin(kept)
    with begun.begin() as run:
        with kept.writing() as connection:
            connection.execute(schema.run.update().values(heartbeat=0.0))
        for _ in range(500):
            if begun.runs()[0]["heartbeat"] > 0:
                break
            run._end.wait(0.01)
    (row,) = begun.runs()
    assert row["heartbeat"] > 0
    assert row["seconds"] > 0


def test_studies_are_their_users(kept, open_as):
    begun = begin(kept, "mine / with 'quotes' and ünicode")
    other = open_as("bob")
    begin(other, "first")
    assert [s.name for s in Study.list(other)] == ["first"]
    with pytest.raises(errors.StoreError, match="that 'bob' may read"):
        Study.open(other, begun.name)
    begun.share("bob")
    begun.share("bob")
    seen = Study.open(other, f"ada/{begun.name}")
    assert seen.user == "ada"
    assert seen.spec == {"seed": 4}
    for forbidden in (
        seen.begin,
        lambda: seen.share("eve"),
        lambda: seen.delete(name=seen.name),
    ):
        with pytest.raises(errors.StoreError, match="may read it only"):
            forbidden()


def test_a_study_is_begun_once_and_deleted_by_name(kept):
    begun = begin(kept)
    with pytest.raises(errors.StoreError, match="already"):
        begin(kept)
    with begun.begin() as run:
        search(run)
    folder = begun.folder(run.id)
    assert folder.is_dir()
    with pytest.raises(errors.StoreError, match="once more"):
        begun.delete(name="frist")
    begun.delete(name="first")
    assert Study.list(kept) == []
    assert not folder.exists()
    with kept.reading() as connection:
        assert connection.execute(sa.select(schema.trial)).first() is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 10_000, "a\nb", "\x00"])
def test_names_that_no_list_can_show_are_refused(kept, name):
    with pytest.raises(errors.InputError, match="printable"):
        begin(kept, name)


def test_what_is_no_store_is_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("nothing of the kind")
    with pytest.raises(errors.StoreError, match="not an SQLite database"):
        Store(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("create table songs (id integer)")
    with pytest.raises(errors.StoreError, match="another program: it holds songs"):
        Store(other)
    with pytest.raises(errors.StoreError, match="no store at"):
        Store(tmp_path / "missing.db", create=False)
    assert not (tmp_path / "missing.db").exists()
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(errors.StoreError, match="cannot be read"):
        Store(folder)


def test_a_database_that_another_program_holds_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BUSY", 0.1)
    kept = Store(tmp_path / "runs.db", user="ada")
    begin(kept)
    other = sqlite3.connect(tmp_path / "runs.db")
    other.execute("begin immediate")
    with pytest.raises(errors.StoreError, match="locked. Another program holds it"):
        begin(kept, "second")
    other.close()
    begin(kept, "second")
    kept.close()


def test_a_store_of_a_newer_version_is_refused(kept, open_as):
    with kept.writing() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(errors.StoreError, match="newer kythera"):
        open_as("ada")


def test_a_store_that_was_cut_is_refused(tmp_path):
    path = tmp_path / "cut.db"
    kept = Store(path, user="ada")
    begin(kept)
    kept.close()
    with open(path, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(errors.StoreError, match="cannot be used"):
        Store(path, user="ada")


def test_passwords_are_never_shown():
    url = "postgresql://ada:secret@127.0.0.1:1/none"
    with pytest.raises(errors.StoreError, match="cannot be used") as caught:
        Store(url, files="files")
    text, cause = str(caught.value), caught.value
    while cause is not None:
        assert "secret" not in str(cause)
        cause = cause.__cause__
    assert "ada:***@127.0.0.1" in text


def test_the_schema_is_what_the_migrations_make(kept):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with kept.reading() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == store.HEAD
