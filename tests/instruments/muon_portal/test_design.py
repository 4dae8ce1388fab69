"""Panels that can be built, what they cost, and budgets that are kept."""

import jax
import jax.numpy as jnp
import pytest

from kythera import errors
from kythera.instruments.muon_portal.design import (
    Panels,
    Portal,
    Prices,
    WithinBudget,
)

PORTAL = Portal(
    Panels([0.8, 0.6], span_1=[1.0, 2.0], span_2=1.5, resolution=0.001),
    Panels([-0.8, -0.6], span_1=1.2, present=[1.0, 0.0]),
    Panels([0.0], x=1.0, facing="x"),
)
PRICES = Prices(area=2.0, channel=1e-3, panel=0.7)


@pytest.mark.parametrize(
    ("fields", "law"),
    [
        ({"span_1": [1.0, -0.1]}, "`span_1` .* > 0, but is -0.1 for panel 1"),
        ({"span_2": 0.0}, "`span_2` .* > 0"),
        ({"resolution": -1.0}, "`resolution` .* >= 0"),
        ({"radiation_lengths": -1.0}, "`radiation_lengths` .* >= 0"),
        ({"efficiency": 1.1}, "`efficiency` .* between 0 and 1, but is 1.1"),
        ({"present": -1.0}, "`present` .* between 0 and 1"),
        ({"tilt_1": float("inf")}, "`tilt_1` .* finite"),
        ({"x": float("nan")}, "`x` .* finite"),
    ],
)
def test_panels_that_cannot_be_built_are_refused(fields, law):
    with pytest.raises(errors.InputError, match=law):
        Panels([0.6, 0.8], **fields)


def test_perfect_and_traced_panels_pass():
    assert Panels([0.6], resolution=0.0).count == 1
    jax.jit(lambda s: Panels(jnp.ones(2), span_1=s))(-1.0)


@pytest.mark.parametrize("group", ["upper", "lower", "sides"])
def test_panels_face_the_volume(group):
    groups = PORTAL.groups | {
        group: Panels([1.0], facing="z" if group == "sides" else "y")
    }
    with pytest.raises(errors.InputError, match=f"`{group}` must face"):
        Portal(**groups)


def test_cost_by_kind():
    pitch = 12**0.5 * 0.001
    shares = PRICES.shares(PORTAL)
    assert float(shares["area"]) == pytest.approx(2 * (1.5 + 3 + 1.2 + 1))
    lengths = 2.5 + 3.5 + 2.2 + 2
    assert float(shares["channels"]) == pytest.approx(1e-3 * lengths / pitch, rel=1e-5)
    assert float(shares["panels"]) == pytest.approx(0.7 * 4)
    assert float(PRICES(PORTAL)) == pytest.approx(sum(map(float, shares.values())))


@pytest.mark.parametrize("prices", [PRICES, Prices(), Prices(0.0, 1e-3, 0.7)])
def test_the_budget_is_kept_to_the_last_unit(prices):
    whole = float(prices(PORTAL))
    for limit in (0.999 * whole, 0.5 * whole):
        cost = float(prices(WithinBudget(prices, limit)(PORTAL)))
        assert cost == pytest.approx(limit, rel=1e-5)
    same = WithinBudget(prices, 1.01 * whole)(PORTAL)
    assert float(prices(same)) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (lambda: Prices(area=-1.0), "`area` is -1"),
        (lambda: Prices(panel=float("inf")), "`panel` is inf"),
        (lambda: WithinBudget(Prices(), 0.0), "`limit` is 0"),
        (lambda: WithinBudget(Prices(0.0, 0.0, 1.0), 9.0), "needs a price > 0"),
        (lambda: WithinBudget(PRICES, 2.8)(PORTAL), "panels alone cost 2.8"),
    ],
)
def test_budgets_that_no_span_can_keep_are_refused(make, law):
    with pytest.raises(errors.InputError, match=law):
        make()


def test_a_portal_without_panels_has_a_derivative():
    def cost(present):
        portal = Portal(Panels([0.6], present=present), Panels([-0.6], present=present))
        return Prices()(WithinBudget(Prices(), 1.0)(portal))

    assert jnp.isfinite(jax.grad(cost)(0.0))
