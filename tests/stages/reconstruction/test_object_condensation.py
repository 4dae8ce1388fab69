"""Object condensation against the numbers of four codes, and where derivatives diverge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.pipeline import Trace
from kythera.stages.objectives.condensation import CondensationLoss
from kythera.stages.reconstruction.object_condensation import (
    Condensed,
    FindObjects,
    condensation,
    find_objects,
    payload_loss,
)

BETA = [0.9, 0.3, 0.1, 0.8, 0.6, 0.05, 0.2, 0.7]
PLACE = [[0, 0], [0.2, 0.1], [0.5, -0.3], [1, 1], [0.8, 0.7], [0.4, 0.4], [2, -1]]
PLACE += [[0.1, 0.9]]
OBJECT = np.array([1, 1, 1, 2, 2, 0, 0, 3])
BY_BETA = [0.94135522, 0.03197385, 0.02297898, 0.00246469, 0.15230035, 0.07431992]
BY_BETA += [0.05, 0.26954287]
BY_PLACE = [
    [-0.03884347, 1.01072487],
    [0.06789574, 0.13227011],
    [0.17007108, -0.10204265],
    [-0.52323226, -0.00930698],
    [-0.23124103, -0.08335821],
    [-0.08312799, 0.02478593],
    [0, 0],
    [0.63847793, -0.97307307],
]


# Eight hits among two that are not there; two of five objects have no hits.
THERE = np.array([1, 1, 1, 1, 0, 0, 1, 1, 1, 1], bool)
OBJECTS = 5


def padded(values, junk):
    values = np.asarray(values)
    out = np.full((10, *values.shape[1:]), junk, values.dtype)
    out[THERE] = values
    return out


@functools.partial(jax.jit, static_argnames=("normalised", "repulsion"))
def told(beta, place, own, present, normalised="hits", repulsion="hinge"):
    """Terms and payload."""
    kwargs = {"present": present, "normalised": normalised}
    terms = condensation(beta, place, own, OBJECTS, repulsion=repulsion, **kwargs)
    wrong = (jnp.cumsum(present) / 10).astype(float)  # 0.1, 0.2, ... of those there
    return terms, payload_loss(beta, wrong, own, OBJECTS, **kwargs)


@jax.jit
def slopes(beta, place, own, present):
    """Derivatives of L_V + L_beta, and of the payload's loss by beta."""

    def loss(beta, place):
        terms = condensation(beta, place, own, OBJECTS, present=present)
        return terms.attraction + terms.repulsion + terms.seeds + 0.1 * terms.noise

    def said(beta):
        return payload_loss(beta, jnp.ones(10), own, OBJECTS, present=present)

    return *jax.grad(loss, (0, 1))(beta, place), jax.grad(said)(beta)


@pytest.fixture
def event(x64):
    return padded(BETA, 1.0), padded(np.array(PLACE, float), np.nan), padded(OBJECT, 3)


def test_the_papers_formula_and_its_derivatives(event):
    terms, said = told(*event, THERE)
    assert terms.attraction == pytest.approx(0.0949527772136257, rel=1e-12)
    assert terms.repulsion == pytest.approx(0.310970362672, rel=1e-11)
    both = terms.attraction + terms.repulsion
    assert both == pytest.approx(0.405923139885625, rel=1e-12)
    assert terms.seeds + 0.1 * terms.noise == pytest.approx(0.2125, rel=1e-12)
    by_beta, by_place, _ = slopes(*event, THERE)
    np.testing.assert_allclose(by_beta[THERE], BY_BETA, rtol=0, atol=1e-8)
    np.testing.assert_allclose(by_place[THERE], BY_PLACE, rtol=0, atol=1e-8)
    assert said == pytest.approx(0.331790179564799, rel=1e-12)


