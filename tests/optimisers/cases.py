"""Evaluations made by hand, and a short loop, for tests of optimisers alone."""

import jax
import jax.numpy as jnp
import numpy as np

from kythera import testing
from kythera.core.evaluation import Evaluation, Measured
from kythera.core.objective import AtMost
from kythera.testing.engines import evaluate

KEY = jax.random.key(7)


def answer(value, gradient=None, slack=()):
    """An evaluation; `slack` holds (value, gradient) pairs."""
    slope = None if gradient is None else np.asarray(gradient, float)
    named = {
        f"c{i}": Measured(v, 0.0, None if g is None else np.asarray(g, float))
        for i, (v, g) in enumerate(slack)
    }
    return Evaluation(Measured(value, 0.1, slope), {}, named, np.zeros((0, 0)), 1)


def failure():
    return Evaluation.failed("the program died", 1)


def length(design):
    return jnp.sum(design.x + 2)


def bounded(problem, limit=6.0):
    """The problem with sum(x + 2) <= limit: at best x = -0.5 on the sphere of four."""
    part = AtMost("length", length, limit)
    return problem.replace(objective=problem.objective + part)


def search(optimiser, problem, trials, key=KEY, fails=lambda number: False):
    """The state after so many trials; those that `fails` names gave nothing."""
    state = optimiser.init(problem, np.asarray(problem.space.start), key=key)
    number = 0
    while number < trials and not optimiser.finished(state):
        us, state = optimiser.ask(state, key=jax.random.fold_in(key, number))
        found = evaluate(optimiser, problem, us, number, key)
        for i in range(len(us)):
            if fails(number + i):
                found[i] = failure()
        state = optimiser.tell(state, us, found)
        number += len(us)
    return state


def recommended(optimiser, problem, state):
    """Exact loss and slack of what is recommended."""
    u = optimiser.recommend(state)[0]
    design = problem.space.decode(jnp.asarray(u, float))
    part = problem.objective.parts[0]
    loss = float(part.function(design.x))
    return loss, float(problem.objective.constraints(design)["length"])


BEST = 4 * 0.8**2  # loss of the bounded sphere
START = np.asarray(testing.sphere().space.start, float)
