"""GravNet against PyTorch Geometric's numbers, and neighbours against SciPy's tree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from kythera import errors
from kythera.stages.reconstruction import neighbours
from kythera.stages.reconstruction.gravnet import GravNet, GravNetLayer

KEY = jax.random.key(5)
# GravNetConv of PyTorch Geometric 2.8.1 in float64, with the weights of `layer`.
NEIGHBOURS = [[0, 5, 3], [1, 4, 3], [2, 5, 0], [3, 0, 5], [4, 1, 3], [5, 0, 2]]
OUT = [
    [0.564864359093, 2.715704046953, -1.274904314970, 0.292349870713],
    [1.599670637472, 0.613048806597, -0.194127526983, 1.306425260997],
    [-1.304711729109, 3.149710246569, 0.181252687723, -1.612182295717],
    [1.767937597293, 1.920049952167, -1.678955824999, 1.490456053696],
    [-0.019382714846, 1.178795997336, 0.867156380616, -0.322076649002],
    [-0.470032862228, 3.339099502119, -0.853575423101, -0.761022567904],
]
SLOPES = {
    0: [5.893126600934, 2.998917425221, -1.305729474951],
    3: [9.035681747865, 9.231670644788, 5.085860588635],
}
# V = exp(-d^2), a hit not its own neighbour, largest before mean.
PAPER = [0.3766410835702, 1.217024903484, 0.5387938741664]
PAPER += [-0.08651331745710, 0.6611072797739, 0.2969252975665]


def fill(shape, phase):
    return 0.8 * np.sin(0.7 * np.arange(np.prod(shape)) + phase).reshape(shape)


def layer(convention):
    made = eqx.filter_eval_shape(
        GravNetLayer,
        3,
        4,
        space=2,
        message=3,
        neighbours=3,
        convention=convention,
        key=KEY,
    )
    out = np.concatenate([fill((4, 3), 0.5), fill((4, 6), 0.6)], 1)
    values = fill((2, 3), 0.1), fill((2,), 0.2), fill((3, 3), 0.3), fill((3,), 0.4)
    return eqx.tree_at(
        lambda m: [v for n in (m.place, m.message, m.out) for v in (n.weight, n.bias)],
        made,
        [jnp.asarray(v) for v in (*values, out, fill((4,), 0.7))],
    )


@eqx.filter_jit
def told(layer, x, present):
    """Summary and output."""
    return layer.summary(x, present), layer(x, present)


@eqx.filter_jit
def sloped(layer, x, present):
    """Neighbours, and the derivatives of the squared output."""
    near = neighbours.nearest(jax.vmap(layer.place)(x), 3, present=present)

    def square(x):
        return jnp.sum(jnp.where(present[:, None], layer(x, present), 0) ** 2)

    return near, jax.grad(square)(x)


@pytest.fixture
def hits(x64):
    return np.cos(1.3 * np.arange(18)).reshape(6, 3)


# Six hits among three that are not there.
THERE = np.array([0, 1, 1, 0, 1, 1, 0, 1, 1], bool)


def padded(hits, junk=1e3):
    x = np.full((9, 3), junk)
    x[THERE] = hits
    return x


def test_it_has_the_numbers_of_pytorch_geometric(hits):
    pyg = layer("pyg")
    _, out = told(pyg, padded(hits), THERE)
    (near, exists), slopes = sloped(pyg, padded(hits), THERE)
    assert np.all(exists)
    np.testing.assert_array_equal(
        near[THERE], np.flatnonzero(THERE)[np.array(NEIGHBOURS)]
    )
    np.testing.assert_allclose(out[THERE], OUT, rtol=0, atol=1e-12)
    assert np.sum(out[THERE]) == pytest.approx(12.4955494904838, abs=1e-12)
    for row, slope in SLOPES.items():
        np.testing.assert_allclose(slopes[THERE][row], slope, rtol=1e-11)
    # two hits, none, and all in one place
    for x, there in ((hits, 2), (hits, 0), (np.ones((6, 3)), 9)):
        _, slopes = sloped(pyg, padded(x), np.arange(9) < there)
        assert np.all(np.isfinite(slopes))


def test_the_papers_convention_and_few_hits(hits):
    paper = layer("paper")
    summary, _ = told(paper, padded(hits), THERE)
    np.testing.assert_allclose(summary[THERE][0], PAPER, rtol=1e-12)
    for count in (0, 1, 2):
        summary, out = told(paper, padded(hits), np.arange(9) < count)
        assert np.all(np.isfinite(summary))
        assert np.all(np.isfinite(out))
        if count < 2:  # a hit alone hears nothing
            np.testing.assert_array_equal(summary[:count], 0)


def test_the_convention_of_the_papers_code(hits):
    made = layer("caloGraphNN")
    out = told(made, padded(hits), THERE)[1]
    place, message, last = (
        lambda x, n=n: np.asarray(n.weight) @ x + np.asarray(n.bias)
        for n in (made.place, made.message, made.out)
    )
    s, h = np.array([place(x) for x in hits]), np.array([message(x) for x in hits])
    for j in range(6):
        square = np.sum((s - s[j]) ** 2, -1)
        near = np.argsort(square)[1:4]
        heard = h[near] * np.exp(-((10 * square[near]) ** 2))[:, None]
        both = np.concatenate([hits[j], heard.max(0), heard.mean(0)])
        np.testing.assert_allclose(out[THERE][j], np.tanh(last(both)), rtol=1e-12)


def test_bad_input_is_refused(hits):
    with pytest.raises(errors.InputError, match="at most the 2 points.*but 3"):
        told(layer("paper"), hits[:3], np.ones(3, bool))
    with pytest.raises(errors.InputError, match="Did you mean 'pyg'"):
        layer("pg")


def test_neighbours_are_those_of_a_tree(monkeypatch, x64):
    monkeypatch.setattr(neighbours, "BLOCK", 7 * 150)  # several blocks and a rest
    points = np.random.default_rng(2).normal(size=(150, 3))
    there = np.arange(150) % 3 > 0
    near, exists = jax.jit(
        lambda x, present: neighbours.nearest(x, 5, present=present, itself=False)
    )(points, there)
    numbers = np.flatnonzero(there)
    _, found = KDTree(points[there]).query(points[there], 6)
    np.testing.assert_array_equal(np.asarray(near)[there], numbers[found[:, 1:]])
    assert np.all(np.asarray(exists)[there])


def test_neighbours_of_others_and_of_too_few(x64):
    points = np.array([[0.0], [2.0], [np.nan], [5.0]])
    near, exists = jax.jit(
        lambda x, present, of: neighbours.nearest(x, 4, present=present, queries=of)
    )(points, np.array([True, True, False, True]), np.array([[4.0]]))
    np.testing.assert_array_equal(near[0, :3], [3, 1, 0])
    np.testing.assert_array_equal(exists[0], [True, True, True, False])


def memory(points):
    """Bytes of working memory of a layer with its derivatives, by the compiler's account."""
    made = eqx.filter_eval_shape(GravNetLayer, 6, 48, neighbours=40, key=KEY)

    def slope(made, x):
        there = jnp.ones(points, bool)
        return jax.grad(lambda m: jnp.sum(m(x, there) ** 2))(made)

    shape = jax.ShapeDtypeStruct((points, 6), jnp.float32)
    compiled = jax.jit(slope).lower(made, shape).compile()
    account = compiled.memory_analysis()
    assert account is not None
    return account.temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_with_the_points_and_not_with_their_square():
    large = memory(10_000)
    assert large < 150e6  # the distances alone would be 400 MB
    assert memory(20_000) < 2.1 * large


