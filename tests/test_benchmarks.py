"""The command behind the table of engines: it goes on, and tells what it leaves out."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def engines(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("engines")


@pytest.fixture
def command(engines, monkeypatch, tmp_path):
    """Runs it, for two pairs and 0.2 CPU seconds a search; returns what the file holds."""
    path = tmp_path / "engines.json"

    def call(seeds: int, *more: str) -> dict:
        chosen = ["--problems", "sphere", "--engines", "Pathwise;Branching", *more]
        sizes = ["--seeds", str(seeds), "--seconds", "0.2", "--json", str(path)]
        monkeypatch.setattr(sys, "argv", ["engines.py", *chosen, *sizes])
        engines.main()
        return json.loads(path.read_text())["runs"]

    call.path = path
    return call


def test_a_search_reaches_the_optimum_and_a_refusal_says_why(engines):
    [record] = engines.run("sphere", "Pathwise", [3], 0.2)
    assert (record["seed"], record["start"]) == (3, pytest.approx(6.76))
    parts, seconds, events, trials, losses, _ = zip(*record["curve"], strict=True)
    assert list(parts) == sorted(set(parts))
    assert list(seconds) == sorted(seconds)
    assert seconds[-1] >= 0.2
    assert [2 * t for t in trials] == list(events)
    assert losses[-1] < losses[0] <= record["start"]
    [record] = engines.run("sphere", "Branching", [3], 0.2)
    assert record["seed"] is None
    assert "AbstractBranchingSimulator" in record["refused"]


def test_it_goes_on_where_it_was_cut_off_and_shows_all(engines, command, tmp_path):
    book = engines.Book(command.path, 0.2)
    legs = [[0.5, 0.1, 40, 20, 3.38, 0.0], [1.0, 0.2, 80, 40, 1.69, 0.0]]
    first = {"seed": 0, "best": 0.0, "start": 6.76, "curve": legs, "reason": "over"}
    book.add("sphere", "Pathwise", first)
    book.add("sphere", "Branching", {"seed": None, "refused": "It tells no decisions."})
    before = command.path.read_text()
    for part, left in ((0.5, 0.5), (1, 0.25)):
        row = engines.engine_views.median_of(book.data, "sphere", "Pathwise", part)
        assert (row.left, row.events) == (pytest.approx(left), 80 * part)
    table = tmp_path / "table.md"
    runs = command(2, "--table", str(table))  # a process for the second seed alone
    assert set(runs) == {
        "sphere | Branching",
        "sphere | Pathwise | 0",
        "sphere | Pathwise | 1",
    }
    assert json.loads(before)["runs"].items() <= runs.items()
    lines = table.read_text().splitlines()
    assert "| Branching | - |" in lines
    start, best = "start 6.76", "optimum 0"
    assert any(start in line and best in line for line in lines)
    with pytest.raises(SystemExit, match="Give --seconds 0.2"):
        engines.Book(command.path, 5.0)


def test_a_pair_that_dies_is_an_error_and_may_be_tried_again(engines, tmp_path):
    book = engines.Book(tmp_path / "engines.json", 1.0)
    engines.start_pair(book, "no such problem", "Pathwise", [0], 1.0)
    [(name, record)] = book.data["runs"].items()
    assert name == "no such problem | Pathwise"
    assert "KeyError" in record["error"]
    assert book.missing("no such problem", "Pathwise", 2, again=False) == []
    assert book.missing("no such problem", "Pathwise", 2, again=True) == [0, 1]
