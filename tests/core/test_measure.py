"""One evaluation: value, error and gradient in one chunk or many, and failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import testing
from kythera.core import comparison, measure
from kythera.core.objective import AtMost, Cost, PerEventLoss
from kythera.core.space import Integer
from kythera.core.stage import AbstractHostSimulator
from kythera.instruments import telescope
from kythera.testing.textbook import exact_gradient

KEY = jax.random.key(11)
EXACT = np.array([40.0, 20.0, -20.0, -40.0])


def _one(problem, mode: measure.Mode = "value", key=KEY, u=None):
    us = np.asarray(problem.space.start if u is None else u)[None]
    return measure.evaluate(problem, mode, (us, key[None]))[0]


def _gradient(measured):
    assert measured.gradient is not None
    return measured.gradient


class Bumps(PerEventLoss):
    """Not finite where x > 0, or in its derivative at x = 0."""

    what: str

    def loss(self, design, trace):
        y = trace.signal[:, 0]
        bad = {
            "value": jnp.where(y > 0, jnp.nan, y),
            "infinite": jnp.where(y > 0, jnp.inf, y),
            "gradient": jnp.sqrt(jnp.abs(y)),
        }
        return {"bump": bad[self.what]}


class Vanishing(AbstractHostSimulator):
    """A program that dies beyond x = 0."""

    def run(self, design, x, *, seed):
        if design.x[0] > 0:
            raise RuntimeError("segmentation fault")
        return np.broadcast_to(design.x, (len(x), design.x.size))

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events, 4), jnp.float32)


@pytest.fixture(scope="module")
def at_once():
    return _one(telescope.problem(events=4000), "pathwise")


def test_value_error_and_gradient_of_the_telescope(at_once):
    total = at_once.total
    assert abs(total.value - 10) < 4 * total.stderr
    # The slope's pull is normal: the loss is 10 chi2 of one degree of freedom.
    assert total.stderr == pytest.approx(10 * np.sqrt(2 / 4000), rel=0.15)
    np.testing.assert_allclose(total.gradient, EXACT, atol=10)
    assert at_once.covariance[0, 0] == pytest.approx(total.stderr**2, rel=1e-5)
    assert at_once.events == 4000


def test_chunks_are_the_whole_within_statistics(at_once):
    chunked = _one(telescope.problem(events=4000).replace(chunk=1000), "pathwise")
    gap = chunked.total.value - at_once.total.value
    assert abs(gap) < 4 * np.hypot(chunked.total.stderr, at_once.total.stderr)
    assert chunked.total.stderr == pytest.approx(at_once.total.stderr, rel=0.15)
    np.testing.assert_allclose(_gradient(chunked.total), EXACT, atol=10)
    assert chunked.total.value != at_once.total.value  # other events


def test_gradients_of_a_chunked_problem_in_float64():
    problem = testing.noisy_sphere(n=2, events=12).replace(chunk=4)
    testing.check_problem_gradient(problem, key=KEY)


def test_a_batch_gives_what_its_members_give():
    problem = testing.noisy_sphere()
    us = np.stack([np.full(4, 0.2), np.full(4, 0.7), np.full(4, 0.5)])
    keys = jax.random.split(KEY, 3)
    together = measure.evaluate(problem, "pathwise", (us, keys))
    for u, key, found in zip(us, keys, together, strict=True):
        alone = _one(problem, "pathwise", key, u)
        assert found.total.value == pytest.approx(alone.total.value, rel=1e-5)
        np.testing.assert_allclose(
            _gradient(found.total), _gradient(alone.total), rtol=1e-4
        )


@pytest.mark.parametrize("mode", ["pathwise", "score"])
def test_constraints_have_exact_gradients_in_each_mode(mode):
    def length(design):
        return jnp.sum(design.x + 2)

    base = testing.noisy_sphere()
    problem = base.replace(objective=base.objective + AtMost("length", length, 8.0))
    found = _one(problem, mode)
    assert found.slack["length"].value == pytest.approx(0.5)
    assert found.slack["length"].stderr == 0
    np.testing.assert_allclose(_gradient(found.slack["length"]), -0.5, rtol=1e-5)
    assert found.violation == 0
    outside = _one(problem, mode, u=np.ones(4))
    assert outside.violation == pytest.approx(1.0)


def test_weights_scale_total_and_gradient():
    base = testing.noisy_sphere()
    one, three = (
        _one(base, "pathwise"),
        _one(base.replace(weights={"loss": 3.0}), "pathwise"),
    )
    assert three.total.value == pytest.approx(3 * one.total.value, rel=1e-6)
    assert three.total.stderr == pytest.approx(3 * one.total.stderr, rel=1e-5)
    assert three.terms["loss"].value == pytest.approx(one.terms["loss"].value)
    np.testing.assert_allclose(
        _gradient(three.total), 3 * _gradient(one.total), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("what", "u", "mode", "cause"),
    [
        ("value", 0.9, "value", "term 'bump' is nan"),
        ("infinite", 0.9, "value", "term 'bump' is inf"),
        ("gradient", 0.5, "pathwise", "gradient along 'x[0]' is not finite"),
    ],
)
def test_numbers_that_are_not_finite_fail_with_their_cause(what, u, mode, cause):
    problem = testing.sphere().replace(objective=Bumps(what))
    found = _one(problem, mode, u=np.full(4, u))
    assert cause in found.cause
    assert found.total.value == np.inf
    assert found.total.gradient is None
    assert found.events == 2
    assert not _one(problem, mode, u=np.full(4, 0.2)).cause


def _host():
    base = testing.sphere()
    return base.replace(
        pipeline=base.pipeline.__class__(base.pipeline.source, Vanishing())
    )


def test_a_program_that_dies_fails_one_evaluation():
    found = _one(_host(), u=np.full(4, 0.8))
    assert "segmentation fault" in found.cause
    alive = _one(_host(), u=np.full(4, 0.2))
    assert not alive.cause
    expected = testing.exact_loss(testing.sphere(), np.full(4, 0.2))
    assert alive.total.value == pytest.approx(expected, rel=1e-5)


def test_host_simulators_get_hard_designs():
    base = _host()
    space = base.space.__class__(base.space.template, {"x": Integer(-2, 2)})
    problem = base.replace(space=space)
    assert problem.design(jnp.full(4, 0.3)).x.tolist() == [-1.0] * 4
    assert not problem.softened


def test_hard_problems_are_what_is_reported():
    base = testing.noisy_sphere()
    sharp = base.pipeline.__class__(base.pipeline.source, base.pipeline.simulator)
    problem = base.replace(hard_pipeline=sharp)
    assert problem.softened
    assert not problem.hard().softened
    assert problem.hard().pipeline is sharp


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_cost_alone_needs_no_event(chunk):
    amounts = Cost(lambda d: {"length": jnp.sum(d.x), "area": jnp.sum(d.x**2)})
    for base in (testing.sphere(), _host()):
        problem = base.replace(objective=amounts, chunk=chunk)
        mode = "value" if problem.pipeline.is_host else "pathwise"
        found = _one(problem, mode)
        assert found.total.value == pytest.approx(0.0)
        assert found.total.stderr == 0
        assert found.terms["length"].value == pytest.approx(-4.0)
        if mode == "pathwise":
            np.testing.assert_allclose(_gradient(found.total), -4.0)
        both = comparison.compare(problem, np.array([[0.25] * 4, [0.5] * 4]), KEY)
        np.testing.assert_allclose(both.loss["area"], [4.0, 0.0], atol=1e-6)
        np.testing.assert_array_equal(both.covariance, np.zeros((4, 4)))


def test_designs_compared_on_the_same_events_have_small_errors():
    problem = testing.noisy_sphere(events=400)
    us = np.stack([np.full(4, 0.30), np.full(4, 0.31)])
    found = comparison.compare(problem, us, KEY)
    losses, covariance = found.loss["loss"], np.asarray(found.covariance)
    vector = np.array([1.0, -1.0])
    error = float(np.sqrt(vector @ covariance @ vector))
    exact = [testing.exact_loss(problem, u) for u in us]
    gap = float(losses[0] - losses[1]) - (exact[0] - exact[1])
    assert abs(gap) < 4 * error
    assert error < 0.1 * float(np.sqrt(covariance[0, 0]))


def test_textbook_gradients_are_exact():
    u = np.array([0.1, 0.4, 0.6, 0.9])
    found = _one(testing.rosenbrock(), "pathwise", u=u)
    expected = exact_gradient(testing.rosenbrock(), u)
    np.testing.assert_allclose(_gradient(found.total), expected, rtol=1e-4)
