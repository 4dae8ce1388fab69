"""PyTorch modules as stages, against the same network written in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.stages.simulators import torch as bridge

pytestmark = pytest.mark.library("torch")
KEY = jax.random.key(8)
PAIR = jax.ShapeDtypeStruct((2,), float)
SHIFT = jnp.array([0.3, -1.0, 2.0])


def network(**options):
    """tanh(W1 [shift, x] + b1) W2 + b2, and its weights."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.first, self.second = torch.nn.Linear(5, 8), torch.nn.Linear(8, 2)

        def forward(self, shift, x):
            z = torch.cat([shift.expand(len(x), 3), x], 1)
            return self.second(torch.tanh(self.first(z)))

    module = Network()
    weights = [jnp.asarray(p.detach().numpy()) for p in module.parameters()]
    return ky.TorchStage(module, PAIR, **options), weights


def in_jax(weights, shift, x):
    w1, b1, w2, b2 = weights
    z = jnp.concatenate([jnp.broadcast_to(shift, (len(x), 3)), x], 1)
    return jnp.tanh(z @ w1.T + b1) @ w2.T + b2


def close(a, b):
    jax.tree.map(
        lambda v, w: np.testing.assert_allclose(v, w, rtol=1e-4, atol=1e-6), a, b
    )


def test_values_and_derivatives_are_those_of_the_same_network_in_jax():
    stage, weights = network()
    x = jax.random.normal(KEY, (7, 2))
    both = jnp.stack([x, x + 1])

    def ours(s, x):
        return stage({"s": s}, x, key=KEY)

    def theirs(s, x):
        return in_jax(weights, s, x)

    def cubed(f):
        return jax.value_and_grad(lambda s, x: jnp.sum(f(s, x) ** 3), (0, 1))

    close(ours(SHIFT, x), theirs(SHIFT, x))
    close(cubed(ours)(SHIFT, x), cubed(theirs)(SHIFT, x))
    forward = jax.jit(jax.jacfwd(ours, (0, 1)))(SHIFT, x)
    close(forward, jax.jacfwd(theirs, (0, 1))(SHIFT, x))
    several = jnp.stack([SHIFT, -SHIFT])
    got = jax.jit(jax.vmap(cubed(ours)))(several, both)
    close(got, jax.vmap(cubed(theirs))(several, both))


def test_large_arrays_pass():
    stage, weights = network()
    x = jax.random.normal(KEY, (200_000, 2))
    got = jax.jit(jax.grad(lambda s: stage({"s": s}, x, key=KEY).mean()))(SHIFT)
    close(got, jax.grad(lambda s: in_jax(weights, s, x).mean())(SHIFT))


class Distance(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"loss": jnp.sum((trace.signal - 0.1) ** 2, 1)}


class Pairs(ky.AbstractSource):
    primaries: int = 1

    def __call__(self, events, *, key):
        return jax.random.normal(key, (events, 2))


def problem(simulator):
    space = ky.Space({"s": SHIFT}, {"s": ky.Real([-3] * 3, [3] * 3)})
    return ky.Problem(space, ky.Pipeline(Pairs(), simulator), Distance(), events=20)


def test_pathwise_gradient_of_a_problem():
    stage, weights = network()

    class InJax(ky.AbstractPathwiseSimulator):
        def __call__(self, design, x, *, key):
            return in_jax(weights, design["s"], x)

    us, keys = jnp.array([[0.2, 0.5, 0.7], [0.1, 0.1, 0.1]]), jax.random.split(KEY)
    found, _ = ky.Pathwise()(problem(stage), us, None, key=keys)
    known, _ = ky.Pathwise()(problem(InJax()), us, None, key=keys)
    for a, b in zip(found, known, strict=True):
        assert a.total.value == pytest.approx(b.total.value, rel=1e-4)
        close(a.total.gradient, b.total.gradient)


def test_random_numbers_come_from_the_key_and_weights_stay():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 30), torch.nn.Dropout(0.5))
    row = jax.ShapeDtypeStruct((30,), float)
    stage = ky.TorchStage(module, row, lambda design, x: (x,))
    x = jax.random.normal(KEY, (9, 2))
    state = torch.get_rng_state()
    first = stage(None, x, key=KEY)
    assert np.array_equal(first, stage(None, x, key=KEY))
    other = stage(None, x, key=jax.random.key(1))
    assert not np.array_equal(first == 0, other == 0)
    _, slope = jax.jvp(lambda x: stage(None, x, key=KEY), (x,), (jnp.ones_like(x),))
    assert np.array_equal(slope == 0, first == 0)  # the same units are dropped
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_module_counts_is_not_kept():
    import torch

    module = torch.nn.BatchNorm1d(2)
    x = jax.random.normal(KEY, (9, 2))
    stage = ky.TorchStage(module, PAIR, lambda design, x: (x,))
    assert abs(float(stage(None, x, key=KEY).mean())) < 1e-6
    assert int(module.num_batches_tracked) == 0
    assert float(abs(module.running_mean).max()) == 0


def test_whole_numbers_and_several_outputs():
    import torch

    class Table(torch.nn.Module):
        def forward(self, scale, which, x):
            picked = torch.tensor([1.0, 10.0])[which]
            return scale * picked, x * scale

    row = {"a": jax.ShapeDtypeStruct((), float), "b": jax.ShapeDtypeStruct((), float)}
    stage = ky.TorchStage(Table(), row)
    x = (jnp.array([0, 1, 1]), jnp.array([1.0, 2.0, 3.0]))

    def total(scale):
        out = stage({"scale": scale}, x, key=KEY)
        return jnp.sum(out["a"]) + jnp.sum(out["b"])

    value, slope = jax.value_and_grad(total)(jnp.array(2.0))
    assert (float(value), float(slope)) == (54.0, 27.0)


def test_what_a_module_does_wrong_is_a_failed_trial():
    import torch

    class Broken(torch.nn.Module):
        def forward(self, shift, x):
            raise RuntimeError("no such shower")

    def cause(stage):
        us = jnp.array([[0.2, 0.5, 0.7]])
        (found,), _ = ky.Pathwise()(problem(stage), us, None, key=KEY[None])
        return found.cause

    triples = ky.TorchStage(network()[0].module, jax.ShapeDtypeStruct((3,), float))
    assert "[(20, 3)], as `row` declares, but gave [(20, 2)]" in cause(triples)
    broken = ky.TorchStage(Broken(), PAIR)
    assert cause(broken).startswith("`Broken` failed with RuntimeError: no such shower")

    def behind_a_host_stage(design, x, seed):
        return x

    simulator = ky.HostSimulator(behind_a_host_stage, PAIR)
    two = problem(simulator).replace(pipeline=ky.Pipeline(Pairs(), simulator, broken))
    (found,), _ = ky.Direct()(two, jnp.zeros((1, 3)), None, key=KEY[None])
    assert found.cause.startswith("`Broken` failed with RuntimeError: no such shower")


def test_what_is_refused(monkeypatch):
    stage, _ = network()
    with pytest.raises(errors.InputError, match="but was given a function"):
        ky.TorchStage(lambda x: x, PAIR)
    with pytest.raises(errors.InputError, match="real numbers"):
        ky.TorchStage(stage.module, jax.ShapeDtypeStruct((), int))
    x = jnp.ones((2, 2))
    with pytest.raises(errors.UnsupportedError, match="first derivatives only"):
        jax.hessian(lambda s: stage({"s": s}, x, key=KEY).sum())(SHIFT)
    monkeypatch.setattr(bridge.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UnsupportedError, match=r"kythera\[torch\]"):
        ky.TorchStage(stage.module, PAIR)
