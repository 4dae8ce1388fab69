"""Learned reconstructions: warm starts, reports, resuming, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.estimators.retrain import _fresh, _simulated, _weights, _with
from kythera.instruments import telescope
from kythera.testing.published import Uniform

KEY = jax.random.key(3)
FLOOR = 1 / 11  # variance of the fitted slope is a tenth of that of the slopes


def features(design, signal):
    """The fitted slope and the four hits, in units of their spread."""
    lever = design.z - jnp.mean(design.z)
    slope = signal @ lever / jnp.sum(lever**2)
    return jnp.concatenate([slope[:, None], signal], 1) / 0.01


class Squares(ky.PerEventLoss):
    """(slope told - slope)^2 in units of the spread of the slopes: 1 for a guess of zero."""

    def loss(self, design, trace):
        return {"slope": (trace.reco[:, 0] - trace.truth.slope / 0.01) ** 2}


def problem(events=500):
    old = telescope.problem(events=events)
    pipeline = ky.Pipeline(
        old.pipeline.source, old.pipeline.simulator, ky.Network(features, 5, width=16)
    )
    return old.replace(pipeline=pipeline, objective=Squares())


def followed(engine, trials=12):
    """Losses at one design, trial after trial."""
    case = problem()
    state, losses = engine.init(case, key=KEY), []
    for i in range(trials):
        keys = jax.random.fold_in(KEY, i)[None]
        [found], state = engine(case, case.space.start[None], state, key=keys, map=map)
        losses.append(found.total.value)
        assert found.events == 500 + 1000
    return losses


@pytest.mark.slow
def test_warm_starts_save_events():
    """1000 events and 25 steps a design: warm is at the floor after 12, cold never is."""
    warm, cold = (
        followed(ky.Retrain(ky.Direct(), steps=25, warm=warm)) for warm in (True, False)
    )
    assert np.mean(warm[-3:]) < 1.3 * FLOOR
    assert min(cold) > 1.3 * FLOOR
    assert warm[0] == pytest.approx(cold[0], rel=1.0)


def test_simultaneous_training_needs_no_further_events():
    """Weights learn from the events of the evaluation itself, which came before."""
    case, engine = problem(500), ky.Retrain(ky.Pathwise(), events=None, steps=25)
    engine.check(case)
    state = engine.init(case, key=KEY)
    seen, losses = [], []
    for i in range(30):
        seen.append(state.weights)
        keys = jax.random.fold_in(KEY, i)[None]
        [found], state = engine(case, case.space.start[None], state, key=keys, map=map)
        assert found.events == 500
        losses.append(found.total.value)
    assert np.mean(losses[-5:]) < 1.3 * FLOOR  # Retrain's own data: the test above
    # The last loss is that of the weights before, on the events that trained the next ones.
    events = jax.random.split(jax.random.fold_in(KEY, 29), 4)[3]
    before = _with(case, seen[-1])
    [again], _ = ky.Pathwise()(
        before, case.space.start[None], None, key=events[None], map=map
    )
    assert again.total.value == losses[-1]
    rows = _simulated(case, (case.space.start, events))
    trace = before.pipeline.analyse(case.space.template, *rows, key=events)
    told = np.mean(Squares().loss(None, trace)["slope"])
    assert told == pytest.approx(losses[-1], rel=1e-5)


def test_design_and_weights_move_together():
    case, engine = problem(500), ky.Retrain(ky.Pathwise(), events=None, steps=25)
    found = ky.optimise(case, ky.adam(0.05), engine, key=KEY, max_trials=40)
    wide = found.problem.space.decode(jnp.asarray(found.u_best)).z
    assert np.ptp(np.asarray(wide)) > 0.6  # the planes go apart, from 0.4, towards 1
    with pytest.raises(
        errors.UnsupportedError, match="`Pathwise` and `Direct` can tell"
    ):
        ky.Retrain(ky.FiniteDifference(), events=None).check(case)


@pytest.mark.parametrize("optimiser", [ky.adam(0.05), ky.Evolution()], ids=type)
def test_start_and_best_are_judged_by_weights_that_were_trained_for_them(optimiser):
    """Whatever was looked at first and last: the loss is near its floor at both."""
    case, engine = problem(), ky.Retrain(ky.Pathwise(), steps=25)
    found = ky.optimise(
        case, optimiser, engine, key=KEY, max_trials=16, report_events=4000
    )
    wide = found.problem.space.decode(jnp.asarray(found.u_best)).z
    assert np.ptp(np.asarray(wide)) > 0.45  # the planes went apart, from 0.4
    for told in (found.report.start, found.report.best):
        assert told.value < 2 * FLOOR
    assert found.report_events == 2 * 4000 + 2 * 1000  # and the training's


class Amplified(ky.AbstractPathwiseSimulator):
    """What arrives, times a gain that depends on the option."""

    def __call__(self, design, x, *, key):
        return x * (1 + 4 * design["option"][0])


class Missed(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"missed": (trace.reco - trace.truth)[:, 0] ** 2}


def gain_and_signal(design, x):
    return jnp.concatenate([x, jnp.full(x.shape, design["option"][0])], 1)


def test_a_choice_is_reported_as_built_by_weights_that_have_seen_it():
    """Between the options while it searches, with a gain of 3.4; as built it is 5."""
    case = ky.Problem(
        ky.Space(
            {"option": jnp.array([0.6, 0.4])}, {"option": ky.Choice(("five", "one"))}
        ),
        ky.Pipeline(
            Uniform((0.0,), (1.0,)), Amplified(), ky.Network(gain_and_signal, 2)
        ),
        Missed(),
        events=400,
    )
    engine = ky.Retrain(ky.Pathwise(), events=500, steps=50)
    found = ky.optimise(
        case, ky.adam(0.001), engine, key=KEY, max_trials=2, report_events=1000
    )
    assert found.soft.best.value < 2e-3
    assert found.hard.best.value < 2e-3
    assert found.hard.start.value < 2e-3


def test_weights_that_diverge_are_not_kept():
    engine = ky.Retrain(ky.Direct(), steps=5, rate=1e38)
    case = problem()
    state = engine.init(case, key=KEY)
    [found], after = engine(case, case.space.start[None], state, key=KEY[None], map=map)
    assert "training of the reconstruction diverged" in found.cause
    assert "Lower `rate`" in found.cause
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bad_input_is_refused():
    with pytest.raises(errors.UnsupportedError, match="needs a learned stage.*LineFit"):
        ky.Retrain(ky.Pathwise()).check(telescope.problem())
    with pytest.raises(errors.InputError, match="`steps`"):
        ky.Retrain(ky.Pathwise(), steps=0)
    engine = ky.Retrain(ky.Pathwise())
    engine.check(problem())
    with pytest.raises(errors.UnsupportedError, match="`Toleranced` takes it into"):
        engine.check(ky.Toleranced(problem(), {"z": 0.001}))
    remembers = ky.Retrain(ky.LocalSurrogate(designs=3))
    with pytest.raises(errors.UnsupportedError, match="remembers what earlier weights"):
        remembers.check(problem())
    ky.Retrain(ky.LocalSurrogate(designs=3, steps=1)).check(problem())
    case = problem()
    other = case.replace(hard_pipeline=telescope.problem().pipeline)
    with pytest.raises(errors.UnsupportedError, match="has 0 learned stages"):
        engine.check(other)


def test_a_network_that_simulates_is_not_trained():
    """Only what is behind the simulator learns; the simulator keeps its weights."""
    case = problem()
    taught = ky.Network(features, 5, key=jax.random.key(9))
    both = case.pipeline.reconstruction, taught
    pipeline = ky.Pipeline(case.pipeline.source, both[1], both[0])
    fresh = _fresh(pipeline, KEY)
    before, after = (jax.tree.leaves(p.simulator) for p in (pipeline, fresh))
    for one, other in zip(before, after, strict=True):
        assert one is other
    assert len(_weights(pipeline)) == 1
