"""The observable of neos learns to live with its uncertainty."""

import jax
import pytest

import kythera as ky
from kythera.instruments import three_blobs

LINEAR = 3.0828e-06  # CLs of the projection on the line between signal and background


@pytest.mark.slow
def test_a_trained_observable_is_better_than_the_obvious_one():
    """CLs of hard histograms, on fresh events."""
    solution = ky.optimise(
        three_blobs.problem(),
        ky.adam(0.02, schedule=150),
        key=jax.random.key(1),
        max_trials=150,
        report_events=50_000,
    )
    report = solution.report
    assert report.best.value + 3 * report.best.stderr < LINEAR
    assert report.start.value > 0.01
