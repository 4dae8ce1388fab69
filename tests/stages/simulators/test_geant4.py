"""Geant4 as a simulator: energy is kept, bits are the same, and what is refused."""

import math
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kythera as ky
from kythera import errors
from kythera.cli import main
from kythera.physics import geant4_tables
from kythera.stages.simulators import geant4
from kythera.stages.simulators.geant4 import Box, layers
from kythera.units import MeV, cm, mm

KEY = jax.random.key(5)
installed = pytest.mark.library("calzone")


class Stack(eqx.Module):
    thickness: jax.Array
    lead: jax.Array  # weights of lead and iron

    @property
    def boxes(self):
        metal = ("G4_Pb", "G4_Fe")[int(np.argmax(self.lead))]
        return layers((metal, "G4_lAr"), self.thickness, 20 * cm)


def stack(absorber=5 * mm, gap=20 * mm, lead=(1.0, 0.0)):
    return Stack(jnp.array([absorber, gap]), jnp.array(lead))


def simulator(**options):
    return ky.Geant4Simulator(lambda design: design.boxes, 2, **options)


def electrons(events, energy=0.1):
    return ky.ParticleGun(11, energy, position=(0, 0, -1 * cm))(events, key=KEY)


@installed
def test_fixed_seed_identical_bits_and_energy_is_kept(geant4):
    x = electrons(20)
    first = np.asarray(simulator()(stack(), x, key=KEY))
    assert np.array_equal(first, simulator()(stack(), x, key=KEY))
    assert first.shape == (20, 2)
    assert np.all(first >= 0)
    assert np.all(first.sum(1) <= 0.1 * (1 + 1e-6))
    assert 0.012 < first.sum(1).mean() < 0.095
    assert len(set(first[:, 0])) == 20
    other = simulator()(stack(), x, key=jax.random.key(6))
    assert not np.array_equal(first, other)


@installed
def test_an_event_does_not_depend_on_the_others(geant4):
    all_of_them = simulator()(stack(), electrons(8), key=KEY)
    fewer = simulator()(stack(), electrons(3), key=KEY)
    assert np.array_equal(all_of_them[:3], fewer)
    absent = electrons(8)._replace(weight=jnp.array([0.0] * 4 + [1] * 4))
    half = simulator()(stack(), absent, key=KEY)
    assert np.all(half[:4] == 0)
    assert np.array_equal(half[4:], all_of_them[4:])


@installed
def test_geometries_take_turns(geant4):
    x, run = electrons(10), simulator()
    first = run(stack(), x, key=KEY)
    iron = run(stack(lead=(0.0, 1.0)), x, key=KEY)
    thick = run(stack(absorber=20 * cm), x, key=KEY)
    assert np.array_equal(first, run(stack(), x, key=KEY))
    # 100 MeV in 20 cm of lead, 36 radiation lengths: nearly all stays there
    assert float(thick[:, 0].mean()) > 0.08
    assert float(iron[:, 0].mean()) != float(first[:, 0].mean())


@installed
def test_minimum_ionising_muons_lose_what_bethe_says(geant4):
    """3 GeV muons in 2 cm of liquid argon: the PDG's 1.51 MeV cm2/g at its minimum."""
    x = ky.ParticleGun(13, 3.0, position=(0, 0, -1 * cm))(400, key=KEY)
    empty = stack(absorber=0.0)
    out = np.asarray(simulator()(empty, x, key=KEY))
    assert np.all(out[:, 0] == 0)
    # median of the Landau distribution: about 0.9 of the mean of 1.51 x 1.396 x 2
    assert np.median(out[:, 1]) / MeV == pytest.approx(3.7, rel=0.1)


@installed
def test_several_particles_in_one_event_add_up(geant4):
    one = electrons(6)
    pairs = jax.tree.map(lambda v: jnp.stack([v, v], 1), one)
    pairs = pairs._replace(weight=pairs.weight.at[3:, 1].set(0))
    out = simulator()(stack(), pairs, key=KEY).sum(1)
    assert float(out[:3].mean()) > 1.5 * float(out[3:].mean())


