"""Deposits in layers: energy is kept, resolutions are those of built calorimeters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.core.compilation import jit
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter.simulator import (
    KINDS,
    ParticleBeam,
    Particles,
    Recorded,
    Resummed,
    ShowerModel,
    typical_response,
)
from kythera.units import GeV, cm, mm

simulate = jit(lambda model, stack, x, key: model(stack, x, key=key))
EVENTS = 4000


def particles(kind, energy, events=EVENTS):
    return Particles(
        jnp.full(events, float(energy)), jnp.full(events, float(KINDS.index(kind)))
    )


def seen(stack, kind, energy, key, **model):
    """Energy in all active layers, and in all layers, GeV."""
    deposit = simulate(ShowerModel(**model), stack, particles(kind, energy), key)
    deposit = np.asarray(deposit, float)
    assert deposit.min() >= 0
    return deposit[:, 1::2].sum(1), deposit.sum(1)


@pytest.fixture(scope="module")
def shashlik(fine):
    return fine("lead", 2, "polystyrene", 4, 66)


def test_the_resolution_of_a_shashlik(shashlik, getkey):
    """LHCb's: (9.4 +- 0.2)% / sqrt E and 0.83% (JINST 3 (2008) S08005, Sec. 6.2.5)."""
    for energy in (2.0, 20.0):
        active, _ = seen(shashlik, "e-", energy, getkey())
        want = np.hypot(0.094 / np.sqrt(energy), 0.0083)
        assert active.std() / active.mean() == pytest.approx(want, rel=0.25)


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
    still = {"sampling": 0.0}
    for kind in ("e-", "gamma"):
        _, total = seen(stack, kind, 3.0, getkey(), **still)
        assert total.mean() == pytest.approx(3.0, rel=0.003)
        assert total.max() <= 3.0 * (1 + 1e-3)


def test_photons_begin_deeper_than_electrons(shashlik, getkey):
    """By about one radiation length (PDG Eq. 34.36: ln y + 0.5 against ln y - 0.5)."""
    depth = {}
    t = np.cumsum(np.asarray(shashlik.thickness)) / (16.4 * mm)
    for kind in ("e-", "gamma"):
        deposit = simulate(ShowerModel(), shashlik, particles(kind, 10.0), getkey())
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
    assert total.max() <= 0.6 * 1.7  # no more than it had, but for the fluctuations


def test_half_a_material_lies_between(fine, getkey):
    """Weights mix a layer in its volume: radiation lengths add up."""
    stack = fine("lead", 10, "polystyrene", 5, 2)
    half = jnp.tile(jnp.array([0.5, 0.5]), (2, 1))
    mixed = dataclasses.replace(stack, absorber_material=half)
    x0 = np.asarray(mixed.layers().medium.radiation_length)[::2]
    np.testing.assert_allclose(x0, 2 / (1 / 0.005612 + 1 / 0.014353), rtol=1e-3)
    response = np.asarray(typical_response(mixed))
    assert 0 < response.sum() < 1


def test_absent_layers_leave_nothing_and_change_nothing(fine, getkey):
    stack = fine("iron", 20, "polystyrene", 10, 5)
    key = getkey()
    fewer = dataclasses.replace(stack, pairs=jnp.array(3.0))
    deposit = np.asarray(simulate(ShowerModel(), fewer, particles("e-", 5.0, 50), key))
    assert np.all(deposit[:, 6:] < 1e-6)

    def loss(stack):
        x = particles("pi+", 5.0, 50)
        return jnp.sum(ShowerModel()(stack, x, key=key) ** 2)

    absent = dataclasses.replace(stack, absorber=stack.absorber.at[1].set(0.0))
    for design in (fewer, absent):
        slopes = jit(jax.grad(loss))(design)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_resumming_a_block_gives_any_layout(fine, getkey):
    """A homogeneous block in slices of 2 mm holds every layout of the same material."""
    block = fine("lead_tungstate", 2, "lead_tungstate", 2, 60)
    key = getkey()
    truth = ParticleBeam(("e-",))(300, key=key)
    slices = simulate(ShowerModel(), block, truth, key)
    record = Recorded(truth.energy, truth.kind, slices)(300, key=getkey())
    layout = dataclasses.replace(
        fine("lead", 0, "polystyrene", 0, 2),
        absorber=jnp.array([10 * mm, 31 * mm]),
        active=jnp.array([40 * mm, 60 * mm]),
    )
    got = np.asarray(Resummed(2 * mm)(layout, record, key=key))
    rows = np.asarray(record.slices)
    want = [rows[:, :5], rows[:, 5:25], rows[:, 25:40], rows[:, 41:70]]
    sums = [w.sum(1) for w in want]
    sums[2] += rows[:, 40] / 2
    sums[3] += (rows[:, 40] + rows[:, 70]) / 2
    np.testing.assert_allclose(got, np.stack(sums, 1), rtol=1e-4, atol=1e-5)
    # The same showers, simulated in that layout: the mean of each layer.
    cut = dataclasses.replace(
        fine("lead_tungstate", 0, "lead_tungstate", 0, 2),
        absorber=layout.absorber,
        active=layout.active,
    )
    direct = np.asarray(simulate(ShowerModel(), cut, truth, key)).mean(0)
    np.testing.assert_allclose(
        np.asarray(Resummed(2 * mm)(layout, _all(truth, slices), key=key)).mean(0),
        direct,
        rtol=0.02,
        atol=0.01,
    )


def _all(truth, slices):
    from kythera.instruments.sampling_calorimeter.simulator import RecordedShowers

    return RecordedShowers(truth, slices)


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
