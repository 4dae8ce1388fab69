"""A new member of a kind without an entry in the table fails here."""

import importlib.util

import pytest

from kythera.core.evaluation import AbstractEstimator, AbstractOptimiser
from kythera.core.objective import AbstractObjective, Sum
from kythera.core.stage import AbstractSource, AbstractStage

from . import members, tables

KINDS = {
    "SOURCES": AbstractSource,
    "STAGES": AbstractStage,
    "OBJECTIVES": AbstractObjective,
    "ESTIMATORS": AbstractEstimator,
    "OPTIMISERS": AbstractOptimiser,
}


@pytest.mark.parametrize("table", KINDS)
def test_every_member_has_an_entry(table):
    missing = [
        f"{cls.__module__}.{cls.__qualname__}"
        for cls in members.concrete(KINDS[table])
        if cls not in getattr(tables, table)
    ]
    assert not missing, (
        f"Every member must obey the laws of its kind, but {missing} have no entry in "
        f"`{table}` of tests/laws/tables.py. Add one for each."
    )


def test_every_instrument_has_an_entry():
    missing = set(members.instruments()) - tables.INSTRUMENTS.keys()
    assert not missing, (
        f"Every instrument must obey the law, but {sorted(missing)} have no entry in "
        "`INSTRUMENTS` of tests/laws/tables.py. Add one for each."
    )


def test_members_are_found():
    found = {cls.__name__ for cls in members.concrete(AbstractStage)}
    assert {"Planes", "LineFit", "Identity"} <= found
    assert not any(name.startswith("Abstract") for name in found)
    assert "telescope" in members.instruments()


@pytest.mark.parametrize("table", KINDS)
def test_entries_make_what_they_name(table):
    for cls, entry in getattr(tables, table).items():
        if not importlib.util.find_spec(tables.LIBRARIES.get(cls, "jax")):
            continue  # an extra that is not here; the laws of the member say so
        for make in entry.values() if isinstance(entry, dict) else [entry]:
            made = make()
            for part in ("stage", "estimator", "optimiser", "objective"):
                made = getattr(made, part, made)
            parts = made.parts if isinstance(made, Sum) and cls is not Sum else (made,)
            assert any(isinstance(part, cls) for part in parts)
