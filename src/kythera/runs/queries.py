"""What a store knows of a run, as rows and arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from kythera.runs import schema
from kythera.runs.store import Store


def count(store: Store, study: int, run: int) -> int:
    """How many trials the run of that number has."""
    r, t = schema.run, schema.trial
    counted = (
        sa.select(sa.func.count())
        .select_from(t.join(r, r.c.id == t.c.run_id))
        .where(r.c.study_id == study, r.c.number == run)
    )
    with store.reading() as connection:
        return int(connection.execute(counted).scalar_one())


def trials(
    store: Store,
    study: int,
    run: int,
    after: int = -1,
    wanted: Sequence[sa.Column] = (),
) -> list[dict[str, Any]]:
    """Rows of the trials behind a number, in order; all columns, or those wanted."""
    r, t = schema.run, schema.trial
    found = (
        sa.select(*(wanted or t.c))
        .join(r, r.c.id == t.c.run_id)
        .where(r.c.study_id == study, r.c.number == run, t.c.number > after)
        .order_by(t.c.number)
    )
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(found).mappings()]


def causes(store: Store, run_id: int) -> dict[str, str]:
    """Number -> cause of each failed trial."""
    t = schema.trial
    found = (
        sa.select(t.c.number, t.c.cause)
        .where(t.c.run_id == run_id, t.c.state == "failed")
        .order_by(t.c.number)
    )
    with store.reading() as connection:
        return {str(number): cause for number, cause in connection.execute(found)}


def metrics(store: Store, run_id: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (steps, values)."""
    m, found = schema.metric, {}
    wanted = (
        sa.select(m.c.name, m.c.step, m.c.value)
        .where(m.c.run_id == run_id)
        .order_by(m.c.step, m.c.id)
    )
    with store.reading() as connection:
        for name, step, value in connection.execute(wanted):
            entry = float("nan") if value is None else value
            found.setdefault(name, []).append((step, entry))
    return {
        name: (np.array([s for s, _ in pairs]), np.array([v for _, v in pairs]))
        for name, pairs in found.items()
    }


def artifacts(store: Store, run_id: int) -> list[dict[str, Any]]:
    """Number, name, sha256, bytes, kind of each file."""
    a = schema.artifact
    found = sa.select(a).where(a.c.run_id == run_id).order_by(a.c.number, a.c.name)
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(found).mappings()]


def file(store: Store, run_id: int, name: str, number: int = -1) -> bytes | None:
    """The contents of a file; None where none was kept."""
    a = schema.artifact
    found = sa.select(a.c.sha256).where(
        a.c.run_id == run_id, a.c.number == number, a.c.name == name
    )
    with store.reading() as connection:
        digest = connection.execute(found).scalar()
    return None if digest is None else store.volume.get(digest, name)
