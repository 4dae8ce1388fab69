"""Python callables as simulators, and functions as problems: what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.core.objective import Cost

KEY = jax.random.key(2)
X = {"x": ky.Real(0, 1)}


def test_a_declared_row_keeps_its_types():
    row = {
        "hits": jax.ShapeDtypeStruct((3,), jnp.int32),
        "fired": np.zeros((), bool),
        "time": 0.0,
        "charge": np.float64(0),
    }
    shapes = ky.HostSimulator(lambda design, x, seed: None, row).shapes(5)
    assert shapes["hits"] == jax.ShapeDtypeStruct((5, 3), jnp.int32)
    assert shapes["fired"] == jax.ShapeDtypeStruct((5,), bool)
    assert shapes["time"] == shapes["charge"]
    assert shapes["time"] == jax.ShapeDtypeStruct((5,), jnp.result_type(float))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, width: x,
        lambda x, *, width: x,
        lambda x, width, /: x,
        lambda x, key: x,
    ],
)
def test_arguments_that_nobody_gives_are_refused(function):
    with pytest.raises(errors.InputError, match=r"'(width|key|x)'.*(default|Known)"):
        ky.from_function(function, X)


def test_arguments_that_are_given_are_not_refused():
    def loss(x, seed, width=2.0, *more, **others):
        return x * width

    assert ky.from_function(loss, X).space.size == 1


@pytest.mark.parametrize(
    ("parameters", "start"),
    [({"x": ky.Real([0, 0], [1, 1])}, {}), (X, {"x": [0.5, 0.5]})],
)
def test_parameters_are_single_numbers(parameters, start):
    with pytest.raises(errors.SpaceError, match=r"single number, but 'x'.*\(2,\)"):
        ky.from_function(lambda x: x, parameters, start=start)


def test_a_misspelt_weight_is_found_before_anything_runs():
    calls = []

    def loss(x):
        calls.append(x)
        return {"time": x, "money": 1 - x}

    problem = ky.from_function(loss, X, terms=("time", "money"))
    wrong = problem.replace(weights={"mony": 2.0})
    with pytest.raises(errors.InputError, match="'mony'.*Did you mean 'money'"):
        ky.optimise(wrong, ky.RandomSearch(2), key=KEY, max_trials=4)
    assert not calls
    right = problem.replace(weights={"money": 2.0})
    ky.Direct().check(right)
    assert not calls


def test_a_weight_that_only_the_report_lacks_is_found_before():
    problem = ky.from_function(lambda x: x**2, X, differentiable=True)
    other = problem.replace(
        weights={"loss": 2.0},
        hard_objective=Cost(lambda design: {"money": design["x"]}),
    )
    with pytest.raises(errors.InputError, match="'loss'.*Known: 'money'"):
        ky.Pathwise().check(other)


def test_a_forgotten_return_is_said():
    problem = ky.from_function(lambda a: None, {"a": ky.Real(0, 1)})
    [found], _ = ky.Direct()(problem, problem.space.start[None], None, key=KEY[None])
    assert "gave None for ['loss']. Is a `return` missing?" in found.cause
