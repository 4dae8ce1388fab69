"""The generated tables against the literature, and the folder that Geant4 reads."""

import numpy as np
import pytest

from kythera import errors
from kythera.physics import geant4_tables as tables

AVOGADRO_PER_BARN = 0.602214  # 1e-24 N_A
ELEMENTS = {
    "Fe": (26, 55.845, 13.84),
    "Pb": (82, 207.2, 6.37),
}  # Z, A, X0 in g/cm2 (PDG)


@pytest.mark.parametrize("name", ELEMENTS)
def test_radiated_energy_at_1_gev_is_that_of_a_radiation_length(name):
    """(dE/dx)_rad X0 / E = 1, with X0 of the PDG."""
    z, a, radiation_length = ELEMENTS[name]
    kinetic = 1000.0
    nodes, weights = np.polynomial.legendre.leggauss(64)
    spectrum = tables.scaled_bremsstrahlung(z, kinetic, (nodes + 1) / 2)
    radiated = z**2 * kinetic * np.sum(weights * spectrum) / 2  # beta = 1; MeV mb
    per_length = AVOGADRO_PER_BARN / a * 1e-3 * radiated  # MeV cm2/g
    energy = kinetic + tables.ELECTRON_MASS
    assert per_length * radiation_length / energy == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("name", "energy", "per_gram"),
    # NIST's mass attenuation, cm2/g, where 97% or more of it is photo-electric
    [("Fe", 0.01, 170.6), ("Pb", 0.02, 86.36)],
)
def test_photoelectric_cross_section_is_that_of_nist(name, energy, per_gram):
    z, a, _ = ELEMENTS[name]
    sigma = tables.photoelectric(z, np.array([energy]))[0]
    assert sigma * AVOGADRO_PER_BARN / a == pytest.approx(per_gram, rel=0.05)


def test_the_k_edge_of_lead():
    below, above = tables.photoelectric(82, np.array([0.0879, 0.0881]))
    assert 4 < above / below < 5  # NIST, with scattering: 1.91 to 7.68 cm2/g


def test_the_folder(tmp_path):
    tables.write(tmp_path / "a", (26, 82))
    tables.write(tmp_path / "a", (1,))  # again, further elements
    spectra = sorted(p.name for p in (tmp_path / "a/G4EMLOW8.8/brem_SB").iterdir())
    assert spectra == ["br1", "br26", "br82"]
    assert tables.NAME in (tmp_path / "a" / tables.MARK).read_text()
    (tmp_path / "b" / tables.FOLDERS[0]).mkdir(parents=True)
    with pytest.raises(errors.InputError, match="must not replace"):
        tables.write(tmp_path / "b")