def test_the_means_of_other_codes(event):
    beta, place, own = event
    # the package object_condensation, whose distances are rounded
    terms, said = told(*event, THERE, normalised="objects")
    assert terms.attraction == pytest.approx(0.09648945875836734, rel=1e-9)
    assert terms.repulsion == pytest.approx(0.1381969987791456, rel=1e-9)
    assert terms.seeds == pytest.approx(0.2, rel=1e-12)
    assert terms.noise == pytest.approx(0.125, rel=1e-12)
    assert said == pytest.approx(0.444524291978347, rel=1e-12)
    # pepr: a Gaussian, and a charge that is cut off and shrunk
    terms = told(*event, THERE, repulsion="gaussian")[0]
    assert terms.repulsion == pytest.approx(0.15417293546, rel=1e-10)
    shrunk = np.minimum(beta, 1 - 1e-4) / 1.002
    terms = told(shrunk, place, own, THERE, repulsion="gaussian")[0]
    # (it adds 1e-5 to distances)
    assert terms.attraction == pytest.approx(0.094021103633, rel=1e-4)
    assert terms.repulsion == pytest.approx(0.152744554581, rel=1e-11)
    # gnn_tracking: pairs are counted, hits of K objects and others
    hits, inside, objects = 8, 6, 3
    terms = told(*event, THERE)[0]
    pulled = terms.attraction * hits / (inside - objects)
    assert pulled == pytest.approx(0.253207405819, rel=1e-8)
    assert terms.repulsion / (objects - 1) == pytest.approx(0.155485181326, rel=1e-8)


def test_a_thousand_hits(x64):
    rng = np.random.default_rng(0)  # the test data of the package object_condensation
    beta, place = rng.random((1000, 1))[:, 0], rng.random((1000, 3))
    own = rng.choice(np.arange(250), 1000)
    kwargs = {"least_charge": 1.0, "normalised": "objects"}
    terms = jax.jit(lambda *v: condensation(*v, 249, **kwargs))(beta, place, own)
    want = (
        1.7951122042912249,
        1.9508766539017457,
        0.2156792078639991,
        0.77484477845007,
    )
    np.testing.assert_allclose(terms, want, rtol=1e-9)


def test_derivatives_are_finite_where_the_formula_diverges(x64):
    beta, place = np.r_[1.0, 1.0, 0.0, 0.3, np.zeros(6)], np.zeros((10, 2))
    own = np.r_[1, 2, 1, 0, np.zeros(6, int)]
    event = beta, place, own, np.ones(10, bool)
    terms, _ = told(*event)
    for value in (*terms, *slopes(*event)):
        assert np.all(np.isfinite(value))
    # arctanh(1 - 1e-4)^2 + 0.5 = 25.02, of the two hits at 1 on each other and on the rest
    sure = np.arctanh(1 - 1e-4) ** 2 + 0.5
    rest = np.arctanh(0.3) ** 2 + 0.5 + 7 * 0.5
    assert terms.repulsion == pytest.approx(2 * sure * (sure + rest - 0.25) / 10)


def test_no_hits_no_objects_and_bad_words(event):
    beta, place, own = event
    for normalised in ("hits", "objects"):
        terms, said = told(*event, np.zeros(10, bool), normalised=normalised)
        np.testing.assert_array_equal([*terms, said], 0)
    for value in slopes(*event, np.zeros(10, bool)):
        np.testing.assert_array_equal(value, 0)
    terms, said = told(beta, place, 0 * own, THERE)
    assert terms.noise == pytest.approx(np.mean(BETA))
    assert (terms.attraction, terms.repulsion, terms.seeds, said) == (0, 0, 0, 0)
    for objects in (0, 2.5):
        with pytest.raises(errors.InputError, match=f"`objects` .* but is {objects}"):
            condensation(beta, place, own, objects)
    with pytest.raises(errors.InputError, match="Did you mean 'hits'"):
        payload_loss(beta, beta, own, 3, normalised="hit")


def test_every_number_below_one_is_noise(event):
    beta, place, own = event
    want, said = told(*event, THERE)
    other, told_of = told(beta, place, np.where(own == 0, -1, own), THERE)
    np.testing.assert_array_equal(other, want)
    assert told_of == said


def test_objects_beyond_the_most_are_refused_or_not_there(event):
    beta, place, own = event
    for function in (
        lambda own: condensation(beta, place, own, OBJECTS),
        lambda own: payload_loss(beta, beta, own, OBJECTS),
    ):
        with pytest.raises(errors.InputError, match="most `objects`, 5, .* object 9"):
            function(np.where(np.arange(10) == 2, 9, own))