@installed
@pytest.mark.parametrize(
    ("boxes", "cause"),
    [
        ([Box("G4_Pb", (1, 1, 0.1))], "2 boxes, as declared, but has 1"),
        (layers(("G4_Unobtainium", "G4_Pb"), (0.1, 0.1), 1), "'G4_Unobtainium'"),
        (layers(("G4_Pb", "G4_Pb"), (0.1, -0.1), 1), "box 1"),
        (layers(("G4_Pb", "G4_Pb"), (math.nan, 0.1), 1), "box 0"),
        ([Box("G4_Pb", (1, 1, 0.1)), Box("G4_Fe", (1, 1, 0.2))], "0 and 1 share"),
    ],
)
def test_impossible_geometries_are_failed_trials(geant4, boxes, cause):
    run = ky.Geant4Simulator(lambda design: boxes, 2)
    with pytest.raises(errors.SimulationError, match=cause):
        run(None, electrons(1), key=KEY)


@installed
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"pdg": jnp.array([211])}, r"\[211\]"),
        ({"energy": jnp.array([-1.0])}, "positive energy"),
        ({"energy": jnp.array([jnp.nan])}, "positive energy"),
        ({"direction": jnp.zeros((1, 3))}, "a direction"),
        ({"position": jnp.full((1, 3), jnp.inf)}, "a position"),
    ],
)
def test_impossible_particles_are_failed_trials(geant4, change, cause):
    with pytest.raises(errors.SimulationError, match=cause):
        simulator()(stack(), electrons(1)._replace(**change), key=KEY)


def test_overlaps_by_rounding_are_none():
    boxes = layers(["G4_Pb"] * 100, [0.1 / 3] * 100, 1.0)
    geant4._check_boxes(boxes, 100)
    assert boxes[-1].position[2] == pytest.approx(100 * 0.1 / 3 - 0.1 / 6)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"model": "standart"}, "mean 'standard'"),
        ({"cut": 0.0}, "`cut`"),
    ],
)
def test_what_is_refused(options, cause):
    with pytest.raises(errors.InputError, match=cause):
        simulator(**options)


def test_missing_data_say_how_to_get_them(tmp_path):
    run = simulator(data=str(tmp_path))
    assert run.label == "Geant4"
    with pytest.raises(errors.UnsupportedError, match="kythera geant4 tables DIR"):
        run(stack(), electrons(1), key=KEY)


def test_results_say_generated_tables(geant4):
    assert simulator().label == "Geant4 with generated EM tables"
    assert simulator().references[0].startswith(geant4_tables.NAME)
    with pytest.raises(errors.UnsupportedError, match="'option4'.*official"):
        simulator(model="option4")(stack(), electrons(1), key=KEY)


def test_a_missing_calzone_names_its_extra(geant4, monkeypatch):
    monkeypatch.setitem(sys.modules, "calzone", None)
    with pytest.raises(errors.UnsupportedError, match=r"kythera\[geant4\]"):
        simulator()(stack(), electrons(1), key=KEY)


@installed
def test_one_process_has_one_set_of_data(geant4, tmp_path):
    simulator()(stack(), electrons(1), key=KEY)
    geant4_tables.write(tmp_path, ())
    with pytest.raises(errors.UnsupportedError, match="another process"):
        simulator(data=str(tmp_path))(stack(), electrons(1), key=KEY)


def test_guns():
    beam = ky.ParticleGun(22, (1.0, 20.0), direction=(0, 3, 4))(1000, key=KEY)
    assert beam.direction[0].tolist() == pytest.approx([0, 0.6, 0.8])
    assert 1 < float(beam.energy.min()) < 1.1 < 19.9 < float(beam.energy.max()) < 20
    for energy in (0.0, (2.0, 1.0), math.inf):
        with pytest.raises(errors.InputError, match="positive and in order"):
            ky.ParticleGun(22, energy)
    with pytest.raises(errors.InputError, match="direction"):
        ky.ParticleGun(22, 1.0, direction=(0, 0, 0))


def test_the_command_makes_tables_and_replaces_no_official_ones(tmp_path, capsys):
    assert main(["geant4", "tables", str(tmp_path / "new")]) == 0
    assert "Geant4 with generated EM tables" in capsys.readouterr().out
    assert (tmp_path / "new" / "G4EMLOW8.8" / "brem_SB" / "br98").is_file()
    (tmp_path / "own" / "G4EMLOW8.8").mkdir(parents=True)
    assert main(["geant4", "tables", str(tmp_path / "own")]) == 2
    assert "must not replace" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["geant4", "tables", str(tmp_path / "file")]) == 2
    assert "can be written" in capsys.readouterr().err
