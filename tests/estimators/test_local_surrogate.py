"""Local surrogates: the region, the memory, what is refused, and models that do not train."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.core.objective import PerEventLoss
from kythera.estimators.local_surrogate import latin_hypercube
from kythera.instruments import telescope
from kythera.runs import spec
from kythera.surrogates.base import AbstractSurrogate
from kythera.testing import published

KEY = jax.random.key(4)


def once(engine, problem, state=None, number=0, u=None):
    state = engine.init(problem, key=KEY) if state is None else state
    u = problem.space.start if u is None else u
    keys = jax.random.fold_in(KEY, number)[None]
    [found], state = engine(problem, jnp.asarray(u)[None], state, key=keys, map=map)
    return found, state


def test_a_latin_hypercube_has_one_point_in_every_slice():
    u = jnp.array([0.5, 0.98, 0.0])
    points = np.asarray(latin_hypercube(KEY, u, 0.1, 5))
    np.testing.assert_array_equal(points[0], u)
    low, up = np.maximum(u - 0.1, 0), np.minimum(u + 0.1, 1)
    slices = np.floor((points[1:] - low) / (up - low) * 5)
    assert [sorted(column) for column in slices.T] == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.slow
def test_the_gradient_of_a_published_problem():
    """45 at psi = 2, slopes (180, 140, ..., -40) in the cube; one step of L-GSO."""
    problem = published.valley()
    found, _ = once(ky.LocalSurrogate(radius=0.02, designs=30), problem)
    exact = np.array([180, *[140] * 8, -40])
    cosine = found.total.gradient @ exact
    cosine /= np.linalg.norm(found.total.gradient) * np.linalg.norm(exact)
    assert cosine > 0.97
    assert abs(found.total.value - 45) < 5 * found.total.stderr
    assert found.events == 31 * 3000


def test_what_was_simulated_before_helps():
    problem, engine = published.valley(), ky.LocalSurrogate(radius=0.02, designs=5)
    exact = np.array([180, *[140] * 8, -40])
    first, state = once(engine, problem)
    for i in range(1, 8):
        last, state = once(engine, problem, state, i)
    assert state.filled.sum() == 48
    wrong = [np.linalg.norm(f.total.gradient - exact) for f in (first, last)]
    assert wrong[1] < wrong[0] / 3


def test_what_is_far_is_not_used():
    """Designs outside of the region change nothing, whatever they gave."""
    problem = published.valley()
    engine = ky.LocalSurrogate(radius=0.02, designs=15)
    _, state = once(engine, problem, u=jnp.full(10, 0.2))
    kept = state.kept._replace(tally=state.kept.tally + 1e6)
    fresh, _ = once(engine, problem)
    far, _ = once(engine, problem, state._replace(kept=kept))
    np.testing.assert_allclose(far.total.gradient, fresh.total.gradient, rtol=1e-3)


def test_nothing_compiles_after_the_first_step(caplog):
    problem, engine = published.valley(7), ky.LocalSurrogate(radius=0.02, designs=3)
    _, state = once(engine, problem)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for i in range(1, 4):
            _, state = once(engine, problem, state, i)
    compiled = re.findall(r"Compiling (?:jit\()?(\w+)", caplog.text)
    assert not compiled


def test_a_host_simulator_has_a_gradient():
    def loss(a, b, seed):
        return (a - 0.2) ** 2 + b + 0.01 * np.random.default_rng(seed).normal()

    domains = {"a": ky.Real(0, 1), "b": ky.Real(0, 1)}
    problem = ky.from_function(loss, domains, events=4, start={"a": 0.6, "b": 0.5})
    engine = ky.LocalSurrogate(radius=0.1, designs=12)
    engine.check(problem)
    found, _ = once(engine, problem)
    np.testing.assert_allclose(found.total.gradient, [0.8, 1.0], atol=0.15)


class Wild(AbstractSurrogate):
    """Gives what it is told to: infinite losses, or a mean that is far off."""

    models = "tally"
    course: float = 0.0
    off: float = 0.0

    def fit(self, key, samples):
        def model(design, truth, *, key):
            return jnp.full((truth.shape[0], 1), 10.0 + self.off) + 0 * design[0]

        return model, jnp.array([1.0, self.course])


@pytest.mark.parametrize(
    ("wild", "words"),
    [
        (
            Wild(course=jnp.nan),
            "training of `Wild` diverged: its loss is nan at step 1",
        ),
        (Wild(off=1e3), "`Wild` did not learn"),
    ],
)
def test_a_model_that_does_not_train_fails_the_trial_and_loses_nothing(wild, words):
    problem = telescope.problem(events=20)
    found, state = once(ky.LocalSurrogate(wild), problem)
    assert words in found.cause
    assert "or use `Quadratic`" in found.cause
    assert state.filled.sum() == 9
    assert found.events == 9 * 20
    with pytest.raises(errors.SimulationError, match="did not learn|diverged"):
        ky.optimise(problem, ky.adam(), ky.LocalSurrogate(wild), key=KEY, max_trials=30)


@pytest.mark.parametrize("is_lost", [False, True])
def test_one_lost_simulation_is_no_loss(is_lost):
    def loss(a, seed):
        if a > 0.52 and is_lost:
            raise RuntimeError("too far out")
        return a if a <= 0.52 else float("nan")

    problem = ky.from_function(loss, {"a": ky.Real(0, 1)}, events=2, start={"a": 0.5})
    found, state = once(ky.LocalSurrogate(radius=0.05, designs=6), problem)
    assert not found.cause
    assert 1 < state.filled.sum() < 7
    np.testing.assert_allclose(found.total.gradient, [1.0], atol=0.05)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ky.LocalSurrogate(radius=0.0), "radius.*Try 0.05"),
        (lambda: ky.LocalSurrogate(designs=0), "designs.*Try 8"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(errors.InputError, match=words):
        make()


def test_bad_problems_are_refused():
    domains = {"a": ky.Real(0, 1), "kind": ky.Choice(("one", "two"))}
    host = ky.from_function(lambda a, kind, seed: a, domains)
    with pytest.raises(errors.UnsupportedError, match="without jumps, but 'kind'"):
        ky.LocalSurrogate().check(host)
    real = ky.from_function(lambda a, seed: a, {"a": ky.Real(0, 1)})
    ky.LocalSurrogate().check(real)
    later = ky.from_function(
        lambda a, key: a, {"a": ky.Real(0, 1)}, differentiable=True
    )
    later = later.replace(
        pipeline=ky.Pipeline(
            later.pipeline.source,
            later.pipeline.simulator,
            reconstruction=real.pipeline.simulator,
        )
    )
    with pytest.raises(errors.UnsupportedError, match="takes the simulator's slot"):
        ky.LocalSurrogate(ky.CramerGAN()).check(later)


class InNumpy(PerEventLoss):
    """Written without JAX, which engines that only call it allow."""

    def loss(self, design, trace):
        return {"loss": np.asarray(trace.signal["loss"]) ** 2}


def test_an_objective_that_cannot_be_traced_is_refused():
    base = ky.from_function(lambda a: a, {"a": ky.Real(0, 1)})
    problem = base.replace(objective=InNumpy())
    [found], _ = ky.Direct()(problem, problem.space.start[None], None, key=KEY[None])
    assert found.total.value == pytest.approx(0.25)
    with pytest.raises(errors.UnsupportedError, match="Write it with `jax.numpy`"):
        ky.LocalSurrogate(designs=3).init(problem, key=KEY)


@pytest.mark.library("flowjax")
def test_signals_that_are_too_long_for_a_flow_are_refused():
    """One pixel image of 17 x 17 an event: 289 passes, each of which is kept."""
    domains = {"a": ky.Real(0, 1)}
    image = ky.from_function(
        lambda a, key: a * jax.random.normal(key, (17, 17)), domains, events=4,
        differentiable=True,
    )  # fmt: skip
    with pytest.raises(errors.UnsupportedError, match="at most, but one of .* has 289"):
        ky.LocalSurrogate(ky.Flow()).check(image)
    ky.LocalSurrogate(ky.CramerGAN()).check(image)


def test_a_text_names_the_model():
    made = spec.make(
        "estimator", "local_surrogate:designs=4,surrogate=(regressor:steps=20)"
    )
    assert made.designs == 4
    assert made.surrogate.steps == 20
    assert isinstance(made.surrogate, ky.Regressor)


@pytest.mark.slow  # a game of networks takes long to compile
@pytest.mark.parametrize(
    "model",
    [ky.CramerGAN(steps=20), ky.Flow(steps=10, layers=1), ky.Diffusion(steps=20)],
)
def test_generated_signals_go_through_the_reconstruction(model):
    """The telescope's four hits: shapes, a finite gradient, and the measured value."""
    problem = telescope.problem(events=50)
    engine = ky.LocalSurrogate(model, designs=3, steps=2)
    engine.check(problem)
    found, _ = once(engine, problem)
    if not found.cause:
        assert np.all(np.isfinite(found.total.gradient))
    else:
        assert "did not learn" in found.cause


def test_a_function_of_one_event_has_a_gradient():
    """The default of `from_function`: no spread of events is known, and none is needed."""

    def bowl(a, b, seed):
        return (a - 0.3) ** 2 + (b - 0.7) ** 2

    domains = {"a": ky.Real(0, 1), "b": ky.Real(0, 1)}
    case = ky.from_function(bowl, domains, start={"a": 0.5, "b": 0.5})
    engine = ky.LocalSurrogate(radius=0.1, designs=8)
    state = engine.init(case, key=jax.random.key(0))
    us, keys = jnp.array([[0.5, 0.5]]), jax.random.key(1)[None]
    [found], _ = engine(case, us, state, key=keys, map=map)
    assert not found.cause
    np.testing.assert_allclose(found.total.gradient, [0.4, -0.4], atol=0.02)
