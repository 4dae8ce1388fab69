"""Deposits in layers: energy is kept, resolutions are those of built calorimeters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.compilation import jit
from kythera.core.measure import evaluate
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter.simulator import (
    KINDS,
    ParticleBeam,
    Particles,
    Recorded,
    RecordedShowers,
    Resummed,
    ShowerModel,
)
from kythera.units import GeV, cm, mm

simulate = jit(lambda model, stack, x, key: model(stack, x, key=key))
EVENTS = 2000


def particles(kind, energy, events=EVENTS):
    return Particles(
        jnp.full(events, float(energy)), jnp.full(events, float(KINDS.index(kind)))
    )


def model(sampling=0.85):
    """Its numbers as arrays: another one compiles nothing anew."""
    return jax.tree.map(jnp.asarray, ShowerModel(sampling=sampling))


def seen(stack, kind, energy, key, sampling=0.85):
    """Energy in all active layers, and in all layers, GeV."""
    deposit = simulate(model(sampling), stack, particles(kind, energy), key)
    deposit = np.asarray(deposit, float)
    assert deposit.min() >= 0
    return deposit[:, 1::2].sum(1), deposit.sum(1)


@pytest.fixture(scope="module")
def shashlik(fine):
    return fine("lead", 2, "polystyrene", 4, 66)


def test_the_resolution_of_a_shashlik(shashlik, getkey):
    """LHCb's: (9.4 +- 0.2)% / sqrt E and 0.83% (JINST 3 (2008) S08005, Sec. 6.2.5).

    The model has no light, which costs the built one a part of that.
    """
    for energy in (2.0, 20.0):
        active, _ = seen(shashlik, "e-", energy, getkey())
        want = np.hypot(0.094 / np.sqrt(energy), 0.0083)
        assert active.std() / active.mean() == pytest.approx(want, rel=0.3)


def test_a_deep_crystal_sees_everything(fine, getkey):
    """Without absorbers nothing is sampled: only what leaks out at the back is missing."""
    crystal = fine("lead", 0, "lead_tungstate", 100, 4)
    for kind in ("e-", "gamma"):
        active, total = seen(crystal, kind, 5.0, getkey())
        np.testing.assert_allclose(active, total, rtol=1e-5)
        assert active.mean() == pytest.approx(5.0, rel=0.003)
        assert active.std() / 5.0 < 0.01


def test_energy_is_kept_without_fluctuations(fine, getkey):
    stack = fine("lead", 3, "polystyrene", 5, 100)
    for kind in ("e-", "gamma"):
        _, total = seen(stack, kind, 3.0, getkey(), sampling=0.0)
        assert total.mean() == pytest.approx(3.0, rel=0.003)
        assert total.max() <= 3.0 * (1 + 1e-3)


def test_photons_begin_deeper_than_electrons(shashlik, getkey):
    """By about one radiation length (PDG Eq. 34.36: ln y + 0.5 against ln y - 0.5)."""
    depth = {}
    t = np.cumsum(np.asarray(shashlik.thickness)) / (16.4 * mm)
    for kind in ("e-", "gamma"):
        deposit = simulate(model(), shashlik, particles(kind, 10.0), getkey())
        mean = np.asarray(deposit, float).mean(0)
        depth[kind] = np.sum(mean * t) / np.sum(mean)
    assert depth["gamma"] - depth["e-"] == pytest.approx(0.8, abs=0.4)


def test_pions_in_a_deep_hadron_calorimeter(fine, getkey):
    """Iron and scintillator as in ATLAS' tile calorimeter: 14 mm and 3 mm.

    Published: sigma / E = 52.9% / sqrt E and 5.7% (Eur. Phys. J. C 70 (2010) 1193), and
    pi / e of 0.8 to 0.9 (e/h = 1.36). The intrinsic fluctuations of the model are set, not
    derived, so that the tolerance is wide.
    """
    tiles = fine("iron", 14, "polystyrene", 3, 180)
    for energy in (10.0, 20.0):
        pion, _ = seen(tiles, "pi+", energy, getkey())
        light, _ = seen(tiles, "e-", energy, getkey())
        want = np.hypot(0.529 / np.sqrt(energy), 0.057)
        assert pion.std() / pion.mean() == pytest.approx(want, rel=0.3)
        assert 0.65 < pion.mean() / light.mean() < 1.0


def test_a_pion_that_does_not_interact_ionises(fine, getkey):
    """5 cm of polystyrene, 0.06 interaction lengths: 2.05 MeV/cm for most."""
    thin = fine("lead", 0, "polystyrene", 25, 2)
    active, _ = seen(thin, "pi+", 5.0, getkey())
    assert np.median(active) == pytest.approx(5 * 2.05e-3, rel=0.1)
    range_out = fine("lead", 0, "lead_tungstate", 1000, 2)
    _, total = seen(range_out, "pi+", 0.6, getkey())
    assert total.max() <= 0.6 * (1 + 1e-3)
    assert np.mean(total > 0.599) > 0.05  # those that stop without a shower


def test_half_a_material_lies_between():
    """Weights mix a layer in its volume: radiation lengths add up."""
    layers = jit(lambda problem: problem.space.template.layers())
    half = sampling_calorimeter.problem().space.with_leaf("absorber_material", 0.5)
    problem = sampling_calorimeter.problem().replace(space=half)
    x0 = np.asarray(layers(problem).medium.radiation_length)[::2]
    np.testing.assert_allclose(x0, 2 / (1 / 5.6123e-3 + 1 / 17.577e-3), rtol=1e-3)


def test_absent_layers_leave_nothing(fine, getkey):
    stack = dataclasses.replace(
        fine("iron", 20, "polystyrene", 10, 3), pairs=jnp.array(2.5)
    )
    deposit = simulate(model(), stack, particles("e-", 5.0), getkey())
    assert np.all(np.asarray(deposit)[:, 6:] < 1e-6)
    assert np.all(np.asarray(deposit).mean(0)[:6] > 0)
    t = np.asarray(stack.thickness)[:8]
    np.testing.assert_allclose(
        t, [0.02, 0.01, 0.02, 0.01, 0.01, 0.005, 0, 0], atol=1e-7
    )


@pytest.mark.slow
def test_gradients_are_finite_where_layers_are_absent(getkey):
    problem = sampling_calorimeter.problem(spare=1, events=100)
    start = problem.space.start
    empty = start.at[jnp.array([0, 5])].set(0.0)  # an absorber, an active layer
    for u in (start, empty, jnp.zeros_like(start)):
        [found] = evaluate(problem, "pathwise", (u[None], getkey()[None]))
        assert not found.cause
        assert np.all(np.isfinite(found.total.gradient))


def test_resumming_a_block_gives_any_layout(fine, getkey):
    """A homogeneous block in slices of 2 mm holds every layout of the same material."""
    block = fine("lead_tungstate", 2, "lead_tungstate", 2, 100)
    key = getkey()
    truth = particles("e-", 3.0)
    slices = simulate(model(), block, truth, key)
    record = Recorded(truth.energy, truth.kind, slices)(300, key=getkey())
    empty = fine("lead_tungstate", 0, "lead_tungstate", 0, 2)
    layout = dataclasses.replace(
        empty,
        absorber=empty.absorber.at[:2].set(jnp.array([10 * mm, 31 * mm])),
        active=empty.active.at[:2].set(jnp.array([40 * mm, 60 * mm])),
    )
    got = np.asarray(Resummed(2 * mm)(layout, record, key=key))[:, :4]
    rows = np.asarray(record.slices)
    want = [rows[:, a:b].sum(1) for a, b in ((0, 5), (5, 25), (25, 40), (41, 70))]
    want[2] = want[2] + rows[:, 40] / 2
    want[3] = want[3] + (rows[:, 40] + rows[:, 70]) / 2
    np.testing.assert_allclose(got, np.stack(want, 1), rtol=1e-4, atol=1e-5)
    # The same showers, simulated in that layout: the mean of each layer.
    direct = np.asarray(simulate(model(), layout, truth, key)).mean(0)
    resummed = Resummed(2 * mm)(layout, RecordedShowers(truth, slices), key=key)
    np.testing.assert_allclose(
        np.asarray(resummed).mean(0), direct, rtol=0.02, atol=0.01
    )


def test_bad_input_is_refused():
    with pytest.raises(errors.InputError, match="no particle 'mu-'"):
        ParticleBeam(("mu-",))
    with pytest.raises(errors.InputError, match="from 0.5 to 150 GeV"):
        ParticleBeam(low=5 * GeV, high=1 * GeV)
    with pytest.raises(errors.InputError, match="one row for each shower"):
        Recorded(jnp.ones(3), jnp.ones(3), jnp.ones((2, 4)))
    with pytest.raises(errors.InputError, match="'gold' has no price"):
        sampling_calorimeter.problem(absorbers="lead,gold")
    with pytest.raises(errors.InputError, match="at least two different"):
        sampling_calorimeter.problem(actives="polystyrene")
    with pytest.raises(errors.InputError, match="'aidoo' is not known"):
        sampling_calorimeter.problem(objective="aidoo")
    with pytest.raises(errors.InputError, match="at least one pair"):
        sampling_calorimeter.problem(pairs=0)
    with pytest.raises(errors.InputError, match="Limits must be > 0"):
        sampling_calorimeter.problem(max_cost=-1.0)


def test_aidos_start():
    problem = sampling_calorimeter.problem()
    stack = problem.design(problem.space.start)
    assert problem.space.size == 18
    assert float(jnp.sum(stack.thickness)) == pytest.approx(149.797 * cm, rel=1e-4)
    assert stack.chosen() == (
        *("iron", "lead_tungstate", "lead", "polystyrene", "iron", "polystyrene"),
    )
