"""Processes that are killed at random moments: nothing that was computed is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from kythera.runs import checkpoint, schema
from kythera.runs.check import check
from kythera.runs.store import Store
from kythera.runs.study import Study

from ..laws.test_resume import same
from .search import OPTIMISERS, search

SCRIPT = Path(__file__).with_name("search.py")
TRIALS = 80


@pytest.fixture
def place(url, open_as, tmp_path):
    """Arguments of the search's process, and the store as a reader sees it."""
    return [url, str(tmp_path / "files")], open_as("ada")


def killed_until_done(
    where, store: Store, optimiser: str, kills: int, seed: int
) -> int:
    """Start, kill a while after the first sign of work, start again; how often it died."""
    lottery, deaths, last = random.Random(seed), 0, -1
    while True:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *where, "study", optimiser, str(TRIALS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        if deaths < kills:
            count = trials_in(store)
            while process.poll() is None and trials_in(store) <= count:
                time.sleep(0.05)
            time.sleep(lottery.expovariate(1 / 0.1))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                deaths += 1
        out, err = process.communicate(timeout=300)
        if process.returncode == 0:
            assert out.strip() == "done"
            return deaths
        assert process.returncode == -signal.SIGKILL, err
        last = checked(store, last)


def trials_in(store: Store) -> int:
    """How many a reader beside the writer sees."""
    with store.reading() as connection:
        counted = sa.select(sa.func.count()).select_from(schema.trial)
        return int(connection.execute(counted).scalar_one())


def checked(store: Store, last: int) -> int:
    """Every file can be read, no trial is there twice, none of before is lost."""
    (study,) = Study.list(store)
    numbers = [trial.number for trial in study.trials()]
    assert numbers == list(range(len(numbers)))
    newest = -1
    for file in store.files.rglob("*.safetensors"):
        _, about = checkpoint.decode(file.read_bytes(), str(file))
        newest = max(newest, about["number"])
    assert last <= newest < len(numbers)
    counts, faults = check(store)
    assert faults == []
    assert counts["trials"] == len(numbers)
    return newest


def goes_on(place, optimiser: str, kills: int, seed: int = 1) -> None:
    """As often as it is killed, it ends with the trials of one that never was."""
    where, store = place
    deaths = killed_until_done(where, store, optimiser, kills, seed)
    assert deaths > kills // 2
    same(Study.open(store, "study").trials(), search(optimiser, TRIALS).trials)
    leftovers = [p for p in store.files.rglob("*") if p.is_file()]
    assert len(leftovers) <= checkpoint.KEPT


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_few_kills_of_adam(place):
    goes_on(place, "adam", 3)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_few_kills_of_evolution(place):
    goes_on(place, "evolution", 2)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_hundred_kills(place, optimiser):
    """Ten for each of five optimisers and two databases."""
    goes_on(place, optimiser, 10, seed=7)
