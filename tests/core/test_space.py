"""Design spaces: the only door between physics and optimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kythera import errors, testing
from kythera.core.space import Choice, Integer, Real, Space, is_cube, leaf_paths

NAMES = st.text("abcdefgh", min_size=1, max_size=3)
SHAPES = st.sampled_from([(), (2,), (2, 3)])


@st.composite
def leaves(draw):
    """A leaf and its domain; None where it is frozen."""
    shape = draw(SHAPES)
    kind = draw(st.sampled_from(["frozen", "real", "log", "integer", "choice"]))
    part = np.full(shape, draw(st.floats(0, 1)))
    if kind == "frozen":
        return part, None
    if kind == "integer":
        low, steps = draw(st.integers(-5, 5)), draw(st.integers(1, 9))
        return low + np.round(part * steps), Integer(low, low + steps)
    if kind == "choice":
        k = draw(st.integers(2, 4))
        weights = np.broadcast_to(np.eye(k)[draw(st.integers(0, k - 1))], (*shape, k))
        return weights, Choice(tuple(f"o{i}" for i in range(k)))
    low, length = draw(st.floats(0.01, 10)), draw(st.floats(0.1, 10))
    if kind == "log":
        return low * (1 + length) ** part, Real(low, low * (1 + length), log=True)
    return low - 5 + part * length, Real(low - 5, low - 5 + length)


@st.composite
def spaces(draw):
    """A nested design with some free leaves."""
    design, free = {}, {}
    for outer in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        design[outer] = {}
        for inner in draw(st.lists(NAMES, min_size=1, max_size=2, unique=True)):
            leaf, domain = draw(leaves())
            design[outer][inner] = jnp.asarray(leaf, float)
            if domain is not None:
                free[f"{outer}.{inner}"] = domain
    design["always"] = jnp.asarray(0.5)
    free["always"] = Real(0, 1)
    return Space(design, free)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(space=spaces(), number=st.integers(0, 1000))
def test_law_of_spaces(space, number):
    testing.check_space(space, key=jax.random.key(number), points=2)
    np.testing.assert_allclose(
        space.encode(space.decode(space.start)), space.start, atol=1e-5
    )
    slices = list(space.groups.values())
    covered = np.concatenate([np.arange(s.start, s.stop) for s in slices])
    assert np.array_equal(covered, np.arange(space.size))
    assert len(space.units) == space.size == len(space.table(10**6).splitlines()) - 1


def _design():
    return {
        "upper": {"z": jnp.array([0.1, 0.2]), "gap": jnp.array(0.01)},
        "count": jnp.array(2.0),
        "material": jnp.array([1.0, 0.0, 0.0]),
        "frozen": jnp.array(7.0),
    }


def _free():
    return {
        "upper.z": Real(0, 0.5, "cm"),
        "upper.gap": Real(1e-3, 1.0, "mm", log=True),
        "count": Integer(1, 4),
        "material": Choice(("lead", "iron", "absent")),
    }


def test_names_units_groups_and_start():
    space = Space(_design(), _free())
    assert space.names == (
        "upper.z[0]",
        "upper.z[1]",
        "upper.gap",
        "count",
        "material=lead",
        "material=iron",
        "material=absent",
    )
    assert space.units[:3] == ("cm", "cm", "mm")
    assert space.groups["material"] == slice(4, 7)
    gap = np.log(0.01 / 1e-3) / np.log(1e3)
    expected = [0.2, 0.4, gap, 1 / 3, 1, 0, 0]
    np.testing.assert_allclose(space.start, expected, rtol=1e-5)


def test_the_table():
    lines = str(Space(_design(), _free())).splitlines()
    assert lines[0].split() == ["parameter", "start", "domain", "unit"]
    assert lines[1].split() == ["upper.z[0]", "10", "[0,", "50]", "cm"]
    assert lines[3].split() == ["upper.gap", "10", "[1,", "1000]", "log", "mm"]
    assert lines[4].split() == ["count", "2", "{1", "...", "4}"]


def test_wide_tables_are_cut():
    space = Space({"x": jnp.full(12_000, 0.5)}, {"x": Real(0, 1)})
    lines = space.table().splitlines()
    assert len(lines) == 42
    assert lines[-1] == "... and 11,960 more"


def test_integers_own_equal_parts_of_the_cube():
    space = Space({"n": jnp.array(1.0)}, {"n": Integer(1, 4)})
    us = np.linspace(0, 1, 4001)
    hard = jax.vmap(lambda u: space.decode(u[None], hard=True)["n"])(us)
    values, counts = np.unique(hard, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(counts / 4001, 0.25, atol=1e-3)
    assert float(space.decode(jnp.array([0.5]))["n"]) == 2.5


def test_choices_are_weights_and_one_hot_where_hard():
    space = Space({"m": jnp.array([0.0, 1.0])}, {"m": Choice(("a", "b"))})
    for u, soft, hard in [
        ([0.0, 0.0], [0.5, 0.5], [1, 0]),
        ([0.2, 0.6], [0.25, 0.75], [0, 1]),
        ([1.0, 0.0], [1.0, 0.0], [1, 0]),
    ]:
        np.testing.assert_allclose(space.decode(jnp.array(u))["m"], soft)
        np.testing.assert_allclose(space.decode(jnp.array(u), hard=True)["m"], hard)
    slopes = jax.jacobian(lambda u: space.decode(u)["m"])(jnp.zeros(2))
    assert np.all(np.isfinite(slopes))


def test_frozen_leaves_are_untouched():
    space = Space(_design(), _free())
    design = space.decode(jnp.full(space.size, 0.3))
    assert float(design["frozen"]) == 7.0
    fewer = space.freeze("upper.z", "count")
    assert fewer.paths == ("upper.gap", "material")
    moved = fewer.decode(jnp.full(fewer.size, 0.9))
    np.testing.assert_array_equal(moved["upper"]["z"], space.template["upper"]["z"])


def test_project_is_applied_after_decoding():
    def no_overlap(design):
        return {"z": jnp.sort(design["z"])}

    space = Space({"z": jnp.array([0.2, 0.4])}, {"z": Real(0, 1)}, no_overlap)
    np.testing.assert_allclose(space.decode(jnp.array([0.9, 0.1]))["z"], [0.1, 0.9])
    np.testing.assert_allclose(space.values(jnp.array([0.9, 0.1])), [0.1, 0.9])


def test_decode_is_differentiable():
    space = Space(_design(), {"upper.gap": Real(1e-3, 1.0, log=True)})
    slope = jax.grad(lambda u: space.decode(u)["upper"]["gap"])(jnp.array([0.5]))
    np.testing.assert_allclose(slope, np.log(1e3) * np.sqrt(1e-3), rtol=1e-4)


def test_leaf_paths_and_other_starts():
    assert "upper.z" in leaf_paths(_design())
    space = Space(_design(), _free())
    other = space.with_leaf("upper.z", [0.3, 0.4])
    np.testing.assert_allclose(other.start[:2], [0.6, 0.8], rtol=1e-5)
    assert float(space.with_leaf("frozen", 8).template["frozen"]) == 8
    start = other.restart(space.template).start
    np.testing.assert_array_equal(start, space.start)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Space(_design(), {}), ("at least one free leaf", "Name some of")),
        (lambda: Space(_design(), {"uper.z": Real(0, 1)}), ("uper.z", "upper.z")),
        (lambda: Space(_design(), {"upper": Real(0, 1)}), ("'upper'", "fields")),
        (
            lambda: Space(_design(), {"upper.z": Real(0.15, 0.5, "cm")}),
            ("'upper.z[0]' starts at 10 cm", "[15, 50] cm", "widen the bounds"),
        ),
        (
            lambda: Space({"x": jnp.array(jnp.nan)}, {"x": Real(0, 1)}),
            ("finite", "start value"),
        ),
        (lambda: Space({"x": jnp.zeros(0)}, {"x": Real(0, 1)}), ("one or more", "[]")),
        (lambda: Real(0, 1, "inch"), ("kythera.units", "'inch'", "Known")),
        (lambda: Real(0, 1, "keV_"), ("'keV_'", "Did you mean 'keV'")),
        (lambda: Integer(0, 3, "planes"), ("'planes'", "Known")),
        (lambda: Real(1, 1), ("lower < upper", "lower=1, upper=1")),
        (lambda: Real(0, float("inf")), ("finite", "inf")),
        (lambda: Real(0, 1, log=True), ("positive bounds", "log=False")),
        (lambda: Integer(3, 3), ("lower < upper", "lower=3")),
        (lambda: Integer(0.5, 3), ("whole numbers", "0.5")),  # type: ignore
        (
            lambda: Space({"n": jnp.array(1.5)}, {"n": Integer(1, 4)}),
            ("'n' starts at 1.5", "whole number"),
        ),
        (lambda: Choice(("a", "a")), ("two options", "('a', 'a')")),
        (
            lambda: Space({"m": jnp.zeros(3)}, {"m": Choice(("a", "b"))}),
            ("one weight for each", "one-hot"),
        ),
        (
            lambda: Space({"m": jnp.array([0.75, 0.75])}, {"m": Choice(("a", "b"))}),
            ("sum to one", "0.75"),
        ),
        (lambda: Space(_design(), _free()).freeze("upper.x"), ("not free", "upper.z")),
        (lambda: Space(_design(), _free()).with_leaf("cout", 1), ("cout", "count")),
        (
            lambda: Space(_design(), _free()).with_leaf("upper.z", [1, 2, 3]),
            ("shape (2,)", "(3,)"),
        ),
    ],
)
def test_errors_give_law_values_and_remedy(make, words):
    with pytest.raises(errors.SpaceError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_is_cube():
    assert is_cube(np.array([0.0, 1.0]))
    assert not is_cube(np.array([0.5, 1.0 + 1e-9]))
    assert not is_cube(np.array([0.5, np.nan]))
