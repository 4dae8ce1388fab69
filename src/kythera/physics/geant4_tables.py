"""The tables that Geant4's standard electromagnetic physics reads, made from formulas.

Geant4 asks for data sets of about 2 GB. Its standard electromagnetic models need a few
megabytes of them, and those can be computed: `write` makes a data folder that Geant4 11.4
accepts. The tables are an approximation, and every result got with them has to be labelled
"Geant4 with generated EM tables" (`NAME`):

bremsstrahlung of electrons below 1 GeV
    Screened spectrum of complete elements: Tsai, Rev. Mod. Phys. 46 (1974) 815,
    Eq. 3.38-3.41, with the Coulomb correction of Davies, Bethe and Maximon, Phys.
    Rev. 93 (1954) 788. It is a relativistic Born formula; below a few MeV it is only a
    guide.
photo-electric effect
    The polynomial in 1/E of Biggs and Lighthill (SAND87-0070), which Geant4 has compiled
    in as its "Sandia table", for the atom as a whole: no shells, no fluorescence.
Rayleigh scattering, photo-nuclear reactions
    Zero.

Scattering and ionisation of electrons and muons, pair production and Compton scattering are
computed by Geant4 from formulas alone and do not depend on these tables. In this module
energies are in MeV and cross sections in barn or millibarn, as in Geant4's files.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kythera import errors

NAME = "Geant4 with generated EM tables"
MARK = "GENERATED.txt"  # the file that tells generated tables from the official ones
ELEMENTS = range(1, 99)

ELECTRON_MASS = 0.51099895  # MeV
FINE_STRUCTURE = 1 / 137.035999
ELECTRON_RADIUS_SQUARED = 79.4078  # mb

# The names are those of Geant4 11.4; each folder must exist, most stay empty.
FOLDERS = (
    "G4ABLA3.3",
    "G4CHANNELING2.0",
    "G4EMLOW8.8",
    "G4ENSDFSTATE3.0",
    "G4INCL1.3",
    "G4NDL4.7.1",
    "G4PARTICLEXS4.2",
    "G4PII1.3",
    "G4SAIDDATA2.0",
    "PhotonEvaporation6.1.2",
    "RadioactiveDecay6.1.2",
    "RealSurface2.2",
)


def coulomb_correction(z: int) -> float:
    """Departure from the Born approximation near a nucleus of charge `z`.

    f(a) = a^2 [1/(1 + a^2) + 0.20206 - 0.0369 a^2 + 0.0083 a^4 - 0.002 a^6] with
    a = alpha z (Davies, Bethe and Maximon, Eq. 38).
    """
    square = (FINE_STRUCTURE * z) ** 2
    series = np.polynomial.polynomial.polyval(
        square, [0.20206, -0.0369, 0.0083, -0.002]
    )
    return square * (1 / (1 + square) + float(series))


def scaled_bremsstrahlung(z: int, kinetic: float, fraction: np.ndarray) -> np.ndarray:
    """Photon spectrum of an electron, in the scaled form that Geant4 tabulates.

    (beta^2 / z^2) k dsigma/dk [mb]: Tsai's Eq. 3.38 divided by z^2, with the screening
    functions of Eq. 3.39-3.41. Slow electrons radiate more by about 1 / beta^2, which
    the relativistic formula does not know: it is taken for the whole scaled spectrum.
    The Coulomb correction fades out between 50 and 2 MeV, where it no longer holds.

    Args:
        z: charge of the nucleus.
        kinetic: kinetic energy of the electron [MeV].
        fraction: energy of the photon over `kinetic`, 0 to 1.
    """
    total = kinetic + ELECTRON_MASS
    photon = np.clip(fraction, 0.0, 1 - 1e-9) * kinetic
    y = photon / total
    delta = 100 * ELECTRON_MASS * y / (total - photon)
    nuclear, atomic = delta / z ** (1 / 3), delta / z ** (2 / 3)

    phi = 20.863 - 2 * np.log1p((0.55846 * nuclear) ** 2)
    phi -= 4 * (1 - 0.6 * np.exp(-0.9 * nuclear) - 0.4 * np.exp(-1.5 * nuclear))
    phi_difference = (2 / 3) / (1 + 6.5 * nuclear + 6 * nuclear**2)
    psi = 28.340 - 2 * np.log1p((3.621 * atomic) ** 2)
    psi -= 4 * (1 - 0.7 * np.exp(-8 * atomic) - 0.3 * np.exp(-29.2 * atomic))
    psi_difference = (2 / 3) / (1 + 40 * atomic + 400 * atomic**2)

    fade = np.clip(np.log(kinetic / 2) / np.log(25), 0.0, 1.0)
    correction = fade * coulomb_correction(z)
    elastic = np.maximum(phi - 4 / 3 * np.log(z) - 4 * correction, 0)
    inelastic = np.maximum(psi - 8 / 3 * np.log(z), 0) / z
    shape = (4 / 3 * (1 - y) + y**2) * (elastic + inelastic)
    shape += 2 / 3 * (1 - y) * (phi_difference + psi_difference / z)
    return FINE_STRUCTURE * ELECTRON_RADIUS_SQUARED * np.maximum(shape, 1e-6)


def _numbers(values: Iterable[float]) -> str:
    """Values in a line, as Geant4 reads them."""
    return " ".join(f"{value:.8g}" for value in values)


def _vector(energy: np.ndarray, value: np.ndarray) -> str:
    """A function of energy [MeV] in the text format of G4PhysicsVector."""
    rows = "\n".join(_numbers(pair) for pair in zip(energy, value))
    head = f"{_numbers((energy[0], energy[-1]))} {len(energy)}\n{len(energy)}\n"
    return f"{head}{rows}\n"


def _bremsstrahlung_table(z: int) -> str:
    """Spectrum against log(energy) and photon fraction, as G4Physics2DVector."""
    low, high = [0, 1e-4, 1e-3, 0.01, 0.025, 0.05, 0.075], [0.97, 0.98, 0.99, 0.995]
    fraction = np.array([*low, *np.linspace(0.1, 0.95, 18), *high, 0.999, 1.0])
    log_energy = np.log(np.logspace(-3, 4, 57))
    rows = [scaled_bremsstrahlung(z, np.exp(e), fraction) for e in log_energy]
    lines = [f"0 {len(fraction)} {len(log_energy)}", _numbers(fraction)]
    lines += [_numbers(log_energy), *map(_numbers, rows)]
    return "\n".join(lines) + "\n"


@functools.cache
def _biggs_lighthill() -> np.ndarray:
    """Rows of (Z, energy from which it holds [MeV], a1 ... a4 [barn MeV^i])."""
    path = Path(__file__).with_name("biggs_lighthill.csv")
    return np.loadtxt(path, delimiter=",", skiprows=4, comments=None)


def photoelectric(z: int, energy: np.ndarray) -> np.ndarray:
    """Photo-electric cross section of an atom, barn.

    sigma(E) = sum_i a_i / E^i for i = 1..4, where the a_i change from one interval of
    energy to the next (Biggs and Lighthill, SAND87-0070).

    Args:
        z: atomic number, 1 to 98.
        energy: of the photon, MeV, 1e-5 to 10.
    """
    coefficients = _photoelectric_coefficients(z, energy)
    return np.maximum(np.sum(coefficients / energy[:, None] ** np.arange(1, 5), 1), 0)


def _photoelectric_coefficients(z: int, energy: np.ndarray) -> np.ndarray:
    table = _biggs_lighthill()
    rows = table[table[:, 0] == z]
    return rows[np.searchsorted(rows[:, 1], energy, side="right") - 1, 2:]


def _photoelectric_tables(z: int) -> dict[str, str]:
    """Geant4's three files: one "shell" for the whole atom."""
    # Denser where the K edges of heavy elements lie.
    energy = np.union1d(np.logspace(-5, 1, 400), np.logspace(-2.3, -0.8, 300))
    last = _photoelectric_coefficients(z, energy[-1:])[0]
    tables = {"cs": _vector(energy, photoelectric(z, energy) * energy**3)}
    for part, threshold in (("high", 1.0), ("low", 0.9999)):
        tables[part] = f"1 1 {threshold}\n1e-5 {_numbers([*last, 0.0, 0.0])}\n"
    return tables