@pytest.mark.parametrize("normalised", ["hits", "objects"])
def test_objects_beyond_the_most_are_not_there_under_jit(event, normalised):
    beta, place, own = event
    far, here = np.where(np.arange(10) == 2, 9, own), THERE & (np.arange(10) != 2)
    found = told(beta, place, far, THERE, normalised=normalised)[0]
    want = told(beta, place, own, here, normalised=normalised)[0]
    np.testing.assert_allclose(found, want, rtol=1e-12)

    @jax.jit
    def said(own, present):
        kwargs = {"present": present, "normalised": normalised}
        return payload_loss(beta, beta, own, OBJECTS, **kwargs)

    assert said(far, THERE) == pytest.approx(float(said(own, here)), rel=1e-12)


def test_the_objective_has_the_same_numbers(event):
    beta, place, own = (v[None] for v in event)
    there = Condensed(
        beta, np.where(THERE[None, :, None], place, 0), place, THERE[None]
    )

    def loss(own, **options):
        goal = CondensationLoss(lambda design, trace: (own, beta), OBJECTS, **options)
        return goal.loss(None, Trace(None, None, there, None))

    none = loss(np.where(own == 0, -1, own))
    assert none["noise"] == pytest.approx(0.1 * 0.125)
    jax.tree.map(np.testing.assert_array_equal, none, loss(own))
    with pytest.raises(errors.InputError, match="most `objects`, 5, .* object 7"):
        loss(np.where(own == 1, 7, own))
    with pytest.raises(errors.InputError, match="Did you mean 'gaussian'"):
        loss(own, repulsion="gaussan")


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (((4,), (4,)), r"shapes are \(4,\), \(4,\)"),
        (((4,), (1, 2)), "shapes are"),
        (((2, 4), (2, 4, 2)), "vmap"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, match):
    beta, place = map(jnp.zeros, shapes)
    with pytest.raises(errors.InputError, match=match):
        find_objects(beta, place)
    with pytest.raises(errors.InputError, match=match):
        condensation(beta, place, beta, 3)


@pytest.mark.parametrize(
    "cuts", [{"least_beta": np.nan}, {"least_beta": 1.5}, {"distance": -0.8}]
)
def test_cuts_that_cannot_be_are_refused(cuts):
    with pytest.raises(errors.InputError, match="in .0, 1. and `distance` > 0"):
        find_objects(jnp.ones(3), jnp.ones((3, 2)), **cuts)
    with pytest.raises(errors.InputError, match="in .0, 1. and `distance` > 0"):
        FindObjects(**cuts)


@jax.jit
def found(beta, place, present, least_beta=0.1, distance=0.6):
    return find_objects(
        beta, place, present=present, least_beta=least_beta, distance=distance
    )


@pytest.mark.parametrize(
    ("least_beta", "distance", "want"),
    [
        (0.1, 0.6, [0, 0, 0, 3, 3, 0, 6, 7]),
        (0.5, 0.6, [0, 0, 0, 3, 3, 0, -1, 7]),
        (0.15, 0.3, [0, 0, -1, 3, 4, -1, 6, 7]),
    ],
)
def test_clustering(event, least_beta, distance, want):
    who = np.asarray(found(*event[:2], THERE, least_beta, distance))
    numbers = np.append(np.flatnonzero(THERE), -1)  # of -1 the last: noise
    np.testing.assert_array_equal(who[THERE], numbers[want])
    np.testing.assert_array_equal(who[~THERE], -1)


def test_a_hit_that_belongs_to_an_object_starts_none(x64):
    beta, place = np.zeros(10), np.full((10, 2), 9.0)
    beta[:3], place[:3] = [0.9, 0.8, 0.05], [[0, 0], [0.5, 0], [0.9, 0]]
    who = found(beta, place, np.ones(10, bool))
    np.testing.assert_array_equal(who[:3], [0, 0, -1])  # pepr finds [0, 0, 1]
    np.testing.assert_array_equal(who[3:], -1)
    who = found(beta, place, np.arange(10) > 0)
    np.testing.assert_array_equal(who[:3], [-1, 1, 1])
    np.testing.assert_array_equal(found(beta, place, np.zeros(10, bool)), -1)
