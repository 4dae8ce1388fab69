"""What a run shows: plain lines here, the live line in a terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

import kythera as ky
from kythera.report import progress


def trial(number, loss, stderr=0.1, u=0.5, cause=""):
    found = ky.Evaluation(
        ky.Measured(loss, stderr), {}, {}, np.zeros((0, 0)), 100, cause
    )
    return ky.Trial(
        number, number, np.array([u]), np.array([u]), found, 0.1, 100 * number + 100
    )


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def make(stream, terminal=False, **budget):
    console = Console(file=stream, force_terminal=terminal, width=200)
    return progress.Progress(console, budget, 100, [0.5])


def test_plain_lines_come_seldom_and_at_the_end(clock):
    stream = io.StringIO()
    with make(stream, trials=100) as show:
        for i in range(100):
            clock[0] += 0.5
            show(trial(i, 10.0 - i / 100))
    lines = stream.getvalue().splitlines()
    assert 8 <= len(lines) <= 12
    assert lines[-1].startswith("trial 100  loss 9.01 +- 0.10  gain so far 0.9")
    assert "10,000 events" in lines[-1]
    assert "about" in lines[3]


def test_time_left_follows_the_tightest_budget(clock):
    show = make(io.StringIO(), trials=1000, events=1000.0)
    with show:
        for i in range(5):  # half of the events after four further trials of 1 s
            clock[0] += 1
            show(trial(i, 1.0))
        assert "about 5 s left" in show.line()
    for i in range(5, 10):
        show(trial(i, 1.0))
    assert "measuring start and best" in show.line()


def test_failures_are_counted(clock):
    show = make(io.StringIO(), trials=10)
    with show:
        show(trial(0, np.inf, np.nan, cause="no field"))
        assert "1 failed" in show.line()
        assert "loss" not in show.line()


def test_a_gain_is_from_the_start(clock):
    show = make(io.StringIO(), trials=10)
    with show:
        show(trial(0, 5.0, u=0.9))
        show(trial(1, 4.0))
        assert "since the first trial 1.0" in show.line()


def test_the_error_of_a_gain_is_of_the_start_and_of_a_mean(clock):
    show = make(io.StringIO(), trials=10)
    with show:
        show(trial(0, 5.0, stderr=0.3))
        for i in range(1, 5):
            show(trial(i, 4.0, stderr=0.8))
        assert "gain so far 1.00 +- 0.50" in show.line()  # hypot(0.3, 0.8 / 2)


def test_the_live_line_is_taken_away(clock):
    stream = io.StringIO()
    with make(stream, terminal=True, trials=3) as show:
        show(trial(0, 5.0))
        assert show.live is not None
        show.live.refresh()
    assert "trial 1" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("seconds", "said"), [(12, "12 s"), (200, "3 min"), (7560, "2.1 h")]
)
def test_durations(seconds, said):
    assert progress.duration(seconds) == said