def write(folder: Path, elements: Iterable[int] = ELEMENTS) -> None:
    """Write the data folder, about 5 MB.

    Args:
        folder: is made; files of these names in it are replaced.
        elements: atomic numbers of the materials that will be used.

    Raises:
        InputError: the folder holds data of Geant4 that were not generated.
    """
    if any((folder / n).exists() for n in FOLDERS) and not (folder / MARK).exists():
        raise errors.InputError(
            f"Generated tables must not replace Geant4's own, but {str(folder)!r} holds "
            "data sets. Give another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(
        f"{NAME}: made by `kythera geant4 tables`, not by the Geant4 collaboration.\n"
    )
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "G4ENSDFSTATE3.0" / "ENSDFSTATE.dat").touch()
    low_energy = folder / "G4EMLOW8.8"
    gamma = folder / "G4PARTICLEXS4.2" / "gamma"
    photo, rayleigh = low_energy / "epics2017/phot", low_energy / "epics2017/rayl"
    spectra = low_energy / "brem_SB"
    for path in (gamma, photo, rayleigh, spectra):
        path.mkdir(parents=True, exist_ok=True)
    for z in elements:
        (spectra / f"br{z}").write_text(_bremsstrahlung_table(z))
        for part, text in _photoelectric_tables(z).items():
            (photo / f"pe-{part}-{z}.dat").write_text(text)
    for z in ELEMENTS:  # all of them: some are read whatever the materials are
        tiny = _vector(np.array([1e-5, 1.0]), np.full(2, 1e-40))
        (rayleigh / f"re-cs-{z}.dat").write_text(tiny)
        (gamma / f"inel{z}").write_text(_vector(np.array([1.0, 130.0]), np.zeros(2)))
