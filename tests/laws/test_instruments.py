"""The law of instruments."""

from pathlib import Path

import pytest

import kythera.instruments
from kythera import testing

from .tables import INSTRUMENTS

# These compile for longer than the fast suite can wait for one test.
SLOW = {
    "air_shower_array",
    "inferno_toy",
    "muon_portal",
    "sampling_calorimeter",
    "three_blobs",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in INSTRUMENTS
    ],
)
def test_instrument(name, getkey):
    problem, settings = INSTRUMENTS[name]()
    folder = Path(kythera.instruments.__path__[0]) / name
    testing.check_instrument(
        problem, reference=folder / "reference.md", key=getkey(), **settings
    )
