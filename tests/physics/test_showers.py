"""Showers: published numbers of media, profiles and sharing, and limits that are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kythera import errors
from kythera.physics import materials, showers
from kythera.units import GeV, MeV, cm, g, mm

# PDG, atomic and nuclear properties of materials: lambda_I [g/cm2], Ec of electrons [MeV].
PUBLISHED = {
    "aluminium": (107.2, 42.70),
    "iron": (132.1, 21.68),
    "copper": (137.3, 19.42),
    "tungsten": (191.9, 7.97),
    "lead": (199.6, 7.43),
    "uranium": (209.0, 6.65),
    "polystyrene": (81.7, 93.11),
    "lead_tungstate": (168.3, 9.64),
    "liquid_argon": (119.7, 32.84),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_media_are_those_of_the_tables(name):
    length, critical = PUBLISHED[name]
    found = showers.medium(name)
    mass = found.interaction_length * found.density / (g / cm**2)
    assert mass == pytest.approx(length, rel=0.015)
    assert found.critical_energy / MeV == pytest.approx(critical, rel=0.12)


def test_compositions():
    water = materials.composition("water")
    assert water == pytest.approx({"H": 0.1119, "O": 0.8881}, abs=1e-4)
    assert materials.composition("Pb") == {"Pb": 1.0}
    with pytest.raises(errors.InputError, match="no chemical composition"):
        materials.composition("standard_rock")
    with pytest.raises(errors.InputError, match="needs at least one"):
        showers.media(())


def test_effective_medium_of_a_shashlik():
    """LHCb's: 2 mm of lead, 4 mm of scintillator; X0 17.5 mm, Moliere radius 36 mm.

    LHCb, JINST 3 (2008) S08005, Sec. 6.2 has 25 X0 in 42 cm, with paper and steel.
    """
    parts = showers.media(["lead", "polystyrene"])
    both = showers.mixed(parts, jnp.array([2 * mm, 4 * mm]))
    assert both.radiation_length == pytest.approx(16.4 * mm, rel=0.01)
    assert both.moliere_radius == pytest.approx(36 * mm, rel=0.1)
    alone = showers.mixed(parts, jnp.array([3.0, 0.0]))
    for got, want in zip(jax.tree.leaves(alone), jax.tree.leaves(parts), strict=True):
        assert float(got) == pytest.approx(float(want[0]), rel=1e-6)


def test_incomplete_gamma_and_its_derivatives():
    a = jnp.array([1.05, 1.5, 3.0, 7.0])[:, None]
    x = jnp.array([-1.0, 0.0, 0.01, 0.5, 2.0, 6.0, 15.0, 80.0])
    want = special.gammainc(np.asarray(a, float), np.maximum(np.asarray(x, float), 0))
    found = showers.incomplete_gamma(*jnp.broadcast_arrays(a, x))
    np.testing.assert_allclose(found, want, atol=2e-5)

    def numeric(f, v, h=1e-4):
        return (f(v + h) - f(v - h)) / (2 * h)

    for a0, x0 in ((1.3, 0.7), (3.0, 2.0), (6.0, 9.0)):
        by_a, by_x = jax.grad(showers.incomplete_gamma, (0, 1))(
            jnp.array(a0), jnp.array(x0)
        )
        want_a = numeric(lambda v, x0=x0: special.gammainc(v, x0), a0)
        want_x = numeric(lambda v, a0=a0: special.gammainc(a0, v), x0)
        assert float(by_a) == pytest.approx(want_a, abs=1e-4)
        assert float(by_x) == pytest.approx(want_x, abs=1e-4)


def test_where_electron_showers_are_deepest():
    """T = ln y - 0.858; the PDG's rule of thumb is ln y - 0.5 (Eq. 34.36)."""
    lead = showers.medium("lead")
    for energy in (1 * GeV, 10 * GeV, 100 * GeV):
        mean = showers.mean_electron_profile(jnp.array(energy), lead)
        top = float((mean.alpha - 1) / mean.beta)
        log_y = np.log(energy / lead.critical_energy)
        assert top == pytest.approx(log_y - 0.858, rel=1e-5)


@pytest.mark.parametrize("name", ["lead", "lead_tungstate"])
def test_how_long_electron_showers_are(name):
    """98% of the energy within T + 13.6 +- 2.0 X0 (C. W. Fabjan, CERN-EP/85-54)."""
    where = showers.medium(name)
    mean = showers.mean_electron_profile(jnp.array(10 * GeV), where)
    depth = jnp.linspace(5, 40, 351)
    l98 = float(depth[np.argmax(np.asarray(mean.contained(depth)) > 0.98)])
    top = float((mean.alpha - 1) / mean.beta)
    assert l98 == pytest.approx(top + 13.6, abs=2.0)