def elements(design, signal):
    return signal


@pytest.fixture
def finder(x64):
    """Of one block, with weights that need no random numbers."""
    sizes = {"outputs": 4, "width": 5, "depth": 1, "head": 6}
    layer = {"space": 2, "message": 3, "neighbours": 3}
    made = eqx.filter_eval_shape(
        GravNet, elements, 3, payload=1, blocks=2, key=KEY, **sizes, **layer
    )
    shapes, rest = eqx.partition(made, lambda v: isinstance(v, jax.ShapeDtypeStruct))
    values = jax.tree.map(lambda v: jnp.asarray(fill(v.shape, 0.3 + v.size)), shapes)
    return eqx.combine(values, rest)


@pytest.mark.slow
def test_a_network_of_blocks(finder):
    x = np.random.default_rng(3).normal(size=(4, 7, 3))
    weight = np.ones((4, 7))
    weight[1, 3:], weight[2] = 0, 0  # hardly more than the neighbours; none at all
    junk = np.where(weight[..., None] > 0, x, np.nan)

    @eqx.filter_jit
    def call(finder, x, weight):
        def total(finder):
            out = finder(None, (x, weight), key=KEY)
            return jnp.sum(out.place**2), out

        slope, out = eqx.filter_grad(total, has_aux=True)(finder)
        return out, slope

    out, slope = call(finder, junk, weight)
    shapes = [v.shape for v in (out.beta, out.place, out.payload)]
    assert shapes == [(4, 7), (4, 7, 2), (4, 7, 1)]
    for value in (out.beta, out.place, out.payload):
        assert np.all(np.isfinite(value))
        assert np.all(np.asarray(value)[weight == 0] == 0)
    assert all(np.all(np.isfinite(v)) for v in jax.tree.leaves(slope))
    order = np.array([6, 2, 0, 1, 5, 4, 3])
    other, _ = call(finder, junk[:, order], weight[:, order])
    np.testing.assert_allclose(other.place, out.place[:, order], rtol=1e-9)
    same = eqx.filter_eval_shape(finder.fresh, KEY)
    shapes = [
        [v.shape for v in jax.tree.leaves(m) if hasattr(v, "shape")]
        for m in (finder, same)
    ]
    assert shapes[0] == shapes[1]
