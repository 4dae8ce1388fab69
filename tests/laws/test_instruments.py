"""The law of instruments."""

from pathlib import Path

import pytest

import kythera.instruments
from kythera import testing

from .tables import INSTRUMENTS


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_instrument(name, getkey):
    problem, settings = INSTRUMENTS[name]()
    folder = Path(kythera.instruments.__path__[0]) / name
    testing.check_instrument(
        problem, reference=folder / "reference.md", key=getkey(), **settings
    )
