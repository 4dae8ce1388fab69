"""Stores of earlier versions become those of today, and nothing in them is lost."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from kythera import errors
from kythera.cli import main
from kythera.runs import store
from kythera.runs.store import Store
from kythera.runs.study import Study

OLD = sorted(Path(__file__).with_name("stores").glob("*.sql"))


def restored(file: Path, path: Path) -> dict[str, list]:
    """A database as it was stored, and its rows."""
    with sqlite3.connect(path) as connection:
        connection.executescript(file.read_text("utf-8"))
        tables = [
            name
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'table'"
            )
            if name != "alembic_version"
        ]
        rows = {
            name: connection.execute(f"select * from {name}").fetchall()
            for name in tables
        }
    connection.close()
    return rows


def test_every_earlier_version_is_stored():
    versions = [file.stem.removeprefix("v") for file in OLD]
    assert versions == [f"{i:04}" for i in range(1, int(store.HEAD))]


@pytest.mark.parametrize("file", OLD, ids=lambda file: file.stem)
def test_a_store_is_upgraded(file, tmp_path, capsys):
    path = tmp_path / "old.db"
    before = restored(file, path)
    with pytest.raises(errors.StoreError, match="kythera store upgrade"):
        Store(path, user="ada")
    assert main(["store", "upgrade", "--store", str(path)]) == 0
    assert f"-> {store.HEAD}" in capsys.readouterr().out
    found = Store(path, user="ada")
    for name, rows in before.items():
        with found.reading() as connection:
            table = sa.Table(name, sa.MetaData(), autoload_with=connection.engine)
            after = [tuple(row) for row in connection.execute(sa.select(table))]
        assert [row[: len(rows[0])] for row in after] == rows, name
    first, second = Study.list(found)
    assert (first.name, second.name) == ("first", "second 'quoted' é")
    assert [len(s.trials()) for s in (first, second)] == [6, 4]
    assert np.isfinite([t.evaluation.total.value for t in first.trials()]).all()
    with pytest.raises(errors.StoreError, match="has not begun to search"):
        first.result()
    found.close()
    bob = Store(path, user="bob")
    assert [s.name for s in Study.list(bob)] == ["first"]
    bob.close()


@pytest.mark.parametrize("file", OLD, ids=lambda file: file.stem)
def test_the_same_in_postgresql(file, tmp_path, postgresql):
    """Its schema of that version, the rows of the stored one, then the upgrade."""
    from alembic import command
    from alembic.config import Config

    rows = restored(file, tmp_path / "old.db")
    config, url = Config(), store.address(postgresql.database())
    config.set_main_option("script_location", "kythera:runs/migrations")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, file.stem.removeprefix("v"))
        for name in ("account", "study", "run", "trial", "share"):
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            names = [column.name for column in table.columns]
            entries = [dict(zip(names, row, strict=True)) for row in rows[name]]
            connection.execute(table.insert(), entries)
    engine.dispose()
    text = url.render_as_string(hide_password=False)
    assert (
        main(["store", "upgrade", "--store", text, "--files", str(tmp_path / "f")]) == 0
    )
    found = Store(text, user="ada", files=tmp_path / "f")
    assert [len(s.trials()) for s in Study.list(found)] == [6, 4]
    found.close()
