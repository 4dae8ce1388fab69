"""Costs, budgets, constraints, sums, and how a problem weighs its terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.objective import AtMost, Budget, Cost
from kythera.testing import noisy_sphere, sphere

KEY = jax.random.key(1)


def cost(design):
    return jnp.sum(design.x + 2)  # 4 at the start of the textbook problems


def test_the_budget_curve():
    """2 sigmoid(d) below the limit, 1 + d / 2 above; its slope is continuous."""
    budget = Budget(lambda amount: amount, limit=10.0, steepness=10.0)

    def term(amount):
        return budget.score(amount, ()).loss["budget"]

    assert term(jnp.array(10.0)) == pytest.approx(1.0)
    for amount, expected in [(9.0, 2 / (1 + np.e)), (11.0, 1.5), (20.0, 6.0)]:
        assert term(jnp.array(amount)) == pytest.approx(expected, rel=1e-6)
    assert term(jnp.array(0.0)) == pytest.approx(2 / (1 + np.exp(10)), rel=1e-5)
    below, at, above = (jax.grad(term)(jnp.array(c)) for c in (9.9999, 10.0, 10.0001))
    assert below == pytest.approx(0.5, rel=1e-3)  # steepness / 2 / limit
    assert at == pytest.approx(0.5)
    assert above == pytest.approx(0.5)
    assert np.isfinite(jax.grad(term)(jnp.array(1e6)))


def test_a_constraint_is_a_slack():
    limit = AtMost("cost", lambda design: design, 8.0)
    assert limit.constraints(jnp.array(6.0))["cost"] == pytest.approx(0.25)
    assert limit.constraints(jnp.array(10.0))["cost"] == pytest.approx(-0.25)
    assert limit.score(jnp.array(6.0), ()).loss == {}


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_not_positive_is_refused(limit):
    """1 - value / limit would change its sign, or be infinite."""
    with pytest.raises(errors.InputError, match="limit of `AtMost` 'cost' must be > 0"):
        AtMost("cost", cost, limit)
    with pytest.raises(errors.InputError, match="limit of `Budget` 'budget' must be"):
        Budget(cost, limit)


def test_sums_stand_side_by_side_and_are_flat():
    base = sphere().objective
    total = base + Cost(lambda d: {"cost": cost(d)}) + AtMost("length", cost, 5.0)
    assert len(total.parts) == 3
    problem = sphere().replace(objective=total)
    design = problem.space.template
    rows = total.tally(design, problem.pipeline(design, 2, key=KEY))
    score = problem.score(design, jax.tree.map(lambda v: v.mean(0), rows))
    assert set(score.loss) == {"loss", "cost"}
    assert float(score.loss["cost"]) == pytest.approx(4.0)
    assert float(score.slack["length"]) == pytest.approx(0.2)


def test_two_terms_of_one_name_are_refused():
    part = Cost(lambda d: {"loss": cost(d)})
    problem = sphere().replace(objective=sphere().objective + part)
    design = problem.space.template
    with pytest.raises(errors.UnsupportedError, match="'loss'.*Rename"):
        problem.objective.score(design, ({"loss": jnp.zeros(())}, ()))


def test_sums_of_other_nuisances_are_refused():
    class Other(Cost):
        def nuisances(self):
            return {"x": 1.0}

    class More(Cost):
        def nuisances(self):
            return {"x": 2.0}

    both = Other(lambda d: {}) + More(lambda d: {})
    with pytest.raises(errors.UnsupportedError, match="same nuisance parameters"):
        both.nuisances()


def test_weights():
    problem = noisy_sphere().replace(weights={"loss": 2.0})
    assert problem.weight({"cost": 0, "loss": 0}).tolist() == [1.0, 2.0]
    assert float(problem.total({"cost": jnp.ones(()), "loss": jnp.ones(())})) == 3.0
    with pytest.raises(errors.InputError, match=r"no term 'loss'.*Known: 'cost'"):
        problem.weight({"cost": 0})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"events": 0}, "`events` must be a whole number >= 1, but is 0"),
        ({"chunk": 2.5}, "`chunk` must be a whole number"),
        ({"evnts": 5}, "no field 'evnts'. Did you mean 'events'"),
    ],
)
def test_problems_refuse_what_they_cannot_be(fields, words):
    with pytest.raises(errors.InputError, match=words):
        sphere().replace(**fields)


def test_price_counts_whole_chunks():
    problem = noisy_sphere().replace(events=10, chunk=4)
    assert problem.chunks == (3, 4)
    assert problem.price == 12