def test_electron_showers_fluctuate_as_published(getkey):
    """Moments of (ln T, ln alpha), hep-ex/0001020."""
    where, energy = showers.medium("lead"), 10 * GeV
    normal = jax.random.normal(getkey(), (2, 100_000))
    found = showers.electron_profile(jnp.array(energy), where, normal)
    log_t = np.log(np.asarray((found.alpha - 1) / found.beta, float))
    log_a = np.log(np.asarray(found.alpha, float))
    log_y = np.log(energy / where.critical_energy)
    assert log_t.mean() == pytest.approx(np.log(log_y - 0.812), abs=3e-3)
    assert log_t.std() == pytest.approx(1 / (1.26 * log_y - 1.4), rel=0.02)
    mean_a = np.log(0.81 + (0.458 + 2.26 / 82) * log_y)
    assert log_a.mean() == pytest.approx(mean_a, abs=3e-3)
    assert log_a.std() == pytest.approx(1 / (0.86 * log_y - 0.58), rel=0.02)
    rho = np.corrcoef(log_t, log_a)[0, 1]
    assert rho == pytest.approx(0.705 - 0.023 * log_y, abs=0.01)


def test_the_published_sharing_of_a_fine_stack():
    """50 x (2.3 mm PbWO4 + 5.7 mm liquid argon), 10 GeV electrons.

    Geant4, documentation of HepEmShow: 6726.72 and 2568.84 MeV.
    """
    parts = showers.media(["lead_tungstate", "liquid_argon"])
    pair = jnp.array([2.3 * mm, 5.7 * mm])
    layers = jax.tree.map(lambda v: jnp.tile(jnp.asarray(v), 50), parts)
    t = jnp.tile(pair, 50) / layers.radiation_length
    share = showers.electromagnetic_share(layers, showers.neighbourhood(t, 0.5))
    profile = showers.mean_electron_profile(
        jnp.array(10 * GeV), showers.mixed(parts, pair)
    )
    before = profile.contained(jnp.concatenate([jnp.zeros(1), jnp.cumsum(t)]))
    deposit = jnp.diff(before) * share
    deposit = 10_000 * deposit * before[-1] / jnp.sum(deposit)
    assert float(jnp.sum(deposit[::2])) == pytest.approx(6726.72, rel=0.025)
    assert float(jnp.sum(deposit[1::2])) == pytest.approx(2568.84, rel=0.025)


def test_thick_layers_see_themselves_and_thin_ones_all():
    near = np.asarray(showers.neighbourhood(jnp.array([0.01, 0.03, 0.01, 0.03]), 1.0))
    np.testing.assert_allclose(near.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(near[0], [1 / 8, 3 / 8, 1 / 8, 3 / 8], atol=0.01)
    thick = np.asarray(showers.neighbourhood(jnp.array([200.0, 200.0]), 1.0))
    np.testing.assert_allclose(thick, np.eye(2), atol=0.01)
    # An absent layer changes nothing for the others.
    without = np.asarray(showers.neighbourhood(jnp.array([1.0, 2.0]), 1.0))
    between = np.asarray(showers.neighbourhood(jnp.array([1.0, 0.0, 2.0]), 1.0))
    np.testing.assert_allclose(between[::2, ::2], without, atol=1e-5)


def test_the_electromagnetic_fraction_of_pions(getkey):
    """f = 1 - (E / 1 GeV)^-0.18: 0.34 at 10 GeV, 0.56 at 100 GeV (Groom)."""
    zero = jnp.zeros(())
    for energy, want in ((10.0, 0.339), (100.0, 0.563)):
        got = showers.electromagnetic_fraction(jnp.array(energy), zero, 0.0)
        assert float(got) == pytest.approx(want, abs=0.002)
    normal = jax.random.normal(getkey(), (20_000,))
    found = showers.electromagnetic_fraction(jnp.full(20_000, 10.0), normal, 0.6)
    assert float(jnp.min(found)) > 0
    assert float(jnp.max(found)) < 1
    assert float(jnp.mean(found)) == pytest.approx(0.32, abs=0.02)


def test_hadronic_showers_are_long():
    """Fe: 95% of a 100 GeV pion's shower within about 5.5 lambda of its interaction.

    Fabjan, Gianotti, Rev. Mod. Phys. 75 (2003) 1243: L(95%) ~ 0.2 ln E + 0.7 + 2.5
    E^0.13 interaction lengths from the front, 6.2 at 100 GeV, one of them before it.
    """
    _, hard = showers.pion_profiles(jnp.array(100.0))
    depth = jnp.linspace(0.1, 12, 1200)
    l95 = float(depth[np.argmax(np.asarray(hard.contained(depth)) > 0.95)])
    assert l95 == pytest.approx(5.2, abs=1.0)
