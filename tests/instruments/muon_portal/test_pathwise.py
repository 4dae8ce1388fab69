"""The derivative of the hits in every field of the design is their difference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera.core.compilation import jit
from kythera.instruments.muon_portal.design import Panels, Portal
from kythera.instruments.muon_portal.scan import Grid, Scan
from kythera.instruments.muon_portal.simulator import SoftPortal

GRID = Grid((2, 2, 2), (1.0, 1.0, 0.6))
FIELDS = (
    "x",
    "y",
    "z",
    "span_1",
    "span_2",
    "tilt_1",
    "tilt_2",
    "resolution",
    "efficiency",
    "present",
    "radiation_lengths",
)
STEP = 1e-5
MUONS = 12


def scan(vertical: bool) -> Scan:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-0.3, 0.3, (2, 1, MUONS))
    slope_x, slope_y = rng.uniform(-0.8, 0.8, (2, 1, MUONS))
    if vertical:  # the first through the panels' centres
        slope_x, slope_y = 0 * slope_x, 0 * slope_y
        x[0, 0] = y[0, 0] = 0.0
    field = jnp.asarray(rng.uniform(0, 10, (1, 2, *GRID.shape)))
    arrays = [jnp.asarray(v) for v in (x, y, slope_x, slope_y)]
    momentum = jnp.asarray(rng.uniform(1, 5, (1, MUONS)))
    return Scan(field, 0.02 * field, *arrays, momentum, jnp.ones((1, MUONS)), {})


def panels(z, *, rng=None, **fields) -> Panels:
    """Three panels: alike and flat, or each with its own place and tilt."""
    start = {"span_1": 0.9, "span_2": 0.8, "efficiency": 0.9} | fields
    if rng is not None:
        start |= {
            "x": rng.uniform(-0.1, 0.1, 3) + fields.get("x", 0.0),
            "y": rng.uniform(-0.1, 0.1, 3) + fields.get("y", 0.0),
            "tilt_1": rng.uniform(-0.3, 0.3, 3),
            "tilt_2": rng.uniform(-0.3, 0.3, 3),
            "present": rng.uniform(0.2, 0.9, 3),
            "radiation_lengths": rng.uniform(0.01, 0.05, 3),
        }
    return Panels(z, **start)


def designs() -> dict[str, Portal]:
    rng = np.random.default_rng(5)
    equal = [0.6, 0.5, 0.5]  # two panels at one height
    return {
        "anywhere": Portal(
            panels([0.7, 0.55, 0.45], rng=rng), panels([-0.4, -0.5, -0.7], rng=rng)
        ),
        "symmetric": Portal(panels(equal), panels([-0.5, -0.5, -0.6])),
        "vanishing": Portal(
            panels(equal, present=0.0, efficiency=1.0),
            panels([-0.4, -0.5, -0.7], span_1=0.05, resolution=1e-5),
        ),
        "sides": Portal(
            panels([0.7, 0.55, 0.45], rng=rng),
            panels([-0.4, -0.5, -0.7], rng=rng),
            panels([0.0, 0.1, -0.1], rng=rng, x=np.array([0.7, -0.7, 0.9]), facing="x"),
        ),
    }


SIMULATOR = SoftPortal(GRID, momentum_resolution=None)


@jit
def hits(design, x, key):
    return jax.tree.leaves(SIMULATOR(design, x, key=key))


@jit
def slopes(design, way, x, key):
    return jax.jvp(lambda d: hits(d, x, key), (design,), (way,))[1]


def moved(design, way, step):
    return jax.tree.map(lambda v, w: v + step * w, design, way)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("vertical", [False, True], ids=["inclined", "vertical"])
@pytest.mark.parametrize("name", ["anywhere", "symmetric", "vanishing", "sides"])
def test_every_field_of_the_design(name, vertical):
    design, x, key = designs()[name], scan(vertical), jax.random.key(4)
    rng = np.random.default_rng(6)
    still = jax.tree.map(jnp.zeros_like, design)
    bad = []
    for group in design.groups:
        for field in FIELDS:
            leaf = getattr(getattr(design, group), field)
            way = eqx.tree_at(
                lambda d, g=group, f=field: getattr(getattr(d, g), f),
                still,
                jnp.asarray(rng.normal(size=leaf.shape)),
            )
            exact = slopes(design, way, x, key)
            if field == "present" and name == "vanishing":
                # below zero there is nothing: from one side, at second order
                way = jax.tree.map(jnp.abs, way)
                exact = slopes(design, way, x, key)
                here, once, twice = (
                    hits(moved(design, way, k * STEP), x, key) for k in (0, 1, 2)
                )
                found = [
                    (-3 * a + 4 * b - c) / (2 * STEP)
                    for a, b, c in zip(here, once, twice)
                ]
            else:
                up = hits(moved(design, way, STEP), x, key)
                down = hits(moved(design, way, -STEP), x, key)
                found = [(a - b) / (2 * STEP) for a, b in zip(up, down)]
            for i, (a, b) in enumerate(zip(exact, found)):
                scale = float(jnp.max(jnp.abs(a)))
                gap = float(jnp.max(jnp.abs(a - b)))
                if not gap <= 1e-4 * scale + 1e-7:
                    bad.append((group, field, i, gap, scale))
    assert not bad


@pytest.mark.usefixtures("x64")
def test_reverse_mode_is_finite_and_agrees_at_a_symmetric_point():
    design, x, key = designs()["symmetric"], scan(True), jax.random.key(4)
    out = hits(design, x, key)
    rng = np.random.default_rng(7)
    signs = [jnp.asarray(rng.normal(size=v.shape)) for v in out]

    @jit
    def back(design):
        return jax.grad(
            lambda d: sum(jnp.vdot(s, v) for s, v in zip(signs, hits(d, x, key)))
        )(design)

    found = back(design)
    way = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), design)
    forward = sum(jnp.vdot(s, v) for s, v in zip(signs, slopes(design, way, x, key)))
    reverse = sum(
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(way))
    )
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in jax.tree.leaves(found))
    assert float(reverse) == pytest.approx(float(forward), rel=1e-8)
