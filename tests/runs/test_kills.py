"""Processes that are killed at random moments: nothing that was computed is lost."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kythera.runs import checkpoint
from kythera.runs.store import Store
from kythera.runs.study import Study

from ..laws.test_resume import same
from .search import OPTIMISERS, search

SCRIPT = Path(__file__).with_name("search.py")
TRIALS = 200


def killed_until_done(path: Path, optimiser: str, kills: int, seed: int) -> int:
    """Start, kill a while after the first sign of work, start again; how often it died."""
    lottery, deaths, last = random.Random(seed), 0, -1
    while True:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(path), "study", optimiser, str(TRIALS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        if deaths < kills:
            count = trials_in(path)
            while process.poll() is None and trials_in(path) <= count:
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
        last = checked(path, last)


def trials_in(path: Path) -> int:
    """How many a reader beside the writer sees."""
    if not path.exists():
        return 0
    with sqlite3.connect(path, timeout=30) as connection:
        try:
            (count,) = connection.execute("select count(*) from trial").fetchone()
        except sqlite3.OperationalError:  # there is no table yet
            count = 0
    connection.close()
    return count


def checked(path: Path, last: int) -> int:
    """Every file can be read, no trial is there twice, none of before is lost."""
    store = Store(path, user="ada")
    (study,) = Study.list(store)
    numbers = [trial.number for trial in study.trials()]
    assert numbers == list(range(len(numbers)))
    newest = -1
    for file in store.files.rglob("*.safetensors"):
        _, about = checkpoint.decode(file.read_bytes(), str(file))
        newest = max(newest, about["number"])
    assert last <= newest < len(numbers)
    store.close()
    return newest


def goes_on(path: Path, optimiser: str, kills: int, seed: int = 1) -> None:
    """As often as it is killed, it ends with the trials of one that never was."""
    deaths = killed_until_done(path, optimiser, kills, seed)
    assert deaths > kills // 2
    store = Store(path, user="ada")
    same(Study.open(store, "study").trials(), search(optimiser, TRIALS).trials)
    leftovers = [p for p in store.files.rglob("*") if p.is_file()]
    assert len(leftovers) <= checkpoint.KEPT
    store.close()


@pytest.mark.parametrize("optimiser", ["evolution", "adam"])
def test_a_few_kills(tmp_path, optimiser):
    goes_on(tmp_path / "runs.db", optimiser, 3)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_hundred_kills(tmp_path, optimiser):
    """Twenty for each of five optimisers."""
    goes_on(tmp_path / "runs.db", optimiser, 20, seed=7)
