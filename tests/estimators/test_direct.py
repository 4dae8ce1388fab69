"""Blocks of designs: one program for any number of them, which changes no number."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import testing
from kythera.core.evaluation import blocks
from kythera.estimators.direct import evaluate_all

KEY = jax.random.key(5)


@pytest.fixture
def compiled(caplog):
    """Names of the programs that are compiled, as they are."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        yield lambda: re.findall(r"Compiling (?:jit\()?(\w+)", caplog.text)


def _points(problem, count):
    us = np.random.default_rng(1).uniform(size=(count, problem.space.size))
    return jnp.asarray(us), jax.random.split(KEY, count)


def test_blocks_have_one_shape():
    assert [b.tolist() for b in blocks(5, 3)] == [[0, 1, 2], [3, 4, 4]]
    assert [b.tolist() for b in blocks(4, 2)] == [[0, 1], [2, 3]]
    assert [b.tolist() for b in blocks(2, 4)] == [[0, 1, 1, 1]]
    assert [b.tolist() for b in blocks(1, 4)] == [[0]]
    assert [b.tolist() for b in blocks(2, 1)] == [[0], [1]]


def test_nothing_compiles_anew_for_fewer_designs(compiled):
    problem = testing.noisy_sphere(events=17)  # of no other test
    us, keys = _points(problem, 8)
    for count in (8, 7, 5, 3, 2):
        evaluate_all(problem, "pathwise", us[:count], keys[:count], map)
        assert compiled().count("_compiled") == 1
    evaluate_all(problem, "pathwise", us[:1], keys[:1], map)
    assert compiled().count("_compiled") == 2


def test_a_search_that_asks_for_fewer_and_fewer_compiles_twice(compiled):
    problem = testing.rosenbrock(2).replace(events=3)  # of no other test
    found = ky.optimise(
        problem,
        ky.MultiStart(ky.LBFGSB(max_iterations=9, tolerance=1e-3), 4),
        key=KEY,
        max_trials=150,
        report_events=3,
    )
    batches = np.diff([len(copy.us) for copy in found.state[0].copies])
    assert np.any(batches), "the copies ended at different times"
    assert 1 <= compiled().count("_compiled") <= 2


def test_the_number_of_designs_changes_nothing():
    problem = testing.noisy_sphere(events=400)
    width = problem.width
    us, keys = _points(problem, width + 3)
    found = evaluate_all(problem, "pathwise", us, keys, map)
    assert len(found) == width + 3
    for count in (2, 3, width):
        for whole, few in zip(
            found, evaluate_all(problem, "pathwise", us[:count], keys[:count], map)
        ):
            assert few.total.value == whole.total.value
            assert few.total.stderr == whole.total.stderr
            np.testing.assert_array_equal(few.total.gradient, whole.total.gradient)
    alone = evaluate_all(problem, "pathwise", us[:1], keys[:1], map)[0]
    assert alone.total.value == pytest.approx(found[0].total.value, rel=1e-5)


def test_copies_are_nobody_s_trial():
    problem = testing.noisy_sphere()
    seen = []

    def executor(work, items):
        items = list(items)
        seen.extend(len(us) for us, _ in items)
        return map(work, items)

    us, keys = _points(problem, 3)
    found = evaluate_all(problem, "value", us, keys, executor)
    assert seen == [problem.width]
    assert [f.events for f in found] == [problem.price] * 3
