"""The stack in Geant4: its boxes, what they see, and what is refused."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from kythera import errors
from kythera.cli import main
from kythera.instruments import sampling_calorimeter
from kythera.instruments.sampling_calorimeter.design import PRICES
from kythera.instruments.sampling_calorimeter.geant4 import NIST, Geant4Showers
from kythera.instruments.sampling_calorimeter.simulator import Particles
from kythera.units import cm

VALIDATION = Path(__file__).parents[2] / "validation" / "geant4"
installed = pytest.mark.library("calzone")


def known(stack, energy):
    """Geant4's figures for a stack, by the script beside them."""
    cases = json.loads((VALIDATION / "calorimeters.json").read_text())["cases"]
    [case] = [c for c in cases if (c["stack"], c["energy_gev"]) == (stack, energy)]
    return case


def problem(**options):
    return sampling_calorimeter.problem(
        simulator="geant4", particles="gamma", **options
    )


def test_boxes_are_the_layers_as_built():
    case = problem()
    stack = case.design(case.space.start)
    boxes = case.pipeline.simulator.boxes(stack)
    names = ("Fe", "PbWO4", "Pb", "POLYSTYRENE", "Fe", "POLYSTYRENE")
    assert [b.material for b in boxes] == [f"G4_{name}" for name in names]
    widths = np.array([b.size for b in boxes])
    want = [9.030052, 37.155209, 10.446664, 29.665525, 36.0, 27.5]
    np.testing.assert_allclose(widths[:, 2] / cm, want, rtol=1e-5)
    np.testing.assert_array_equal(widths[:, :2], 1.0)
    front = np.array([b.position[2] for b in boxes]) - widths[:, 2] / 2
    np.testing.assert_allclose(front / cm, np.cumsum([0, *want[:-1]]), atol=1e-4)


def test_mixtures_are_decided():
    """Half a material is none outside JAX, and neither is half a pair."""
    case = problem(spare=1)
    middle = jnp.full(case.space.size, 0.4).at[0].set(0.0)
    stack = case.design(middle)
    assert set(np.unique(np.asarray(stack.weights))) == {0.0, 1.0}
    assert float(stack.pairs) == round(float(stack.pairs))
    boxes = case.pipeline.simulator.boxes(stack)
    assert len(boxes) == 8
    assert {b.material for b in boxes} <= set(NIST.values())
    assert boxes[0].size[2] == 0  # left out


@installed
def test_geant4_knows_every_material(geant4):
    import calzone  # pyright: ignore[reportMissingImports]

    assert set(NIST) == set(PRICES)
    for name in NIST.values():
        assert calzone.describe(material=name) is not None, name


@installed
def test_the_mean_deposit_is_that_of_another_script(geant4, getkey):
    """20 photons of 1 GeV in AIDO's start, against 240 of `validation/geant4`."""
    case, energy, events = problem(), 1.0, 20
    stack = case.design(case.space.start)
    x = Particles(jnp.full(events, energy), jnp.zeros(events))
    parts = np.asarray(case.pipeline.simulator(stack, x, key=getkey())) / energy
    assert parts.shape == (events, 6)
    assert np.all(parts.sum(1) <= 1 + 1e-5)
    active, want = parts[:, 1::2].sum(1), known("aido_start", energy)
    spread = want["active"]["value"] * want["resolution"]["value"]
    error = 3.5 * np.hypot(spread / np.sqrt(events), want["active"]["stderr"])
    assert active.mean() == pytest.approx(want["active"]["value"], abs=error)
    # what is read out sits in the first pair; the last one is out of reach
    layers = np.array(want["layers"])
    np.testing.assert_allclose(parts.mean(0), layers, atol=0.12)
    assert parts[:, 4:].mean() < 0.01


@installed
def test_a_search_from_the_command_line(geant4, tmp_path, capsys):
    out = tmp_path / "found"
    words = "simulator=geant4 particles=gamma low=0.5 high=1 events=8 cut=0.005".split()
    options = [word for pair in words for word in ("--set", pair)]
    code = main(
        ["optimise", "sampling_calorimeter", *options]
        + ["--optimiser", "random", "--trials", "2", "--out", str(out)]
    )
    assert code == 0, capsys.readouterr().err
    assert "Geant4 with generated EM tables" in (out / "result.json").read_text()


def test_pions_are_refused(getkey):
    with pytest.raises(errors.UnsupportedError, match=r"without hadronic.*'pi\+'"):
        sampling_calorimeter.problem(simulator="geant4")
    pions = Particles(jnp.ones(2), jnp.array([0.0, 2.0]))
    case = problem()
    with pytest.raises(errors.SimulationError, match="keep simulator='parametrised'"):
        case.pipeline.simulator(case.design(case.space.start), pions, key=getkey())


def test_bad_input_is_refused():
    with pytest.raises(errors.InputError, match="'geant3' is not known.*'geant4'"):
        sampling_calorimeter.problem(simulator="geant3")
    with pytest.raises(errors.InputError, match="`cut` must be positive"):
        problem(cut=0.0)
    with pytest.raises(errors.InputError, match="`width` is 0"):
        Geant4Showers(3, width=0.0)
