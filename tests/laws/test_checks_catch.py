"""The checks themselves: each finds the fault that it is made for."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import testing
from kythera.core.objective import PerEventLoss, Score
from kythera.core.stage import AbstractHostSimulator, AbstractPathwiseSimulator
from kythera.testing.textbook import Nothing, Readout

KEY = jax.random.key(5)
DESIGN = testing.Point(jnp.array([0.5, -0.2]))
ROWS = jnp.zeros(200)


class Faulty(AbstractPathwiseSimulator):
    """A readout with one fault."""

    fault: str

    def __call__(self, design, x, *, key):
        events = x.shape[0]
        y = design.x + jax.random.normal(key, (events, 2))
        broken = {
            "random": lambda: y + np.random.default_rng().normal(),
            "nan": lambda: y.at[0, 0].set(jnp.nan),
            "axis": lambda: y.T if events != 2 else y,
            "summed": lambda: jnp.sum(y, 0),
            "eager": lambda: jnp.asarray(np.asarray(y)),
            "stopped": lambda: jax.lax.stop_gradient(y),
            "half": lambda: y + jax.lax.stop_gradient(design.x),
            "cut": lambda: jnp.where(y > 0, y + 1.0, y),
            "flag": lambda: (y, y[:, 0] > 0),
        }
        return broken[self.fault]()


class Lying(Readout):
    """A density without its normalisation in the design, or centred elsewhere."""

    def log_prob(self, design, x, y):
        return super().log_prob(design, x, y + 0.2)


class Short(AbstractHostSimulator):
    """Declares other shapes than it gives, in a tree that has none of its own."""

    def run(self, design, x, *, seed):
        return np.random.default_rng().normal(size=(len(x), 2))

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events, 2), jnp.float32)


class Source(Nothing):
    def __call__(self, events, *, key):
        return jnp.zeros(events + 1)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("random", "same output for the same key"),
        ("nan", "finite numbers"),
        ("axis", "axis `event`"),
        ("summed", "axis `event`"),
    ],
)
def test_faulty_stages(fault, law):
    with pytest.raises(AssertionError, match=law):
        testing.check_stage(Faulty(fault), DESIGN, ROWS[:5], key=KEY)


def test_stages_that_cannot_be_compiled():
    with pytest.raises(jax.errors.TracerArrayConversionError):
        testing.check_stage(Faulty("eager"), DESIGN, ROWS[:5], key=KEY)


def test_host_stages_without_seed():
    with pytest.raises(AssertionError, match="same output for the same key"):
        testing.check_stage(Short(), DESIGN, ROWS[:5], key=KEY)


class Together(AbstractHostSimulator):
    """Its random numbers depend on who else is in the call."""

    batch: int = 2

    def run(self, design, x, *, seed):
        return np.random.default_rng(seed).normal(size=len(x))

    def run_batch(self, designs, xs, *, seeds):
        random = np.random.default_rng(seeds[0])
        return [random.normal(size=len(x)) for x in xs]

    def shapes(self, events):
        return jax.ShapeDtypeStruct((events,), jnp.result_type(float))


def test_host_stages_that_mix_designs():
    with pytest.raises(AssertionError, match="several designs in one call"):
        testing.check_stage(Together(), DESIGN, ROWS[:5], key=KEY)


def test_faulty_sources():
    with pytest.raises(AssertionError, match="axis `event`"):
        testing.check_source(Source(), key=KEY)
    with pytest.raises(AssertionError, match="primaries"):
        testing.check_source(Nothing(primaries=0), key=KEY)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("stopped", "central difference"),
        ("half", "central difference"),
        ("cut", "nothing jumps"),
        ("flag", "may jump"),
    ],
)
def test_faulty_gradients(fault, law):
    with pytest.raises(AssertionError, match=law):
        testing.check_gradient(Faulty(fault), DESIGN, ROWS, key=KEY)


def test_faulty_gradients_of_problems():
    base = testing.noisy_sphere(n=2)
    pipeline = eqx.tree_at(lambda p: p.simulator, base.pipeline, Faulty("half"))
    with pytest.raises(AssertionError, match=r"along 'x\[0\]'"):
        testing.check_problem_gradient(base.replace(pipeline=pipeline), key=KEY)


def test_faulty_densities():
    rows = jnp.zeros(2000)
    testing.check_log_prob(Readout(0.5), DESIGN, rows, key=KEY)
    with pytest.raises(AssertionError, match="four standard errors"):
        testing.check_log_prob(Lying(0.5), DESIGN, rows, key=KEY)


class Wrong(PerEventLoss):
    """A loss that looks at its neighbours, or scores what does not add up."""

    fault: str

    def loss(self, design, trace):
        y = trace.signal[:, 0]
        return {"loss": y - jnp.mean(y) if self.fault == "neighbours" else y}

    def score(self, design, tally):
        loss = tally["loss"]
        if self.fault == "frozen":  # hides how the score depends on the mean
            loss = jax.lax.stop_gradient(3 * loss**2) + loss
        return Score({"loss": loss})


@pytest.mark.parametrize(
    ("fault", "law"), [("neighbours", "event by event"), ("frozen", "bootstrap")]
)
def test_faulty_objectives(fault, law):
    base = testing.noisy_sphere(n=2, events=1000)
    with pytest.raises(AssertionError, match=law):
        testing.check_objective(base.replace(objective=Wrong(fault)), key=KEY)


class Crooked(ky.Pathwise):
    """Pathwise with a fault in what it reports."""

    fault: str = ""

    def __call__(self, problem, us, state, *, key, map=map):
        found, state = super().__call__(problem, us, state, key=key, map=map)
        return [self._bend(f) for f in found], state

    def _bend(self, f):
        total = f.total
        if self.fault == "gradient":
            total = dataclasses.replace(total, gradient=1.05 * total.gradient)
        elif self.fault == "error":
            total = dataclasses.replace(total, stderr=0.5 * total.stderr)
        elif self.fault == "value":
            total = dataclasses.replace(total, value=total.value + 0.5)
        elif self.fault == "events":
            f = dataclasses.replace(f, events=1)
        return dataclasses.replace(f, total=total)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("", ""),
        ("gradient", "mean gradient"),
        ("error", "standard error"),
        ("value", "mean loss"),
        ("events", "`price`"),
    ],
)
def test_faulty_estimators(fault, law):
    problem = testing.noisy_sphere()
    start = np.asarray(problem.space.start)
    arguments = (problem, testing.exact_gradient(problem, start))
    value = testing.exact_loss(problem, start)
    if not fault:
        testing.check_estimator(Crooked(), *arguments, value=value, key=KEY)
        return
    with pytest.raises(AssertionError, match=law):
        testing.check_estimator(Crooked(fault), *arguments, value=value, key=KEY)


class Unruly(ky.RandomSearch):
    """A random search with one fault."""

    fault: str = ""

    def init(self, problem, u0, *, key):
        state = super().init(problem, u0, key=key)
        if self.fault == "state":
            return state._replace(seed=np.random.default_rng(1))
        return state

    def ask(self, state, *, key):
        us, state = super().ask(state, key=key)
        if self.fault == "outside":
            us = us + 0.5
        if self.fault == "moody":
            us = np.random.default_rng().uniform(size=us.shape)
        if self.fault == "tampers":
            state.order[:] = 0.5
        return us, state

    def tell(self, state, us, evaluations):
        told = super().tell(state, us, evaluations)
        if self.fault == "impatient" and len(us) < self.batch:
            return told._replace(best=np.full(len(us[0]), np.nan))
        return told


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("outside", "points of the cube"),
        ("moody", "same for the same state"),
        ("impatient", "recommend points of the cube"),
        ("state", "arrays, numbers and text"),
        ("tampers", "leave a state as it was"),
        ("", "must reach 0.001 of the start's loss on the sphere within 32 trials"),
    ],
)
def test_faulty_optimisers(fault, law):
    with pytest.raises(AssertionError, match=law):
        testing.check_optimiser(
            Unruly(fault=fault), key=KEY, reaches={"sphere": (32, 1e-3)}, trials=32
        )


class Leaky(ky.Space):
    """Moves what is frozen, or leaves the bounds."""

    def decode(self, u, *, hard=False):
        design = super().decode(u, hard=hard)
        return {**design, "frozen": design["frozen"] + 1}


class Loose(ky.Real):
    def decode(self, u, *, hard):
        return super().decode(1.2 * u, hard=hard)

    def encode(self, leaf):
        return super().encode(leaf) / 1.2


def test_faulty_spaces():
    design = {"x": jnp.array(0.5), "frozen": jnp.array(1.0)}
    with pytest.raises(AssertionError, match="Frozen leaves"):
        testing.check_space(Leaky(design, {"x": ky.Real(0, 1)}), key=KEY)
    with pytest.raises(AssertionError, match="Frozen leaves"):
        testing.check_space(
            ky.Space(
                design,
                {"x": ky.Real(0, 1)},
                lambda d: {**d, "frozen": d["frozen"] + d["x"]},
            ),
            key=KEY,
        )
    with pytest.raises(AssertionError, match="must stay in its domain"):
        testing.check_space(ky.Space(design, {"x": Loose(0, 1)}), key=KEY)


def test_instruments_that_gain_nothing():
    problem = testing.noisy_sphere()
    with pytest.raises(AssertionError, match="must be improved by a factor of 1e\\+06"):
        testing.check_instrument(
            problem, key=KEY, optimiser=ky.RandomSearch(16), factor=1e6, max_trials=16
        )
    with pytest.raises(AssertionError, match=r"must end in 1e-06 s.*trials took"):
        testing.check_instrument(
            problem,
            key=KEY,
            optimiser=ky.RandomSearch(16),
            factor=1.0,
            max_trials=16,
            max_seconds=1e-6,
        )
    with pytest.raises(AssertionError, match="must have a name"):
        testing.check_instrument(
            problem.replace(name="problem"),
            key=KEY,
            optimiser=ky.adam(),
            factor=1,
            max_trials=1,
        )
