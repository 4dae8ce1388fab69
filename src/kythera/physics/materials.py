"""Materials: what a particle meets, per metre and per kilogram.

A `Material` is a small PyTree of numbers, so that a table of materials (`stack`) can be
indexed by voxel inside a compiled function: `jax.tree.map(lambda x: x[i], table)`.
The numbers and their sources are in `material_table`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from kythera.errors import InputError, nearest
from kythera.physics import material_table
from kythera.units import cm, cm2, cm3, eV, g, m

Number = Any  # a float, or an array of them in a table of materials
gas_density = 0.05 * g / cm3  # below it a material counts as a gas, as in Sternheimer's


class DensityEffect(eqx.Module):
    """How the polarisation of a medium weakens the ionisation by fast particles.

    Parameters of Sternheimer's fit to delta(beta gamma), PDG Eq. 34.7:
    Cbar, x0, x1, a, k, and delta0 (not zero in conductors).
    """

    c_bar: Number
    x0: Number
    x1: Number
    a: Number
    k: Number
    delta0: Number


class Material(eqx.Module):
    """One homogeneous material, or (from `stack`) a table of them.

    Attributes:
        name: how it is looked up and printed.
        density: mass density [kg/m3].
        radiation_length: X0 [m].
        Z: atomic number; of a compound, the mean over its atoms.
        A: atomic mass [g/mol]; of a compound, the mean over its atoms, so that Z/A is
            its electrons per unit mass.
        mean_excitation_energy: I [GeV].
        density_effect: Sternheimer's parameters.
        radiative: six coefficients of the muon's radiative loss [m2/kg]; see
            `radiative_coefficients`.
    """

    name: str = eqx.field(static=True)
    density: Number
    radiation_length: Number
    Z: Number
    A: Number
    mean_excitation_energy: Number
    density_effect: DensityEffect
    radiative: tuple[Number, ...]

    @property
    def electrons(self) -> Number:
        """Moles of electrons per unit mass, Z/A [mol/kg]."""
        return self.Z / (self.A * g)


def radiation_length_dahl(Z: float, A: float) -> float:
    """Radiation length of an element that no table gives, by Dahl's fit.

    X0 = 716.4 A / (Z (Z + 1) ln(287 / sqrt Z)) g/cm2 (O. I. Dahl; PDG until 2022,
    Eq. 34.26). Within 2.5% of the tables except for helium (5% low).

    Args:
        Z: atomic number, 1 to 92.
        A: atomic mass [g/mol].

    Returns:
        X0 in mass per area [kg/m2]; divide by the density for metres.
    """
    return 716.4 * A / (Z * (Z + 1) * math.log(287 / math.sqrt(Z))) * g / cm2


def sternheimer_peierls(
    electrons: float, density: float, mean_excitation_energy: float
) -> DensityEffect:
    """Density effect of a material that was never fitted.

    General prescription of R. M. Sternheimer and R. F. Peierls, Phys. Rev. B 3 (1971)
    3681, Eq. 8-12, as PDG uses it for mixtures. The stopping power it gives is within
    2% of the fitted one.

    Args:
        electrons: moles of electrons per mass [mol/kg].
        density: mass density [kg/m3]; below 50 kg/m3 the rules for gases hold.
        mean_excitation_energy: I [GeV].

    Returns:
        The parameters.
    """
    plasma = 28.816 * eV * math.sqrt(density * electrons / (1e6 * m**-3))
    c_bar = 2 * math.log(mean_excitation_energy / plasma) + 1
    if density < gas_density:
        steps = ((10.0, 1.6), (10.5, 1.7), (11.0, 1.8), (11.5, 1.9))
        x0, x1 = next(((x, 4.0) for c, x in steps if c_bar < c), (2.0, 4.0))
        if c_bar >= 13.804:
            x0, x1 = 0.326 * c_bar - 2.5, 5.0
        elif c_bar >= 12.25:
            x0, x1 = 2.0, 5.0
    else:
        light = mean_excitation_energy < 100 * eV
        x1 = 2.0 if light else 3.0
        edge, shift = (3.681, 1.0) if light else (5.215, 1.5)
        x0 = 0.2 if c_bar < edge else 0.326 * c_bar - shift
    a = (c_bar - 2 * math.log(10) * x0) / (x1 - x0) ** 3
    return DensityEffect(c_bar, x0, x1, a, 3.0, 0.0)


# Scaled radiative loss (b A / Z (Z+1) [1e-7 cm2/g]) of brems and pairs: a row for each
# scale energy of `energy_loss.radiative_scales`, a column for each power of ln Z.
_RADIATIVE_FIT = (
    (1.1504, 0.24033, -0.053244),
    (1.6806, 0.013195, 0.025611),
    (3.0761, -0.36993, -0.0028333),
    (1.5801, -0.34425, 0.037421),
    (0.82080, -0.26004, 0.022196),
)


def radiative_coefficients(Z: float, A: float) -> tuple[float, ...]:
    """Strength of the radiative losses of muons in an element.

    Five numbers for bremsstrahlung and pair production, one for photonuclear loss;
    `energy_loss.radiative_b` is linear in them, so that mixtures add up in mass. Fitted
    here, with Z (Z + 1) / A times a parabola in ln Z, to the tables of the PUMAS library
    (V. Niess, Comput. Phys. Commun. 279 (2022) 108438) for C, Fe, Pb, computed with the
    cross sections of D. E. Groom, N. V. Mokhov, S. I. Striganov, At. Data Nucl. Data
    Tables 78 (2001) 183. Agreement: `energy_loss.radiative_b`.

    Args:
        Z: atomic number, 1 to 92.
        A: atomic mass [g/mol].

    Returns:
        The six coefficients [m2/kg].
    """
    unit = 1e-7 * cm2 / g
    scale = Z * (Z + 1) / A * unit
    powers = (1.0, math.log(Z), math.log(Z) ** 2)
    fit = (
        sum(c * x for c, x in zip(row, powers, strict=True)) for row in _RADIATIVE_FIT
    )
    return (*(scale * x for x in fit), 4.634 * A**-0.08 * unit)


def element(
    name: str,
    Z: float,
    A: float,
    density: float,
    mean_excitation_energy: float,
    *,
    radiation_length: float | None = None,
    density_effect: DensityEffect | None = None,
) -> Material:
    """A chemical element, from the few numbers that are always known.

    Args:
        name: how to call it.
        Z: atomic number.
        A: atomic mass [g/mol].
        density: mass density [kg/m3].
        mean_excitation_energy: I [GeV]; about 10 eV times Z where unknown.
        radiation_length: X0 [m]; from Dahl's fit unless given.
        density_effect: Sternheimer's parameters; the general prescription unless given.

    Returns:
        The material.
    """
    _positive(name, Z=Z, A=A, density=density, I=mean_excitation_energy)
    if radiation_length is None:
        radiation_length = radiation_length_dahl(Z, A) / density
    if density_effect is None:
        density_effect = sternheimer_peierls(
            Z / (A * g), density, mean_excitation_energy
        )
    return Material(
        name,
        density,
        radiation_length,
        Z,
        A,
        mean_excitation_energy,
        density_effect,
        radiative_coefficients(Z, A),
    )


def mixture(
    name: str,
    fractions: Mapping[str | Material, float],
    density: float,
    *,
    radiation_length: float | None = None,
    mean_excitation_energy: float | None = None,
    density_effect: DensityEffect | None = None,
) -> Material:
    """A compound or mixture, from what it is made of (Bragg additivity).

    With mass fractions w_i (PDG section 34.2.9 and Eq. 34.27, lengths in mass per area):
    1/X0 = sum w_i/X0_i; Z/A = sum w_i (Z/A)_i; ln I = sum w_i (Z/A)_i ln I_i / (Z/A).
    Additivity of I neglects chemical binding, which in solids and liquids raises I by up
    to 13% and lowers dE/dx by up to 2%: give I where it is known.

    Args:
        name: how to call it.
        fractions: mass fraction of each part (names as in `material`, or materials);
            positive, with sum 1 within 0.001 (then normalised).
        density: mass density [kg/m3].
        radiation_length: X0 [m], where better known than by additivity.
        mean_excitation_energy: I [GeV], likewise.
        density_effect: likewise; the general prescription unless given.

    Returns:
        The material.

    Raises:
        InputError: for fractions that are not positive or do not sum to one, an unknown
            part, or a density that is not positive.
    """
    _positive(name, density=density)
    total = math.fsum(fractions.values())
    bad = {str(k): v for k, v in fractions.items() if not v > 0}
    if bad or not abs(total - 1) <= 1e-3:
        raise InputError(
            f"The mass fractions of {name!r} must be positive and sum to 1 within 0.001;"
            f" they sum to {total:.6g}{f', with {bad}' if bad else ''}. "
            "Divide each by their sum, and leave out parts that are absent."
        )
    parts = [(p if isinstance(p, Material) else material(p)) for p in fractions]
    weights = [w / total for w in fractions.values()]
    both = list(zip(weights, parts, strict=True))
    electrons = sum(w * p.electrons for w, p in both)
    atoms = sum(w / p.A for w, p in both)
    if radiation_length is None:
        per_mass = sum(w / (p.radiation_length * p.density) for w, p in both)
        radiation_length = 1 / (per_mass * density)
    if mean_excitation_energy is None:
        logs = (w * p.electrons * math.log(p.mean_excitation_energy) for w, p in both)
        mean_excitation_energy = math.exp(sum(logs) / electrons)
    if density_effect is None:
        density_effect = sternheimer_peierls(electrons, density, mean_excitation_energy)
    return Material(
        name,
        density,
        radiation_length,
        sum(w * p.Z / p.A for w, p in both) / atoms,
        1 / atoms,
        mean_excitation_energy,
        density_effect,
        tuple(
            sum(w * c for w, c in zip(weights, column, strict=True))
            for column in zip(*(p.radiative for p in parts), strict=True)
        ),
    )


def material(name: str) -> Material:
    """Look up a material: by name ("lead"), chemical symbol ("Pb") or alias ("LAr").

    Args:
        name: a key of `MATERIALS`, a symbol, or an alias; case does not matter in names.

    Returns:
        The material.

    Raises:
        InputError: if it is unknown, with the nearest names.
    """
    if name in material_table.ELEMENTS:
        return MATERIALS[material_table.ELEMENTS[name][0]]
    key = name.strip().lower().replace(" ", "_").replace("-", "_")
    found = MATERIALS.get(material_table.ALIASES.get(key, key))
    if found is None:
        known = [*MATERIALS, *material_table.ALIASES]
        raise InputError(
            f"There is no material {name!r}. {nearest(key, known)} "
            "Make others with `mixture` or `element`."
        )
    return found


def composition(name: str) -> dict[str, float]:
    """What a material is made of: chemical symbol -> mass fraction, which sum to one.

    Args:
        name: as for `material`.

    Raises:
        InputError: an unknown material, or one without elements (standard rock).
    """
    found = material(name).name
    for symbol, row in material_table.ELEMENTS.items():
        if row[0] == found:
            return {symbol: 1.0}
    rows = (material_table.COMPOUNDS, material_table.MIXTURES)
    parts = next((table[found][-1] for table in rows if found in table), None)
    if parts is None:
        raise InputError(
            f"{found!r} is defined by its means and has no chemical composition. "
            "Name a material that has one, such as 'iron'."
        )
    total = math.fsum(parts.values())
    return {symbol: part / total for symbol, part in parts.items()}


def interaction_length(name: str) -> float:
    """Nuclear interaction length lambda_I of a material [m].

    lambda_I = 37.8 g/cm2 A^0.312 for elements (within 1.5% of the PDG's table from oxygen
    to uranium), the PDG's 52.0 and 85.8 g/cm2 for hydrogen and carbon; of compounds
    1/lambda = sum w_i / lambda_i (Phys. Rev. D 110 (2024) 030001, table 6.1).

    Args:
        name: as for `material`.

    Raises:
        InputError: as for `composition`.
    """
    light = {"H": 52.0, "C": 85.8}

    def of(symbol: str) -> float:
        return light[symbol] if symbol in light else 37.8 * material(symbol).A ** 0.312

    per_mass = sum(part / of(symbol) for symbol, part in composition(name).items())
    return 1 / per_mass * (g / cm2) / material(name).density


def stack(materials: Sequence[Material]) -> Material:
    """Several materials as one table, to be indexed inside a compiled function.

    Args:
        materials: at least one.

    Returns:
        A `Material` whose numbers are arrays with a leading axis, in the order given.
    """
    if not materials:
        raise InputError("A table of materials needs at least one. Name some.")
    name = " | ".join(m.name for m in materials)
    renamed = [dataclasses.replace(m, name=name) for m in materials]
    return jax.tree.map(lambda *values: jnp.asarray(values), *renamed)


def _positive(name: str, **values: float) -> None:
    """Refuse numbers that are not positive and finite."""
    for what, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{what} of material {name!r} must be positive and finite; it is {value}."
                " Give it in native units (`7.87 * g / cm3`)."
            )


def _table() -> dict[str, Material]:
    """The materials of `material_table`, elements first."""
    table: dict[str, Material] = {}
    by_symbol: dict[str, Material] = {}

    def add(row: tuple) -> Material:
        name, Z, A, density, x0, excitation, *sternheimer = row
        table[name] = element(
            name,
            Z,
            A,
            density * g / cm3,
            excitation * eV,
            radiation_length=x0 / density * cm,
            density_effect=DensityEffect(*sternheimer),
        )
        return table[name]

    for symbol, row in material_table.ELEMENTS.items():
        by_symbol[symbol] = add(row)
    add(material_table.STANDARD_ROCK)

    for name, (
        density,
        x0,
        excitation,
        effect,
        parts,
    ) in material_table.COMPOUNDS.items():
        table[name] = mixture(
            name,
            {by_symbol[s]: w for s, w in parts.items()},
            density * g / cm3,
            radiation_length=x0 / density * cm,
            mean_excitation_energy=excitation * eV,
            density_effect=DensityEffect(*effect) if effect else None,
        )
    for name, (density, excitation, parts) in material_table.MIXTURES.items():
        table[name] = mixture(
            name,
            {by_symbol[s]: w for s, w in parts.items()},
            density * g / cm3,
            mean_excitation_energy=excitation * eV if excitation else None,
        )
    return table


MATERIALS: dict[str, Material] = _table()
