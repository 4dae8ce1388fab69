"""Pythia 8 as a source: against LEP, deterministic, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.stages.sources import pythia8

pytestmark = pytest.mark.library("pythia8mc")
KEY = jax.random.key(4)
MASS_Z = 91.188
Z = (
    "Beams:idA = 11",
    "Beams:idB = -11",
    f"Beams:eCM = {MASS_Z}",
    "PDF:lepton = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "23:onMode = off",
    "23:onIfAny = 1 2 3 4 5",
)
MUONS = (*Z[:-1], "23:onIfAny = 13")
CHARGED = (11, 13, 211, 321, 2212, 3112, 3222, 3312, 3334)


def test_charged_particles_of_a_z_are_those_of_lep():
    """20.76 +- 0.16 of each hadronic Z (PDG), decays of K0 and Lambda included."""
    found = ky.Pythia8(Z, particles=200)(500, key=KEY)
    pdg = np.where(found.weight > 0, np.abs(found.pdg), 0)
    count = np.isin(pdg, CHARGED).sum(1)
    assert count.mean() == pytest.approx(20.76, rel=0.04)
    # all but the neutrinos of heavy quarks
    energy = np.asarray(found.energy.sum(1))
    assert np.all(energy < MASS_Z)
    assert energy.mean() > 0.8 * MASS_Z
    np.testing.assert_allclose(np.linalg.norm(found.direction, axis=-1), 1.0, rtol=1e-5)
    assert np.all(np.diff(found.energy, axis=1) <= 0)


def test_a_pair_of_muons_is_back_to_back():
    found = ky.Pythia8(MUONS, particles=30, energy_min=1.0)(40, key=KEY)
    assert sorted(found.pdg[0, :2].tolist()) == [-13, 13]
    quiet = np.asarray(found.weight.sum(1) == 2)  # without photons above 1 GeV
    assert quiet.sum() > 10
    cosine = np.sum(found.direction[:, 0] * found.direction[:, 1], 1)[quiet]
    assert np.all(cosine < -0.9)
    total = np.asarray(found.energy[:, :2].sum(1))[quiet]
    np.testing.assert_allclose(total, MASS_Z, rtol=0.05)


def test_equal_keys_give_equal_rows_whatever_was_before():
    source = ky.Pythia8(Z, particles=200)
    first = source(5, key=KEY)
    source(7, key=jax.random.key(9))
    again = source(5, key=KEY)
    compiled = jax.jit(lambda k: source(5, key=k))(KEY)
    for a, b, c in zip(first, again, compiled, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    assert not np.array_equal(first.pdg, source(5, key=jax.random.key(9)).pdg)


class Missing(ky.PerEventLoss):
    def loss(self, design, trace):
        return {"loss": (design["a"] - trace.truth.energy.sum(1)) ** 2}


def test_an_event_that_does_not_fit_is_a_failed_trial():
    source = ky.Pythia8(Z, particles=5)
    with pytest.raises(errors.SimulationError, match="fit into 5 .*Raise `particles`"):
        source(2, key=KEY)
    problem = ky.Problem(
        ky.Space({"a": jnp.array(50.0)}, {"a": ky.Real(0, 100)}),
        ky.Pipeline(source, ky.Identity()),
        Missing(),
        events=2,
    )
    (found,), _ = ky.Direct()(problem, jnp.array([[0.5]]), None, key=KEY[None])
    assert found.cause.startswith("An event must fit into 5 particles")


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (["Nonsense:foo = on"], "'Nonsense:foo = on'"),
        (["Beams:eCM = 10"], "cannot start with the settings"),
    ],
)
def test_settings_that_pythia_refuses(settings, cause):
    with pytest.raises(errors.InputError, match=cause):
        ky.Pythia8(settings, particles=5)(1, key=KEY)


def test_no_room_at_all():
    with pytest.raises(errors.InputError, match="`particles`"):
        ky.Pythia8(Z, particles=0)


def test_a_missing_pythia_names_its_extra(monkeypatch):
    monkeypatch.setattr(pythia8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UnsupportedError, match=r"kythera\[pythia8\]"):
        ky.Pythia8((*Z, "Main:numberOfEvents = 1"), particles=5)(1, key=KEY)
